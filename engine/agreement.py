"""How well predicted grades agree with human ones: statistics, their intervals, and values per query.

The values come from the reference implementations (scikit-learn, SciPy, krippendorff), the intervals from a
bootstrap over queries (``pairgrade.bootstrap``). What is undefined for the data is None and has a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pairgrade.agreement_report import GradeShare, QueryAgreement, Report, Statistic
from pairgrade.bootstrap import Floats, Ints, Sample, interval
from pairgrade.errors import InputError

_PER_QUERY = ("accuracy", "quadratic_kappa", "tau_b", "auc")  # statistics that are also averaged over queries
_WIDEST_SCALE = 1000  # highest less lowest grade
_MOST_CELLS = 1 << 22  # pairs x grades², of which krippendorff makes several arrays


@dataclass(frozen=True, slots=True)
class AgreementOptions:
    """How agreement is measured."""

    threshold: int | None = None  # grades from here on are relevant; None: 2, or 1 where the scale ends at 1
    resamples: int = 1000  # of the bootstrap; 0 for no intervals
    seed: int = 0
    confidence: float = 0.95
    per_query: bool = True  # each query's own figures, and their means, are computed

    def __post_init__(self) -> None:
        if self.resamples < 0:
            raise InputError(f"resamples is {self.resamples}; it must be 0 or more")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must be 0 or more")
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence is {self.confidence}; it must lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class _Graded:
    """Pairs with their grades, and what the statistics need to know of the scale."""

    human: Ints
    predicted: Ints
    scores: Floats
    scale: Ints  # every grade, ascending
    threshold: int

    def sample(self, clusters: Ints, rows: Ints | slice = slice(None)) -> Sample:
        """Prepare some of the pairs for reweighting."""
        human = np.searchsorted(self.scale, self.human[rows])
        predicted = np.searchsorted(self.scale, self.predicted[rows])
        return Sample(clusters, human, predicted, self.scores[rows], self.scale, self.threshold)


def check_scale(low: int, high: int) -> None:
    """Raise InputError where the lowest and the highest grade are too far apart to be of one scale."""
    if high - low > _WIDEST_SCALE:
        raise InputError(f"the grades run from {low} to {high}; they may be {_WIDEST_SCALE:,} apart at most")


def agreement(
    query_ids: Sequence[str],
    human: npt.ArrayLike,
    predicted: npt.ArrayLike,
    scores: npt.ArrayLike | None = None,
    *,
    probabilities: npt.ArrayLike | None = None,
    grades: Sequence[int] = (),
    options: AgreementOptions | None = None,
) -> Report:
    """Compare the predicted grades of pairs with the human ones.

    ``scores`` are the expected grades; without them the predicted grades rank the pairs. ``probabilities`` has
    a column for each of ``grades``, the scale of the rubric; grades that occur besides are added to the scale.
    """
    options = options or AgreementOptions()
    graded = _graded(query_ids, human, predicted, scores, grades, options.threshold)
    names, query = np.unique(np.asarray(query_ids, dtype=object), return_inverse=True)
    pairs = len(query)
    per_query = _per_query(graded, names, query) if options.per_query else ()
    unit = "queries" if len(names) > 1 else "pairs"
    resampled = unit if options.resamples and pairs > 1 else None
    confusion = np.zeros((len(graded.scale), len(graded.scale)), dtype=np.int64)
    np.add.at(confusion, tuple(np.searchsorted(graded.scale, (graded.human, graded.predicted))), 1)
    return Report(
        pairs=pairs,
        queries=len(names),
        grades=tuple(graded.scale.tolist()),
        threshold=graded.threshold,
        score="grade" if scores is None else "expected_grade",
        resampled=resampled,
        resamples=options.resamples if resampled else 0,
        seed=options.seed,
        confidence=options.confidence,
        confusion=tuple(map(tuple, confusion.tolist())),
        statistics=_statistics(
            graded, query if unit == "queries" else np.arange(pairs), per_query, options if resampled else None
        ),
        distribution=_distribution(graded, grades, probabilities),
        per_query=per_query,
    )


def _graded(
    query_ids: Sequence[str],
    human: npt.ArrayLike,
    predicted: npt.ArrayLike,
    scores: npt.ArrayLike | None,
    grades: Sequence[int],
    threshold: int | None,
) -> _Graded:
    truth, answer = _integers("human", human), _integers("predicted", predicted)
    ranks = np.asarray(answer if scores is None else scores, dtype=np.float64)
    lengths = {len(query_ids), len(truth), len(answer), len(ranks)}
    if len(lengths) != 1 or lengths == {0}:
        raise InputError(
            f"{len(query_ids)} query ids, {len(truth)} human grades, {len(answer)} predicted ones and "
            f"{len(ranks)} scores; every pair needs one of each, and there must be at least one pair"
        )
    if not np.isfinite(ranks).all():
        raise InputError("a score is infinite or not a number; scores must be finite")
    scale = np.union1d(np.union1d(truth, answer), _integers("grades", grades))
    high = int(scale[-1])
    check_scale(int(scale[0]), high)
    return _Graded(truth, answer, ranks, scale, min(2, max(1, high)) if threshold is None else threshold)


def _integers(name: str, values: npt.ArrayLike) -> Ints:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise InputError(f"{name} holds values of type {array.dtype}; grades must be integers")
    return array.astype(np.int64)


def _per_query(graded: _Graded, names: npt.NDArray[np.object_], query: Ints) -> tuple[QueryAgreement, ...]:
    rows = np.split(np.argsort(query, kind="stable"), np.cumsum(np.bincount(query))[:-1])
    found = []
    known: dict[tuple[int, int], dict[str, float | None]] = {}  # of single pairs, which their grades decide
    for name, own in zip(names, rows, strict=True):
        grades = (int(graded.human[own[0]]), int(graded.predicted[own[0]]))
        figures = known.get(grades) if len(own) == 1 else None
        if figures is None:
            values = graded.sample(np.zeros_like(own), own).statistics([1])
            figures = {key: _number(values[key][0]) for key in _PER_QUERY}
            if len(own) == 1:
                known[grades] = figures
        found.append(QueryAgreement(str(name), len(own), **figures))
    return tuple(found)


def _statistics(
    graded: _Graded, clusters: Ints, per_query: Sequence[QueryAgreement], options: AgreementOptions | None
) -> dict[str, Statistic]:
    """Compute every statistic; no options, no intervals."""
    sample = graded.sample(clusters)
    values = {name: _number(value[0]) for name, value in sample.statistics(np.ones(sample.clusters)).items()}
    resamples = sample.resampled(options.resamples, options.seed) if options else {}
    reference = _reference(graded)
    statistics = {}
    for name, value in values.items():
        drawn = resamples.get(name, np.empty(0))
        low, high = (options and interval(drawn, options.confidence)) or (None, None)
        single = [own for q in per_query if name in _PER_QUERY and (own := getattr(q, name)) is not None]
        statistics[name] = Statistic(
            value=float(reference[name]()) if value is not None and name in reference else value,
            low=None if value is None else low,
            high=None if value is None else high,
            query_mean=sum(single) / len(single) if single else None,
            queries=len(single),
            undefined_resamples=int(np.isnan(drawn).sum()),
            reason=None if value is not None else _reason(name, graded),
        )
    return statistics


def _reference(graded: _Graded) -> dict[str, Callable[[], float]]:
    """Return the statistics for which there is an established implementation; to be called where defined."""
    import krippendorff
    from scipy.stats import kendalltau, spearmanr
    from sklearn.metrics import cohen_kappa_score, roc_auc_score

    human, predicted, scores = graded.human, graded.predicted, graded.scores
    labels = np.arange(graded.scale[0], graded.scale[-1] + 1)  # no gaps: weights are by place in this list
    relevant = human >= graded.threshold
    found: dict[str, Callable[[], float]] = {
        "kappa": lambda: cohen_kappa_score(human, predicted, labels=labels),
        "quadratic_kappa": lambda: cohen_kappa_score(human, predicted, labels=labels, weights="quadratic"),
        "binary_kappa": lambda: cohen_kappa_score(relevant, predicted >= graded.threshold),
        "tau_b": lambda: kendalltau(human, scores).statistic,
        "spearman": lambda: spearmanr(human, scores).statistic,
        "auc": lambda: roc_auc_score(relevant, scores),
    }
    if len(human) * len(graded.scale) ** 2 <= _MOST_CELLS:  # else ours, which is the same but for rounding
        found["alpha"] = lambda: krippendorff.alpha(np.stack([human, predicted]), level_of_measurement="ordinal")
    return found


def _reason(name: str, graded: _Graded) -> str:
    """Say why a statistic is undefined."""
    if name == "auc":
        lacking = "below" if graded.human.min() >= graded.threshold else "of at least"
        return f"no human grade is {lacking} {graded.threshold}, the threshold"
    if name in ("tau_b", "spearman"):
        return "all human grades are equal" if np.ptp(graded.human) == 0 else "all scores are equal"
    if name == "binary_kappa":
        return f"human and predicted grades all lie on one side of {graded.threshold}, the threshold"
    return f"every grade, human and predicted, is {graded.human[0]}"


def _distribution(
    graded: _Graded, rubric: Sequence[int], probabilities: npt.ArrayLike | None
) -> tuple[GradeShare, ...]:
    means: dict[int, float] = {}
    if probabilities is not None:
        table = np.asarray(probabilities, dtype=np.float64)
        if table.shape != (len(graded.human), len(rubric)):
            raise InputError(
                f"the probabilities have the shape {table.shape}; there must be one for each of "
                f"{len(graded.human)} pairs and each of {len(rubric)} grades"
            )
        if not np.isfinite(table).all():
            raise InputError("a probability is infinite or not a number; probabilities must be finite")
        means = dict(zip(rubric, table.mean(axis=0).tolist(), strict=True))
    return tuple(
        GradeShare(
            grade=grade,
            human=float(np.mean(graded.human == grade)),
            predicted=float(np.mean(graded.predicted == grade)),
            probability=means.get(grade, 0.0) if means else None,
        )
        for grade in graded.scale.tolist()
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
