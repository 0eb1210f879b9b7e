"""What a command reads is never what it writes, and no two of its outputs are one file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pairgrade.errors import InputError

Role = tuple[str | os.PathLike[str] | None, str]  # a path, or none, and what it is to the user: "the human grades"


def keep_apart(read: Iterable[Role], written: Iterable[Role]) -> None:
    """Raise InputError where an output is a folder, an input or another output, by whatever name."""
    taken = {Path(path).resolve(): role for path, role in read if path is not None}
    for path, role in written:
        if path is None:
            continue
        if Path(path).is_dir():
            raise InputError(f"{path} is a folder; name a file in it")
        other = taken.setdefault(Path(path).resolve(), role)
        if other != role:
            raise InputError(f"{path} is {other} and would be overwritten with {role}; name another file")
