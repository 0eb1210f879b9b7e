"""TREC's text files: relevance labels (qrels) and ranked results (runs).

A line of qrels is ``query_id 0 doc_id grade``, one of a run ``query_id Q0 doc_id rank score tag``; white
space parts the fields, so no id may hold any. The second field of either means nothing. Qrels as BEIR has them lack it,
below a header of ``query-id corpus-id score``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from operator import index
from typing import Any

from pairgrade.atomic import AtomicFile
from pairgrade.errors import InputError
from pairgrade.lines import quoted, text_lines
from pairgrade.records import Qrel, Rejection

BEIR_HEADER = ("query-id", "corpus-id", "score")  # of qrels with three columns
_LONGEST_LINE = 2**20  # bytes
_FIELD = re.compile(r"[^ \t\r\v\f]+")  # other white space is part of an id, as it is to trec_eval
_UNFIT = re.compile("[\\s\ufeff\ud800-\udfff]")  # what some reader would not take for a part of an id


def read_qrels(path: str | os.PathLike[str]) -> Iterator[Qrel]:
    """Yield the lines of a qrels file, plain or gzip (``.gz``), TREC's or BEIR's.

    InputError names a line that is not one.
    """
    columns = ""
    for number, text, fields in _lines(path):
        if not columns:
            columns = " ".join(BEIR_HEADER) if tuple(fields) == BEIR_HEADER else "query_id 0 doc_id grade"
            if tuple(fields) == BEIR_HEADER:
                continue
        _check_width(path, number, text, fields, "qrels", columns)
        yield Qrel(fields[0], fields[-2], _grade(path, number, fields[-1]))


def _grade(path: str | os.PathLike[str], number: int, text: str) -> int:
    if not re.fullmatch("[+-]?[0-9]{1,9}", text):
        raise InputError(f"{path}:{number}: the grade is {quoted(text)}; it must be an integer")
    return int(text)


def split_fields(line: str) -> list[str]:
    """Return a line's fields, parted by ASCII's blanks alone, as trec_eval parts them."""
    return _FIELD.findall(line)


def trec_lines(path: str | os.PathLike[str], kind: str, columns: str) -> Iterator[tuple[int, list[str]]]:
    """Yield number and fields of each line that is not blank; InputError for one without these columns."""
    for number, text, fields in _lines(path):
        _check_width(path, number, text, fields, kind, columns)
        yield number, fields


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str, list[str]]]:
    """Yield number, text and fields of each line that is not blank."""
    for item in text_lines(str(path), _LONGEST_LINE):
        if isinstance(item, Rejection):
            raise InputError(f"{path}:{item.line}: {item.reason}")
        number, text = item
        fields = split_fields(text)
        if fields:
            yield number, text, fields


def _check_width(
    path: str | os.PathLike[str], number: int, text: str, fields: list[str], kind: str, columns: str
) -> None:
    width = len(columns.split())
    if len(fields) != width:
        has = f"{len(fields)} of the" if len(fields) < width else f"{len(fields)} fields, not the"
        raise InputError(
            f"{path}:{number}: {quoted(text)} has {has} {width} fields of {kind}: {columns}, parted by white space"
        )


def write_qrels(path: str | os.PathLike[str], rows: Iterable[tuple[str, str, int]]) -> int:
    """Write (query_id, doc_id, grade) as qrels, whole or not at all, and return how many lines there are.

    InputError for an id that a line cannot hold and for a grade that is no integer.
    """
    count = 0
    with AtomicFile(path) as file:
        for row in rows:
            file.write(_qrels_line(path, *row))
            count += 1
    return count


def holds_qrels(path: str | os.PathLike[str], rows: Iterable[tuple[str, str, int]]) -> bool:
    """Whether a file holds what ``write_qrels`` would write there."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return all(found == line for found, line in zip_longest(file, (_qrels_line(path, *row) for row in rows)))


def write_run(path: str | os.PathLike[str], rows: Iterable[tuple[str, str, float]]) -> int:
    """Write (query_id, doc_id, score) as a run, each query's documents by falling score; return the lines.

    Equal scores are ranked by falling document id, as trec_eval does, and queries stay in the order of their first row.
    InputError for an id that a line cannot hold, a score that is no finite number and a pair that comes twice.
    """
    queries: dict[str, dict[str, float]] = {}
    for query_id, doc_id, score in rows:
        documents = queries.setdefault(_id(path, query_id), {})
        if _id(path, doc_id) in documents:
            raise InputError(f"{path}: the pair {quoted(query_id)} {quoted(doc_id)} comes twice; keep one")
        documents[doc_id] = _score(path, query_id, doc_id, score)
    count = 0
    with AtomicFile(path) as file:
        for query_id, documents in queries.items():
            ranked = sorted(((score, doc_id) for doc_id, score in documents.items()), reverse=True)
            for rank, (score, doc_id) in enumerate(ranked, start=1):
                file.write(f"{query_id} Q0 {doc_id} {rank} {score!r} pairgrade\n".encode())
            count += len(documents)
    return count


def _qrels_line(path: str | os.PathLike[str], query_id: str, doc_id: str, grade: int) -> bytes:
    try:
        return f"{_id(path, query_id)} 0 {_id(path, doc_id)} {index(grade):d}\n".encode()
    except TypeError:
        raise InputError(
            f"{path}: the grade of the pair {quoted(query_id)} {quoted(doc_id)} is {quoted(str(grade))}; it must be an "
            "integer"
        ) from None


def _score(path: str | os.PathLike[str], query_id: str, doc_id: str, score: Any) -> float:
    try:
        number = float(score)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f"{path}: the score of the pair {quoted(query_id)} {quoted(doc_id)} is {quoted(str(score))}; it must be a "
            "finite number"
        )
    return number


def _id(path: str | os.PathLike[str], text: object) -> str:
    """Return an id that a line can hold; InputError for another."""
    if not isinstance(text, str):
        raise InputError(f"{path}: the id {quoted(str(text))} is {type(text).__name__}; it must be a str")
    if not text or _UNFIT.search(text):
        reason = "holds white space or no text" if text else "is empty"
        raise InputError(f"{path}: the id {quoted(text)} {reason}; TREC files cannot hold it: rename it")
    return text
