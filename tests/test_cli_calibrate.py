"""``pairgrade calibrate`` from files to a calibration, and ``pairgrade label`` by one."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rich_click as click
from click.testing import CliRunner, Result

from helpers import make_pairs, write_jsonl
from pairgrade import Annotator, AnnotatorOptions, Calibration, InputError, ModelError, ResumeError, Rubric
from pairgrade.calibration import Cuts, Scaling
from pairgrade.calibration_fit import cross_fitted, fit
from pairgrade.cli.agree import command as agree
from pairgrade.cli.calibrate import command as calibrate
from pairgrade.cli.label import command as label
from pairgrade.fake import FakeBackend
from pairgrade.file_hashes import file_sha256
from pairgrade.job import LabelJob
from pairgrade.judgments import read_judgments
from pairgrade.matching import match
from pairgrade.plan import PlanOptions
from pairgrade.qrels import read_qrels, write_qrels
from pairgrade.readers import Source
from pairgrade.records import Pair
from pairgrade.rubric_file import rubric_toml
from pairgrade.run import label as run_label

GRADES = (0, 1, 2, 3)


def run(command: click.Command, *arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], env={"COLUMNS": "80"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def figures(*arguments: object) -> Any:
    result = run(calibrate, *arguments, "--json")
    assert result.exit_code == 0
    return json.loads(result.stdout)


def prepare(folder: Path, pairs: list[Pair]) -> Path:
    """Label pairs without a calibration, and write human grades that go with the judgments."""
    write_jsonl(folder / "pairs.jsonl", pairs)
    assert run(label, folder / "pairs.jsonl", "-m", "fake:", "-o", folder / "judged.jsonl", "-q").exit_code == 0
    judgments = read_judgments(folder / "judged.jsonl")
    human = [(j.query_id, j.doc_id, round(max(0, j.expected_grade * 1.4 - 1)) % 4) for j in judgments]
    write_qrels(folder / "human.qrels", [*human, ("q99", "d", 1)])
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("work"), make_pairs(12, 8))


@pytest.mark.parametrize("method", ["cuts", "scaling"])
def test_json_is_what_the_library_says(work: Path, tmp_path: Path, method: str) -> None:
    out, judged, human = tmp_path / "c.json", work / "judged.jsonl", work / "human.qrels"
    options = ["--method", method, "--folds", 4, "--seed", 3, "--threshold", 1]
    found = figures(judged, "--qrels", human, "--out", out, *options)
    m = match(read_judgments(judged), read_qrels(human))
    assert m.probabilities is not None
    wanted = cross_fitted(
        method, m.query_ids, m.human, m.predicted, m.probabilities, GRADES, folds=4, seed=3, threshold=1
    )
    assert found["before"] == wanted.before
    assert found["after"] == wanted.after
    if method == "cuts":  # which suit human grades that are made of expected ones
        assert found["after"]["quadratic_kappa"] > found["before"]["quadratic_kappa"] + 0.05
    assert (found["threshold"], found["unjudged"], found["unpredicted"]) == (1, 0, 1)
    for name, given in (("human", m.human), ("before", m.predicted), ("after", wanted.predicted)):
        assert [share[name] for share in found["distribution"]] == [(given == g).mean() for g in GRADES]
    calibration = Calibration.load(out, GRADES)
    assert replace(calibration, fitted=None) == fit(method, m.probabilities, m.human, GRADES)
    assert calibration.fitted is not None
    assert (calibration.fitted.pairs, calibration.fitted.queries, calibration.fitted.folds) == (96, 12, 4)
    assert (calibration.fitted.split, calibration.fitted.seed) == ("queries", 3)
    assert calibration.fitted.judgments_sha256 == file_sha256(judged)
    assert calibration.fitted.quadratic_kappa_before == wanted.before["quadratic_kappa"]
    assert calibration.fitted.quadratic_kappa_after == wanted.after["quadratic_kappa"]
    assert {key: found[key] for key in calibration.to_dict()} == calibration.to_dict()
    assert found["digest"] == calibration.digest


def test_the_figures_before_are_those_of_agree(work: Path, tmp_path: Path) -> None:
    files = work / "judged.jsonl", "--qrels", work / "human.qrels"
    found = figures(*files, "--out", tmp_path / "c.json")
    report = json.loads(run(agree, *files, "--resamples", 0, "--json").stdout)
    assert found["before"] == {name: report["statistics"][name]["value"] for name in found["before"]}
    assert found["threshold"] == report["threshold"]


def test_a_calibration_of_another_model_or_rubric_is_doubted(
    work: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judged, out = tmp_path / "judged.jsonl", tmp_path / "c.json"
    options = ["-m", "fake:", "--calibration", out, "--overwrite"]
    run(label, work / "pairs.jsonl", "-m", "fake:", "-o", judged)
    run(calibrate, judged, "--qrels", work / "human.qrels", "--out", out)
    fitted = Calibration.load(out).fitted
    assert fitted is not None
    assert (fitted.rubric, fitted.model_sha256) == (TREC.digest, None)
    assert run(label, work / "pairs.jsonl", *options, "-o", tmp_path / "a.jsonl").exit_code == 0
    assert "fitted to" not in caplog.text
    (tmp_path / "other.toml").write_text(rubric_toml(TREC).replace("careful", "diligent"))
    run(label, work / "pairs.jsonl", *options, "-o", tmp_path / "b.jsonl", "--rubric", tmp_path / "other.toml")
    assert "fitted to judgments by another rubric" in caplog.text
    of_model = replace(Calibration.load(out), fitted=replace(fitted, model_sha256="a" * 64))
    (doubt,) = of_model.doubts(work / "pairs.jsonl", TREC.digest)
    assert doubt == "the calibration was fitted to judgments of another model or quantization"


@pytest.mark.parametrize("method", ["cuts", "scaling"])
def test_label_by_a_calibration_equals_applying_it_to_judgments(work: Path, tmp_path: Path, method: str) -> None:
    out, judged = tmp_path / "c.json", work / "judged.jsonl"
    run(calibrate, judged, "--qrels", work / "human.qrels", "--out", out, "--method", method)
    options = ["-m", "fake:", "--calibration", out, "-o", tmp_path / "new.jsonl", "--json"]
    assert run(label, work / "pairs.jsonl", *options).exit_code == 0
    calibration = Calibration.load(out)
    wanted = []
    for j in read_judgments(judged):
        grade, probabilities, expected = calibration.apply(j.probabilities, GRADES)
        wanted.append(replace(j, grade=grade, probabilities=probabilities, expected_grade=expected))
    assert list(read_judgments(tmp_path / "new.jsonl")) == wanted
    assert [j.grade for j in wanted] != [j.grade for j in read_judgments(judged)]


TREC = Rubric.load("trec")
PLAN = PlanOptions(batch_tokens=300)


def opened(calibration: Calibration | None, calls: int | None = None) -> Annotator:
    """Open the fake with a calibration; it breaks down after so many calls."""
    backend = FakeBackend()
    real = backend.score

    def score(*arguments):  # type: ignore[no-untyped-def]
        if calls is not None and len(backend.calls) >= calls:
            raise ModelError("broke down")
        return real(*arguments)

    backend.score = score  # type: ignore[method-assign]
    return Annotator(backend, TREC, AnnotatorOptions(window=16, plan=PLAN, calibration=calibration))


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("first", [None, Calibration(GRADES, Cuts((0.5, 1.5, 2.5)))])
def test_a_run_with_another_calibration_is_refused(tmp_path: Path, first: Calibration | None, finished: bool) -> None:
    job = LabelJob(Source(str(write_jsonl(tmp_path / "pairs.jsonl", make_pairs(9, 8)))), tmp_path / "out.jsonl")
    if finished:
        run_label(job, lambda: opened(first))
    else:
        with pytest.raises(ModelError):
            run_label(job, lambda: opened(first, calls=3))
    other = Calibration(GRADES, Scaling(2.0, (0.0, 0.1, 0.0, 0.0)))
    was = first.digest if first else "none"
    with pytest.raises(
        ResumeError, match=rf"another job: calibration \(was {was}, now {other.digest}\)\. .*--overwrite"
    ):
        run_label(job, lambda: opened(other))
    summary = run_label(job, lambda: opened(first))  # and the one it was begun with goes on
    assert summary.already_finished == finished
    assert summary.tally.labelled == 72


def test_judgments_that_are_calibrated_already_are_refused(work: Path, tmp_path: Path) -> None:
    human = work / "human.qrels"
    run(calibrate, work / "judged.jsonl", "--qrels", human, "--out", tmp_path / "c.json")
    options = ["-m", "fake:", "--calibration", tmp_path / "c.json", "-o", tmp_path / "new.jsonl"]
    run(label, work / "pairs.jsonl", *options)
    digest = Calibration.load(tmp_path / "c.json").digest
    with pytest.raises(InputError, match=rf"was made with the calibration {digest[:12]}; label .* without"):
        run(calibrate, tmp_path / "new.jsonl", "--qrels", human, "--out", tmp_path / "d.json")
    assert not (tmp_path / "d.json").exists()
    (tmp_path / "new.jsonl").write_bytes((work / "judged.jsonl").read_bytes())  # no longer what the manifest tells of
    assert figures(tmp_path / "new.jsonl", "--qrels", human, "--out", tmp_path / "d.json")["fitted"]["pairs"] == 96


@pytest.mark.parametrize("method", ["cuts", "scaling"])
def test_the_tables_fit_80_columns_and_hold_the_figures(work: Path, tmp_path: Path, method: str) -> None:
    arguments = [work / "judged.jsonl", "--qrels", work / "human.qrels", "--out", tmp_path / "c.json"]
    found = figures(*arguments, "--method", method)
    text = run(calibrate, *arguments, "--method", method, "--force").stdout
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(len(line) for line in lines if str(tmp_path) not in line and str(work) not in line) <= 80
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    before, after = found["before"], found["after"]
    assert ["quadratic weights", f"{before['quadratic_kappa']:.3f}", f"{after['quadratic_kappa']:.3f}"] in rows
    assert ["accuracy", f"{before['accuracy']:.3f}", f"{after['accuracy']:.3f}"] in rows
    share = found["distribution"][3]
    assert ["3", f"{share['human']:.1%}", f"{share['before']:.1%}", f"{share['after']:.1%}"] in rows
    assert "96 pairs of 12 queries; relevant from grade 2 on" in lines
    assert "human grades without a judgment, left out: 1" in lines
    assert "After: by a fit that has not seen the pair; 5 folds of queries, seed 0." in lines
    shown = "cut points" if method == "cuts" else "temperature"
    assert f"fitted on all 96 pairs: {shown}" in " ".join(lines)


def test_a_file_is_replaced_only_when_told_to(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    out.write_text("precious")
    arguments = [work / "judged.jsonl", "--qrels", work / "human.qrels", "--out", out]
    with pytest.raises(InputError, match=r"c\.json exists; .*--force"):
        run(calibrate, *arguments)
    assert out.read_text() == "precious"
    run(calibrate, *arguments, "--force")
    assert Calibration.load(out).name == "cuts"


@pytest.mark.parametrize("method", ["cuts", "scaling"])
def test_four_pairs_will_do(tmp_path: Path, method: str) -> None:
    folder = prepare(tmp_path, make_pairs(2, 2))
    out = folder / "c.json"
    write_qrels(folder / "human.qrels", [(p.query_id, p.doc_id, p.grade or 0) for p in make_pairs(2, 2)])
    found = figures(folder / "judged.jsonl", "--qrels", folder / "human.qrels", "--out", out, "--method", method)
    assert found["fitted"]["folds"] == 2
    assert "No pair has the human grade 3; nothing could be learnt of it." in found["notes"]
    options = ["-m", "fake:", "--calibration", out, "-o", folder / "new.jsonl", "-q"]
    assert run(label, folder / "pairs.jsonl", *options).exit_code == 0


def test_one_query_is_told(tmp_path: Path) -> None:
    folder = prepare(tmp_path, make_pairs(1, 30))
    arguments = ["--qrels", folder / "human.qrels", "--out", folder / "c.json"]
    found = figures(folder / "judged.jsonl", *arguments)
    assert found["fitted"]["split"] == "pairs"
    assert "One query only: the figures after are too good for other queries." in found["notes"]


def test_that_it_does_not_help_is_told(work: Path, tmp_path: Path) -> None:
    judgments = list(read_judgments(work / "judged.jsonl"))
    write_qrels(tmp_path / "same.qrels", [(j.query_id, j.doc_id, j.grade) for j in judgments])
    found = figures(work / "judged.jsonl", "--qrels", tmp_path / "same.qrels", "--out", tmp_path / "c.json")
    assert found["before"]["quadratic_kappa"] == 1
    assert any("does not help" in note for note in found["notes"])


def test_what_is_wrong_is_said_without_a_traceback(work: Path, tmp_path: Path) -> None:
    Calibration((0, 1), Cuts((0.5,))).save(tmp_path / "two.json")
    write_qrels(tmp_path / "five.qrels", [("q0", "d0-0", 4), ("q1", "d1-0", 1)])
    judged, human = work / "judged.jsonl", work / "human.qrels"
    with pytest.raises(InputError, match="human grades 4 are not among the judgments' grades 0, 1, 2, 3"):
        run(calibrate, judged, "--qrels", tmp_path / "five.qrels", "--out", tmp_path / "c.json")
    with pytest.raises(InputError, match=r"qrels' names no format; judgments files end in \.jsonl"):
        run(calibrate, human, "--qrels", human, "--out", tmp_path / "c.json")
    with pytest.raises(InputError, match="there is no such file"):
        run(calibrate, tmp_path / "no.jsonl", "--qrels", human, "--out", tmp_path / "c.json")
    command = ["label", work / "pairs.jsonl", "-m", "fake:", "-o", "o.jsonl", "--calibration", tmp_path / "two.json"]
    done = subprocess.run(
        [sys.executable, "-m", "pairgrade.cli", *map(str, command)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "two.json: the calibration was fitted for the grades 0, 1, and the rubric has 0, 1, 2, 3;" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["five.qrels", "two.json"]


def test_help_is_registered_and_loads_no_heavy_library() -> None:
    code = (
        "import sys, pairgrade.cli; pairgrade.cli.cli(['calibrate', '--help'], standalone_mode=False);"
        "print('loaded', [m for m in ('scipy', 'sklearn', 'matplotlib', 'pyarrow', 'llama_cpp') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Fit a calibration" in out
    assert out.splitlines()[-1] == "loaded []"
