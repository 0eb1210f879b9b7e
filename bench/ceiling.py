"""What the machine can do at most: products of large matrices and a copy of memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pairgrade.bench.meters import pin
from pairgrade.errors import ModelError

_SIZE = 1536
_ROUNDS, _SECONDS = 7, 0.5  # of each, at least
_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from pairgrade.bench.ceiling import main; main(int(sys.argv[1]))"


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The rates of one number of threads, their process bound to as many cores where there are so many."""

    threads: int
    fp32_gflops: float
    int8_gops: float | None  # None where ONNX Runtime or onnx is not installed
    copy_gb_per_second: float

    def or_higher(self, other: Ceiling) -> Ceiling:
        """Return the higher of each rate, of two measurements with as many threads."""
        rates = [rate for rate in (self.int8_gops, other.int8_gops) if rate is not None]
        return Ceiling(
            self.threads,
            max(self.fp32_gflops, other.fp32_gflops),
            max(rates, default=None),
            max(self.copy_gb_per_second, other.copy_gb_per_second),
        )


def measure_ceiling(threads: int) -> Ceiling:
    """Measure in a process of its own, whose matrix library is given so many threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    command = [sys.executable, "-c", _BOOT, str(threads), *(p for p in sys.path if isinstance(p, str))]
    fixed = {name: str(threads) for name in names}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | fixed)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing was printed"]
        raise ModelError(f"the ceiling could not be measured (code {done.returncode}): {last[0]}")
    return Ceiling(**json.loads(done.stdout.splitlines()[-1]))


def fp32_gflops() -> float:
    """Return the rate of a large float32 product in GFLOP/s, the highest of some rounds, all cores."""
    a = np.random.default_rng(0).standard_normal((_SIZE, _SIZE), np.float32)
    b = a.T.copy()
    return 2 * _SIZE**3 / _least_seconds(lambda: a @ b) / 1e9


def int8_gops(threads: int) -> float | None:
    """Return the rate of ONNX Runtime's product of 8-bit matrices in GOP/s; None where it is not installed.

    It is the product that the engine uses here: the fastest whose sums are exact, see ``product_kind``.
    """
    try:
        from onnx import TensorProto, helper

        from pairgrade.onnx_session import open_session, product_kind

        product = product_kind()
    except (ImportError, ModelError):
        return None
    random = np.random.default_rng(0)
    weight = random.integers(-127, 128, (_SIZE, _SIZE), np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "w", "zero"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [_SIZE, _SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [_SIZE, _SIZE])],
        [
            helper.make_tensor("w", TensorProto.INT8, weight.shape, weight.tobytes(), raw=True),
            helper.make_tensor("zero", TensorProto.UINT8, [], bytes([128]), raw=True),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with TemporaryDirectory() as folder:
        path = Path(folder, "product.onnx")
        path.write_bytes(model.SerializeToString())
        session = open_session(path, threads, "CPUExecutionProvider", product=product)
    feeds = {"a": random.integers(0, 256, (_SIZE, _SIZE), np.uint8)}
    return 2 * _SIZE**3 / _least_seconds(lambda: session.run(None, feeds)) / 1e9


def copy_gigabytes() -> float:
    """Return the rate of a copy of memory in GB/s, bytes read and written."""
    source = np.ones(2**27, np.uint8)
    target = np.empty_like(source)
    return 2 * source.nbytes / _least_seconds(lambda: np.copyto(target, source)) / 1e9


def _least_seconds(work: Callable[[], object]) -> float:
    work()
    seconds: list[float] = []
    while len(seconds) < _ROUNDS or sum(seconds) < _SECONDS:
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main(threads: int) -> None:
    """Print one line of JSON."""
    pin(threads)
    print(json.dumps(asdict(Ceiling(threads, fp32_gflops(), int8_gops(threads), copy_gigabytes()))))
