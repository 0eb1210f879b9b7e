"""Fits against brute force, grids and known truths; cross-fitting that sees no held-out pair."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import cohen_kappa_score

from pairgrade import InputError, calibration_fit
from pairgrade.agreement import AgreementOptions, agreement
from pairgrade.bootstrap import Floats, Ints
from pairgrade.calibration import Calibration, Cuts, Scaling
from pairgrade.calibration_fit import FIGURES, cross_fitted, fit, fit_cuts, fit_scaling

GRADES = (0, 1, 2, 3)


def applied(calibration: Calibration, probabilities: Floats) -> Ints:
    rows = probabilities.tolist()
    return np.array([calibration.apply(tuple(row), calibration.grades)[0] for row in rows], np.int64)


def quadratic(human: Ints, given: Ints, grades: tuple[int, ...]) -> float:
    labels = np.arange(grades[0], grades[-1] + 1)
    return float(cohen_kappa_score(human, given, labels=labels, weights="quadratic"))


def sample(pairs: int, seed: int = 0, signal: float = 1.0) -> tuple[list[str], Ints, Floats]:
    """Pairs whose most probable grade is always 2, six to a query, and the signal is in the expected grade."""
    random = np.random.default_rng(seed)
    human = random.integers(4, size=pairs)
    lean = 0.3 * signal * (human - 1.5) + 0.3 * random.normal(size=pairs)
    logits = np.array([0.0, 1.0, 3.0, 1.0]) + np.outer(lean, [-0.3, -0.1, 0.1, 0.3])
    return [f"q{n // 6}" for n in range(pairs)], human, softmax(logits, axis=1)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=2, max_size=8),
    st.sampled_from([(0, 1), (0, 1, 2, 3), (-1, 0, 2, 5), (1, 2, 7)]),
)
def test_cuts_have_the_greatest_kappa_of_all(points: list[tuple[int, int]], grades: tuple[int, ...]) -> None:
    human = np.array([grades[place % len(grades)] for place, _ in points])
    high = np.array([level / 6 for _, level in points])  # few values, so that scores tie
    probabilities = np.zeros((len(points), len(grades)))
    probabilities[:, 0], probabilities[:, -1] = 1 - high, high
    calibration = fit_cuts(probabilities, human, grades)
    found = applied(calibration, probabilities)
    if len(set(human.tolist())) == 1:
        assert found.tolist() == human.tolist()
        return
    levels = np.unique(high)
    every = combinations_with_replacement(range(len(levels) + 1), len(grades) - 1)
    place = np.searchsorted(levels, high)
    best = max(quadratic(human, np.array(grades)[np.searchsorted(cuts, place, side="right")], grades) for cuts in every)
    assert quadratic(human, found, grades) == pytest.approx(best, abs=1e-12)


def test_cuts_lie_halfway_between_scores() -> None:
    high = np.array([0.0, 0.1, 0.5, 0.6, 0.9, 1.0])
    calibration = fit_cuts(np.stack([1 - high, 0 * high, high], axis=1), np.array([0, 0, 1, 1, 2, 2]), (0, 1, 2))
    assert isinstance(calibration.method, Cuts)
    assert calibration.method.points == pytest.approx((0.6, 1.5))  # of the expected grades 0.2 and 1.0, 1.2 and 1.8


def test_of_equally_good_cuts_the_lowest_are_taken() -> None:
    high = np.array([0.25, 0.5, 0.5, 0.75])  # the pairs in the middle fit neither side better
    calibration = fit_cuts(np.stack([1 - high, high], axis=1), np.array([0, 0, 1, 1]), (0, 1))
    assert calibration.method == Cuts((0.375,))


def test_a_grade_that_nobody_gave_is_not_given() -> None:
    high = np.linspace(0, 1, 20)
    probabilities = np.stack([1 - high, 0 * high, 0 * high, high], axis=1)
    human = np.where(high > 0.4, 2, 1)
    found = applied(fit_cuts(probabilities, human, GRADES), probabilities)
    assert found.tolist() == human.tolist()
    unseen = applied(fit_cuts(probabilities[5:15], human[5:15], GRADES), probabilities)
    assert set(unseen.tolist()) == {1, 2}


def test_neighbouring_floats_are_told_apart() -> None:
    low = 0.5
    high = float(np.nextafter(low, 1))
    probabilities = np.array([[1 - low, low], [1 - high, high]])
    found = applied(fit_cuts(probabilities, np.array([0, 1]), (0, 1)), probabilities)
    assert found.tolist() == [0, 1]


@pytest.mark.parametrize("method", ["cuts", "scaling"])
def test_a_fit_does_not_depend_on_the_order_of_the_pairs(method: str) -> None:
    _, human, probabilities = sample(200)
    order = np.random.default_rng(5).permutation(200)
    first, again = (fit(method, probabilities, human, GRADES) for _ in range(2))
    assert first == again
    shuffled = fit(method, probabilities[order], human[order], GRADES)
    if method == "cuts":
        assert shuffled == first
    else:  # sums of floats move in their last bits
        assert isinstance(shuffled.method, Scaling)
        assert isinstance(first.method, Scaling)
        assert shuffled.method.biases == pytest.approx(first.method.biases, abs=1e-4)


def loss(probabilities: Floats, human: Ints, temperature: float, biases: Floats) -> float:
    """Cross-entropy and penalty, summed over the pairs; written down a second time."""
    logs = log_softmax(np.log(probabilities) / temperature + biases, axis=1)
    return float(-logs[np.arange(len(human)), human].sum() + (biases**2).sum() / 200)


def test_scalings_optimum_is_that_of_a_grid() -> None:
    random = np.random.default_rng(3)
    chance = random.beta(0.7, 0.7, size=120)
    probabilities = np.stack([1 - chance, chance], axis=1)
    human = (random.random(120) < softmax(np.log(probabilities) / 2 + [0.0, 0.8], axis=1)[:, 1]).astype(np.int64)
    fitted = fit_scaling(probabilities, human, (0, 1)).method
    assert isinstance(fitted, Scaling)
    temperatures, biases = np.geomspace(0.5, 20, 161), np.linspace(-1, 1, 161)
    grid = [[loss(probabilities, human, t, np.array([-b, b])) for b in biases] for t in temperatures]
    row, column = np.unravel_index(np.argmin(grid), (161, 161))
    own = loss(probabilities, human, fitted.temperature, np.array(fitted.biases))
    assert own <= np.min(grid) + 1e-6
    assert fitted.temperature == pytest.approx(temperatures[row], rel=0.03)
    assert fitted.biases == pytest.approx((-biases[column], biases[column]), abs=0.0126)


def test_the_penalty_holds_the_bias_of_a_grade_that_nobody_gave() -> None:
    same, human = np.full((9, 2), 0.5), np.ones(9, np.int64)
    fitted = fit_scaling(same, human, (0, 1)).method
    assert isinstance(fitted, Scaling)
    best = minimize_scalar(lambda b: loss(same, human, 1.0, np.array([-b, b])), bounds=(0, 20), method="bounded").x
    assert 1 < best < 10
    assert fitted.biases == pytest.approx((-best, best), abs=1e-3)


def test_no_step_from_scalings_optimum_goes_down() -> None:
    _, human, probabilities = sample(258)
    fitted = fit_scaling(probabilities, human, GRADES).method
    assert isinstance(fitted, Scaling)
    own = loss(probabilities, human, fitted.temperature, np.array(fitted.biases))
    assert own < loss(probabilities, human, 1.0, np.zeros(4)) - 100
    random = np.random.default_rng(1)
    for _ in range(300):
        step = random.normal(size=5) * 10 ** random.uniform(-3, 0)
        temperature = fitted.temperature * np.exp(step[0])
        assert loss(probabilities, human, temperature, fitted.biases + step[1:]) > own - 1e-6


def test_scaling_finds_what_the_grades_were_drawn_with() -> None:
    random = np.random.default_rng(8)
    probabilities = random.dirichlet(np.full(4, 0.5), 8000)
    biases = np.array([0.4, -0.6, 0.9, -0.7])  # sum 0, as the penalty has it
    truth = softmax(np.log(probabilities) / 2.5 + biases, axis=1)
    human = (random.random((8000, 1)) > truth.cumsum(axis=1)).sum(axis=1)
    fitted = fit_scaling(probabilities, human, GRADES).method
    assert isinstance(fitted, Scaling)
    assert fitted.temperature == pytest.approx(2.5, rel=0.06)
    assert fitted.biases == pytest.approx(biases, abs=0.1)


def test_scaling_stays_finite_where_the_pairs_would_not_stop_it() -> None:
    sure = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert fit_scaling(sure, np.array([0, 1]), (0, 1)).apply((0.9, 0.1), (0, 1))[0] == 0
    wrong = fit_scaling(sure, np.array([1, 0]), (0, 1)).method
    assert isinstance(wrong, Scaling)
    assert wrong.temperature == 100
    assert fit_scaling(np.full((9, 4), 0.25), np.full(9, 3), GRADES).apply((0.25,) * 4, GRADES)[0] == 3


@pytest.mark.parametrize("method", ["cuts", "scaling"])
def test_grades_that_the_rubric_lacks_are_refused_and_both_named(method: str) -> None:
    with pytest.raises(InputError, match="human grades -1, 4 are not among the judgments' grades 0, 1, 2, 3"):
        fit(method, np.full((3, 4), 0.25), np.array([-1, 4, 2]), GRADES)
    with pytest.raises(InputError, match=r"shape \(3, 4\)"):
        fit(method, np.full((3, 4), 0.25), np.array([1, 2]), GRADES)
    with pytest.raises(InputError, match="no method 'magic' of calibration; there are cuts, scaling"):
        fit("magic", np.full((3, 4), 0.25), np.array([1, 2, 2]), GRADES)


@pytest.mark.parametrize("method", ["cuts", "scaling"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_probabilities_that_are_not_finite_are_refused(method: str, bad: float) -> None:
    queries, human, probabilities = sample(24)
    probabilities[7, 2] = bad
    with pytest.raises(InputError, match="a probability is infinite or not a number; probabilities must be finite"):
        fit(method, probabilities, human, GRADES)
    with pytest.raises(InputError, match="must be finite"):
        cross_fitted(method, queries, human, human, probabilities, GRADES)


@pytest.mark.parametrize("method", ["cuts", "scaling"])
@pytest.mark.parametrize("grades", [list(GRADES), np.array(GRADES)])
def test_a_fit_to_grades_of_any_sequence_is_for_these_grades(method: str, grades: Any) -> None:
    _, human, probabilities = sample(24)
    found = fit(method, probabilities, human, grades)
    found.require(GRADES)
    assert found == fit(method, probabilities, human, GRADES)


@pytest.mark.parametrize("method", ["cuts", "scaling"])
def test_cross_fitting_finds_the_signal_and_reports_what_it_predicted(method: str) -> None:
    queries, human, probabilities = sample(258)
    before = probabilities.argmax(axis=1)
    assert set(before.tolist()) == {2}
    found = cross_fitted(method, queries, human, before, probabilities, GRADES, threshold=1)
    assert (found.pairs, found.queries, found.folds, found.split, found.threshold) == (258, 43, 5, "queries", 1)
    assert found.before["quadratic_kappa"] == 0
    assert (found.after["quadratic_kappa"] or 0) > 0.4
    for figures, answer in ((found.before, before), (found.after, found.predicted)):
        report = agreement(queries, human, answer, grades=GRADES, options=AgreementOptions(threshold=1, resamples=0))
        assert figures == {name: report.statistics[name].value for name in FIGURES}


def test_without_signal_the_figures_after_promise_nothing() -> None:
    seen, unseen = [], []
    for seed in range(8):
        queries, human, probabilities = sample(120, seed, signal=0)
        seen.append(quadratic(human, applied(fit_cuts(probabilities, human, GRADES), probabilities), GRADES))
        found = cross_fitted("cuts", queries, human, probabilities.argmax(axis=1), probabilities, GRADES)
        unseen.append(found.after["quadratic_kappa"] or 0.0)
    assert np.mean(seen) > 0.1  # a fit always finds something
    assert np.mean(unseen) < 0.05


class Spy:
    """Stands before ``fit`` and keeps the rows that it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[set[tuple[float, ...]]] = []
        self._real = fit
        monkeypatch.setattr(calibration_fit, "fit", self)

    def __call__(self, method: str, probabilities: Floats, human: Ints, grades: tuple[int, ...]) -> Calibration:
        self.seen.append({tuple(row) for row in probabilities.tolist()})
        return self._real(method, probabilities, human, grades)


