"""Rankings from files: TREC runs, and judgments, whose expected grade is a score to rank by.

A line of a run is ``query_id Q0 doc_id rank score tag``. As for trec_eval, the score decides the order and the
rank column means nothing. Runs are written by ``pairgrade.qrels.write_run``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pairgrade.errors import InputError
from pairgrade.judgments import read_judgments, suffix_format
from pairgrade.lines import quoted
from pairgrade.qrels import trec_lines

PathLike = str | os.PathLike[str]
Ranking = dict[str, dict[str, float]]  # score of each document, by query


class Scored(NamedTuple):
    """One line of a run."""

    query_id: str
    doc_id: str
    score: float


def read_run(path: PathLike) -> Iterator[Scored]:
    """Yield the lines of a run, plain or gzip (``.gz``); InputError names a line that is not one."""
    for number, fields in trec_lines(path, "a run", "query_id Q0 doc_id rank score tag"):
        try:
            score = float(fields[4])
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise InputError(f"{path}:{number}: the score is {quoted(fields[4])}; it must be a finite number")
        yield Scored(fields[0], fields[2], score)


def read_ranking(path: PathLike) -> Ranking:
    """Read a run or, by its suffix, a judgments file into memory; InputError for a pair that comes twice."""
    ranking: Ranking = {}
    rows = _judged(path) if suffix_format(path) else read_run(path)
    for query_id, doc_id, score in rows:
        documents = ranking.setdefault(query_id, {})
        if doc_id in documents:
            raise InputError(f"{path}: the pair {quoted(query_id)} {quoted(doc_id)} is there twice; keep one line")
        documents[doc_id] = score
    if not ranking:
        raise InputError(f"{path}: holds no lines; a run needs at least one")
    return ranking


def checked_ranking(name: str, ranking: Ranking) -> Ranking:
    """Return the queries that have documents; InputError for ids that do not fit, and scores that are not finite."""
    check_ids(name, ranking)
    for query_id, documents in ranking.items():
        for doc_id, score in documents.items():
            if not _is_finite(score):
                raise InputError(
                    f"{name}: the score of document {quoted(doc_id)} of query {quoted(query_id)} is "
                    f"{quoted(str(score))}; it must be a finite number"
                )
    return {query_id: documents for query_id, documents in ranking.items() if documents}


def check_ids(name: str, table: Mapping[str, Any]) -> None:
    """Raise InputError for an id that ends trec_eval's process, or that it reads as another."""
    for query_id, documents in table.items():
        if fault := _fault(query_id):
            raise InputError(f"{name}: the query id {quoted(str(query_id))} {fault}")
        if not isinstance(documents, Mapping):
            raise InputError(
                f"{name}: query {quoted(query_id)} has {type(documents).__name__}; give it a dict of document ids and "
                "their values"
            )
        for doc_id in documents:
            if fault := _fault(doc_id):
                raise InputError(f"{name}: the document id {quoted(str(doc_id))} of query {quoted(query_id)} {fault}")


def _fault(value: object) -> str | None:
    if not isinstance(value, str):
        return f"is {type(value).__name__}; it must be a str"
    if not value:
        return "is empty; give each query and document a name"
    if "\0" in value or (not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)):
        return "holds a NUL or a lone surrogate, which trec_eval cannot read; rename it"
    return None


def _is_finite(score: Any) -> bool:
    try:
        return math.isfinite(score)
    except (TypeError, OverflowError):  # no number, or an integer beyond all floats
        return False


def ordered(documents: dict[str, float]) -> list[tuple[str, float]]:
    """Return documents and scores as trec_eval ranks them: by falling score, equal scores by falling document id."""
    return sorted(documents.items(), key=lambda item: (item[1], item[0]), reverse=True)


def _judged(path: PathLike) -> Iterator[Scored]:
    for judgment in read_judgments(path):
        yield Scored(judgment.query_id, judgment.doc_id, judgment.expected_grade)
