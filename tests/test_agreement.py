"""The agreement report: values, means over queries, intervals, and what is said where there are none."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix, roc_auc_score

from pairgrade.agreement import AgreementOptions, agreement
from pairgrade.agreement_report import Report
from pairgrade.bootstrap import Floats, Ints
from pairgrade.errors import InputError

Data = tuple[list[str], Ints, Ints, Floats]

FEW = AgreementOptions(resamples=50)


@pytest.fixture(scope="module")
def data() -> Data:
    random = np.random.default_rng(4)
    queries = [f"q{number}" for number in random.integers(8, size=240)]
    human = random.integers(4, size=240)
    scores = np.clip(human * 0.6 + random.normal(size=240) * 0.8, 0, 3)
    return queries, human, np.rint(scores).astype(int), scores


def whole(report: Report) -> dict[str, float | None]:
    return {name: statistic.value for name, statistic in report.statistics.items()}


def test_values_are_those_of_the_reference(data: Data) -> None:
    _, human, predicted, scores = data
    report = agreement(*data, options=FEW)
    assert (report.pairs, report.queries, report.threshold) == (240, 8, 2)
    assert report.grades == (0, 1, 2, 3)
    assert report.confusion == tuple(map(tuple, confusion_matrix(human, predicted).tolist()))
    values = whole(report)
    assert values["accuracy"] == pytest.approx(accuracy_score(human, predicted))
    assert values["kappa"] == cohen_kappa_score(human, predicted)
    assert values["quadratic_kappa"] == cohen_kappa_score(human, predicted, weights="quadratic")
    assert values["binary_kappa"] == cohen_kappa_score(human >= 2, predicted >= 2)
    assert values["tau_b"] == kendalltau(human, scores).statistic
    assert values["auc"] == roc_auc_score(human >= 2, scores)
    assert values["mean_human_grade"] == pytest.approx(human.mean())
    assert values["mean_predicted_grade"] == pytest.approx(predicted.mean())


@pytest.mark.parametrize("scale", [[0, 1, 2, 3], [-1, 0, 2, 7]])
def test_every_value_equals_that_of_the_weights_behind_the_intervals(data: Data, scale: list[int]) -> None:
    from pairgrade.bootstrap import Sample

    queries, human, predicted, scores = data
    clusters = np.unique(queries, return_inverse=True)[1]
    grades = np.array(scale)
    weighted = Sample(clusters, human, predicted, scores, grades, 2).statistics(np.ones(8))
    for name, value in whole(agreement(queries, grades[human], grades[predicted], scores, options=FEW)).items():
        assert value == pytest.approx(weighted[name][0], abs=1e-12, rel=0), name


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_probabilities_are_finite(bad: float) -> None:
    with pytest.raises(InputError, match="a probability is infinite or not a number; probabilities must be finite"):
        agreement(["q", "q"], [0, 1], [0, 1], probabilities=[[0.5, 0.5], [bad, 0.5]], grades=(0, 1), options=FEW)


def test_per_query_values_and_their_means(data: Data) -> None:
    queries, human, predicted, scores = data
    report = agreement(*data, options=FEW)
    assert [query.query_id for query in report.per_query] == sorted(set(queries))
    for query in report.per_query:
        own = np.array(queries) == query.query_id
        assert query.pairs == own.sum()
        assert query.accuracy == pytest.approx(accuracy_score(human[own], predicted[own]))
        assert query.tau_b == pytest.approx(kendalltau(human[own], scores[own]).statistic, abs=1e-12)
        assert query.auc == pytest.approx(roc_auc_score(human[own] >= 2, scores[own]), abs=1e-12)
        expected = cohen_kappa_score(human[own], predicted[own], labels=range(4), weights="quadratic")
        assert query.quadratic_kappa == pytest.approx(expected, abs=1e-12)
    for name in ("accuracy", "tau_b", "auc", "quadratic_kappa"):
        statistic = report.statistics[name]
        assert statistic.query_mean == pytest.approx(np.mean([getattr(query, name) for query in report.per_query]))
        assert statistic.queries == 8
    assert report.statistics["kappa"].query_mean is None


def test_intervals_are_the_quantiles_of_resampled_queries(data: Data) -> None:
    from pairgrade.bootstrap import draws

    queries, human, predicted, _ = data
    clusters = np.unique(queries, return_inverse=True)[1]
    values = []
    for counts in draws(8, 50, seed=7):
        rows = np.repeat(np.arange(240), counts[clusters])
        values.append(cohen_kappa_score(human[rows], predicted[rows], labels=range(4), weights="quadratic"))
    report = agreement(*data, options=AgreementOptions(resamples=50, seed=7, confidence=0.8))
    statistic = report.statistics["quadratic_kappa"]
    assert (statistic.low, statistic.high) == pytest.approx(tuple(np.quantile(values, [0.1, 0.9])), abs=1e-12)
    assert (report.resampled, report.resamples, report.seed, report.confidence) == ("queries", 50, 7, 0.8)


def test_the_order_of_the_rows_changes_nothing(data: Data) -> None:
    queries, human, predicted, scores = data
    order = np.random.default_rng(0).permutation(240)
    moved = agreement([queries[row] for row in order], human[order], predicted[order], scores[order], options=FEW)
    first, second = agreement(*data, options=FEW).to_dict(), moved.to_dict()
    for name, statistic in first["statistics"].items():
        assert second["statistics"][name] == pytest.approx(statistic, abs=1e-12), name
    for place, query in enumerate(first["per_query"]):
        assert second["per_query"][place].pop("query_id") == query.pop("query_id")
        assert second["per_query"][place] == pytest.approx(query, abs=1e-12)
    for report in (first, second):
        del report["statistics"], report["per_query"]
    assert first == second


def test_without_resamples_there_are_no_intervals(data: Data) -> None:
    report = agreement(*data, options=AgreementOptions(resamples=0))
    assert report.resampled is None
    assert all(s.low is s.high is None and s.value is not None for s in report.statistics.values())


def test_without_scores_the_grades_rank(data: Data) -> None:
    queries, human, predicted, _ = data
    report = agreement(queries, human, predicted, options=FEW)
    assert report.score == "grade"
    assert report.statistics["tau_b"].value == kendalltau(human, predicted).statistic


def test_the_distribution_over_the_scale_of_the_rubric() -> None:
    probabilities = [[0.5, 0.25, 0.25], [0.0, 0.5, 0.5]]
    report = agreement(
        ["a", "b"], [0, 3], [1, 1], [0.75, 1.5], probabilities=probabilities, grades=(0, 1, 2), options=FEW
    )
    assert report.grades == (0, 1, 2, 3)
    shares = [(s.grade, s.human, s.predicted, s.probability) for s in report.distribution]
    assert shares == [(0, 0.5, 0.0, 0.25), (1, 0.0, 1.0, 0.375), (2, 0.0, 0.0, 0.375), (3, 0.5, 0.0, 0.0)]
    assert report.confusion[3] == (0, 1, 0, 0)


@pytest.mark.parametrize(
    ("human", "predicted", "grades", "threshold"),
    [([0, 1], [0, 1], (), 1), ([0, 1], [0, 2], (), 2), ([0, 1], [0, 1], (0, 1, 2, 3), 2), ([0, 0], [0, 0], (), 1)],
)
def test_the_threshold_unless_it_is_given(
    human: list[int], predicted: list[int], grades: tuple[int, ...], threshold: int
) -> None:
    assert agreement(["q", "r"], human, predicted, grades=grades, options=FEW).threshold == threshold
    given = AgreementOptions(threshold=3, resamples=0)
    assert agreement(["q", "r"], human, predicted, grades=grades, options=given).threshold == 3


SAME = ("kappa", "quadratic_kappa", "binary_kappa", "alpha", "tau_b", "spearman", "auc")


@pytest.mark.parametrize(
    ("queries", "human", "predicted", "scores", "undefined"),
    [
        (["a"], [1], [1], [0.5], SAME),
        (["a"], [0], [1], [0.5], ("binary_kappa", "tau_b", "spearman", "auc")),
        (["a", "a", "b"], [1, 1, 1], [1, 1, 1], [0.1, 0.2, 0.3], SAME),
        (["a", "a", "b"], [0, 1, 2], [1, 1, 1], [0.5, 0.5, 0.5], ("tau_b", "spearman")),
        (["a", "a", "b"], [2, 2, 2], [0, 1, 2], [0.1, 0.2, 0.3], ("tau_b", "spearman", "auc")),
        (["a", "b", "c"], [0, 1, 2], [0, 1, 2], [0.0, 1.0, 2.0], ()),
        (["a", "b"], [0, 0], [1, 1], [1.0, 1.0], ("binary_kappa", "tau_b", "spearman", "auc")),
    ],
)
def test_degenerate_input_gives_none_and_a_reason(
    queries: list[str], human: list[int], predicted: list[int], scores: list[float], undefined: tuple[str, ...]
) -> None:
    options = AgreementOptions(threshold=2, resamples=40)
    report = agreement(queries, human, predicted, scores, options=options)  # warnings are errors here
    assert {name for name, statistic in report.statistics.items() if statistic.value is None} == set(undefined)
    for name, statistic in report.statistics.items():
        assert (statistic.reason is not None) == (name in undefined)
        if name in undefined:
            assert statistic.low is statistic.high is None
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False)) == json.loads(json.dumps(report.to_dict()))


def test_reasons_say_what_is_missing() -> None:
    def reason(name: str, human: list[int], predicted: list[int], scores: list[float] | None = None) -> str | None:
        report = agreement(
            ["q"] * len(human), human, predicted, scores, options=AgreementOptions(threshold=2, resamples=0)
        )
        return report.statistics[name].reason

    assert reason("kappa", [1, 1], [1, 1]) == "every grade, human and predicted, is 1"
    assert (
        reason("binary_kappa", [1, 0], [1, 0]) == "human and predicted grades all lie on one side of 2, the threshold"
    )
    assert reason("tau_b", [1, 1], [0, 1]) == "all human grades are equal"
    assert reason("spearman", [0, 1], [1, 0], [0.5, 0.5]) == "all scores are equal"
    assert reason("auc", [0, 1], [0, 2]) == "no human grade is of at least 2, the threshold"
    assert reason("auc", [2, 3], [0, 2]) == "no human grade is below 2, the threshold"


def test_resamples_without_a_value_are_counted() -> None:
    report = agreement(["a", "b"], [0, 3], [0, 3], options=AgreementOptions(resamples=200))
    statistic = report.statistics["kappa"]
    assert statistic.value == 1.0
    assert (statistic.low, statistic.high) == (1.0, 1.0)
    assert 60 < statistic.undefined_resamples < 140  # half of the draws hold one query twice
    assert report.statistics["accuracy"].undefined_resamples == 0


def test_one_query_resamples_its_pairs() -> None:
    report = agreement(["q"] * 6, [0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 1, 0], options=FEW)
    assert (report.queries, report.resampled) == (1, "pairs")
    assert report.statistics["accuracy"].low < report.statistics["accuracy"].high


def test_one_pair_has_nothing_to_resample() -> None:
    report = agreement(["q"], [1], [0], options=FEW)
    assert report.resampled is None
    assert report.statistics["accuracy"].low is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((["q"], [1.0], [1]), "human holds values of type float64; grades must be integers"),
        ((["q"], [1], [True]), "predicted holds values of type bool"),
        ((["q"], [1, 2], [1]), "1 query ids, 2 human grades, 1 predicted ones and 1 scores"),
        (([], [], []), "at least one pair"),
        ((["q"], [1], [1], [float("nan")]), "scores must be finite"),
        ((["q"], [0], [5000]), "from 0 to 5000; they may be 1,000 apart at most"),
    ],
)
def test_input_that_cannot_be_compared(arguments: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        agreement(*arguments)


def test_probabilities_must_fit() -> None:
    with pytest.raises(InputError, match=r"shape \(1, 2\); there must be one for each of 1 pairs and each of 3 grades"):
        agreement(["q"], [1], [1], probabilities=[[0.5, 0.5]], grades=(0, 1, 2))


@pytest.mark.parametrize("options", [{"resamples": -1}, {"seed": -1}, {"confidence": 1.0}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        AgreementOptions(**options)


def test_a_wide_scale_takes_no_more_memory_than_its_confusion_matrix() -> None:
    import tracemalloc

    random = np.random.default_rng(0)
    human = random.integers(0, 301, 500)
    arguments = [f"q{place % 20}" for place in range(500)], human, random.integers(0, 4, 500)
    agreement(*arguments, options=AgreementOptions(resamples=1))  # imports and caches
    tracemalloc.start()
    agreement(*arguments, options=AgreementOptions(resamples=10))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 301**2 * 8  # of pairs x grades² it would be 500


def test_alpha_of_many_pairs_is_that_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    human, predicted = random.integers(0, 4, 200), random.integers(0, 4, 200)
    arguments = [f"q{place % 20}" for place in range(200)], human, predicted
    options = AgreementOptions(resamples=0)
    by_library = agreement(*arguments, options=options).statistics["alpha"].value
    monkeypatch.setattr("pairgrade.agreement._MOST_CELLS", 1)
    assert agreement(*arguments, options=options).statistics["alpha"].value == pytest.approx(by_library, abs=1e-12)


def test_queries_of_one_pair_have_the_figures_of_that_pair() -> None:
    random = np.random.default_rng(5)
    human, predicted = random.integers(0, 4, (2, 300))
    scores = random.random(300)
    ids = [f"q{place}" for place in range(300)]
    options = AgreementOptions(resamples=0)
    found = {one.query_id: one for one in agreement(ids, human, predicted, scores, options=options).per_query}
    for place in (0, 7, 50, 299):
        rows = [place, (place + 1) % 300]  # another query beside it, for the scale
        two = agreement([ids[row] for row in rows], human[rows], predicted[rows], scores[rows], grades=(0, 1, 2, 3),
                        options=options).per_query  # fmt: skip
        assert next(one for one in two if one.query_id == ids[place]) == found[ids[place]]
    whole = agreement(ids, human, predicted, scores, options=options)
    without = agreement(ids, human, predicted, scores, options=replace(options, per_query=False))
    assert without.per_query == ()
    for name, statistic in whole.statistics.items():
        assert replace(statistic, query_mean=None, queries=0) == without.statistics[name]
