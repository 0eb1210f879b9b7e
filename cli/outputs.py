"""Files that commands write."""

from __future__ import annotations

from pathlib import Path

from pairgrade.errors import InputError


def refuse_existing(path: Path, force: bool) -> None:
    """Raise InputError where a file is there that was not to be replaced."""
    if path.exists() and not force:
        raise InputError(f"{path} exists; choose another name or give --force")
