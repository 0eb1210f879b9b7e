"""Ranks the documents of a run again by a re-ranker: texts are streamed, only ids and scores are held."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pairgrade.errors import InputError
from pairgrade.id_files import read_ids
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


@dataclass(slots=True)
class Reranked:
    """What came of a job."""

    queries: int = 0
    scored: int = 0
    followed: int = 0  # documents below the top_k, which keep their order
    without_text: int = 0  # documents to rank that no text was found for; they are left out
    seconds: float = 0.0  # of scoring and of reading texts
    examples: list[Rejection] = field(default_factory=list)  # of unusable rows


class RerankProgress:
    """What a job tells while it works; this one keeps silent."""

    def start(self, total: int) -> None:
        """Scoring begins, of so many documents."""

    def advance(self, documents: int) -> None:
        """So many more documents are scored."""


def rerank(job: RerankJob, reranker: Reranker, progress: RerankProgress | None = None) -> Reranked:
    """Score the pairs of a run, write them as a new run, and tell how many there were.

    InputError where an input cannot be used, or no text fits any of its ids.
    """
    progress = progress or RerankProgress()
    ids = read_ids(job.run)
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
    with closing(_pairs(job, wanted, result)) as pairs:
        while chunk := list(islice(pairs, _CHUNK)):
            found = reranker.predict([(pair.query, _text(pair)) for pair in chunk])
            for pair, score in zip(chunk, found.tolist(), strict=True):
                scores.setdefault(pair.query_id, {})[pair.doc_id] = score
            result.scored += len(chunk)
            progress.advance(len(chunk))
    result.seconds = time.monotonic() - start
    if not scores:
        reason = f" (line {result.examples[0].line}: {result.examples[0].reason})" if result.examples else ""
        raise InputError(f"{job.run}: no pair has the texts of both its query and its document{reason}")
    result.queries, result.without_text = len(rankings), total - result.scored
    result.followed = write_run(job.out, _rows(rankings, scores, job.top_k)) - result.scored
    return result


def _pairs(job: RerankJob, wanted: dict[str, set[str]], result: Reranked) -> Generator[Pair, None, None]:
    source = Source(job.run, job.queries, job.docs)
    with closing(read_pairs(source)) as rows:
        for row in rows:
            if isinstance(row, Rejection):
                if len(result.examples) < _SHOWN:
                    result.examples.append(row)
            elif row.doc_id in wanted[row.query_id]:
                wanted[row.query_id].remove(row.doc_id)  # a file may name a pair twice
                yield row


def _text(pair: Pair) -> str:
    """Return what the re-ranker reads of a document: what it was trained on."""
    return RankingRow(pair.query_id, pair.doc_id, pair.query, pair.document, pair.title).text


def _rows(
    rankings: dict[str, list[str]], scores: dict[str, dict[str, float]], top_k: int | None
) -> Iterator[tuple[str, str, float]]:
    for query_id, ranking in rankings.items():
        documents = scores.get(query_id, {})
        for doc_id, score in documents.items():
            yield query_id, doc_id, score
        if top_k is not None:
            lowest = min(documents.values(), default=0.0)
            for place, doc_id in enumerate(ranking[top_k:], start=1):
                yield query_id, doc_id, lowest - place
