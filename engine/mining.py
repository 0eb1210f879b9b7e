"""Semi-automatic labels: which documents of a ranking are held to be relevant, and which are not.

Without known positives the first ranks are the positives and later ones the hard negatives; with them (clicks,
qrels, triples) the ranking only brings hard negatives. Some of these labels are wrong, which is what
``pairgrade relabel`` is for.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pairgrade.errors import InputError
from pairgrade.ranking_set import RankingRow

_CORPUS_DEPTH = 100  # ranks of a whole collection that are looked at, if no label asks for more

Known = Mapping[str, Mapping[str, float]]  # known label of each document, by query


@dataclass(frozen=True, slots=True)
class MiningOptions:
    """How a ranking becomes labels."""

    positives: int = 1  # first ranks that are held to be relevant, where none are known
    negative_ranks: tuple[int, int] | None = None  # first and last rank of hard negatives; None: all that follow
    negatives: int | None = None  # of these, so many of each query, drawn at random; None: all
    depth: int | None = None  # ranks looked at; None: 100 or as many as labels ask for, all of given candidates
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("positives", 0), ("negatives", 0), ("depth", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; it must be {least} or more")
        if self.negative_ranks is not None and not 1 <= self.negative_ranks[0] <= self.negative_ranks[1]:
            first, last = self.negative_ranks
            raise InputError(f"the ranks of the negatives are {first} to {last}; give the first and the last, from 1")
        needed = max(self.positives, self.negative_ranks[0] if self.negative_ranks else 1)
        if self.depth is not None and self.depth < needed:
            raise InputError(f"rank {needed} is to be labelled, and only {self.depth} are looked at; take more depth")

    def corpus_depth(self) -> int:
        """Return how many ranks of a whole collection are looked at."""
        return self.depth or max(_CORPUS_DEPTH, self.positives, *(self.negative_ranks or ()))


class Text(NamedTuple):
    """A document's title and text."""

    title: str
    document: str


class Labelled(NamedTuple):
    """A document with the label that it got, and the place that the ranking gave it."""

    doc_id: str
    label: float
    source: str
    rank: int | None
    score: float | None


def labels_of_ranking(
    query_id: str,
    ranking: Sequence[tuple[str, float]],
    source: str,
    options: MiningOptions,
    known: Mapping[str, float] | None = None,
    known_source: str = "known",
) -> list[Labelled]:
    """Label a query's ranking, best document first; ``known`` labels stand as they are."""
    ranked = [(doc_id, rank, score) for rank, (doc_id, score) in enumerate(ranking, start=1)]
    places = {doc_id: (rank, score) for doc_id, rank, score in ranked}
    if known is None:
        chosen = [Labelled(doc_id, 1.0, source, rank, score) for doc_id, rank, score in ranked[: options.positives]]
    else:
        chosen = [Labelled(doc_id, label, known_source, *places.get(doc_id, (None, None)))
                  for doc_id, label in known.items()]  # fmt: skip
    taken = {row.doc_id for row in chosen}
    first, last = options.negative_ranks or (1, len(ranked))
    negatives = [
        Labelled(doc_id, 0.0, source, rank, score)
        for doc_id, rank, score in ranked
        if first <= rank <= last and doc_id not in taken
    ]
    if options.negatives is not None and len(negatives) > options.negatives:
        draw = random.Random(f"{options.seed} {query_id}")  # of its own, whatever other queries there are
        kept = sorted(draw.sample(range(len(negatives)), options.negatives))
        negatives = [negatives[place] for place in kept]
    return chosen + negatives


def ranking_rows(
    query_id: str, query: str, labelled: Sequence[Labelled], documents: Mapping[str, Text]
) -> Iterator[RankingRow]:
    """Yield the rows of a query's labelled documents, less those without a text."""
    for doc_id, label, source, rank, score in labelled:
        text = documents.get(doc_id)
        if text is not None:
            yield RankingRow(query_id, doc_id, query, text.document, text.title, label, source, rank, score)
