"""Ranks the documents of a run again by a re-ranker: texts are streamed, only ids and scores are held."""

from __future__ import annotations

import time
from collections.abc import Container, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pairgrade.errors import InputError
from pairgrade.id_files import read_ids
from pairgrade.judgments import suffix_format
from pairgrade.qrels import write_run
from pairgrade.ranking_set import RankingRow
from pairgrade.readers import Source, read_pairs
from pairgrade.records import Pair, Rejection
from pairgrade.reranker import Reranker

_CHUNK = 1024  # pairs that are sorted by length and scored together
_SHOWN = 5  # rejections that are kept as examples


@dataclass(frozen=True, slots=True)
class RerankJob:
    """What is ranked again, and where the result goes."""

    run: str  # a TREC run, or qrels, whose pairs are then the documents to rank
    queries: str
    docs: str
    out: Path
    top_k: int | None = None  # documents of each query of a run to rank again; the others follow in their old order

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k is {self.top_k}; it must be at least 1")
        if suffix_format(self.out):
            raise InputError(
                f"{self.out}: a TREC run by that suffix is taken for judgments; name it {self.out.stem}.run"
            )


@dataclass(slots=True)
class Reranked:
    """What came of a job."""

    queries: int = 0  # of the run
    ranked: int = 0  # of these, those of which documents were scored
    scored: int = 0
    followed: int = 0  # documents below the top_k, or of queries that are not fit, which keep their order
    unfit_queries: int = 0  # queries that leave no room for a document, or have no text
    unfit: int = 0  # documents of these that were to be ranked; those of qrels, which have no order, are left out
    unfit_reason: str | None = None  # of the first such query
    without_text: int = 0  # documents to rank that no text was found for; they are left out
    seconds: float = 0.0  # of scoring and of reading texts
    examples: list[Rejection] = field(default_factory=list)  # of documents without text


class RerankProgress:
    """What a job tells while it works; this one keeps silent."""

    def start(self, total: int) -> None:
        """Scoring begins, of so many documents."""

    def advance(self, documents: int) -> None:
        """So many more documents are scored."""


def rerank(job: RerankJob, reranker: Reranker, progress: RerankProgress | None = None) -> Reranked:
    """Score the pairs of a run, write them as a new run, and tell how many there were.

    The documents of a query that is too long, or has no text, keep their old order. InputError where an input cannot be
    used, or none of its pairs can be scored.
    """
    progress = progress or RerankProgress()
    ids = read_ids(job.run)
    if ids.kind not in ("run", "qrels"):
        raise InputError(
            f"{job.run} holds {ids.kind}, by its columns; the documents to rank come as a TREC run (6 columns) or as "
            "qrels (4, or 3 below BEIR's header)"
        )
    if job.top_k is not None and ids.kind != "run":  # what people graded must not choose
        raise InputError(
            f"{job.run} holds {ids.kind}, which rank no documents, so there is no head of {job.top_k} to rank again; "
            "give a TREC run, or leave --top-k out"
        )
    rankings = {query_id: [doc_id for doc_id, _ in ids.ranking(query_id)] for query_id in ids.documents}
    wanted = {query_id: set(ranking[: job.top_k]) for query_id, ranking in rankings.items()}
    result = Reranked()
    total = sum(map(len, wanted.values()))
    progress.start(total)
    start = time.monotonic()
    scores: dict[str, dict[str, float]] = {}
    unfit: dict[str, str | None] = {}  # by query, why it cannot be scored with any document; None where it can
    source = Source(job.run, job.queries, job.docs, format=ids.kind)
    with closing(_pairs(source, wanted, result, unfit)) as pairs:
        while chunk := list(islice(pairs, _CHUNK)):
            for pair in chunk:
                if pair.query_id not in unfit:
                    unfit[pair.query_id] = reranker.why_unfit(pair.query)
            fit = [pair for pair in chunk if unfit[pair.query_id] is None]
            found = reranker.predict([(pair.query, _text(pair)) for pair in fit])
            for pair, score in zip(fit, found.tolist(), strict=True):
                scores.setdefault(pair.query_id, {})[pair.doc_id] = score
            result.scored += len(fit)
            progress.advance(len(chunk))
    result.seconds = time.monotonic() - start
    reasons = {query_id: why for query_id, why in unfit.items() if why is not None}
    result.unfit_queries, result.unfit_reason = len(reasons), next(iter(reasons.values()), None)
    result.unfit = sum(len(rankings[query_id][: job.top_k]) for query_id in reasons)
    result.ranked = len(scores)
    if len(reasons) == len(rankings):
        raise InputError(f"{job.run}: none of its queries can be ranked; {result.unfit_reason}")
    if not scores:
        reason = f" (line {result.examples[0].line}: {result.examples[0].reason})" if result.examples else ""
        raise InputError(f"{job.run}: no pair has the texts of both its query and its document{reason}")
    result.queries, result.without_text = len(rankings), total - result.scored - result.unfit
    kept = reasons if ids.kind == "run" else {}
    result.followed = write_run(job.out, _rows(rankings, scores, job.top_k, kept)) - result.scored
    return result


def _pairs(
    source: Source, wanted: dict[str, set[str]], result: Reranked, unfit: dict[str, str | None]
) -> Generator[Pair, None, None]:
    """Yield the pairs to score that have texts; of the others tell why."""
    with closing(read_pairs(source)) as rows:
        for row in rows:
            if isinstance(row, Rejection):
                if row.query_id is not None and row.lacks_query:
                    unfit.setdefault(row.query_id, row.told)
                elif row.doc_id in wanted.get(row.query_id or "", ()) and len(result.examples) < _SHOWN:
                    result.examples.append(row)
            elif row.doc_id in wanted[row.query_id]:
                wanted[row.query_id].remove(row.doc_id)  # a file may name a pair twice
                yield row


def _text(pair: Pair) -> str:
    """Return what the re-ranker reads of a document: what it was trained on."""
    return RankingRow(pair.query_id, pair.doc_id, pair.query, pair.document, pair.title).text


def _rows(
    rankings: dict[str, list[str]], scores: dict[str, dict[str, float]], top_k: int | None, kept: Container[str]
) -> Iterator[tuple[str, str, float]]:
    """Yield the new run; queries in ``kept`` keep their order whole."""
    for query_id, ranking in rankings.items():
        documents = scores.get(query_id, {})
        for doc_id, score in documents.items():
            yield query_id, doc_id, score
        head = 0 if query_id in kept else top_k
        if head is not None:
            lowest = min(documents.values(), default=0.0)
            for place, doc_id in enumerate(ranking[head:], start=1):
                yield query_id, doc_id, lowest - place
