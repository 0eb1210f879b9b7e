"""Numbers below the least normal one, taken as zero while a model computes.

What a causal mask hides leaves the softmax as a number of the order of 1e-45, and x86 processors take a hundred times
as long for each of these. Such a number is less than half a digit of any sum it goes into, so no result changes.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pairgrade.c_library import glibc

_FENV_BYTES = 64  # more than glibc's fenv_t of any processor
_MXCSR = 28  # where glibc's fenv_t holds the control register of SSE and AVX, on x86-64
_FLUSH_TO_ZERO, _DENORMALS_ARE_ZERO = 0x8000, 0x0040  # its bits, by Intel's manual


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Take denormal numbers as zero in this thread, and set it back at the end; where that cannot be, do nothing."""
    library = _libm()
    if library is None:
        yield
        return
    before, changed = ctypes.create_string_buffer(_FENV_BYTES), ctypes.create_string_buffer(_FENV_BYTES)
    library.fegetenv(before)
    ctypes.memmove(changed, before, _FENV_BYTES)
    register = ctypes.c_uint32.from_buffer(changed, _MXCSR)
    register.value |= _FLUSH_TO_ZERO | _DENORMALS_ARE_ZERO
    library.fesetenv(changed)
    try:
        yield
    finally:
        library.fesetenv(before)


def can_flush() -> bool:
    """Whether this is a system on which a thread's setting can be put back: Linux on x86-64."""
    return _libm() is not None


@functools.cache
def _libm() -> Any:
    """Return the C library's functions of floating-point control, None where its layout is not known."""
    return glibc("libm.so.6") if platform.machine() == "x86_64" else None
