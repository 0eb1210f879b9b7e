"""The input of a run on disk: every usable pair, put into the order in which it is best labelled.

People's files are shuffled, so pairs of one query may lie anywhere. The rows go once into an SQLite file, and come
out grouped by query (groups in order of first appearance) with equal documents side by side. Memory stays flat
whatever the file's size; the disk holds a copy of the texts until the run ends.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from pairgrade.disk import refused, table_bytes
from pairgrade.errors import InputError, PairgradeError, StorageError
from pairgrade.file_hashes import file_sha256
from pairgrade.pair_checks import SHOWN, SHOWN_LINES, repeated_pairs
from pairgrade.records import Pair, Rejection

_SCHEMA = """
CREATE TABLE pair(row INTEGER PRIMARY KEY, line INTEGER, query_id TEXT, doc_id TEXT, query TEXT, document TEXT,
                  title TEXT, grade INTEGER, query_key INTEGER, document_key INTEGER, sample_key INTEGER);
CREATE TABLE source(name TEXT);
CREATE TABLE rejection(source TEXT, line INTEGER, reason TEXT, query_id TEXT, doc_id TEXT);
"""
_ORDER = """
CREATE TABLE query AS SELECT query_key AS key, min(row) AS first FROM pair GROUP BY query_key;
CREATE TABLE place AS SELECT pair.row AS row FROM pair JOIN query ON query.key = pair.query_key
  ORDER BY query.first, pair.document_key, pair.row;
"""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of the input are taken."""

    limit: int | None = None  # only the first so many pairs that can be read
    sample: int | None = None  # of these, so many at random, the same ones for the same ids and seed
    seed: int = 0
    duplicates: str = "refuse"  # pairs with the ids of an earlier one: "refuse" the input or take the "first"

    def __post_init__(self) -> None:
        for name, value in (("limit", self.limit), ("sample", self.sample)):
            if value is not None and not 1 <= value < 2**63:
                raise InputError(f"{name} is {value}; it must be from 1 to 2**63 - 1")
        if self.seed != 0 and self.sample is None:
            raise InputError(f"the seed is {self.seed}, and seeds a sample alone: ask for one, or leave it out")
        if self.duplicates not in ("refuse", "first"):
            raise InputError(f"duplicates is '{self.duplicates}'; it can be 'refuse' or 'first'")


def build(path: Path, rows: Iterable[tuple[int, Pair | Rejection]], selection: Selection, name: str) -> None:
    """Write the spool of ``rows`` (line number, pair or rejection); the file appears when it is whole.

    InputError for duplicate ids, with the first five of them; StorageError where the disk is full.
    """
    unfinished = path.with_suffix(".part")
    unfinished.unlink(missing_ok=True)
    taken = _Taken(rows, selection.limit)
    try:
        database = _open(unfinished)
        try:
            database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;" + _SCHEMA)
            database.execute("INSERT INTO source VALUES (?)", (_storable(name),))
            _fill(database, taken, selection)
            database.execute("CREATE INDEX pair_ids ON pair(query_id, doc_id)")
            _settle_duplicates(database, selection, name)
            if selection.sample is not None:
                kept = "SELECT row FROM pair ORDER BY sample_key, row LIMIT ?"
                database.execute(f"DELETE FROM pair WHERE row NOT IN ({kept})", (selection.sample,))
            database.executescript(_ORDER)
            database.commit()
        finally:
            database.close()
    except sqlite3.OperationalError as error:
        raise _shortage(unfinished, error, taken) from error
    with unfinished.open("rb") as file:
        try:
            os.fsync(file.fileno())
            _digest_of(path).write_text(file_sha256(unfinished), encoding="ascii")  # torn, it fits nothing
        except OSError as error:
            raise _shortage(unfinished, error, taken) from error
    os.replace(unfinished, path)


def is_sound(path: Path) -> bool:
    """Whether a spool is as it was written, by the sha256 beside it."""
    try:
        return _digest_of(path).read_text(encoding="ascii") == file_sha256(path)
    except (OSError, ValueError):
        return False


def _digest_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


