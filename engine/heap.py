"""Memory that loading a model frees, given back to the system.

glibc's malloc takes large blocks from the system one by one and gives each back when it is freed, until the first is:
from then on blocks up to that size come from its heap, which cannot shrink while something above them is in use
(mallopt(3), M_MMAP_THRESHOLD). Copies of weights that ONNX Runtime makes on the way to its packed ones would stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pairgrade.c_library import glibc

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGE = 128 << 10  # where that threshold starts
_GROWN = 32 << 20  # where glibc's own threshold stops growing; it trims its heap at twice that


@contextmanager
def large_blocks_given_back() -> Iterator[None]:
    """Give each block of 128 KiB and more back once it is freed, in all threads, where malloc is glibc's.

    Afterwards only blocks of more than 32 MiB are, as in a process that has freed one so large: what a computation
    takes and frees over and over should stay.
    """
    library = glibc("libc.so.6")
    if library is None:
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _LARGE)
    try:
        yield
    finally:
        library.mallopt(_MMAP_THRESHOLD, _GROWN)
        library.mallopt(_TRIM_THRESHOLD, 2 * _GROWN)
