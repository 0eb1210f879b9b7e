"""A ranking set that needs no labels: spans of documents as queries, pieces of documents, an encoder's own cosine.

A cross-encoder that is made of a bi-encoder has never read two texts together, and some dozens of queries do not teach
it to. Its bi-encoder can teach it on as many queries as wanted: a span of a document asks (as in the inverse cloze task
of Lee et al. 2019, arXiv 1906.00300), pieces of that document, of its neighbours and of others stand to choice, and the
cosine of the two texts alone is the score to learn (distillation of scores as in Hofstätter et al. 2020, arXiv
2010.02666, the other way round). Pieces are shorter than documents, so that many fit into the same time.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pairgrade.errors import InputError
from pairgrade.ranking_set import RankingGroup, RankingRow
from pairgrade.train.bi_encoder import cosines
from pairgrade.train.seeds import part_seed

SLATE = 16  # pieces of a query, where the documents hold as many different ones
_SCALE = 10.0  # of the cosine: differences of logits, and labels that are not negative
_OWN, _NEAR = 2, 10  # pieces of the span's own document, of documents of the same query; the rest are of any
_ASKED_EVERY = 7  # one query of so many is one that was really asked
_SPAN = (2, 9)  # words of a span
_SPAN_CHARACTERS = 100  # at most: a word of a language without spaces may be a clause, and a query must be short
_PIECE = (18, 45)  # words of a piece: sentences up to the first number, cut at the second
_SENTENCES = re.compile(r"(?<=[.!?])\s+")
_WORDS = re.compile(r"\w[\w'-]*")
_TRIES = 20


def span_sets(
    groups: Sequence[RankingGroup], encoder: str, queries: int, dev: int, seed: int = 0, threads: int | None = None
) -> tuple[list[RankingRow], list[RankingRow]]:
    """Make two sets of so many queries out of a set's texts, up to 16 pieces a query labelled by ten times the cosine.

    The labels of ``groups`` are not looked at. No span is made twice, so that the second set can judge what the first
    one teaches. Labels are not negative: ten is added in the first set, of which differences are learnt; in the second
    a query's lowest is 0, so that nDCG tells one order from another. The same arguments give the same sets. InputError
    where the documents hold too few different spans.
    """
    made = list(_slates(groups, queries, dev, seed))
    scores = cosines(encoder, made, threads)
    train = [row for group in made[:queries] for row in _labelled(group, scores, -1.0)]
    return train, [row for group in made[queries:] for row in _labelled(group, scores, None)]


def _labelled(group: RankingGroup, scores: dict[tuple[str, str], float], zero: float | None) -> Iterator[RankingRow]:
    """Label a query's rows by ten times their score, counted from a score or from the lowest of them."""
    found = [scores[row.query_id, row.doc_id] for row in group.rows]
    zero = min(found) if zero is None else zero
    for row, score in zip(group.rows, found, strict=True):
        yield replace(row, label=_SCALE * max(0.0, score - zero), source="cosine")


def _slates(groups: Sequence[RankingGroup], queries: int, dev: int, seed: int) -> Iterator[RankingGroup]:
    everything = [row.text for group in groups for row in group.rows]
    if not any(text.strip() for text in everything):
        raise InputError("the documents hold no text, so no query can be made of them")
    seen = {group.query for group in groups}
    for place in range(queries + dev):
        draw = random.Random(part_seed(seed, place))
        was_asked = place < queries and place % _ASKED_EVERY == 0
        for _ in range(_TRIES):
            group = draw.choice(groups)
            own = draw.choice(group.rows).text
            query = group.query if was_asked else _span(own, draw)
            pieces = _pieces(group, own, everything, draw)
            if len(pieces) > 1 and query.strip() and (was_asked or query not in seen):
                break
        else:
            raise InputError(
                f"the documents hold {place:,} different spans of {queries + dev:,}: ask for fewer queries"
            )
        seen.add(query)
        name = f"span-{place}"
        rows = (RankingRow(name, f"{name}-{number}", query, piece) for number, piece in enumerate(pieces))
        yield RankingGroup(name, query, tuple(rows))


def _pieces(group: RankingGroup, own: str, everything: Sequence[str], draw: random.Random) -> list[str]:
    """Return different pieces of the own document, of those of its query and of any, in this order."""
    sources = [own] * _OWN + [draw.choice(group.rows).text for _ in range(_NEAR)]
    sources += [draw.choice(everything) for _ in range(SLATE - len(sources))]
    return [piece for piece in dict.fromkeys(_piece(text, draw) for text in sources) if piece.strip()]


def _piece(text: str, draw: random.Random) -> str:
    sentences = _SENTENCES.split(text)
    first = draw.randrange(len(sentences))
    words: list[str] = []
    for sentence in sentences[first:]:
        words += sentence.split()
        if len(words) >= _PIECE[0]:
            break
    return " ".join(words[: _PIECE[1]])


def _span(text: str, draw: random.Random) -> str:
    words = _WORDS.findall(_piece(text, draw))
    length = draw.randint(*_SPAN)
    first = draw.randrange(max(1, len(words) - length + 1))
    return " ".join(words[first : first + length]).lower()[:_SPAN_CHARACTERS].rstrip()
