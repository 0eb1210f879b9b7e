"""What is said of how well predicted grades agree with human ones. Undefined values are None, never NaN."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Statistic:
    """A measure of agreement."""

    value: float | None
    low: float | None  # ends of the interval
    high: float | None
    query_mean: float | None  # mean of the values of single queries, where this is measured and defined
    queries: int  # queries in that mean
    undefined_resamples: int  # left out of the interval
    reason: str | None  # why there is no value


@dataclass(frozen=True, slots=True)
class GradeShare:
    """How often a grade was given."""

    grade: int
    human: float  # share of the pairs
    predicted: float
    probability: float | None  # mean of the predicted probability


@dataclass(frozen=True, slots=True)
class QueryAgreement:
    """Agreement on the pairs of one query."""

    query_id: str
    pairs: int
    accuracy: float | None
    quadratic_kappa: float | None
    tau_b: float | None
    auc: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """Agreement of predicted with human grades."""

    pairs: int
    queries: int
    grades: tuple[int, ...]
    threshold: int
    score: str  # what ranks the pairs: "expected_grade" or "grade"
    resampled: str | None  # what the bootstrap draws: "queries" or "pairs"
    resamples: int
    seed: int
    confidence: float
    confusion: tuple[tuple[int, ...], ...]  # rows: human grade, columns: predicted grade
    statistics: dict[str, Statistic]
    distribution: tuple[GradeShare, ...]
    per_query: tuple[QueryAgreement, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON takes it; what is undefined is None."""
        return asdict(self)
