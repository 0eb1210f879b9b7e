"""Joins TREC judgments or run lines with the texts of their queries and documents.

Only texts that a line asks for are kept, and these on disk: a collection of millions of documents costs one
pass over it and no memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from pairgrade.delimited import tab_separated
from pairgrade.disk import refused, table_bytes
from pairgrade.errors import InputError, StorageError
from pairgrade.lines import Row, quoted, text_lines
from pairgrade.qrels import BEIR_HEADER, split_fields
from pairgrade.records import Rejection

Judged = tuple[int, tuple[str, str, object]]  # line; query id, document id, grade or None
Entry = tuple[int, tuple[str, str, str]]  # line; id, title, text

_COLUMNS = {"qrels": "query 0 document grade", "run": "query Q0 document rank score tag"}
_KINDS = {len(columns.split()): kind for kind, columns in _COLUMNS.items()}
_CACHE_KIB = 16 * 1024  # SQLite's, the only memory that the texts take


def judged_lines(path: str, kind: str | None, max_bytes: int) -> Iterator[Judged | Rejection]:
    """Read a qrels or run file; without a kind the first line's number of columns decides. Qrels may be BEIR's.

    InputError where it fits neither.
    """
    first, width = True, 4  # of qrels
    for item in text_lines(path, max_bytes):
        if isinstance(item, Rejection):
            yield item
            continue
        line, text = item
        columns = split_fields(text)
        if not columns:
            continue
        is_header = first and kind != "run" and tuple(columns) == BEIR_HEADER
        first = False
        if is_header:
            kind, width = "qrels", 3
            continue
        if kind is None:
            kind = _KINDS.get(len(columns))
            if kind is None:
                allowed = " or ".join(f"{width} ({kind}: {_COLUMNS[kind]})" for width, kind in _KINDS.items())
                hint = "if this line alone is damaged, give the format"
                raise InputError(f"{path}: line {line} has {len(columns)} columns, not {allowed}; {hint}")
        if len(columns) != (width if kind == "qrels" else 6):
            wanted = " ".join(BEIR_HEADER) if width == 3 else _COLUMNS[kind]
            yield Rejection(path, line, f"{len(columns)} columns; a {kind} line has: {wanted}")
        elif kind == "qrels":
            yield line, (columns[0], columns[-2], columns[-1])
        else:
            yield line, (columns[0], columns[2], None)


def plain_tsv(path: str, widths: tuple[int, ...], max_bytes: int) -> Iterator[Row | Rejection]:
    """Read lines of id and text or of id, title and text as (id, text, title); the first one sets which."""
    width = 0
    allowed = " or ".join(str(width) for width in widths)
    for item in tab_separated(path, max_bytes):
        if isinstance(item, Rejection):
            yield item
            continue
        line, cells = item
        if not width and len(cells) in widths:
            width = len(cells)
        if len(cells) != width:
            wanted = width or allowed
            yield Rejection(path, line, f"{len(cells)} tab-separated fields; the file's lines have {wanted}")
        else:
            yield line, (cells[0], cells[-1], cells[1] if width == 3 else None)


class _Texts:
    """The wanted texts of one file, by id."""

    def __init__(self, database: sqlite3.Connection, name: str, source: str) -> None:
        self._database, self._name, self._source = database, name, source
        self._wanted = self._kept = self._ids = self._bytes = 0
        database.execute(f"CREATE TABLE {name} (id TEXT PRIMARY KEY, line INTEGER, title TEXT, text TEXT)")

    def want(self, identifier: str) -> None:
        new = self._database.execute(f"INSERT OR IGNORE INTO {self._name} (id) VALUES (?)", (identifier,)).rowcount
        self._wanted += new
        self._ids += 2 * new * len(identifier.encode())  # in the table and its index

    def may_want(self, rejection: Rejection) -> bool:
        """Whether a rejected entry may be of a wanted text: nobody asks for most of a collection's."""
        identifier = rejection.query_id or rejection.doc_id
        query = f"SELECT 1 FROM {self._name} WHERE id = ?"
        return identifier is None or self._database.execute(query, (identifier,)).fetchone() is not None

    def keep(self, line: int, identifier: str, title: str, text: str) -> Rejection | None:
        """Keep the text if it is wanted; a second one of the same id is rejected."""
        query = f"SELECT line FROM {self._name} WHERE id = ?"
        found = self._database.execute(query, (identifier,)).fetchone()
        if found is None:
            return None
        if found[0] is not None:
            return Rejection(self._source, line, f"the id {quoted(identifier)} is on line {found[0]} already")
        self._kept += 1
        self._bytes += len(title.encode()) + len(text.encode())
        update = f"UPDATE {self._name} SET line = ?, title = ?, text = ? WHERE id = ?"
        self._database.execute(update, (line, title, text, identifier))
        return None

    def needed(self) -> tuple[int, bool]:
        """Return the bytes that the wanted texts take, from those kept so far; False where that is none."""
        texts = self._bytes * self._wanted // self._kept if self._kept else 0
        return table_bytes(self._ids + texts, self._wanted), self._kept > 0

    def get(self, identifier: str) -> tuple[str, str] | None:
        """Return title and text."""
        query = f"SELECT title, text FROM {self._name} WHERE id = ? AND line IS NOT NULL"
        found: tuple[str, str] | None = self._database.execute(query, (identifier,)).fetchone()
        return found


