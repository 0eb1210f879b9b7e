"""Numbers below the least normal one: zero while a model computes, and the caller's own again afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnx_helpers import LABELS, export, opened, prompts
from pairgrade.denormals import can_flush, flushed_denormals

pytestmark = pytest.mark.skipif(not can_flush(), reason="only where a thread's setting can be put back")

_TINY = np.float32(1e-40)


def _is_zero() -> bool:
    return bool(_TINY * np.float32(1) == 0)


def test_denormals_are_zero_inside_and_there_outside() -> None:
    assert not _is_zero()
    with flushed_denormals():
        assert _is_zero()
        with flushed_denormals():
            pass
        assert _is_zero()
    assert not _is_zero()


def test_an_error_inside_puts_the_setting_back() -> None:
    with pytest.raises(KeyError), flushed_denormals():
        raise KeyError
    assert not _is_zero()


def test_rounding_and_other_settings_are_kept() -> None:
    with np.errstate(divide="ignore"), flushed_denormals():
        assert np.float32(1) / np.float32(0) == np.inf
        assert np.float32(1) / np.float32(3) == np.float32(0.33333334)


def test_a_session_and_its_run_leave_the_callers_thread_alone(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    backend = opened(export(tiny_folder("llama"), tmp_path / "out", "fp32"))
    prefix, documents = prompts()
    backend.score(prefix, documents, LABELS)
    backend.close()
    assert not _is_zero()


def test_hidden_places_cost_no_denormals(tmp_path: Path) -> None:
    """A softmax over a half that a mask hides is as fast as one over all, in all of a session's threads."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from pairgrade.export.onnx_writer import Graph
    from pairgrade.onnx_session import open_session

    graph = Graph("softmax")
    graph.output(graph.op("Softmax", graph.input("x", np.float32, ["a", "b"]), axis=-1), "y", np.float32, ["a", "b"])
    graph.write(tmp_path / "softmax.onnx")
    session = open_session(tmp_path / "softmax.onnx", 2, "CPUExecutionProvider")
    values = np.random.default_rng(0).standard_normal((4096, 256)).astype(np.float32)
    hidden = np.where(np.arange(256) < 128, values, -np.inf).astype(np.float32)

    def seconds(x: np.ndarray) -> float:
        start = time.perf_counter()
        with flushed_denormals():
            result = session.run(None, {"x": x})[0]
        assert np.allclose(result.sum(1), 1)
        return time.perf_counter() - start

    rounds = [(seconds(values), seconds(hidden)) for _ in range(20)]
    assert min(b for _, b in rounds) < 2 * min(a for a, _ in rounds)
