"""How far a training is, as another process sees it in the files of its run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from helpers import make_pairs, write_jsonl
from pairgrade import InputError, Rubric
from pairgrade.cli import cli
from pairgrade.readers import Source
from pairgrade.run_folder import RunFolder
from pairgrade.run_status import RunStatus, run_status

pytest.importorskip("torch")
pytest.importorskip("peft")

from pairgrade.train.fitting import Look, TrainProgress
from pairgrade.train.options import TrainOptions
from pairgrade.train.run import TrainJob, train

SMALL = TrainOptions(
    train_pairs=16, validation_pairs=8, epochs=2, batch=8, micro_batch_tokens=200, rank=4, evaluate_every=2, patience=0
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


class Watching(TrainProgress):
    """Asks for the run's status wherever it is told something; may end the run at a step or a phase."""

    def __init__(self, out: Path, end: BaseException | None = None, at: int | str = 0) -> None:
        self._out, self._end, self._at = out, end, at
        self.seen: list[RunStatus] = []
        self.steps = 0

    def phase(self, name: str) -> None:
        self.seen.append(run_status(self._out))
        if self._end and name == self._at:
            raise self._end

    def start(self, steps: int, done: int) -> None:
        self.steps = done

    def step(self, loss: float) -> None:
        self.steps += 1
        self.seen.append(run_status(self._out))
        if self._end and self.steps == self._at:
            raise self._end

    def evaluated(self, found: Look) -> None:
        self.seen.append(run_status(self._out))


@pytest.fixture
def job(tmp_path: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> TrainJob:
    monkeypatch.setattr("pairgrade.heartbeat._INTERVAL", 0.0)  # the steps of this test are shorter than a second
    source = Source(str(write_jsonl(tmp_path / "graded.jsonl", make_pairs(8, 8))))
    return TrainJob(source, str(tiny_folder("llama")), tmp_path / "adapter", Rubric.load("trec"))


def test_a_training_is_starting_then_running_then_stopped_then_finished(job: TrainJob) -> None:
    watching = Watching(job.out, KeyboardInterrupt("SIGINT"), 3)
    with pytest.raises(KeyboardInterrupt):
        train(job, SMALL, watching)
    assert watching.seen[0] == RunStatus(str(job.out), "starting", os.getpid())
    running = watching.seen[-1]  # in the third step, which is counted when it has been told
    assert (running.state, running.unit, running.total, running.done) == ("running", "steps", 4, 2)
    assert running.told.startswith("step 2: ")
    assert running.rate is not None
    assert running.seconds_left is not None
    assert running.rate * running.seconds_left == pytest.approx(2)
    stopped = run_status(job.out)
    assert (stopped.state, stopped.reason, stopped.done) == ("stopped", "SIGINT", 2)

    resumed = Watching(job.out)
    train(job, SMALL, resumed)
    assert (resumed.seen[3].state, resumed.seen[3].done) == ("running", 3)  # what was done before counts
    assert run_status(job.out) == RunStatus(str(job.out), "finished", unit="steps", total=4, done=4, seconds_left=0.0)
    assert not job.out.with_name("adapter.run").exists()


def test_a_training_that_failed_while_it_loaded_has_its_reason_and_keeps_an_earlier_one(job: TrainJob) -> None:
    with pytest.raises(ValueError, match="no room"):
        train(job, SMALL, Watching(job.out, ValueError("no room"), "training"))
    failed = run_status(job.out)
    assert (failed.state, failed.reason) == ("failed", "no room")
    with pytest.raises(KeyboardInterrupt):
        train(job, SMALL, Watching(job.out, KeyboardInterrupt("SIGTERM"), 4))
    with pytest.raises(ValueError, match="no room"):
        train(job, SMALL, Watching(job.out, ValueError("no room"), "training"))
    stopped = run_status(job.out)
    assert (stopped.state, stopped.reason, stopped.done) == ("stopped", "SIGTERM", 3)


def test_a_training_that_never_began_leaves_nothing(job: TrainJob) -> None:
    for name in ("reading", "loading"):
        with pytest.raises(InputError, match="unusable"):
            train(job, SMALL, Watching(job.out, InputError("unusable"), name))
        assert not job.out.with_name("adapter.run").exists()
    with pytest.raises(InputError, match="was not written by a run"):
        run_status(job.out)


def test_a_training_that_was_killed_while_it_tidied_up_is_finished(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: RunFolder) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "remove", killed)
        with pytest.raises(SystemExit):
            train(job, SMALL)
    assert job.out.with_name("adapter.run").exists()
    assert run_status(job.out).state == "finished"
    with pytest.raises(KeyboardInterrupt):
        train(
            replace(job, overwrite=True), replace(SMALL, seed=1), Watching(job.out, KeyboardInterrupt("x"), "writing")
        )
    assert run_status(job.out).state == "stopped"  # of the new one; the old one's folder still lies there


def test_a_training_removes_what_it_made_and_nothing_else(job: TrainJob) -> None:
    folder = job.out.with_name("adapter.run")
    (folder / "notes").mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    train(job, SMALL)
    assert {path.name for path in folder.iterdir()} == {"notes", "notes.txt"}


def test_a_state_that_belongs_to_nobody_is_not_gone_on_with(job: TrainJob) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(job, SMALL, Watching(job.out, KeyboardInterrupt("x"), 3))
    (job.out.with_name("adapter.run") / "manifest.json").unlink()
    other = replace(SMALL, learning_rate=1e-3)
    watching = Watching(job.out)
    assert len(train(job, other, watching).losses) == 4
    assert watching.steps == 4  # from the first step on
    with pytest.raises(KeyboardInterrupt):
        train(replace(job, overwrite=True), SMALL, Watching(job.out, KeyboardInterrupt("x"), 3))


def test_the_command_shows_steps_and_the_last_look(job: TrainJob) -> None:
    shown: list[str] = []

    class Asking(TrainProgress):
        def step(self, loss: float) -> None:
            shown.append(CliRunner().invoke(cli, ["status", str(job.out)]).output)

    train(job, SMALL, Asking())
    assert "steps done" in shown[2]
    assert "2 of 4 (50.0%)" in shown[2]
    assert re.search(r"last found\W+step 2: validation \d", shown[2])
    assert "without judgment" not in shown[2]
    found = json.loads(CliRunner().invoke(cli, ["status", str(job.out), "--json"]).output)
    assert (found["state"], found["unit"], found["done"]) == ("finished", "steps", 4)


@pytest.mark.parametrize("report", ["{", "[]", '{"steps": "4"}', '{"steps": true}', "{}"])
def test_a_report_of_something_else_is_no_training(report: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(report)
    with pytest.raises(InputError, match="was not written by a run"):
        run_status(tmp_path)
