"""Reads query-document pairs from JSONL, CSV, TSV, Parquet, TREC files and ir_datasets.

Every row of the input ends as exactly one pair or one rejection that says what is wrong with it; what makes
the whole input unusable is an InputError. Memory does not grow with the input.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from pairgrade.delimited import csv_rows, tsv_rows
from pairgrade.errors import InputError
from pairgrade.irds import Catalogued, catalogue_version
from pairgrade.lines import Field, Row, file_blocks, has_gzip_name, json_rows
from pairgrade.pair_checks import checked_identifier, checked_optional_text, checked_pair, checked_text
from pairgrade.parquet_rows import parquet_rows
from pairgrade.records import Pair, Rejection
from pairgrade.trec_input import Entry, join, judged_lines, plain_tsv

_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_TABLES: dict[str, Callable[[str, list[Field], int], Iterator[Row | Rejection]]]
_TABLES = {"jsonl": json_rows, "csv": csv_rows, "tsv": tsv_rows, "parquet": parquet_rows}
_TREC_FORMATS = ("qrels", "run")
_CATALOGUE = "irds:"
_T = TypeVar("_T")

_QUERY_TEXTS = [
    Field(("query_id", "_id", "id"), integers=True),
    Field(("text",)),
]
_DOCUMENT_TEXTS = [
    Field(("doc_id", "_id", "docno"), integers=True),
    Field(("text",)),
    Field(("title",), required=False),
]


_ID_NAMES = {"query_id", "query-id", "qid", "doc_id", "docid", "docno", "corpus-id", "pid", "_id", "id"}  # of a header
_TEXT_NAMES = {"text", "query", "title", "document", "passage", "body"}


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of a table's columns; it may lack title and grade. Without a name of its column no grade is read."""

    query_id: str = "query_id"
    doc_id: str = "doc_id"
    query: str = "query"
    document: str = "document"
    title: str = "title"
    grade: str | None = "grade"

    def __post_init__(self) -> None:
        for role in fields(self):
            if not getattr(self, role.name) and (role.name, self.grade) != ("grade", None):
                raise InputError(f"the name of the {role.name} column is empty; give a name or leave it out")

    def wanted(self) -> list[Field]:
        """Describe the columns to a table reader, in the order of a pair's fields."""
        found = [
            Field((self.query_id,), option="--query-id-column", integers=True),
            Field((self.doc_id,), option="--doc-id-column", integers=True),
            Field((self.query,), option="--query-column"),
            Field((self.document,), option="--document-column"),
            Field((self.title,), False, self.title != "title", "--title-column"),
        ]
        if self.grade is not None:
            found.append(Field((self.grade,), False, self.grade != "grade", "--grade-column", integers=True))
        return found


