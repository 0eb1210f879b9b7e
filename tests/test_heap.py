"""What loading a model frees must not stay with the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pairgrade.c_library import glibc

pytestmark = pytest.mark.skipif(glibc("libc.so.6") is None, reason="only where malloc is glibc's")

_RESIDENT = """
import sys
def resident():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))
"""

_BLOCKS = """
import contextlib, numpy as np
from pairgrade.heap import large_blocks_given_back
np.ones(8 << 20, np.uint8)  # freed at once, so that blocks up to this size come from the heap
with large_blocks_given_back() if sys.argv[1] == "inside" else contextlib.nullcontext():
    before = resident()
    pairs = [(np.ones(2 << 20, np.uint8), np.ones(60000, np.uint8)) for _ in range(40)]
    kept = [small for _, small in pairs]  # what is in use above each block
    del pairs
    print(resident() - before)
"""

_SESSION = """
from pathlib import Path
from pairgrade.onnx_session import open_session, product_kind
product_kind()  # what the library takes once
before = resident()
session = open_session(Path(sys.argv[1]), 1, "CPUExecutionProvider", product=sys.argv[2])
print(resident() - before)
"""


def _printed(script: str, *arguments: str) -> int:
    command = [sys.executable, "-c", _RESIDENT + script, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_freed_blocks_leave_a_heap_that_is_in_use() -> None:
    """40 blocks of 2 MiB are freed below small ones that are kept: inside, nearly none of them stays."""
    assert _printed(_BLOCKS, "outside") > 70 << 20
    assert _printed(_BLOCKS, "inside") < 10 << 20


@pytest.mark.parametrize("product", ["u8s8", "u8u8"])
def test_a_session_keeps_one_copy_of_its_weights(tmp_path: Path, product: str) -> None:
    """Packed, and where u8s8 is not exact turned into u8 first: of either only the last copy stays."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    width, wide, blocks = 512, 2048, 24
    sizes = [(width, width), (width, wide), (wide, width)] * blocks
    constants = {"zero": np.zeros((), np.uint8), "one": np.ones((), np.float32)}
    weights = {f"w{i}": np.full(size, i, np.int8) for i, size in enumerate(sizes)}
    scales = {f"s{i}": np.ones(size[1], np.float32) for i, size in enumerate(sizes)}  # small, between the large ones
    nodes, x = [], "x"
    for i in range(len(sizes)):
        nodes.append(helper.make_node("QuantizeLinear", [x, "one", "zero"], [f"q{i}"]))
        inputs = [f"q{i}", f"w{i}", "one", f"s{i}", "zero"]
        nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [f"y{i}"], domain="com.microsoft"))
        x = f"y{i}"
    given, result = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ("n", width)) for n in ("x", x))
    tensors = [numpy_helper.from_array(array, name) for name, array in (constants | weights | scales).items()]
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "chain", [given], [result], tensors)
    path = tmp_path / "chain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=11), path,
              save_as_external_data=True, location="weights.bin", size_threshold=1 << 20)  # fmt: skip
    assert _printed(_SESSION, str(path), product) < 1.1 * sum(w.nbytes for w in weights.values())
