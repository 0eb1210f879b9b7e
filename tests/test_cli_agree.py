"""``pairgrade agree`` from files to tables, JSON and pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pairgrade.agreement import AgreementOptions, agreement
from pairgrade.agreement_report import Report
from pairgrade.cli.agree import command
from pairgrade.errors import InputError
from pairgrade.judgments import open_writer
from pairgrade.qrels import write_qrels
from pairgrade.records import Judgment

GRADES = (0, 1, 2, 3)


def graded(number: int, human: int) -> Judgment:
    random = np.random.default_rng(number)
    weights = np.exp(-np.abs(np.arange(4) - human - random.normal()))
    probabilities = tuple((weights / weights.sum()).tolist())
    expected = float(np.dot(probabilities, GRADES))
    query = f"q[{'abcde'[number % 5]}]"  # brackets mean something to the library that prints tables
    return Judgment(query, f"d{number}", int(np.argmax(probabilities)), probabilities, expected, 0.9, False, 9, 5, 0)


HUMAN = [number * 7 % 4 for number in range(60)]
JUDGMENTS = [graded(number, human) for number, human in enumerate(HUMAN)]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    with open_writer(tmp_path / "out.jsonl", GRADES) as writer:
        for judgment in [*JUDGMENTS, graded(1000, 2)]:
            writer.write(judgment)
    pairs = [(j.query_id, j.doc_id, human) for j, human in zip(JUDGMENTS, HUMAN, strict=True)]
    write_qrels(tmp_path / "human.qrels", [*pairs, ("q9", "d", 1), ("q9", "e", 1)])
    return tmp_path / "out.jsonl", tmp_path / "human.qrels"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], env={"COLUMNS": "80"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def report(**options: int) -> Report:
    return agreement(
        [j.query_id for j in JUDGMENTS],
        HUMAN,
        [j.grade for j in JUDGMENTS],
        [j.expected_grade for j in JUDGMENTS],
        probabilities=[j.probabilities for j in JUDGMENTS],
        grades=GRADES,
        options=AgreementOptions(**options),
    )


def as_json(value: object) -> Any:
    return json.loads(json.dumps(value))


def test_json_is_the_report_of_the_matched_pairs(files: tuple[Path, Path]) -> None:
    out, human = files
    result = run(out, "--qrels", human, "--json", "--per-query", "--resamples", 40, "--seed", 3, "--threshold", 1)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found.pop("predictions") == str(out)
    assert found.pop("human") == str(human)
    assert (found.pop("unjudged"), found.pop("unpredicted")) == (1, 2)
    assert found.pop("notes") == []
    assert found == as_json(report(threshold=1, resamples=40, seed=3).to_dict())


def test_json_without_per_query(files: tuple[Path, Path]) -> None:
    out, human = files
    found = json.loads(run(out, "--qrels", human, "--json", "--resamples", 5).stdout)
    assert "per_query" not in found
    assert found["statistics"]["tau_b"]["queries"] == 5


def test_tables_hold_the_figures_and_fit_80_columns(files: tuple[Path, Path]) -> None:
    out, human = files
    text = run(out, "--qrels", human, "--per-query", "--resamples", 40).stdout
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    expected = report(resamples=40)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    kappa = expected.statistics["quadratic_kappa"]
    assert ["quadratic weights", f"{kappa.value:.3f}", f"{kappa.low:.3f} to {kappa.high:.3f}",
            f"{kappa.query_mean:.3f}"] in rows  # fmt: skip
    assert ["0", *(f"{count:,}" for count in expected.confusion[0]), "15"] in rows
    assert ["", *(f"{count / 15:.1%}" for count in expected.confusion[0]), ""] in rows
    share = expected.distribution[3]
    assert ["3", f"{share.human:.1%}", f"{share.predicted:.1%}", f"{share.probability:.1%}"] in rows
    query = expected.per_query[2]
    values = (query.accuracy, query.quadratic_kappa, query.tau_b, query.auc)
    assert [query.query_id, "12", *(f"{value:.3f}" for value in values)] in rows
    assert "predictions without a human grade, left out: 1" in lines
    assert "human grades without a prediction, left out: 2" in lines
    assert "Intervals: 40 bootstrap resamples of queries, seed 0." in lines


def test_no_digit_is_left_out_where_there_are_many_grades(tmp_path: Path) -> None:
    grades = tuple(range(11))
    human = [number * number % 11 for number in range(20_000)]
    with open_writer(tmp_path / "out.jsonl", grades) as writer:
        for number, grade in enumerate(human):
            sure = tuple(float(grade == g) for g in grades)
            writer.write(Judgment("q", f"d{number}", grade, sure, float(grade), None, False, 9, 5, 0))
    write_qrels(tmp_path / "human.qrels", [("q", f"d{number}", grade) for number, grade in enumerate(human)])
    shown = run(tmp_path / "out.jsonl", "--qrels", tmp_path / "human.qrels", "--resamples", 0).stdout
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_without_per_query_there_is_no_table_of_queries(files: tuple[Path, Path]) -> None:
    out, human = files
    assert "q[c]" not in run(out, "--qrels", human, "--resamples", 5).stdout


def test_a_second_qrels_file_ranks_by_grade_and_says_so(files: tuple[Path, Path], tmp_path: Path) -> None:
    _, human = files
    write_qrels(tmp_path / "other.txt", [(j.query_id, j.doc_id, j.grade) for j in JUDGMENTS])
    found = json.loads(run(tmp_path / "other.txt", "--qrels", human, "--json", "--resamples", 5).stdout)
    assert found["score"] == "grade"
    assert found["statistics"]["kappa"]["value"] == report(resamples=5).statistics["kappa"].value
    assert any("rank the pairs by grade" in note for note in found["notes"])
    assert found["distribution"][0]["probability"] is None
    text = run(tmp_path / "other.txt", "--qrels", human, "--resamples", 5).stdout
    assert "mean probability" not in text
    assert "rank the pairs by grade" in text


def test_one_query_and_undefined_values_are_explained(tmp_path: Path) -> None:
    write_qrels(tmp_path / "a.qrels", [("q", "a", 1), ("q", "b", 1)])
    text = " ".join(run(tmp_path / "a.qrels", "--qrels", tmp_path / "a.qrels").stdout.split())
    assert "its pairs were resampled as if they were independent" in text
    assert "Undefined (Cohen's kappa, quadratic weights, Krippendorff's alpha): every grade, human and" in text
    assert "Undefined (ROC AUC): no human grade is below 1, the threshold." in text


def test_resamples_that_were_left_out_are_told(tmp_path: Path) -> None:
    write_qrels(tmp_path / "a.qrels", [("q", "a", 0), ("r", "b", 3)])
    text = " ".join(run(tmp_path / "a.qrels", "--qrels", tmp_path / "a.qrels", "--resamples", 100).stdout.split())
    assert "Resamples without a value, left out of the interval: " in text
    assert " for Cohen's kappa" in text


def test_nothing_in_common_shows_ids_of_both_files(files: tuple[Path, Path], tmp_path: Path) -> None:
    write_qrels(tmp_path / "other.qrels", [("q1", "msmarco_1", 1)])
    with pytest.raises(InputError, match=r"'q\[a\]' 'd0', .*; of the human grades: 'q1' 'msmarco_1'"):
        run(files[0], "--qrels", tmp_path / "other.qrels")


def test_files_that_cannot_be_read_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl"):
        run(tmp_path / "none.jsonl", "--qrels", files[1])
    with pytest.raises(InputError, match=r"none\.qrels"):
        run(files[0], "--qrels", tmp_path / "none.qrels")


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_pictures(files: tuple[Path, Path], tmp_path: Path, suffix: str, start: bytes) -> None:
    out, human = files
    path = tmp_path / f"confusion.{suffix}"
    run(out, "--qrels", human, "--resamples", 5, "--picture", path)
    first = path.read_bytes()
    assert first.startswith(start)
    run(out, "--qrels", human, "--resamples", 5, "--picture", path)
    assert path.read_bytes() == first
    assert b"CreationDate" not in first


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_picture_is_drawn_though_nobody_reads_the_tables(files: tuple[Path, Path], tmp_path: Path) -> None:
    out, qrels = files
    arguments = [str(out), "--qrels", str(qrels), "--picture", str(tmp_path / "p.svg"), "--resamples", "0"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pairgrade.cli", "agree", *arguments], stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode != 0
    assert (tmp_path / "p.svg").stat().st_size > 1000


def test_the_picture_shows_counts_shares_and_kappas() -> None:
    from matplotlib.figure import Figure

    from pairgrade import confusion_plot

    expected = report(resamples=0)
    figure = Figure(figsize=(4, 4))
    axes = figure.add_subplot()
    confusion_plot._draw(axes, expected)
    texts = [text.get_text() for text in axes.texts]
    cells = [count for row in expected.confusion for count in row]
    assert texts[::2] == [str(count) for count in cells]
    assert texts[1::2] == [f"{count / 15:.1%}" for count in cells]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted grade", "human grade")
    assert axes.get_title().startswith("n = 60 pairs, 5 queries\nkappa ")
    assert f"quadratic kappa {expected.statistics['quadratic_kappa'].value:.3f}" in axes.get_title()


def test_a_picture_of_another_kind_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.gif: pictures end in \.png, \.svg or \.pdf"):
        run(tmp_path / "none.jsonl", "--qrels", tmp_path / "none.qrels", "--picture", tmp_path / "a.gif")


def test_the_human_grades_are_asked_for(files: tuple[Path, Path]) -> None:
    result = run(files[0])
    assert result.exit_code == 2
    assert "--qrels" in result.output


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys\nfrom pairgrade.cli.agree import command\nfrom pairgrade.cli.convert import command as convert\n"
        "heavy = {'pyarrow', 'scipy', 'sklearn', 'matplotlib', 'krippendorff', 'pandas'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
