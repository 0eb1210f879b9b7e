"""Fits calibrations to pairs with human grades, and measures them on pairs that the fit has not seen.

``probabilities`` is an array (pairs, grades) of the uncalibrated probabilities, ``human`` an array (pairs,) of grades
that are all among ``grades``, which ascend. Equal input gives an equal fit; nothing is drawn but the folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pairgrade.agreement import AgreementOptions, agreement
from pairgrade.bootstrap import Floats, Ints
from pairgrade.calibration import FLOOR, METHODS, Calibration, Cuts, Scaling, expected_grade
from pairgrade.errors import InputError

FIGURES = ("accuracy", "kappa", "quadratic_kappa", "binary_kappa")

_SPREAD = 10.0  # nats that a bias is expected to measure: keeps that of a grade nobody gave finite
_SLOPES = (0.01, 100.0)  # one over the temperature


@dataclass(frozen=True, slots=True)
class CrossFit:
    """Agreement with people before and after calibration, each pair graded by a fit that has not seen it."""

    pairs: int
    queries: int
    folds: int
    split: str  # what the folds divide: "queries", or the "pairs" of a single query
    seed: int
    threshold: int  # grades from here on are relevant
    before: dict[str, float | None]  # FIGURES; None where undefined
    after: dict[str, float | None]
    predicted: Ints  # (pairs,): the grades after


def fit(method: str, probabilities: Floats, human: Ints, grades: tuple[int, ...]) -> Calibration:
    """Fit by the method of this name, ``cuts`` or ``scaling``; InputError where the pairs do not allow it."""
    if method not in METHODS:
        raise InputError(f"there is no method '{method}' of calibration; there are {', '.join(METHODS)}")
    return (fit_cuts if method == "cuts" else fit_scaling)(probabilities, human, grades)


def fit_scaling(probabilities: Floats, human: Ints, grades: tuple[int, ...]) -> Calibration:
    """Minimise the cross-entropy of the human grades, with a small penalty on the squared biases.

    The penalty is that of a normal prior with a standard deviation of 10 nats. The problem is convex in one over the
    temperature (kept within 0.01 to 100) and the biases.
    """
    from scipy.optimize import minimize

    place = _places(probabilities, human, grades)
    logs = np.log(np.maximum(probabilities, FLOOR))
    rows = np.arange(len(place))
    penalty = 1 / (_SPREAD**2 * len(place))  # beside the mean cross-entropy

    def loss(x: Floats) -> tuple[float, Floats]:
        logits = logs * x[0] + x[1:]
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        surplus = np.exp(logits)
        surplus[rows, place] -= 1
        gradient = np.append((surplus * logs).sum() / len(rows), surplus.mean(axis=0) + penalty * x[1:])
        return float(-logits[rows, place].mean() + penalty / 2 * (x[1:] ** 2).sum()), gradient

    start = np.append(1.0, np.zeros(len(grades)))
    bounds = [_SLOPES, *[(None, None)] * len(grades)]
    options = {"maxiter": 1000, "maxfun": 10_000, "ftol": 1e-13, "gtol": 1e-8}
    slope, *biases = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x.tolist()
    # digits beyond these are the optimizer's
    return Calibration(grades, Scaling(float(f"{1 / slope:.6g}"), tuple(round(b, 6) for b in biases)))


def fit_cuts(probabilities: Floats, human: Ints, grades: tuple[int, ...]) -> Calibration:
    """Find the cut points with the greatest quadratic kappa there is on these pairs.

    Kappa (Cohen, "Weighted kappa", Psychological Bulletin 70, 1968) is one minus the ratio of two sums over the pairs,
    the squared errors and those expected by chance. The ratio of sums is minimised as a series of differences
    (Dinkelbach, "On nonlinear fractional programming", Management Science 13, 1967), each by dynamic programming over
    the distinct expected grades. Cut points lie halfway between two of these. Of equally good ones the lowest are
    taken. A grade that is best never given gets an empty interval.
    """
    place = _places(probabilities, human, grades)
    scores = [expected_grade(row, grades) for row in probabilities.tolist()]
    levels, level = np.unique(scores, return_inverse=True)
    counts = np.zeros((len(levels), len(grades)))
    np.add.at(counts, (level, place), 1)
    distance = np.subtract.outer(grades, grades).astype(np.float64) ** 2
    errors = counts @ distance  # (level, grade): squared errors, were this grade given to this level
    chance = np.outer(counts.sum(axis=1), counts.sum(axis=0) @ distance / len(place))
    best, ratio, weight = np.zeros(0, np.int64), np.inf, 0.0
    while True:
        cuts = _cheapest(errors - weight * chance)
        given = (np.arange(len(levels)), np.searchsorted(cuts, np.arange(len(levels)), side="right"))
        expected = float(chance[given].sum())
        found = float(errors[given].sum()) / expected if expected else 0.0  # nothing expected: all grades are equal
        if not found < ratio:
            break
        best, ratio, weight = cuts, found, found
    ends = np.concatenate(([grades[0] - 1.0], [_between(*two) for two in pairwise(levels)], [grades[-1] + 1.0]))
    return Calibration(grades, Cuts(tuple(ends[best].tolist())))


def _cheapest(cost: Floats) -> Ints:
    """Give ascending grades to ascending levels at the least cost (level, grade).

    Returns, for each grade but the lowest, how many levels lie below it.
    """
    total = np.vstack((np.zeros(cost.shape[1]), cost.cumsum(axis=0)))
    least = total[:, 0]  # of the first n levels, with the grades so far
    begins: list[Ints] = []
    for column in total.T[1:]:
        begin = least - column
        lowest = np.minimum.accumulate(begin)
        fresh = begin < np.append(np.inf, lowest[:-1])
        begins.append(np.maximum.accumulate(np.where(fresh, np.arange(len(begin)), 0)))
        least = lowest + column
    cuts, end = [], len(cost)
    for first in reversed(begins):
        end = int(first[end])
        cuts.append(end)
    return np.array(cuts[::-1], np.int64)


def _between(low: float, high: float) -> float:
    middle = (low + high) / 2
    return middle if middle > low else high  # neighbours among floats have nothing between them


def _places(probabilities: Floats, human: Ints, grades: tuple[int, ...]) -> Ints:
    """Return the place of each human grade among the grades; InputError for arrays that cannot be fitted to."""
    if probabilities.shape != (len(human), len(grades)) or not len(human):
        raise InputError(
            f"probabilities of the shape {probabilities.shape} for {len(human)} human grades and {len(grades)} grades "
            "of the rubric; there must be a row a pair and a column a grade, and at least one pair"
        )
    if not np.isfinite(probabilities).all():
        raise InputError("a probability is infinite or not a number; probabilities must be finite")
    if foreign := sorted(set(human.tolist()) - set(grades)):
        raise InputError(
            f"human grades {', '.join(map(str, foreign[:5]))} are not among the judgments' grades "
            f"{', '.join(map(str, grades))}; map them to these, or leave their pairs out"
        )
    return np.searchsorted(np.asarray(grades), human)


def cross_fitted(
    method: str,
    query_ids: Sequence[str],
    human: Ints,
    predicted: Ints,
    probabilities: Floats,
    grades: tuple[int, ...],
    *,
    folds: int = 5,
    seed: int = 0,
    threshold: int | None = None,
) -> CrossFit:
    """Divide the queries into folds, and grade the pairs of each by a fit on the others.

    ``predicted`` are the grades before. There are as many folds as queries where these are fewer, and the pairs are
    divided where there is a single query: their figures are then too good for other queries. InputError for a single
    pair.
    """
    if folds < 2:
        raise InputError(f"{folds} folds; there must be at least 2")
    if len(human) < 2:
        raise InputError("only 1 pair has a human grade; a calibration needs at least 2, and hundreds to be good")
    names, query = np.unique(np.asarray(query_ids, dtype=object), return_inverse=True)
    unit = query if len(names) > 1 else np.arange(len(human))
    units = int(unit.max()) + 1
    folds = min(folds, units)
    fold = (np.random.default_rng(seed).permutation(units) % folds)[unit]
    after = np.empty(len(human), np.int64)
    for number in range(folds):
        held = fold == number
        calibration = fit(method, probabilities[~held], human[~held], grades)
        after[held] = [calibration.apply(tuple(row), grades)[0] for row in probabilities[held].tolist()]
    options = AgreementOptions(threshold=threshold, resamples=0, per_query=False)

    def figures(given: npt.ArrayLike) -> tuple[int, dict[str, float | None]]:
        report = agreement(query_ids, human, given, grades=grades, options=options)
        return report.threshold, {name: report.statistics[name].value for name in FIGURES}

    relevant, before = figures(predicted)
    return CrossFit(
        pairs=len(human),
        queries=len(names),
        folds=folds,
        split="queries" if len(names) > 1 else "pairs",
        seed=seed,
        threshold=relevant,
        before=before,
        after=figures(after)[1],
        predicted=after,
    )
