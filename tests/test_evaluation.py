"""Evaluation against ir-measures called directly, significance against SciPy, and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from click.testing import CliRunner, Result
from scipy import stats

from pairgrade.cli.evaluate import command
from pairgrade.errors import InputError
from pairgrade.evaluation import EvaluationOptions, evaluate, evaluate_files, run_names
from pairgrade.evaluation_report import markdown, notes
from pairgrade.qrels import write_qrels, write_run
from pairgrade.significance import holm, mean_intervals, paired_t_test, randomization_test

QUERIES = [f"q{number}" for number in range(12)]
MEASURES = ("nDCG@10", "RR(rel=2)@10", "AP(rel=2)", "R(rel=2)@100", "Judged@10", "P@5", "nDCG")


def sample(seed: int, skill: float) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Grades, always the same, and a ranking that follows them more or less."""
    fixed, random = np.random.default_rng(7), np.random.default_rng(seed)
    qrels = {q: {f"d{k}": int(fixed.integers(4)) for k in range(15)} for q in QUERIES}
    run = {q: {d: skill * g + random.normal() for d, g in grades.items()} for q, grades in qrels.items()}
    for q in QUERIES:
        run[q]["unjudged"] = float(random.normal())
    return qrels, run


QRELS, GOOD = sample(1, 2.0)
_, POOR = sample(2, 0.2)


def directly(run: dict[str, dict[str, float]], measures: tuple[str, ...] = MEASURES) -> dict[str, float]:
    parsed = [ir_measures.parse_measure(name) for name in measures]
    return {str(m): value for m, value in ir_measures.calc_aggregate(parsed, QRELS, run).items()}


def test_values_are_those_of_ir_measures() -> None:
    found = evaluate({"good": GOOD, "poor": POOR}, QRELS, EvaluationOptions(measures=MEASURES, resamples=0))
    for scores, run in zip(found.runs, (GOOD, POOR), strict=True):
        assert {name: mean.value for name, mean in scores.means.items()} == pytest.approx(directly(run))
        parsed = [ir_measures.parse_measure(name) for name in MEASURES]
        for metric in ir_measures.iter_calc(parsed, QRELS, run):
            assert scores.per_query[str(metric.measure)][metric.query_id] == pytest.approx(metric.value)


def test_values_with_ties_are_those_of_trec_eval() -> None:
    tied = {q: {d: float(round(score)) for d, score in documents.items()} for q, documents in GOOD.items()}
    measures = ("nDCG@10", "AP(rel=2)", "RR(rel=2)")
    found = evaluate({"tied": tied}, QRELS, EvaluationOptions(measures=(*measures, "RR(rel=2)@16"), resamples=0))
    means = {name: mean.value for name, mean in found.runs[0].means.items()}
    assert means.pop("RR(rel=2)@16") == means["RR(rel=2)"]  # by another library, which orders ties in another way
    assert means == pytest.approx(directly(tied, measures))


def test_missing_and_unknown_queries_are_counted_and_score_0() -> None:
    part = {q: GOOD[q] for q in QUERIES[:9]} | {"elsewhere": {"d1": 1.0}}
    whole = evaluate({"run": GOOD}, QRELS, EvaluationOptions(resamples=0)).runs[0]
    found = evaluate({"run": part}, QRELS)
    scores = found.runs[0]
    assert (scores.missing, scores.unknown) == (3, 1)
    for measure, values in scores.per_query.items():
        expected = {q: value if q in part else 0.0 for q, value in whole.per_query[measure].items()}
        assert values == pytest.approx(expected)
        assert scores.means[measure].value == pytest.approx(sum(expected.values()) / 12)
    told = " ".join(notes(found))
    assert "run lacks 3 of the 12 queries; they count, as 0." in told
    assert "run has 1 queries that the qrels lack" in told


def test_a_query_with_an_empty_ranking_counts_as_a_missing_one() -> None:
    part = {q: GOOD[q] for q in QUERIES[:9]}
    found = evaluate({"run": part | {q: {} for q in QUERIES[9:]}}, QRELS)
    assert found == evaluate({"run": part}, QRELS)
    assert found.runs[0].missing == 3
    with pytest.raises(InputError, match="no query of the run is in the qrels; its queries: none; those of the qrels"):
        evaluate({"run": {"q0": {}}}, QRELS)


