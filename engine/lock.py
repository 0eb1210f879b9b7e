"""One writer an output: an advisory lock that dies with its process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pairgrade.disk import refused
from pairgrade.errors import InputError, LockedError, StorageError


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file; LockedError names the process that has it, InputError a file in the place of its folder.

    The folder is made if it is not there. The file is left for its holder to remove.
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise InputError(
                f"{path.parent}: a file is there, and the run needs a folder of that name; move it away or name "
                "another output"
            ) from None
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # the holder finished and removed the folder between the two lines above
        try:
            _take(file)
        except BlockingIOError:
            holder = os.read(file, 64).decode("ascii", "replace").split()
            os.close(file)
            who = holder[0] if holder else "unknown"
            raise LockedError(f"{path.parent} is in use by another run (process {who}); wait for it") from None
        except OSError as error:
            os.close(file)
            raise StorageError(f"{path}: the file system cannot lock files ({error.strerror})") from error
        if _same(file, path):
            break
        os.close(file)  # the holder finished and removed the file between our open and our lock
    try:
        _sign(file, path)
        yield
    finally:
        os.close(file)


def holder(path: Path) -> int | None:
    """Return the id of the process that holds the lock file, or None where nobody does."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        words = os.read(file, 64).decode("ascii", "replace").split()
        return int(words[0]) if words and words[0].isdecimal() else 0
    except OSError as error:
        raise StorageError(f"{path}: the file system cannot lock files ({error.strerror})") from error
    finally:
        os.close(file)
    return None


def token(path: Path) -> str:
    """Return what the lock's last holder wrote into it, another text each time; "" where there is none."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _take(file: int) -> None:
    """Lock the file; again after a moment where it is held, for ``holder`` may just be looking."""
    for _ in range(2):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.02)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sign(file: int, path: Path) -> None:
    """Write this process's id into the lock file, and a word that tells this time from others."""
    holder = f"{os.getpid()} {secrets.token_hex(8)}".encode()
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, holder, 0)
    except OSError as error:
        then = "make room and run the same command again"
        raise refused(path, error, f"it needs {len(holder)} bytes", then) from error


def _same(file: int, path: Path) -> bool:
    try:
        return os.fstat(file).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
