"""The qrels file that a run writes beside its judgments: never over another's, and never twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pairgrade.errors import InputError, ResumeError
from pairgrade.judgments import read_judgments
from pairgrade.manifest import Manifest
from pairgrade.qrels import holds_qrels, write_qrels

PLACE = "qrels"  # the key of a manifest's environment under which the file's path stands


class RunQrels:
    """The grades of ``out`` at ``path``."""

    def __init__(self, path: Path, out: Path) -> None:
        self._path, self._out = path, out
        self.place = str(path.resolve())

    def check_place(self) -> None:
        """Refuse a path below a file, before the work."""
        above = next(folder for folder in Path(self.place).parents if folder.exists())
        if not above.is_dir():
            raise InputError(f"{self._path}: no qrels can be written there: {above} is a file; name another by --qrels")

    def refuse_foreign(self, own: Iterable[Manifest | None]) -> None:
        """Refuse a file that no run of these manifests wrote: it may be what people graded by hand.

        One that holds the grades of ``out`` to the letter is no other's.
        """
        if not self._path.exists() or self.place in (m.environment.get(PLACE) for m in own if m):
            return
        if not (self._out.is_file() and holds_qrels(self._path, self._graded())):
            raise InputError(
                f"{self._path} exists and was not written by this job; name another file or give --overwrite"
            )

    def write(self) -> None:
        """Write the file, whole or not at all."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_qrels(self._path, self._graded())

    def write_missing(self, overwrite: bool) -> None:
        """Write the file where it is not there; ResumeError where it holds something else that is to stay."""
        there = self._path.exists()
        if there and holds_qrels(self._path, self._graded()):
            return
        if there and not overwrite:
            raise ResumeError(
                f"{self._path} was changed after its run; move it away, or have it made again with --overwrite"
            )
        self.write()

    def _graded(self) -> Iterator[tuple[str, str, int]]:
        return ((j.query_id, j.doc_id, j.grade) for j in read_judgments(self._out))