def test_grades_are_whole_numbers_of_numpy_as_well_and_may_be_negative() -> None:
    graded = {q: {d: g - 2 for d, g in grades.items()} for q, grades in QRELS.items()}
    options = EvaluationOptions(measures=("nDCG@10", "AP", "Judged@10", "nDCG"), resamples=0)
    found = evaluate({"run": GOOD}, graded, options)
    parsed = [ir_measures.parse_measure(name) for name in options.measures]
    expected = {str(m): value for m, value in ir_measures.calc_aggregate(parsed, graded, GOOD).items()}
    assert {name: mean.value for name, mean in found.runs[0].means.items()} == pytest.approx(expected)
    of_numpy: Any = {q: {d: np.int8(g) for d, g in grades.items()} for q, grades in graded.items()}
    assert evaluate({"run": GOOD}, of_numpy, options) == found


def test_defaults_follow_the_threshold() -> None:
    names = ("nDCG@10", "RR(rel=2)@10", "AP(rel=2)", "R(rel=2)@100", "Judged@10")
    assert evaluate({"run": GOOD}, QRELS, EvaluationOptions(resamples=0)).measures == names
    binary = {q: {d: int(g > 1) for d, g in grades.items()} for q, grades in QRELS.items()}
    found = evaluate({"run": GOOD}, binary, EvaluationOptions(resamples=0))
    assert (found.threshold, found.measures[0]) == (1, "nDCG@10")
    graded = evaluate({"run": GOOD}, QRELS, EvaluationOptions(resamples=0)).runs[0]
    assert [m.value for m in found.runs[0].means.values()][1:] == [m.value for m in graded.means.values()][1:]
    high = evaluate({"run": GOOD}, QRELS | {"q0": {"d1": 1}}, EvaluationOptions(threshold=3, resamples=0))
    assert high.without_relevant >= 1
    assert "Queries without a document of grade 3 or above" in notes(high)[0]


def test_a_better_run_is_found_better() -> None:
    found = evaluate({"poor": POOR, "good": GOOD}, QRELS)
    first = found.comparisons[0]
    assert (first.measure, first.baseline, first.run) == ("nDCG@10", "poor", "good")
    values = [found.runs[k].per_query["nDCG@10"] for k in (0, 1)]
    differences = np.array([values[1][q] - values[0][q] for q in sorted(QUERIES)])
    assert first.difference == pytest.approx(differences.mean())
    assert first.low is not None
    assert first.high is not None
    assert 0 < first.low < first.difference < first.high
    assert (first.better, first.worse) == ((differences > 0).sum(), (differences < 0).sum())
    assert first.t_test == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert first.randomization < 0.01
    mirrored = evaluate({"poor": POOR, "good": GOOD}, QRELS, EvaluationOptions(baseline="good")).comparisons[0]
    assert (mirrored.run, mirrored.difference) == ("poor", -first.difference)
    assert mirrored.randomization == first.randomization


def test_a_baseline_of_all_pairs_is_refused() -> None:
    with pytest.raises(InputError, match="every two runs are compared, so 'b' cannot be the baseline"):
        EvaluationOptions(all_pairs=True, baseline="b")


def test_all_pairs_are_compared_and_corrected() -> None:
    runs = {"poor": POOR, "good": GOOD, "other": sample(3, 0.5)[1]}
    against_one = evaluate(runs, QRELS, EvaluationOptions(measures=("AP",), resamples=0))
    every = evaluate(runs, QRELS, EvaluationOptions(measures=("AP",), resamples=0, all_pairs=True))
    assert [(c.baseline, c.run) for c in against_one.comparisons] == [("poor", "good"), ("poor", "other")]
    assert [(c.baseline, c.run) for c in every.comparisons] == [("poor", "good"), ("poor", "other"), ("good", "other")]
    for found in (against_one, every):
        assert [c.t_test_holm for c in found.comparisons] == holm([c.t_test for c in found.comparisons])
    assert every.comparisons[0].low is None


