"""Files that commands write."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pairgrade.errors import InputError
from pairgrade.file_roles import Role, keep_apart


def check_outputs(read: Iterable[Role], written: Iterable[Role]) -> None:
    """Raise InputError, before anything is done, where an output cannot be or would take an input's place."""
    outputs = [(path, role) for path, role in written if path is not None]
    keep_apart(read, outputs)
    for path, role in outputs:
        if not Path(path).parent.is_dir():
            raise InputError(
                f"{path}: there is no folder {Path(path).parent} for {role}; make it, or name another file"
            )


def refuse_existing(path: Path, force: bool) -> None:
    """Raise InputError where a file is there that was not to be replaced."""
    if path.exists() and not force:
        raise InputError(f"{path} exists; choose another name or give --force")
