"""The engine's own pass called as another library's threads and a careless caller may."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from pathlib import Path

import pytest

from onnx_helpers import export, opened, prompts
from pairgrade import ModelError
from pairgrade.native_library import native_kind

pytest.importorskip("onnx")


@pytest.mark.skipif(native_kind() != "amx", reason="no AMX here")
def test_the_calling_thread_keeps_its_tiles(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Another library may have set them once for all, as llama.cpp does: without them its next product is a SIGILL."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("c4e2784907c3c4e2794907c3"))  # ldtilecfg (rdi), ret; sttilecfg (rdi), ret
    start = ctypes.addressof(ctypes.c_char.from_buffer(code))
    load, store = (ctypes.CFUNCTYPE(None, ctypes.c_char_p)(start + place) for place in (0, 6))
    mine = bytes([1, 0, *bytes(14), 24, *bytes(31), 3, *bytes(15)])  # palette 1: three rows of 24 bytes
    found = ctypes.create_string_buffer(64)
    backend = opened(export(tiny_folder("llama"), tmp_path / "onnx", "int8"), threads=2)
    for config in (mine, bytes(64)):
        load(config)
        backend._runner.forget()
        backend._runner.hold(prompts()[0])
        store(found)  # type: ignore[arg-type]
        assert found.raw == config


@pytest.mark.skipif(native_kind() == "none", reason="no AVX-512 VNNI here, or no compiler was")
def test_a_closed_pass_says_so(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    backend = opened(export(tiny_folder("llama"), tmp_path / "onnx", "int8"))
    native, (prefix, _) = backend._native, prompts()
    assert native is not None
    state = native.extend(prefix[0], native.nothing)
    backend.close()
    with pytest.raises(ModelError, match="the model is closed"):
        native.extend(prefix[1], state)


@pytest.mark.skipif(native_kind() == "none", reason="no AVX-512 VNNI here, or no compiler was")
def test_more_threads_than_work_are_no_harm(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = export(tiny_folder("llama"), tmp_path / "onnx", "int8")
    prefix, documents = prompts()
    reference, many = opened(folder), opened(folder, threads=2**32)  # the pool starts no thread without work
    wanted, found = (each._runner.hidden(documents, each._runner.hold(prefix)) for each in (reference, many))
    assert (found == wanted).all()
