"""Weighted statistics equal those of the reference implementations on arrays that are really resampled."""

from __future__ import annotations

import time

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import accuracy_score, cohen_kappa_score, roc_auc_score

from pairgrade import bootstrap
from pairgrade.bootstrap import Floats, Ints, Sample, draws, interval

Data = tuple[Ints, Ints, Ints, Floats, Ints, int]

NAMES = [
    *("accuracy", "kappa", "quadratic_kappa", "binary_kappa", "alpha", "mean_human_grade", "mean_predicted_grade"),
    *("tau_b", "spearman", "auc"),
]


def reference(human: Ints, predicted: Ints, scores: Floats, grades: Ints, threshold: int) -> dict[str, float]:
    """Compute every statistic from plain arrays; NaN where it is undefined."""
    labels = np.arange(grades[0], grades[-1] + 1)
    relevant, chosen = human >= threshold, predicted >= threshold
    differ = len({*human, *predicted}) > 1
    ranked = len({*human}) > 1 and len({*scores}) > 1
    values = {
        "accuracy": lambda: accuracy_score(human, predicted),
        "kappa": lambda: cohen_kappa_score(human, predicted) if differ else np.nan,
        "quadratic_kappa": lambda: (
            cohen_kappa_score(human, predicted, labels=labels, weights="quadratic") if differ else np.nan
        ),
        "binary_kappa": lambda: cohen_kappa_score(relevant, chosen) if len({*relevant, *chosen}) > 1 else np.nan,
        "alpha": lambda: (
            krippendorff.alpha(np.stack([human, predicted]), level_of_measurement="ordinal") if differ else np.nan
        ),
        "mean_human_grade": human.mean,
        "mean_predicted_grade": predicted.mean,
        "tau_b": lambda: kendalltau(human, scores).statistic if ranked else np.nan,
        "spearman": lambda: spearmanr(human, scores).statistic if ranked else np.nan,
        "auc": lambda: roc_auc_score(relevant, scores) if len({*relevant}) > 1 else np.nan,
    }
    return {name: float(value()) for name, value in values.items()}


def explicit(
    clusters: Ints, human: Ints, predicted: Ints, scores: Floats, grades: Ints, threshold: int, counts: Ints
) -> dict[str, float]:
    rows = np.repeat(np.arange(len(clusters)), counts[clusters])
    return reference(grades[human][rows], grades[predicted][rows], scores[rows], grades, threshold)


def check(arguments: Data, counts: Ints) -> None:
    found = Sample(*arguments).statistics(counts)
    assert list(found) == NAMES
    for place, row in enumerate(counts):
        for name, expected in explicit(*arguments, row).items():
            assert found[name][place] == pytest.approx(expected, abs=1e-12, rel=0, nan_ok=True), (name, row)


def random_data(seed: int, pairs: int = 300, clusters: int = 12, decimals: int = 1) -> Data:
    """Make clustered grades whose scores are full of ties at few decimals."""
    random = np.random.default_rng(seed)
    query = np.sort(np.append(np.arange(clusters), random.integers(clusters, size=pairs - clusters)))
    human = random.integers(4, size=pairs)
    scores = np.round(human * 0.5 + random.normal(size=pairs), decimals)
    predicted = np.clip(np.rint(scores), 0, 3).astype(np.int64)
    return query, human, predicted, scores, np.array([0, 1, 2, 3]), 2


@pytest.mark.parametrize("decimals", [0, 1, 12])
def test_resamples_equal_the_reference_on_repeated_pairs(decimals: int) -> None:
    arguments = random_data(decimals, decimals=decimals)
    check(arguments, np.array(list(draws(12, 15, seed=5))))


def test_grades_with_gaps_and_below_zero() -> None:
    query, human, predicted, scores, _, _ = random_data(3)
    check((query, human, predicted, scores, np.array([-2, 0, 1, 5]), 1), np.array(list(draws(12, 8, seed=1))))


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2), st.sampled_from([0.0, -0.0, 0.1, 0.3, 2.0])),
        min_size=1,
        max_size=12,
    ),
    counts=st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_small_samples_with_every_kind_of_tie(pairs: list[tuple[int, int, int, float]], counts: list[int]) -> None:
    clusters, human, predicted, scores = (np.array(column) for column in zip(*pairs, strict=True))
    clusters = np.unique(clusters, return_inverse=True)[1]
    weights = np.array(counts[: clusters.max() + 1])
    weights[clusters[0]] += 1  # something must be drawn
    check((clusters, human, predicted, scores, np.array([0, 1, 2]), 1), weights[None, :])


def test_one_pair_that_is_drawn_again_and_again() -> None:
    one = np.array([0])
    check((one, one, one, np.array([0.5]), np.array([0, 1]), 1), np.array([[1], [3]]))


def test_draws_are_of_whole_clusters_and_depend_on_the_seed_alone() -> None:
    first, second = list(draws(50, 20, seed=3)), list(draws(50, 20, seed=3))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, list(draws(50, 20, seed=4)))
    assert all(row.sum() == 50 and row.shape == (50,) for row in first)
    means = np.mean(list(draws(5, 4000, seed=0)), axis=0)
    assert means == pytest.approx(np.ones(5), abs=0.08)


def test_resampled_is_the_statistics_of_the_draws_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = random_data(9)
    whole = Sample(*arguments).resampled(25, seed=6)
    expected = Sample(*arguments).statistics(list(draws(12, 25, seed=6)))
    monkeypatch.setattr(bootstrap, "_BLOCK", 1)
    single = Sample(*arguments).resampled(25, seed=6)
    for name in NAMES:
        assert len(whole[name]) == 25
        assert np.array_equal(whole[name], expected[name])
        assert single[name] == pytest.approx(whole[name], abs=1e-13, rel=0)


def test_an_interval_leaves_out_what_is_undefined() -> None:
    values = np.append(np.arange(101.0), [np.nan] * 50)
    assert interval(values, 0.9) == pytest.approx((5.0, 95.0))
    assert interval(np.array([np.nan, np.nan]), 0.95) is None
    assert interval(np.array([0.5]), 0.95) == (0.5, 0.5)


def test_queries_that_agree_within_themselves_give_wider_intervals_than_pairs_would() -> None:
    random = np.random.default_rng(2)
    query = np.repeat(np.arange(20), 50)
    human = random.integers(2, size=1000)
    predicted = np.where(random.random(20)[query] < 0.5, human, 1 - human)  # a query is right or wrong as a whole
    rest = (human, predicted, predicted * 1.0, np.array([0, 1]), 1)
    low, high = interval(Sample(query, *rest).resampled(300, 0)["accuracy"], 0.95)
    low_pairs, high_pairs = interval(Sample(np.arange(1000), *rest).resampled(300, 0)["accuracy"], 0.95)
    assert high - low > 4 * (high_pairs - low_pairs)


def test_resamples_of_thousands_of_pairs_take_seconds() -> None:
    sample = Sample(*random_data(0, pairs=9_260, clusters=43, decimals=12))
    start = time.process_time()
    sample.resampled(250, seed=0)
    assert time.process_time() - start < 5  # ten times what it takes