@dataclass(frozen=True, slots=True)
class Source:
    """Where pairs come from."""

    pairs: str  # a table's path, "irds:DATASET_ID" or, with queries and docs, the path of a qrels or run file
    queries: str | None = None  # path of the queries' texts
    docs: str | None = None  # path of the documents' texts
    columns: Columns = field(default_factory=Columns)  # of a table
    format: str | None = None  # jsonl, csv, tsv, parquet, qrels or run, where the suffix does not tell
    max_row_bytes: int = 16 * 2**20  # longer rows are rejected

    def __post_init__(self) -> None:
        for role in ("pairs", "queries", "docs"):
            if isinstance(path := getattr(self, role), Path):
                object.__setattr__(self, role, str(path))
        if any("\0" in path for path in (self.pairs, self.queries, self.docs) if path):
            raise InputError("a path holds a NUL character; no file has such a name")
        if self.max_row_bytes < 1:
            raise InputError(f"max_row_bytes is {self.max_row_bytes}; it must be at least 1")
        if (self.queries is None) != (self.docs is None):
            raise InputError("give the texts of both queries and docs (--queries, --docs), or of neither for a table")
        if self.columns not in (Columns(), Columns(grade=None)) and (self.in_catalogue or self.docs is not None):
            raise InputError("column names are for a table of pairs, not for TREC files or an irds: input")
        if self.in_catalogue:
            if self.pairs == _CATALOGUE:
                raise InputError(f"{self.pairs} lacks the data set's id; give {_CATALOGUE}DATASET_ID")
            if self.docs is not None or self.format is not None:
                raise InputError(f"{self.pairs} has its own texts; leave out queries, docs and format")
        elif self.docs is not None and self.queries is not None:
            if self.format not in (None, *_TREC_FORMATS):
                raise InputError(f"format is {self.format!r}; with queries and docs it is qrels or run")
            if self.format is None and _format_of(self.pairs) is not None:
                raise InputError(
                    f"{self.pairs} is a table by its name; leave out --queries and --docs for a table of pairs with "
                    "their texts, or say --format qrels or run"
                )
            for path in (self.queries, self.docs):
                _check_texts(path)
        elif self.format in _TREC_FORMATS:
            raise InputError(f"a {self.format} file holds ids alone; give the texts, too: --queries and --docs")
        elif self.table is None:
            allowed = ", ".join(_SUFFIXES)
            raise InputError(
                f"{self.pairs}: unknown format; a table of pairs ends in {allowed} (text also .gz) or has a --format; "
                "a TREC qrels or run file needs --queries and --docs"
            )
        elif self.table not in _TABLES:
            raise InputError(f"format is {self.table!r}; it can be {', '.join(_TABLES)}, qrels or run")

    @property
    def in_catalogue(self) -> bool:
        """Whether ir_datasets brings the pairs."""
        return self.pairs.startswith(_CATALOGUE)

    @property
    def table(self) -> str | None:
        """The format of a table of pairs."""
        return self.format or _format_of(self.pairs)


def _format_of(path: str) -> str | None:
    name = path.lower().removesuffix(".gz")
    found = _SUFFIXES.get(Path(name).suffix)
    return None if found == "parquet" and has_gzip_name(path) else found


def read_pairs(source: Source, scratch: Path | None = None) -> Generator[Pair | Rejection, None, None]:
    """Yield every row as a pair or a rejection; the texts of TREC files lie under ``scratch`` meanwhile.

    InputError for an input that cannot be used as a whole: before the first row or, where a file turns out to
    be cut off, after the rows before the cut.
    """
    with closing(numbered_pairs(source, scratch)) as rows:
        for _, item in rows:
            yield item


def numbered_pairs(source: Source, scratch: Path | None = None) -> Generator[tuple[int, Pair | Rejection], None, None]:
    """Do as ``read_pairs`` and give the line of each; with TREC files that of the qrels or run."""
    with closing(_rows(source, scratch)) as rows:
        for item in rows:
            if isinstance(item, Rejection):
                yield item.line, item
            else:
                line, values = item
                yield line, checked_pair(source.pairs, line, values if source.columns.grade is not None else values[:5])


def digest(source: Source) -> str:
    """Return the sha256 of the input: of its files' bytes and of all that decides how they are read."""
    facts: list[object] = [source.max_row_bytes, asdict(source.columns)]
    if source.in_catalogue:
        facts += [source.pairs, catalogue_version()]
    for role in ("pairs", "queries", "docs"):
        path = getattr(source, role)
        if path is not None and not source.in_catalogue:
            content = hashlib.sha256()
            for block in file_blocks(path):
                content.update(block)
            form = source.format if role == "pairs" else None
            facts.append([role, form or _format_of(path), has_gzip_name(path), content.hexdigest()])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def stamps(source: Source) -> dict[str, tuple[int, int]]:
    """Return size and time of change of the input's files, by which to tell whether they are still the same."""
    return {} if source.in_catalogue else file_stamps(source.pairs, source.queries, source.docs)


def file_stamps(*paths: str | Path | None) -> dict[str, tuple[int, int]]:
    """Return size and time of change of those files that are there."""
    found = {}
    for path in map(str, filter(None, paths)):
        with suppress(OSError):  # reading it will tell
            status = os.stat(path)
            found[path] = status.st_size, status.st_mtime_ns
    return found


