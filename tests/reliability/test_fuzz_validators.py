"""Random damage to sound files: every validator says ModelError or nothing, never anything else, and ends.

``PAIRGRADE_FUZZ=100000`` tries that many files a validator instead of the few of a plain run.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz_targets import EDITS, edited, tensors
from pairgrade import ModelError
from pairgrade.file_hashes import verify_files
from pairgrade.folder_check import check_folder
from pairgrade.gguf_check import check_gguf
from pairgrade.onnx_check import check_onnx
from pairgrade.safetensors_check import check_safetensors
from tiny_gguf import SOUND

onnx = pytest.importorskip("onnx")

few = settings(
    max_examples=int(os.environ.get("PAIRGRADE_FUZZ", "150")),
    deadline=None,
    derandomize="PAIRGRADE_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def graph() -> bytes:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=1)
    for key, value in {"location": "weights.bin", "offset": "0", "length": "16"}.items():
        tensor.external_data.add(key=key, value=value)
    node = onnx.helper.make_node("Constant", [], ["y"], value=tensor)
    value = onnx.helper.make_tensor_value_info("y", 1, [4])
    return bytes(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [value], [tensor])).SerializeToString())


FILES: dict[str, tuple[Callable[[], bytes], Callable[[Path], object]]] = {
    "model.gguf": (SOUND.bytes, check_gguf),
    "model.safetensors": (tensors, check_safetensors),
    "model.onnx": (graph, check_onnx),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    return tmp_path


@pytest.mark.parametrize("name", FILES)
@few
@given(edits=EDITS)
def test_damaged_files(name: str, edits: list[tuple[str, float, int]], folder: Path) -> None:
    make, check = FILES[name]
    raw = make()
    (folder / name).write_bytes(edited(raw, edits, min(len(raw), 900)))
    with contextlib.suppress(ModelError):
        check(folder / name)


@pytest.mark.parametrize("name", FILES)
@few
@given(raw=st.binary(max_size=200))
def test_files_of_noise(name: str, raw: bytes, folder: Path) -> None:
    start = {"model.gguf": b"GGUF\x03\0\0\0", "model.safetensors": len(raw).to_bytes(8, "little"), "model.onnx": b":"}
    (folder / name).write_bytes(start[name] + raw)
    with contextlib.suppress(ModelError):
        FILES[name][1](folder / name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@few
@given(entry=st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), JSON, min_size=2), notes=JSON)
def test_safetensors_of_any_json(entry: dict[str, Any], notes: Any, folder: Path) -> None:
    sound = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
    header = json.dumps({"t": sound | entry, "__metadata__": notes}).encode()
    (folder / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with contextlib.suppress(ModelError):
        check_safetensors(folder / "x.safetensors")


@few
@given(manifest=JSON, files=st.dictionaries(st.text(max_size=8), JSON, max_size=3), config=JSON, map_=JSON)
def test_folders_of_any_json(manifest: Any, files: dict[str, Any], config: Any, map_: Any, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(tensors())
    for content in (manifest, {"files": manifest}, {"files": files}):
        (folder / "manifest.json").write_text(json.dumps(content))
        with contextlib.suppress(ModelError):
            verify_files(folder)
    for content in (config, {"auto_map": map_}):
        (folder / "config.json").write_text(json.dumps(content))
        with contextlib.suppress(ModelError):
            check_folder(folder)