def test_what_cannot_be_evaluated_is_refused() -> None:
    with pytest.raises(InputError, match=r"no query of the run is in the qrels; its queries: 'x'; .*'q0', 'q1', 'q2'"):
        evaluate({"run": {"x": {"d1": 1.0}}}, {q: QRELS[q] for q in QUERIES[:5]})
    with pytest.raises(InputError, match="the measure 'nonsense@3' cannot be used"):
        evaluate({"run": GOOD}, QRELS, EvaluationOptions(measures=("nonsense@3",)))
    with pytest.raises(InputError, match="INST"):
        evaluate({"run": GOOD}, QRELS, EvaluationOptions(measures=("INST",)))
    with pytest.raises(InputError, match=r"cannot compute ERR@20"):
        evaluate({"run": GOOD}, QRELS, EvaluationOptions(measures=("ERR@20",)))
    with pytest.raises(InputError, match="the baseline 'b' is no run; it can be 'run'"):
        evaluate({"run": GOOD}, QRELS, EvaluationOptions(baseline="b"))
    with pytest.raises(InputError, match=r"write it into yours, as in RR\(rel=1\)@10"):
        EvaluationOptions(measures=("AP",), threshold=1)
    with pytest.raises(InputError, match="is given twice"):
        run_names(["a.run", "a.run"])
    assert list(run_names(["x/a.run", "b.run.gz"])) == ["a", "b"]
    assert list(run_names(["x/a.run", "y/a.run"])) == ["x/a.run", "y/a.run"]


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        *((f"{name}@0", "cutoff is 0; it must be from 1") for name in ("nDCG", "P", "R", "Success", "Judged")),
        ("nDCG(cutoff=0)", "cutoff is 0"), ("P@99999999999999999999", "cutoff is 9999"), ("AP(rel=0)", "rel is 0"),
        ("AP(foo=1)", "it has no parameter foo; it has cutoff, rel"), ("SDCG@5", r"it needs max_rel, as in SDCG\(max"),
        ("BPM", "it needs cutoff and max_rel"),
    ],
)  # fmt: skip
def test_measures_that_would_end_the_process_are_told(measure: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        evaluate({"run": GOOD}, QRELS, EvaluationOptions(measures=(measure,)))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("a\ud800", r"id 'a\\ud800'.* holds a NUL or a lone surrogate"), ("a\0b", r"id 'a\\x00b'.* holds a NUL"),
        ("", "id ''.* is empty"), (5, "id '5'.* is int; it must be a str"),
    ],
)  # fmt: skip
def test_ids_that_trec_eval_cannot_read_are_named(bad: Any, said: str) -> None:
    sound = {"q": {"d": 1}}
    for table in ({bad: {"d": 1}}, {"q": {"d": 1, bad: 1}}):
        where = "the query" if bad in table else "the document"
        behind = "" if bad in table else "of query 'q' "
        for run, qrels, name in ((table, sound, "run"), (sound, table, "the qrels")):
            with pytest.raises(InputError, match=rf"^{name}: {where} {said}") as caught:
                evaluate({"run": run}, qrels)
            assert behind in str(caught.value)


@pytest.mark.parametrize("score", [float("nan"), float("-inf"), np.float32("nan"), None, "0.5", 10**400])
def test_scores_are_finite_numbers(score: Any) -> None:
    with pytest.raises(InputError, match=r"^run: the score of document 'd2' of query 'q1' is '.*'; .* a finite number"):
        evaluate({"run": GOOD | {"q1": {"d1": 0.5, "d2": score}}}, QRELS)


@pytest.mark.parametrize("grade", [True, np.True_, None, 1.0, np.float64(1), "1"])
def test_grades_are_integers(grade: Any) -> None:
    with pytest.raises(InputError, match=r"^the qrels: the grade of document 'd2' of query 'q1' is .*; .* an integer"):
        evaluate({"run": GOOD}, QRELS | {"q1": {"d1": 1, "d2": grade}})