def require_same(before: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]]) -> None:
    """Raise InputError where a file's stamp is another: what was read and its digest may be of other bytes."""
    if changed := next((name for name in before if now.get(name) != before[name]), None):
        raise InputError(f"{changed} changed while it was read; when it is whole, run the same command again")


def read_texts(path: str, role: str, max_row_bytes: int = 16 * 2**20) -> Iterator[Entry | Rejection]:
    """Yield line and (id, title, text) of each entry of a file of texts, or its rejection.

    The role is query or document. InputError for a file that cannot be used as a whole.
    """
    _check_texts(path)
    yield from _texts(path, _QUERY_TEXTS if role == "query" else _DOCUMENT_TEXTS, max_row_bytes)


def _check_texts(path: str) -> None:
    if _format_of(path) not in ("jsonl", "tsv", "parquet"):
        raise InputError(f"{path}: texts come as .jsonl, .ndjson, .tsv (or .gz) or .parquet")


def _rows(source: Source, scratch: Path | None) -> Generator[Row | Rejection, None, None]:
    """Yield the values of each pair as they come: query id, document id, query, document, title, grade."""
    if source.in_catalogue:
        data = Catalogued(source.pairs.removeprefix(_CATALOGUE))
        yield from join(
            data.name,
            lambda: _filled(data.name, data.judged()),
            (data.name, _entries(data.name, data.queries(), "query")),
            (data.name, _entries(data.name, data.documents(), "document")),
            scratch,
        )
    elif source.queries is not None and source.docs is not None:
        yield from join(
            source.pairs,
            lambda: _filled(source.pairs, judged_lines(source.pairs, source.format, source.max_row_bytes)),
            (source.queries, _texts(source.queries, _QUERY_TEXTS, source.max_row_bytes)),
            (source.docs, _texts(source.docs, _DOCUMENT_TEXTS, source.max_row_bytes)),
            scratch,
        )
    else:
        read = _TABLES[source.table or ""]
        yield from _filled(source.pairs, read(source.pairs, source.columns.wanted(), source.max_row_bytes))


def _texts(path: str, fields: list[Field], max_bytes: int) -> Iterator[Entry | Rejection]:
    form = _format_of(path)
    if form == "tsv":
        rows = _without_header(path, plain_tsv(path, (2,) if fields is _QUERY_TEXTS else (2, 3), max_bytes))
    else:
        rows = _TABLES[form or ""](path, fields, max_bytes)
    return _entries(path, _filled(path, rows), "query" if fields is _QUERY_TEXTS else "document")


def _without_header(path: str, rows: Iterable[Row | Rejection]) -> Iterator[Row | Rejection]:
    """Pass on rows of id, text and title but a first line that names these columns."""
    for item in rows:
        if not isinstance(item, Rejection) and item[0] == 1:
            identifier, text, title = (str(cell).lower() for cell in item[1])
            if identifier in _ID_NAMES and text == "title" and title != "none":
                raise InputError(f"{path}: the columns are in another order; a line is an id, the title and the text")
            if identifier in _ID_NAMES and text in _TEXT_NAMES and title in ("none", "title"):
                continue
        yield item


def _filled(path: str, rows: Iterable[_T]) -> Iterator[_T]:
    """Pass on the rows; InputError where there is none."""
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise InputError(f"{path}: holds no rows; there is nothing to read")


def _entries(source: str, rows: Iterable[Row | Rejection], role: str) -> Iterator[Entry | Rejection]:
    """Check the id, text and title of a query or document; a rejection has the id where that is sound."""
    for item in rows:
        if isinstance(item, Rejection):
            yield item
            continue
        line, (identifier, text, *more) = item
        known: str | None = None
        try:
            known = checked_identifier(identifier, "the id")
            entry = (known, checked_optional_text(more[0] if more else None), checked_text(text, "text"))
        except ValueError as error:
            ids = (known, None) if role == "query" else (None, known)
            yield Rejection(source, line, str(error), *ids)
            continue
        yield line, entry
