"""Brings the predicted and the human grades of the same pairs together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from pairgrade.bootstrap import Floats, Ints
from pairgrade.errors import InputError
from pairgrade.lines import quoted
from pairgrade.records import Judgment, Qrel

Graded = Judgment | Qrel


@dataclass(frozen=True, slots=True)
class Matched:
    """Pairs that have a predicted and a human grade, and how many lack one of them."""

    query_ids: tuple[str, ...]
    human: Ints
    predicted: Ints
    scores: Floats | None  # expected grades; None where only grades were predicted
    probabilities: Floats | None  # (pair, grade); likewise
    unjudged: int  # predictions without a human grade
    unpredicted: int  # human grades without a prediction


def match(predictions: Iterable[Graded], human: Iterable[Qrel]) -> Matched:
    """Match by query and document, in the order of the predictions; InputError where no pair has both."""
    wanted = {pair: qrel.grade for pair, qrel in by_pair(human, "the human grades").items()}
    found = by_pair(predictions, "the predictions")
    items = [item for pair, item in found.items() if pair in wanted]
    if not items:
        raise InputError(
            "no predicted pair has a human grade, so there is nothing to compare; "
            f"query and document of the predictions: {_examples(found)}; of the human grades: {_examples(wanted)}"
        )
    judgments = [item for item in items if isinstance(item, Judgment)]
    return Matched(
        query_ids=tuple(item.query_id for item in items),
        human=np.array([wanted[item.query_id, item.doc_id] for item in items], dtype=np.int64),
        predicted=np.array([item.grade for item in items], dtype=np.int64),
        scores=np.array([j.expected_grade for j in judgments]) if judgments else None,
        probabilities=np.array([j.probabilities for j in judgments]) if judgments else None,
        unjudged=len(found) - len(items),
        unpredicted=len(wanted) - len(items),
    )


def by_pair(items: Iterable[Graded], what: str) -> dict[tuple[str, str], Graded]:
    """Key items by their pair; a line that repeats another exactly counts once."""
    table: dict[tuple[str, str], Graded] = {}
    for item in items:
        earlier = table.setdefault((item.query_id, item.doc_id), item)
        if earlier != item:
            raise InputError(
                f"{what} hold the pair {quoted(item.query_id)} {quoted(item.doc_id)} twice, with grades "
                f"{earlier.grade} and {item.grade}; keep one line for each pair"
            )
    return table


def _examples(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{quoted(query)} {quoted(document)}" for query, document in islice(pairs, 3)) or "none"
