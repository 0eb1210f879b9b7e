"""What is said of evaluated runs, and its Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pairgrade.foreign_text import in_markdown


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of a measure over the queries."""

    value: float
    low: float | None  # ends of the bootstrap interval
    high: float | None


@dataclass(frozen=True, slots=True)
class RunScores:
    """A run's values."""

    name: str
    missing: int  # queries of the qrels that the run lacks, or ranks nothing for
    unknown: int  # queries of the run that the qrels lack, left out
    means: dict[str, Mean]  # by measure
    per_query: dict[str, dict[str, float]]  # by measure, then by query


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run against a baseline by one measure."""

    measure: str
    baseline: str
    run: str
    difference: float  # of the means, run less baseline
    low: float | None  # ends of its bootstrap interval
    high: float | None
    better: int  # queries on which the run is better
    worse: int
    t_test: float | None  # p-values, of single tests
    randomization: float
    t_test_holm: float | None  # corrected for the comparisons by this measure
    randomization_holm: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Runs, evaluated and compared."""

    queries: int
    without_relevant: int | None  # queries with no document at or above the threshold; None where measures were named
    judged: int  # pairs in the qrels
    threshold: int
    measures: tuple[str, ...]
    resamples: int
    permutations: int
    seed: int
    confidence: float
    runs: tuple[RunScores, ...]
    comparisons: tuple[Comparison, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as JSON takes it."""
        return asdict(self)


def notes(evaluation: Evaluation) -> list[str]:
    """Say what a reader of the figures should know."""
    e = evaluation
    lines = []
    if e.without_relevant:
        lines.append(
            f"Queries without a document of grade {e.threshold} or above: {e.without_relevant:,}; they stay in."
        )
    for run in e.runs:
        if run.missing:
            lines.append(f"{run.name} lacks {run.missing:,} of the {e.queries:,} queries; they count, as 0.")
        if run.unknown:
            lines.append(f"{run.name} has {run.unknown:,} queries that the qrels lack; they are left out.")
    if e.resamples:
        lines.append(
            f"Intervals: {e.confidence * 100:.4g}%, {e.resamples:,} bootstrap resamples of the queries, seed {e.seed}."
        )
    if e.comparisons:
        lines.append(
            f"p-values: two-sided, paired by query: Student's t-test and the randomization test ({e.permutations:,} "
            f"permutations at most, seed {e.seed}); Holm's correction over the comparisons by each measure."
        )
    return lines


def markdown(evaluation: Evaluation) -> str:
    """Return the means, the comparisons and the notes as Markdown."""
    e = evaluation
    lines = [*_rows(["run", *e.measures])]
    for run in e.runs:
        lines += _row([in_markdown(run.name), *(shown_mean(run.means[measure]) for measure in e.measures)])
    if e.comparisons:
        lines += ["", *_rows(["measure", "run", "against", *COMPARISON_COLUMNS])]
        for c in e.comparisons:
            lines += _row([c.measure, in_markdown(c.run), in_markdown(c.baseline), *comparison_cells(c)])
    lines += ["", *(f"- {in_markdown(note)}" for note in [f"{e.queries:,} queries, {e.judged:,} grades.", *notes(e)])]
    return "\n".join(lines) + "\n"


COMPARISON_COLUMNS = ("difference", "interval", "better/worse", "t-test p", "Holm", "randomization p", "Holm")


def comparison_cells(c: Comparison) -> list[str]:
    """Return a comparison's figures in the order of ``COMPARISON_COLUMNS``."""
    low_high = "-" if c.low is None or c.high is None else f"{c.low:+.4f} to {c.high:+.4f}"
    p_values = (c.t_test, c.t_test_holm, c.randomization, c.randomization_holm)
    return [f"{c.difference:+.4f}", low_high, f"{c.better}/{c.worse}", *map(shown_p, p_values)]


def shown_mean(mean: Mean) -> str:
    """Return a mean and its interval."""
    if mean.low is None or mean.high is None:
        return f"{mean.value:.4f}"
    return f"{mean.value:.4f} ({mean.low:.4f} to {mean.high:.4f})"


def shown_p(p: float | None) -> str:
    """Return a p-value at four places."""
    if p is None:
        return "-"
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def _rows(columns: list[str]) -> Iterator[str]:
    yield from _row(columns)
    yield from _row(["---", *["---:" for _ in columns[1:]]])


def _row(cells: list[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |"]
