"""The C library's own functions, where it is glibc, whose numbers and layouts are known."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from typing import Any


@functools.cache
def glibc(name: str) -> Any:
    """Return a library of glibc by its file's name, such as ``libm.so.6``; None where the C library is another."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(name)
