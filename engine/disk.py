"""What is told where a disk refuses a write: the file, the bytes that it needs and those that are free."""

from __future__ import annotations

import shutil
from pathlib import Path

from pairgrade.errors import StorageError

_ROW_BYTES = 90  # what a row of an SQLite table takes beside its texts, about
_EMPTY_BYTES = 32 * 1024  # the first pages of some tables and indexes


def table_bytes(texts: int, rows: int) -> int:
    """Estimate the bytes of an SQLite file from those of the texts in it; an eighth more for pages not filled."""
    return texts + texts // 8 + _ROW_BYTES * rows + _EMPTY_BYTES


def refused(path: Path, error: Exception, needed: str, then: str) -> StorageError:
    """Return the error for a refused write: ``needed`` says what needs how many bytes, ``then`` what to do."""
    reason = getattr(error, "strerror", None) or error
    try:
        free = f"{shutil.disk_usage(path.parent).free:,} are free"
    except OSError:
        free = "how many are free cannot be told"
    failed = StorageError(f"{path}: {reason}: {needed}, {free}; {then}")
    failed.errno = getattr(error, "errno", None)
    return failed