class Spool:
    """A finished spool, for reading."""

    def __init__(self, path: Path) -> None:
        self._database = _open(path)

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM pair").fetchone()[0])

    @property
    def last_row(self) -> int:
        """The highest row number; rows count from 1 and may have gaps."""
        return int(self._database.execute("SELECT coalesce(max(row), 0) FROM pair").fetchone()[0])

    def pairs(self, wanted: Callable[[int], bool]) -> Iterator[tuple[int, Pair]]:
        """Yield (row, pair) of the wanted rows in the order to label them."""
        for (row,) in self._database.execute("SELECT row FROM place ORDER BY rowid"):
            if wanted(row):
                yield row, self.pair(row)[0]

    def pair(self, row: int) -> tuple[Pair, int]:
        """Return a row's pair, and the line of the input that it came from."""
        columns = "query_id, doc_id, query, document, title, grade, line"
        *fields, line = self._database.execute(f"SELECT {columns} FROM pair WHERE row = ?", (row,)).fetchone()
        return Pair(*fields), line

    @property
    def name(self) -> str:
        """The name of the source, as its user gave it."""
        return str(self._database.execute("SELECT name FROM source").fetchone()[0])

    def rejections(self) -> Iterator[Rejection]:
        """Yield the rows of the input that were no usable pairs."""
        for record in self._database.execute("SELECT * FROM rejection ORDER BY rowid"):
            yield Rejection(*record)

    def rejected(self) -> int:
        """Count the rejections."""
        return int(self._database.execute("SELECT count(*) FROM rejection").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._database.close()


class _Taken:
    """The rows that are taken of an input, and how many bytes their copy needs."""

    def __init__(self, rows: Iterable[tuple[int, Pair | Rejection]], limit: int | None) -> None:
        self._rows, self._limit = iter(rows), limit
        self._count = self._pairs = self._texts = 0

    def __iter__(self) -> Iterator[tuple[int, Pair | Rejection]]:
        return self

    def __next__(self) -> tuple[int, Pair | Rejection]:
        if self._pairs == self._limit:
            raise StopIteration
        line, item = next(self._rows)
        self._count += 1
        if isinstance(item, Pair):
            self._pairs += 1
            ids = item.query_id, item.doc_id
            texts = (*ids, *ids, item.query, item.document, item.title)  # the ids in an index, too
            self._texts += sum(len(text.encode()) for text in texts)
        return line, item

    def all_bytes(self) -> int:
        """Read the rows that are left and estimate what the copy of all of them needs."""
        with suppress(PairgradeError):  # what is wrong with the input is told when there is room
            for _ in self:
                pass
        return table_bytes(self._texts, self._count)


def _shortage(unfinished: Path, error: Exception, taken: _Taken) -> StorageError:
    unfinished.unlink(missing_ok=True)  # its bytes count as free
    needed = f"the input's copy needs about {taken.all_bytes():,} bytes"
    then = "make room, there or in the system's folder for temporary files, and run again"
    return refused(unfinished, error, needed, then)


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path)


def _fill(database: sqlite3.Connection, rows: _Taken, selection: Selection) -> None:
    count = 0
    for line, item in rows:
        if isinstance(item, Rejection):
            values = (_storable(item.source), item.line, item.reason, item.query_id, item.doc_id)
            database.execute("INSERT INTO rejection VALUES (?, ?, ?, ?, ?)", values)
            continue
        count += 1
        drawn = _key(f"{selection.seed}\0{item.query_id}\0{item.doc_id}") if selection.sample is not None else 0
        fields = (item.query_id, item.doc_id, item.query, item.document, item.title, item.grade)
        keys = (_key(item.query), _key(f"{item.title}\0{item.document}"), drawn)
        database.execute("INSERT INTO pair VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (count, line, *fields, *keys))


def _settle_duplicates(database: sqlite3.Connection, selection: Selection, name: str) -> None:
    """Refuse pairs that share ids, or turn all but the first of each into rejections."""
    if selection.duplicates == "first":
        later = "row NOT IN (SELECT min(row) FROM pair GROUP BY query_id, doc_id)"
        reason = "the pair's ids stand on an earlier line"
        database.execute(
            f"INSERT INTO rejection SELECT ?, line, ?, query_id, doc_id FROM pair WHERE {later} ORDER BY row",
            (_storable(name), reason),
        )
        database.execute(f"DELETE FROM pair WHERE {later}")
        return
    grouped = "FROM pair GROUP BY query_id, doc_id HAVING count(*) > 1"
    found = database.execute(f"SELECT query_id, doc_id, min(row) {grouped} ORDER BY 3 LIMIT {SHOWN}").fetchall()
    if not found:
        return
    total = database.execute(f"SELECT count(*) FROM (SELECT 1 {grouped})").fetchone()[0]
    places = f"SELECT line FROM pair WHERE query_id = ? AND doc_id = ? ORDER BY row LIMIT {SHOWN_LINES}"
    named = [
        ((query_id, doc_id), [line for (line,) in database.execute(places, (query_id, doc_id))])
        for query_id, doc_id, _ in found
    ]
    remedy = "Make the ids distinct, or take the first of each with --duplicates first"
    raise repeated_pairs(name, named, total, remedy)


def _storable(name: str) -> str:
    """Return a file's name as text, with what is no UTF-8 in it replaced."""
    return name.encode("utf-8", "replace").decode()


def _key(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
