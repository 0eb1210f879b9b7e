"""Ranking sets: queries with labelled documents, from which a re-ranker is trained. JSON lines or Parquet.

One row is one document of one query. A set is readable as pairs by ``pairgrade label``. The columns:

==================  ==========================================================================================
``query_id``        as in TREC files: text without white space
``doc_id``          likewise; a pair of both occurs once
``query``           the query's text, not blank
``document``        the document's text
``title``           its title, empty where there is none (optional)
``label``           how relevant it is held to be, 0 or more: from 0 to 1, or grades such as 0 to 3. What a
                    re-ranker is trained on
``source``          where the label came from: ``bm25``, ``clicks``, ``triples``, ``rows``, ``qrels``, ``run`` or
                    whatever the set's maker calls it (optional)
``rank``            place of the document in the ranking that proposed it, from 1; null if none did (optional)
``score``           its score there; null likewise (optional)
==================  ==========================================================================================

``pairgrade relabel`` adds, and a set that was not relabelled may lack:

==================  ==========================================================================================
``judged``          whether the annotator judged the pair; what it did not judge keeps its label
``original_label``  the label before
``judged_grade``    the annotator's grade, and
``expected_grade``  its expected grade, and
``probabilities``   the probability of each of its grades, ascending, as a list; null where it did not judge
==================  ==========================================================================================

Rows of one query usually stand together, but need not. Columns of other names are passed over when read. Missing
values of optional columns are those of ``RankingRow``.
``read_ranking_set`` streams rows; ``read_groups`` gathers them by query. ``RankingRow.text`` is what a model
reads as the document.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from pairgrade.atomic import AtomicFile
from pairgrade.errors import InputError
from pairgrade.lines import quoted
from pairgrade.ranking_row import RankingRow as RankingRow
from pairgrade.ranking_row import checked_row
from pairgrade.row_encoders import encoder
from pairgrade.table_rows import column_names, rows

PathLike = str | os.PathLike[str]

FORMATS = ("jsonl", "parquet")

_REQUIRED: dict[str, type] = {"query_id": str, "doc_id": str, "query": str, "document": str}
_BASE = _REQUIRED | {"title": str, "label": float, "source": str, "rank": int, "score": float}
_JUDGED: dict[str, Any] = {
    "judged": bool,
    "original_label": float,
    "judged_grade": int,
    "expected_grade": float,
    "probabilities": list[float],
}
_COLUMNS = tuple(field.name for field in fields(RankingRow))
_NULLABLE = ("rank", "score", "original_label", "judged_grade", "expected_grade", "probabilities")
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True, slots=True)
class RankingGroup:
    """A query and its rows."""

    query_id: str
    query: str
    rows: tuple[RankingRow, ...]


class RankingSet:
    """A ranking set in a file, to be iterated over as often as wanted; InputError names a row that is unsound."""

    def __init__(self, path: PathLike) -> None:
        self.path = str(path)
        self.file_format = set_format(path)
        names = column_names(self.path, self.file_format)
        if missing := names and _missing(names):  # JSON lines without a row name no columns
            found = ", ".join(map(quoted, names[:20])) or "none"
            raise InputError(
                f"{path}: no column {', '.join(missing)} (columns found: {found}); a ranking set needs "
                f"{', '.join(_REQUIRED)} and label. `pairgrade mine` makes one of triples, of rows of a query with "
                "positives and negatives, of qrels or of a run"
            )
        self.relabelled = "judged" in names
        self.other_columns = tuple(name for name in names if name not in _BASE and name not in _JUDGED)

    def __iter__(self) -> Iterator[RankingRow]:
        what = "row" if self.file_format == "parquet" else "line"
        for number, values in rows(self.path, self.file_format, {}):
            try:
                row = checked_row(values)
            except ValueError as error:
                raise InputError(f"{self.path}, {what} {number}: {error}") from None
            yield row


def is_ranking_set(path: PathLike) -> bool:
    """Say whether a JSON lines or Parquet file has the columns that every ranking set has."""
    return not _missing(column_names(str(path), set_format(path)))


def _missing(names: Sequence[str]) -> list[str]:
    return [name for name in (*_REQUIRED, "label") if name not in names]


def read_ranking_set(path: PathLike) -> RankingSet:
    """Open a ranking set: .jsonl, .ndjson (both also .gz) or .parquet."""
    return RankingSet(path)


def read_groups(path: PathLike) -> list[RankingGroup]:
    """Read a whole ranking set into memory, by query, in the order of the queries' first rows."""
    return grouped(read_ranking_set(path))


