"""A folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pairgrade.errors import InputError


@contextlib.contextmanager
def new_folder(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a hidden folder beside ``out`` to write into; it becomes ``out`` when the block ends without an error.

    Else it is removed. InputError where ``out`` exists already, unless it is a folder to ``replace``.
    """
    if out.exists() and not replace:
        raise InputError(f"{out} exists already; name a folder that is to be made")
    work = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
        if replace and out.is_dir():
            shutil.rmtree(out)
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
