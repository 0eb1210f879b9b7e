"""A folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from pairgrade.disk import refused
from pairgrade.errors import InputError, PairgradeError
from pairgrade.run_folder import named, no_empty_parents

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, None)  # numpy tells no number


@contextlib.contextmanager
def new_folder(out: Path, *, replace: bool = False, needs: str | None = None) -> Iterator[Path]:
    """Yield a hidden folder beside ``out`` to write into; it becomes ``out`` when the block ends without an error.

    Else it is removed, and so is what killed processes left for the same ``out``. InputError where ``out`` exists
    already, unless it is a folder to ``replace``, which is set aside until the new one has its name. StorageError where
    the disk refuses a write and the library that wrote does not say where; ``needs`` says what needs how many bytes.
    """
    out = named(out)
    _settle_stale(out)
    if not replace:
        require_absent(out)
    work, old = (out.with_name(f".{out.name}.{os.getpid()}.{kind}") for kind in ("part", "old"))
    shutil.rmtree(work, ignore_errors=True)
    with no_empty_parents(out):
        try:
            work.mkdir(parents=True)
            yield work
            if replace and out.is_dir():
                out.rename(old)
            work.rename(out)
        except Exception as error:
            if not _is_refusal(error):
                raise
            written = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
            told = f"{needs or 'more is needed'}, {written:,} bytes were written"
            raise refused(work, error, told, "nothing was kept; make room there, or choose another place") from error
        finally:
            _put_back_or_remove(old, out)
            shutil.rmtree(work, ignore_errors=True)


def _is_refusal(error: Exception) -> bool:
    """Whether it is a disk that refused a write, and nothing names the file."""
    if isinstance(error, OSError) and not isinstance(error, PairgradeError):
        return error.filename is None and error.errno in _FULL
    return type(error).__name__ == "SafetensorError" and "os error" in str(error)  # of a library not imported here


def require_absent(out: Path) -> None:
    """Raise InputError where a folder that is to be made is there."""
    if out.exists():
        raise InputError(f"{out} exists already; name a folder that is to be made")


def _settle_stale(out: Path) -> None:
    """Remove what killed processes left, and put back a folder that one had set aside and not replaced."""
    name = re.compile(re.escape(f".{out.name}.") + r"(\d+)\.(part|old)")
    for path in list(out.parent.iterdir()) if out.parent.is_dir() else ():
        found = name.fullmatch(path.name)
        if found and not _is_alive(int(found[1])):
            if found[2] == "old":
                _put_back_or_remove(path, out)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _put_back_or_remove(old: Path, out: Path) -> None:
    if old.is_dir() and not out.exists():
        old.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # no such process, or no number of one
        return False
    except PermissionError:  # somebody else's
        pass
    return True