def grouped(items: Iterable[RankingRow]) -> list[RankingGroup]:
    """Gather rows by query; InputError for a pair that comes twice and for a query id with two texts."""
    queries: dict[str, dict[str, RankingRow]] = {}
    for row in items:
        documents = queries.setdefault(row.query_id, {})
        if row.doc_id in documents:
            raise InputError(f"the pair {quoted(row.query_id)} {quoted(row.doc_id)} is in the set twice; keep one row")
        if documents and (first := next(iter(documents.values()))).query != row.query:
            raise InputError(
                f"the query {quoted(row.query_id)} has two texts, {quoted(first.query)} and {quoted(row.query)}; "
                "give each text an id of its own"
            )
        documents[row.doc_id] = row
    return [
        RankingGroup(query_id, next(iter(documents.values())).query, tuple(documents.values()))
        for query_id, documents in queries.items()
    ]


def open_ranking_set(path: PathLike, *, relabelled: bool = False) -> RankingSetWriter:
    """Return a writer of a ranking set, for a ``with`` block; the suffix decides the format."""
    return RankingSetWriter(path, relabelled=relabelled)


def write_ranking_set(path: PathLike, items: Iterable[RankingRow], *, relabelled: bool = False) -> int:
    """Write a ranking set, whole or not at all, and return how many rows it has."""
    with open_ranking_set(path, relabelled=relabelled) as writer:
        for row in items:
            writer.write(row)
    return writer.rows


class TableWriter:
    """Writes rows of named columns as JSON lines or Parquet in flat memory, whole or not at all."""

    def __init__(self, path: PathLike, types: Mapping[str, type], nullable: Sequence[str] = ()) -> None:
        file_format = set_format(path)
        if Path(path).suffix.lower() == ".gz":
            raise InputError(f"{path}: compressed sets are read, not written; write .jsonl or .parquet")
        self.rows = 0
        self._file = AtomicFile(path)
        self._encoder = encoder(file_format, types, nullable)

    def __enter__(self) -> TableWriter:
        self._file.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._file.write(self._encoder.end())
                self._file.commit()
        finally:
            self._file.abort()

    def add(self, values: Sequence[object]) -> None:
        """Add a row, a value for each column."""
        self._file.write(self._encoder.add(values))
        self.rows += 1


class RankingSetWriter(TableWriter):
    """Writes a ranking set; the file appears when the ``with`` block ends without an exception."""

    def __init__(self, path: PathLike, *, relabelled: bool = False) -> None:
        types = _BASE | _JUDGED if relabelled else _BASE
        super().__init__(path, types, _NULLABLE)
        self._names = tuple(types)

    def __enter__(self) -> RankingSetWriter:
        super().__enter__()
        return self

    def write(self, row: RankingRow) -> None:
        """Add a row; InputError where it does not fit a ranking set."""
        try:
            sound = checked_row({name: getattr(row, name) for name in _COLUMNS})
        except ValueError as error:
            raise InputError(f"{self._file.path}: cannot write row {self.rows + 1}: {error}") from None
        self.add([getattr(sound, name) for name in self._names])


def set_format(path: PathLike) -> str:
    """Return the format that a path's suffix names; InputError where it names none."""
    name = str(path).lower()
    found = _SUFFIXES.get(Path(name.removesuffix(".gz")).suffix)
    if found is None or (found == "parquet" and name.endswith(".gz")):
        raise InputError(f"{path}: ranking sets end in .jsonl (read also as .jsonl.gz) or .parquet")
    return found
