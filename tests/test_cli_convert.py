"""``pairgrade convert`` between the formats of judgments, and to TREC's."""

from __future__ import annotations

import json
import os
from pathlib import Path

import ir_measures
import pytest
from click.testing import CliRunner, Result

from pairgrade.cli.convert import command
from pairgrade.errors import InputError
from pairgrade.judgments import open_writer, read_judgments
from pairgrade.records import Judgment

GRADES = (0, 1, 2)
JUDGMENTS = [
    Judgment("q1", "a", 0, (0.5, 0.125, 0.375), 0.875, 0.5, False, 10, 5, 0),
    Judgment("q2", "b", 2, (0.0, 0.0, 1.0), 2.0, None, True, 99, 90, 1),
    Judgment("q1", "c", 1, (0.0, 1.0, 0.0), 1.0, 0.25, False, 10, 5, 0),
    Judgment("q1", "d", 0, (0.5, 0.5, 0.0), 0.5, 0.25, False, 10, 5, 0),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    with open_writer(tmp_path / "in.jsonl", GRADES) as writer:
        for judgment in JUDGMENTS:
            writer.write(judgment)
    return tmp_path / "in.jsonl"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def qrels(path: Path) -> list[tuple[str, str, int]]:
    return [(q.query_id, q.doc_id, q.relevance) for q in ir_measures.read_trec_qrels(str(path))]


def test_through_every_format_and_back(source: Path, tmp_path: Path) -> None:
    previous = source
    for name in ("a.parquet", "b.csv", "c.tsv", "d.jsonl"):
        assert run(previous, tmp_path / name).exit_code == 0
        previous = tmp_path / name
        assert list(read_judgments(previous)) == JUDGMENTS
    assert previous.read_bytes() == source.read_bytes()


def test_the_format_that_is_given_counts_more_than_the_suffix(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "a.txt", "--to", "csv")
    assert list(read_judgments(tmp_path / "a.txt", "csv")) == JUDGMENTS
    run(source, tmp_path / "b.jsonl", "--to", "qrels")
    assert len(qrels(tmp_path / "b.jsonl")) == 4


@pytest.mark.parametrize("name", ["out.qrels", "out.txt"])
def test_qrels_hold_the_most_probable_grade_or_the_one_nearest_to_the_expected(
    source: Path, tmp_path: Path, name: str
) -> None:
    run(source, tmp_path / name)
    assert qrels(tmp_path / name) == [("q1", "a", 0), ("q2", "b", 2), ("q1", "c", 1), ("q1", "d", 0)]
    run(source, tmp_path / name, "--score", "expected", "--force")
    assert qrels(tmp_path / name) == [("q1", "a", 1), ("q2", "b", 2), ("q1", "c", 1), ("q1", "d", 0)]


def test_a_run_is_ranked_by_expected_grade_unless_asked_otherwise(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out.run")
    lines = (tmp_path / "out.run").read_text().splitlines()
    assert [line.split()[2:5] for line in lines] == [
        ["c", "1", "1.0"],
        ["a", "2", "0.875"],
        ["d", "3", "0.5"],
        ["b", "1", "2.0"],
    ]
    run(source, tmp_path / "grades.dat", "--to", "run", "--score", "grade")
    found = {d.doc_id: d.score for d in ir_measures.read_trec_run(str(tmp_path / "grades.dat"))}
    assert found == {"a": 0.0, "b": 2.0, "c": 1.0, "d": 0.0}


def test_an_existing_file_is_kept_unless_forced(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("precious")
    with pytest.raises(InputError, match=r"out\.csv exists; .*--force"):
        run(source, out)
    assert out.read_text() == "precious"
    run(source, out, "--force")
    assert list(read_judgments(out)) == JUDGMENTS


def test_a_file_can_be_converted_onto_itself(source: Path) -> None:
    before = source.read_bytes()
    run(source, source, "--force")
    assert source.read_bytes() == before
    with pytest.raises(InputError, match="is the judgments and would be overwritten"):
        run(source, source, "--to", "qrels", "--force")
    assert source.read_bytes() == before


def test_summaries(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert run(source, out).stdout == f"{out}: 4 judgments as parquet\n"
    summary = json.loads(run(source, out, "--force", "--json").stdout)
    assert summary == {"input": str(source), "output": str(out), "format": "parquet", "judgments": 4}


def test_a_bad_line_leaves_no_output(source: Path, tmp_path: Path) -> None:
    source.write_text(source.read_text().replace('"d", "grade": 0', '"d", "grade": 9'))
    for name in ("out.parquet", "out.qrels", "out.run"):
        with pytest.raises(InputError, match=r"in\.jsonl, line 4: grade is 9"):
            run(source, tmp_path / name)
    assert os.listdir(tmp_path) == ["in.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["out.xlsx"], "names no format; give one with --to"),
        (["out.csv", "--score", "grade"], "--score is for qrels and runs"),
    ],
)
def test_what_cannot_be_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=reason):
        run(source, *arguments)
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_wrong_usage(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    result = run(source, "out.csv", "--to", "xlsx")
    assert result.exit_code == 2
    assert "'xlsx' is not one of" in result.output
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_an_input_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.qrels").write_text("q 0 d 1\n")
    with pytest.raises(InputError, match="judgments files end in"):
        run(tmp_path / "a.qrels", tmp_path / "out.csv")
