"""Ranking sets in the columns that sentence-transformers reads.

- ``pairs``: ``query``, ``document``, ``label``, for losses on single pairs;
- ``listwise``: ``query``, ``documents``, ``labels``, one row a query, for LambdaLoss, ListNet and RankNet;
- ``triplet``: ``query``, ``positive``, ``negative``, for contrastive losses. A document is positive from half of
  the set's highest label on. Each document of a query is used, and none of the larger side twice: the smaller side
  goes round. Queries without both are left out.

A document is its title, where it has one, a newline and its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from typing import Any

from pairgrade.errors import InputError
from pairgrade.ranking_set import PathLike, RankingRow, TableWriter, grouped

Columns = dict[str, Any]


def as_pairs(items: Iterable[RankingRow]) -> Iterator[Columns]:
    """Yield query, document and label of each row."""
    for row in items:
        yield {"query": row.query, "document": row.text, "label": row.label}


def as_listwise(items: Iterable[RankingRow]) -> Iterator[Columns]:
    """Yield each query with its documents and their labels."""
    for group in grouped(items):
        yield {
            "query": group.query,
            "documents": [row.text for row in group.rows],
            "labels": [row.label for row in group.rows],
        }


def as_triplets(items: Iterable[RankingRow]) -> Iterator[Columns]:
    """Yield queries with a positive and a negative document."""
    groups = grouped(items)
    least = max((row.label for group in groups for row in group.rows), default=0.0) / 2
    for group in groups:
        positives = [row.text for row in group.rows if row.label >= least and row.label > 0]
        negatives = [row.text for row in group.rows if not (row.label >= least and row.label > 0)]
        if positives and negatives:
            count = max(len(positives), len(negatives))
            for positive, negative in islice(zip(cycle(positives), cycle(negatives), strict=False), count):
                yield {"query": group.query, "positive": positive, "negative": negative}


_LISTWISE: dict[str, Any] = {"query": str, "documents": list[str], "labels": list[float]}
_Form = tuple[Callable[[Iterable[RankingRow]], Iterator[Columns]], dict[str, Any]]
_FORMS: dict[str, _Form] = {
    "pairs": (as_pairs, {"query": str, "document": str, "label": float}),
    "listwise": (as_listwise, _LISTWISE),
    "triplet": (as_triplets, dict.fromkeys(("query", "positive", "negative"), str)),
}
FORMS = tuple(_FORMS)


def write_columns(path: PathLike, items: Iterable[RankingRow], form: str) -> int:
    """Write rows in these columns, as .jsonl or .parquet, and return how many rows that makes.

    InputError where it makes none.
    """
    if form not in _FORMS:
        raise InputError(f"the form is {form!r}; it can be {', '.join(FORMS)}")
    convert, types = _FORMS[form]
    with TableWriter(path, types) as writer:
        for values in convert(items):
            writer.add(list(values.values()))
        if not writer.rows:
            raise InputError(
                f"{path}: no rows come of the set as {form}; triplets need a query with documents on both sides"
            )
    return writer.rows