@pytest.mark.parametrize(("size", "folds", "queries"), [(60, 5, 10), (18, 3, 3), (12, 2, 2)])
def test_each_query_is_held_out_whole_and_once(
    size: int, folds: int, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    names, human, probabilities = sample(size)
    found = cross_fitted("cuts", names, human, human, probabilities, GRADES)
    assert (found.folds, found.queries, len(spy.seen)) == (folds, queries, folds)
    rows = [tuple(row) for row in probabilities.tolist()]
    for name in set(names):
        own = {row for row, query in zip(rows, names, strict=True) if query == name}
        shares = [len(own & seen) / len(own) for seen in spy.seen]
        assert sorted(shares) == [0.0] + [1.0] * (folds - 1)
    held = [n for n, row in enumerate(rows) if row not in spy.seen[0]]
    first = fit("cuts", np.delete(probabilities, held, 0), np.delete(human, held), GRADES)
    assert found.predicted[held].tolist() == applied(first, probabilities[held]).tolist()


def test_one_query_has_its_pairs_divided_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    _, human, probabilities = sample(23)
    found = cross_fitted("cuts", ["q"] * 23, human, human, probabilities, GRADES, folds=4)
    assert (found.folds, found.split, found.queries) == (4, "pairs", 1)
    assert sorted(map(len, spy.seen)) == [17, 17, 17, 18]


def test_the_seed_alone_decides_the_folds() -> None:
    queries, human, probabilities = sample(120)

    def after(seed: int) -> list[int]:
        given: list[int] = cross_fitted(
            "cuts", queries, human, human, probabilities, GRADES, seed=seed
        ).predicted.tolist()
        return given

    assert after(1) == after(1)
    assert len({tuple(after(seed)) for seed in range(4)}) > 1


def test_what_cannot_be_divided_is_said() -> None:
    with pytest.raises(InputError, match="only 1 pair has a human grade"):
        cross_fitted("cuts", ["q"], np.array([1]), np.array([1]), np.full((1, 4), 0.25), GRADES)
    with pytest.raises(InputError, match="1 folds"):
        cross_fitted("cuts", ["q", "r"], np.array([1, 2]), np.array([1, 1]), np.full((2, 4), 0.25), GRADES, folds=1)
