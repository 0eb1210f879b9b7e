"""What the machine can do at most: products of large matrices and a copy of memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

_SIZE = 1536
_ROUNDS = 7


def fp32_gflops() -> float:
    """Return the rate of a large float32 product in GFLOP/s, the median of some rounds, all cores."""
    a = np.random.default_rng(0).standard_normal((_SIZE, _SIZE), np.float32)
    b = a.T.copy()
    return 2 * _SIZE**3 / _median_seconds(lambda: a @ b) / 1e9


def copy_gigabytes() -> float:
    """Return the rate of a copy of memory in GB/s, bytes read and written."""
    source = np.ones(2**27, np.uint8)
    target = np.empty_like(source)
    return 2 * source.nbytes / _median_seconds(lambda: np.copyto(target, source)) / 1e9


def _median_seconds(work: Callable[[], object]) -> float:
    work()
    seconds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
