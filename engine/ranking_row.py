"""The row of a ranking set, and what makes values one. ``pairgrade.ranking_set`` says what it means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from numbers import Real

from pairgrade.lines import quoted
from pairgrade.pair_checks import checked_identifier, checked_optional_text, checked_text

_SLACK = 0.01  # by which rounded probabilities may miss the sum of 1


@dataclass(frozen=True, slots=True)
class RankingRow:
    """A document of a query with its label; the fields are the columns of a ranking set, in order."""

    query_id: str
    doc_id: str
    query: str
    document: str
    title: str = ""
    label: float = 0.0
    source: str = ""
    rank: int | None = None
    score: float | None = None
    judged: bool = False
    original_label: float | None = None
    judged_grade: int | None = None
    expected_grade: float | None = None
    probabilities: tuple[float, ...] | None = None

    @property
    def text(self) -> str:
        """The document as a re-ranker reads it: after its title, where it has one."""
        return f"{self.title}\n{self.document}" if self.title else self.document


def checked_row(values: Mapping[str, object]) -> RankingRow:
    """Make a row of the values of its columns; ValueError says what is wrong with one."""
    query_id, doc_id = (checked_identifier(values.get(name), name) for name in ("query_id", "doc_id"))
    query, document = (checked_text(values.get(name), name) for name in ("query", "document"))
    label = _number(values, "label")
    if label is None:
        raise ValueError("label is null; a ranking set needs a number there")
    judged, probabilities = values.get("judged"), values.get("probabilities")
    if judged not in (None, True, False):
        raise ValueError(f"judged is {quoted(str(judged))}; it must be true, false or null")
    if probabilities is not None and not isinstance(probabilities, (list, tuple)):
        raise ValueError("probabilities is no list")
    row = RankingRow(
        query_id=query_id,
        doc_id=doc_id,
        query=query,
        document=document,
        title=checked_optional_text(values.get("title")),
        label=label,
        source=checked_text(values.get("source") or "", "source"),
        rank=_integer(values, "rank"),
        score=_number(values, "score"),
        judged=bool(judged),
        original_label=_number(values, "original_label"),
        judged_grade=_integer(values, "judged_grade"),
        expected_grade=_number(values, "expected_grade"),
        probabilities=None if probabilities is None else tuple(_float("probabilities", p) for p in probabilities),
    )
    _check(row)
    return row


def _number(values: Mapping[str, object], name: str) -> float | None:
    value = values.get(name)
    return None if value is None else _float(name, value)


def _float(name: str, value: object) -> float:
    number = math.nan
    if isinstance(value, (int, float, Real)) and not isinstance(value, bool):
        with suppress(OverflowError):  # an integer beyond all floats
            number = float(value)
    if math.isfinite(number):
        return number
    raise ValueError(f"{name} is {quoted(str(value))}; it must be a finite number")


def _integer(values: Mapping[str, object], name: str) -> int | None:
    value = _number(values, name)
    if value is None:
        return None
    if value != int(value) or abs(value) >= 2**53:
        raise ValueError(f"{name} is {value}; it must be a whole number")
    return int(value)


def _check(row: RankingRow) -> None:
    """Raise ValueError with what is wrong with values of the right types."""
    if not row.query or row.query.isspace():
        raise ValueError("query is blank")
    if not row.text or row.text.isspace():
        raise ValueError("document and title are both blank")
    if row.label < 0:
        raise ValueError(f"label is {row.label}; it must be 0 or more")
    if row.probabilities is not None and not (
        all(share >= 0 for share in row.probabilities) and abs(sum(row.probabilities) - 1) <= _SLACK
    ):
        raise ValueError(f"probabilities is {list(row.probabilities)}; they must be 0 or more and sum to 1")