@pytest.mark.parametrize("grades", [[300_000_000], [0, 2**40], [2**40], [-1, 1000], [-(2**40)]])
def test_grades_that_are_no_scale_are_refused(grades: list[int], files: tuple[Path, Path, Path]) -> None:
    qrels = {"q1": {f"d{k}": grade for k, grade in enumerate(grades)}}
    said = rf"from {min(0, *grades)} to {max(0, *grades)}; they may be 1,000 apart at most"
    with pytest.raises(InputError, match=said):
        evaluate({"run": GOOD}, qrels)
    if max(grades) < 10**9 and min(grades) > -(10**9):  # of as many digits as a file may have
        write_qrels(files[2], [("q1", d, g) for d, g in qrels["q1"].items()])
        with pytest.raises(InputError, match=said):
            run(files[0], "--qrels", files[2])


def test_what_is_of_another_shape_is_refused(files: tuple[Path, Path, Path]) -> None:
    with pytest.raises(InputError, match=r"^q0: query 'd1' has float; give it a dict of document ids and their values"):
        evaluate({"q0": {"d1": 1.0}}, QRELS)
    with pytest.raises(InputError, match="the qrels have no grade for 'c'; leave a query without grades out"):
        evaluate({"run": GOOD}, QRELS | {"c": {}})
    with pytest.raises(InputError, match="the qrels hold no grades"):
        evaluate({"run": GOOD}, {})
    with pytest.raises(InputError, match="measures is one text, 'nDCG@10'; give a tuple of measures"):
        EvaluationOptions(measures="nDCG@10")
    for path in (files[0], str(files[0])):
        with pytest.raises(InputError, match=r"the runs are one path, .*; give a list of paths"):
            evaluate_files(path, files[2])


def test_a_threshold_is_1_or_more() -> None:
    with pytest.raises(InputError, match="threshold is 0; it must be 1 or more"):
        EvaluationOptions(threshold=0)


@pytest.mark.parametrize("queries", [1, 2, 5, 10])
def test_the_exact_randomization_test_is_scipys(queries: int) -> None:
    random = np.random.default_rng(queries)
    differences = random.normal(0.5, 1, size=(queries, 4)).round(1)  # ties among the sums as well
    for column, p in zip(differences.T, randomization_test(differences, 10_000, 0), strict=True):
        pairs = (column, np.zeros(queries))
        expected = stats.permutation_test(
            pairs, lambda a, b, axis: (a - b).mean(axis=axis), permutation_type="samples", n_resamples=np.inf,
            vectorized=True,
        ).pvalue if queries > 1 else 1.0  # fmt: skip
        assert p == pytest.approx(expected)


def test_the_drawn_randomization_test_is_near_the_exact_one() -> None:
    differences = np.random.default_rng(5).normal(0.3, 1, size=(14, 6))
    exact = randomization_test(differences, 2**14, 0)
    drawn = randomization_test(differences, 2**14 - 1, 0)
    assert drawn == pytest.approx(exact, abs=0.015)
    assert drawn != exact
    assert randomization_test(differences, 2**14 - 1, 0) == drawn
    assert min(randomization_test(differences * 0 + 1, 999, 0)) == pytest.approx(1 / 1000, abs=3e-3)


