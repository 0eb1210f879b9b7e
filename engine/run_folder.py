"""The folder of an unfinished run: what lies in it, and what of it may be removed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path


class RunFolder:
    """``OUT.run``. Only files that a run makes are ever removed from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = path / "lock"
        self.manifest = path / "manifest.json"
        self.journal = path / "journal"
        self.heartbeat = path / "heartbeat.json"
        self.canaries = path / "canaries.json"

    def spool(self, name: str) -> Path:
        """Return the path of the spool of that name."""
        return self.path / f"spool-{name}.sqlite"

    def remove_scratch(self) -> None:
        """Remove the spools, whole or not, and what killed readers left."""
        for pattern in ("texts-*", "spool-*"):
            for path in self.path.glob(pattern):
                _remove(path)

    def remove(self) -> None:
        """Remove the run's files, the lock last, and the folder if nothing else lies in it."""
        self.remove_scratch()
        for path in (self.manifest, self.canaries):
            remove_stale_writers(path)
        for path in (self.heartbeat, self.canaries, self.journal, self.manifest, self.lock):
            _remove(path)
        with contextlib.suppress(OSError):  # something of somebody else's lies in it, or the next run has begun
            self.path.rmdir()


def named(path: Path) -> Path:
    """Return the path with a name, which "." has not: what lies beside an output is called after it."""
    return path if path.name else Path(os.path.abspath(path))


def behind_link(path: Path) -> Path:
    """Return the path of the file itself where a link names it."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextlib.contextmanager
def no_empty_parents(out: Path) -> Iterator[None]:
    """Remove the folders on the way to ``out`` that came in the block, where ``out`` itself did not."""
    made = [parent for parent in out.parents if not parent.exists()]  # the deepest first
    try:
        yield
    finally:
        if not out.exists():
            for parent in made:
                with contextlib.suppress(OSError):  # not made, or somebody else has put something there
                    parent.rmdir()


def remove_stale_writers(target: Path) -> None:
    """Remove the hidden files that killed writers of ``target`` left; nobody else may be writing it now."""
    target = target.resolve()
    name = re.compile(re.escape(f".{target.name}.") + r"\d+\.tmp")
    if target.parent.is_dir():
        for path in target.parent.iterdir():
            if name.fullmatch(path.name):
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
