"""The qrels file that a run writes beside its judgments: never over another's, and never twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pairgrade.errors import InputError, ResumeError
from pairgrade.file_hashes import file_sha256
from pairgrade.judgments import read_judgments
from pairgrade.manifest import Manifest
from pairgrade.qrels import holds_qrels, write_qrels

PLACE, CONTENT = "qrels", "qrels_sha256"  # keys of a manifest's environment: the file's path, and what was written


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
        """Refuse a file that is not as a run of these manifests left it: it may be what people graded by hand.

        One that holds the grades of ``out`` to the letter is no other's.
        """
        facts, known = self.facts(), [m.environment for m in own if m]
        if facts[CONTENT] is None or facts in ({key: found.get(key) for key in facts} for found in known):
            return
        if self._out.is_file() and holds_qrels(self._path, self._graded()):
            return
        if any(found.get(PLACE) == self.place and found.get(CONTENT) for found in known):
            raise ResumeError(
                f"{self._path} was changed after its run; move it away, or have it made again with --overwrite"
            )
        raise InputError(f"{self._path} exists and was not written by this job; name another file or give --overwrite")

    def facts(self) -> dict[str, str | None]:
        """Return what a manifest's environment says of the file."""
        return {PLACE: self.place, CONTENT: file_sha256(self._path) if self._path.is_file() else None}

    def write(self) -> None:
        """Write the file, whole or not at all."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_qrels(self._path, self._graded())

    def write_missing(self) -> None:
        """Write the file unless it holds what would be written."""
        if not (self._path.exists() and holds_qrels(self._path, self._graded())):
            self.write()

    def _graded(self) -> Iterator[tuple[str, str, int]]:
        return ((j.query_id, j.doc_id, j.grade) for j in read_judgments(self._out))