def test_the_t_test_is_scipys_and_bears_differences_without_spread() -> None:
    a, b = np.random.default_rng(4).normal(size=(2, 9, 3))
    assert paired_t_test(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue.tolist())
    assert paired_t_test(np.array([[0.0, 0.1], [0.0, 0.1], [0.0, 0.1]])) == [1.0, 0.0]
    assert paired_t_test(np.ones((1, 2))) == [None, None]


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_intervals_shrink_with_queries_and_hold_the_mean() -> None:
    values = np.random.default_rng(0).normal(3, 1, size=(400, 2))
    (low, high), _ = mean_intervals(values, 2000, 0, 0.95)
    assert low is not None
    assert high is not None
    half = 1.96 * values[:, 0].std() / 20
    assert (low, high) == pytest.approx((values[:, 0].mean() - half, values[:, 0].mean() + half), abs=0.02)
    assert mean_intervals(values, 0, 0, 0.95) == [(None, None)] * 2


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    write_qrels(tmp_path / "human.qrels", [(q, d, g) for q, grades in QRELS.items() for d, g in grades.items()])
    for name, run in (("poor[1]", POOR), ("good", GOOD)):
        write_run(tmp_path / f"{name}.run", [(q, d, s) for q, docs in run.items() for d, s in docs.items()])
    return tmp_path / "poor[1].run", tmp_path / "good.run", tmp_path / "human.qrels"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], env={"COLUMNS": "80"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_measures_are_read_as_ir_measures_writes_them(files: tuple[Path, Path, Path]) -> None:
    names = [str(ir_measures.parse_measure(name)) for name in ("P(rel=2,judged_only=True)@5", "nDCG@10", "RR(rel=2)")]
    assert any("," in name for name in names)
    for between in (" ", ",", ", "):
        given = json.loads(run(files[0], "--qrels", files[2], "--json", "--measures", between.join(names)).stdout)
        assert given["measures"] == names
    assert not [note for note in given["notes"] if note.startswith("Queries without a document")]  # no grade is asked
    assert given["without_relevant"] is None


def test_what_is_no_mean_and_what_cannot_be_computed_is_named(files: tuple[Path, Path, Path]) -> None:
    with pytest.raises(InputError, match=r"measure 'NumRet' cannot be used: it is no mean over the queries"):
        run(files[0], "--qrels", files[2], "--measures", "NumRet")
    counted = ir_measures.iter_calc

    def broken(measures: list[Any], *arguments: Any) -> Any:
        if any(str(measure) == "Bpref" for measure in measures):
            raise ZeroDivisionError("float division by zero")
        if measures == [ir_measures.parse_measure("P@5")]:
            raise subprocess.CalledProcessError(1, "gdeval")
        return counted(measures, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ir_measures, "iter_calc", broken)
        with pytest.raises(InputError, match=r"cannot compute Bpref, P@5: float division by zero"):
            run(files[0], "--qrels", files[2], "--measures", "AP Bpref P@5")


def test_the_page_is_written_where_nobody_reads_the_tables(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    out = tmp_path / "out.md"
    command = [sys.executable, "-m", "pairgrade.cli", "evaluate", str(files[0]), "--qrels", str(files[2])]
    subprocess.run([*command, "--markdown", str(out)], stdout=write, stderr=subprocess.DEVNULL, check=False)
    os.close(write)
    assert out.read_text(encoding="utf-8").startswith("|")


def test_json_is_the_evaluation(files: tuple[Path, Path, Path]) -> None:
    poor, good, human = files
    found: dict[str, Any] = json.loads(
        run(poor, good, "--qrels", human, "--json", "--per-query", "--resamples", 50, "--seed", 3).stdout
    )
    expected = evaluate({"poor[1]": POOR, "good": GOOD}, QRELS, EvaluationOptions(resamples=50, seed=3))
    assert (found.pop("qrels"), found.pop("files")) == (str(human), [str(poor), str(good)])
    assert found.pop("notes") == notes(expected)
    assert found == json.loads(json.dumps(expected.to_dict()))
    assert "per_query" not in json.loads(run(poor, "--qrels", human, "--json").stdout)["runs"][0]


def test_tables_hold_the_figures_and_fit_80_columns(files: tuple[Path, Path, Path]) -> None:
    poor, good, human = files
    lines = run(poor, good, "--qrels", human, "--per-query", "--measures", "AP, P@5").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    expected = evaluate({"poor[1]": POOR, "good": GOOD}, QRELS, EvaluationOptions(measures=("AP", "P@5")))
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert ["AP", *(f"{scores.means['AP'].value:.4f}" for scores in expected.runs)] in cells
    assert ["q3", *(f"{expected.runs[1].per_query[m]['q3']:.4f}" for m in ("AP", "P@5"))] in cells
    assert any("poor[1]" in line for line in lines)


def test_markdown_is_written(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    poor, good, human = files
    run(poor, good, "--qrels", human, "--markdown", tmp_path / "out.md", "--measures", "AP")
    expected = evaluate({"poor[1]": POOR, "good": GOOD}, QRELS, EvaluationOptions(measures=("AP",)))
    text = (tmp_path / "out.md").read_text(encoding="utf-8")
    assert text == markdown(expected)
    value = expected.runs[1].means["AP"]
    assert f"| good | {value.value:.4f} ({value.low:.4f} to {value.high:.4f}) |" in text
    assert r"| poor\[1\] |" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {3, 11}
