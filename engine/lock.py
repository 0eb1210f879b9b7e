"""One writer an output: an advisory lock that dies with its process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pairgrade.errors import LockedError


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file; LockedError names the process that has it. The file is left for its folder's owner."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(file, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(file)
            raise LockedError(f"{path.parent} is in use by another run (process {holder}); wait for it") from None
        if _same(file, path):
            break
        os.close(file)  # the holder finished and removed the file between our open and our lock
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(file)


def _same(file: int, path: Path) -> bool:
    try:
        return os.fstat(file).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
