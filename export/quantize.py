"""llama.cpp's own quantization of a GGUF file, with or without an importance matrix."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pairgrade.disk import refused
from pairgrade.errors import InputError, ModelError
from pairgrade.gguf_check import check_gguf
from pairgrade.gguf_header import read_header
from pairgrade.hardware import usable_cores
from pairgrade.llama_model import library

Importance = Mapping[str, npt.NDArray[np.float32]]  # mean squared input of each channel, by the tensor's name


@dataclass(frozen=True, slots=True)
class Quant:
    """One mix of llama.cpp's."""

    name: str
    bits: int  # of most weights
    constant: str  # in llama.h

    @property
    def grid(self) -> str:
        """The kind of most of its weights: mixes of one kind round to the same steps."""
        return self.name.removesuffix("_s").removesuffix("_m") if "_k_" in self.name else self.name

    @property
    def uses_importance(self) -> bool:
        """Whether an importance matrix changes the weights."""
        return self.bits < 8


QUANTS = {
    quant.name: quant
    for quant in (
        Quant("f32", 32, "LLAMA_FTYPE_ALL_F32"),
        Quant("f16", 16, "LLAMA_FTYPE_MOSTLY_F16"),
        Quant("bf16", 16, "LLAMA_FTYPE_MOSTLY_BF16"),
        Quant("q8_0", 8, "LLAMA_FTYPE_MOSTLY_Q8_0"),
        Quant("q6_k", 6, "LLAMA_FTYPE_MOSTLY_Q6_K"),
        Quant("q5_0", 5, "LLAMA_FTYPE_MOSTLY_Q5_0"),
        Quant("q5_1", 5, "LLAMA_FTYPE_MOSTLY_Q5_1"),
        Quant("q5_k_s", 5, "LLAMA_FTYPE_MOSTLY_Q5_K_S"),
        Quant("q5_k_m", 5, "LLAMA_FTYPE_MOSTLY_Q5_K_M"),
        Quant("q4_0", 4, "LLAMA_FTYPE_MOSTLY_Q4_0"),
        Quant("q4_1", 4, "LLAMA_FTYPE_MOSTLY_Q4_1"),
        Quant("q4_k_s", 4, "LLAMA_FTYPE_MOSTLY_Q4_K_S"),
        Quant("q4_k_m", 4, "LLAMA_FTYPE_MOSTLY_Q4_K_M"),
    )
}


def quants(text: str) -> tuple[Quant, ...]:
    """Read a list such as ``q8_0,q4_k_m``; InputError for a name that is not known or there twice."""
    names = [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name not in QUANTS:
            raise InputError(f"no quantization '{name}'; there are: {', '.join(QUANTS)}")
    if len(set(names)) < len(names):
        raise InputError(f"'{text}' names a quantization twice")
    return tuple(QUANTS[name] for name in names)


def quant_of(path: Path) -> Quant | None:
    """Return what a GGUF file says it is quantized as; None where that is none of ``QUANTS``.

    ModelError where its header is not sound.
    """
    check_gguf(path)
    kind = read_header(path).metadata.get("general.file_type")
    return next((quant for quant in QUANTS.values() if getattr(library(), quant.constant) == kind), None)


def quantize(
    source: Path, out: Path, quant: Quant, importance: Importance | None = None, threads: int | None = None
) -> None:
    """Write the GGUF file ``source``, which holds float32, as ``out``.

    StorageError where the disk has too little room, ModelError where llama.cpp cannot for another reason.

    With an importance matrix the error of a weight counts by the mean square of what it is multiplied with. Rows
    whose length is no multiple of a mix's block get another type of about the same size, as llama.cpp does.
    """
    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.nthread = threads or usable_cores()
    params.ftype = getattr(lib, quant.constant)
    arrays = {name: np.ascontiguousarray(values, np.float32) for name, values in (importance or {}).items()}
    entries = _entries(lib, arrays) if arrays else None  # both must live as long as llama.cpp reads them
    if entries is not None:
        params.imatrix = entries
    code = lib.llama_model_quantize(os.fsencode(source), os.fsencode(out), ctypes.byref(params))
    if code != 0:
        if out.is_file():
            out.unlink()
        needed = source.stat().st_size * quant.bits // 32  # at least
        if shutil.disk_usage(out.parent).free < needed:
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise refused(out, error, f"the file needs {needed:,} bytes and more", "make room and export again")
        raise ModelError(f"{source}: llama.cpp could not write it as {quant.name} (code {code}); -v shows its own log")


def _entries(lib: object, importance: Importance) -> ctypes.Array[ctypes.Structure]:
    """Lay out an importance matrix as llama.cpp takes it: an array that ends with an entry without a name.

    The matrix is of float32, each array in one piece; the entries point at them and do not keep them.
    """
    kind: type[ctypes.Structure] = lib.llama_model_imatrix_data  # type: ignore[attr-defined]
    entries = (kind * (len(importance) + 1))()
    for entry, (name, values) in zip(entries, importance.items(), strict=False):
        pointer = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.name, entry.data, entry.size = name.encode(), pointer, values.size
    return entries