def join(
    source: str,
    judged: Callable[[], Iterable[Judged | Rejection]],
    queries: tuple[str, Iterable[Entry | Rejection]],
    documents: tuple[str, Iterable[Entry | Rejection]],
    scratch: Path | None,
) -> Iterator[Row | Rejection]:
    """Yield the rejected entries of both text files, then each judged line with its texts.

    A row's values are query id, document id, query, text, title, grade. ``judged`` is read twice, at first to
    learn which texts are wanted; they lie in a folder of their own under ``scratch`` until the iterator ends.
    Raises StorageError where the disk refuses them.
    """
    tables: list[_Texts] = []
    with _database(scratch, tables) as database:
        tables += _Texts(database, "query", queries[0]), _Texts(database, "document", documents[0])
        for item in judged():
            if not isinstance(item, Rejection):
                tables[0].want(item[1][0])
                tables[1].want(item[1][1])
        for table, (_, entries) in zip(tables, (queries, documents), strict=True):
            for entry in entries:
                rejection = entry if isinstance(entry, Rejection) else table.keep(entry[0], *entry[1])
                if rejection and table.may_want(rejection):
                    yield rejection
        yield from _joined(source, judged(), tables, (queries[0], documents[0]))


def _joined(
    source: str, judged: Iterable[Judged | Rejection], tables: list[_Texts], names: tuple[str, str]
) -> Iterator[Row | Rejection]:
    last, query = "", None  # lines of one query usually follow each other
    for item in judged:
        if isinstance(item, Rejection):
            yield item
            continue
        line, (query_id, doc_id, grade) = item
        if query_id != last:
            last, query = query_id, tables[0].get(query_id)
        document = tables[1].get(doc_id)
        if query is None:
            reason = f"no usable query {quoted(query_id)} in {names[0]}"
            yield Rejection(source, line, reason, query_id, doc_id, lacks_query=True)
        elif document is None:
            reason = f"no usable document {quoted(doc_id)} in {names[1]}"
            yield Rejection(source, line, reason, query_id, doc_id)
        else:
            yield line, (query_id, doc_id, query[1], document[1], document[0], grade)


@contextmanager
def _database(scratch: Path | None, tables: list[_Texts]) -> Iterator[sqlite3.Connection]:
    """Open an SQLite file that is gone afterwards; it need not survive anything, so nothing is synced."""
    place = scratch or Path(gettempdir())
    try:
        with TemporaryDirectory(prefix="texts-", dir=scratch) as folder:
            # one iterator may be carried from thread to thread, though never used by two at once
            path = Path(folder) / "texts.sqlite"
            with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as database:
                database.executescript(
                    f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{_CACHE_KIB}; BEGIN"
                )
                yield database
    except (sqlite3.Error, OSError) as error:
        if not tables:
            raise StorageError(f"{place}: cannot hold the input's texts: {error}; make room there") from error
        needed, known = zip(*(table.needed() for table in tables), strict=True)
        texts = f"the input's texts need {'about' if all(known) else 'more than'} {sum(needed):,} bytes"
        raise refused(place / "texts.sqlite", error, texts, "make room there and run again") from error
