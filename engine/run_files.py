"""Rankings from files: TREC runs, and judgments, whose expected grade is a score to rank by.

A line of a run is ``query_id Q0 doc_id rank score tag``. As for trec_eval, the score decides the order and the
rank column means nothing. Runs are written by ``pairgrade.qrels.write_run``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import NamedTuple

from pairgrade.errors import InputError
from pairgrade.judgments import read_judgments, suffix_format
from pairgrade.lines import shown
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
            raise InputError(f"{path}:{number}: the score is {shown(fields[4])}; it must be a finite number")
        yield Scored(fields[0], fields[2], score)


def read_ranking(path: PathLike) -> Ranking:
    """Read a run or, by its suffix, a judgments file into memory; InputError for a pair that comes twice."""
    ranking: Ranking = {}
    rows = _judged(path) if suffix_format(path) else read_run(path)
    for query_id, doc_id, score in rows:
        documents = ranking.setdefault(query_id, {})
        if doc_id in documents:
            raise InputError(f"{path}: the pair {shown(query_id)} {shown(doc_id)} is there twice; keep one line")
        documents[doc_id] = score
    if not ranking:
        raise InputError(f"{path}: holds no lines; a run needs at least one")
    return ranking


def ordered(documents: dict[str, float]) -> list[tuple[str, float]]:
    """Return documents and scores as trec_eval ranks them: by falling score, equal scores by falling document id."""
    return sorted(documents.items(), key=lambda item: (item[1], item[0]), reverse=True)


def _judged(path: PathLike) -> Iterator[Scored]:
    for judgment in read_judgments(path):
        yield Scored(judgment.query_id, judgment.doc_id, judgment.expected_grade)
