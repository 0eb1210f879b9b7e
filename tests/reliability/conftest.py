"""A tiny model of each engine, made once: whole runs of it take a second. SIGINT as in a terminal."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Let SIGINT be heard in a job in the background, too: it ignores the signal, and so does what it starts."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_gguf_path(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF of two small layers in float32, with random weights; copy it to write to it."""
    pytest.importorskip("gguf")
    from pairgrade.export.gguf_writer import write_gguf

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny_folder("qwen3"), path)
    return path


@pytest.fixture(scope="session")
def tiny_onnx_folder(
    tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return a function from a quantization to an exported folder of the same model; copy it to write to it."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx_helpers import export

    root = tmp_path_factory.mktemp("onnx")

    def make(quant: str) -> Path:
        folder = root / quant
        return folder if folder.is_dir() else export(tiny_folder("qwen3"), folder, quant)

    return make
