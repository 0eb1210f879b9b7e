"""A labelling run on the fake backend: exact, resumable, exclusive; nothing lost and nothing invented."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from helpers import make_pairs, write_jsonl
from pairgrade import (
    Annotator,
    AnnotatorOptions,
    InputError,
    LockedError,
    ModelError,
    NonFiniteError,
    Pair,
    PairgradeError,
    PlanOptions,
    ResumeError,
    Rubric,
    StorageError,
    readers,
    run,
    run_qrels,
)
from pairgrade.backend import Counters
from pairgrade.calibration import Calibration, Cuts
from pairgrade.fake import FakeBackend
from pairgrade.heartbeat import read_beat
from pairgrade.job import LabelJob
from pairgrade.judgments import read_judgments
from pairgrade.manifest import Manifest
from pairgrade.progress import Progress
from pairgrade.qrels import read_qrels
from pairgrade.readers import Source
from pairgrade.run import label
from pairgrade.run_status import run_status
from pairgrade.spool import Selection
from pairgrade.stop import StopRequested

TREC = Rubric.load("trec")
OPTIONS = AnnotatorOptions(window=16, plan=PlanOptions(batch_tokens=300))
PAIRS = random.Random(4).sample(make_pairs(9, 8), 72)


class Meanwhile(Progress):
    """Does something while pairs are labelled."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def advance(self, pairs: int, counters: Counters) -> None:
        self._act()


class Fakes:
    """Opens annotators on the fake and keeps count of what they were asked."""

    def __init__(
        self,
        fail_at: int | None = None,
        rubric: Rubric = TREC,
        calibration: Calibration | None = None,
        told: dict[str, str] | None = None,
        **options: object,
    ) -> None:
        self.backends: list[FakeBackend] = []
        self._fail_at, self._rubric, self._options = fail_at, rubric, options
        self._calibration, self._told = calibration, told or {}  # told: what the identity says beside the truth

    def __call__(self) -> Annotator:
        backend = FakeBackend(**self._options)  # type: ignore[arg-type]
        if self._fail_at is not None:
            real, left = backend.score, [self._fail_at]

            def score(*arguments):  # type: ignore[no-untyped-def]
                if not left[0]:
                    raise ModelError("broke down")
                left[0] -= 1
                return real(*arguments)

            backend.score = score  # type: ignore[method-assign]
        self.backends.append(backend)
        annotator = Annotator(backend, self._rubric, replace(OPTIONS, calibration=self._calibration))
        identity = annotator.identity() | self._told
        annotator.identity = lambda: identity  # type: ignore[method-assign]
        return annotator

    @property
    def scored(self) -> int:
        return sum(sum(b.calls) for b in self.backends)


@pytest.fixture
def job(tmp_path: Path) -> LabelJob:
    return LabelJob(Source(str(write_jsonl(tmp_path / "pairs.jsonl", PAIRS))), tmp_path / "out" / "judged.jsonl")


def test_a_run_equals_labelling_in_python_in_the_files_order(job: LabelJob, tmp_path: Path) -> None:
    summary = label(replace(job, qrels=tmp_path / "q.txt"), Fakes())
    with Fakes()() as annotator:
        expected = list(annotator.label(PAIRS))
    assert list(read_judgments(job.out)) == expected
    assert [(p.query_id, p.doc_id) for p in PAIRS] == [(j.query_id, j.doc_id) for j in expected]
    assert [(q.query_id, q.doc_id, q.grade) for q in read_qrels(tmp_path / "q.txt")] == [
        (j.query_id, j.doc_id, j.grade) for j in expected
    ]
    assert summary.tally.labelled == summary.effort.pairs == 72
    assert summary.effort.reused_tokens > summary.effort.computed_tokens
    left = sorted(p.name for p in job.out.parent.iterdir())
    assert left == ["judged.jsonl", "judged.jsonl.manifest.json"]


def test_a_label_does_not_depend_on_the_plan(job: LabelJob) -> None:
    with Fakes()() as annotator:
        expected = {j.doc_id: j for j in annotator.label(PAIRS)}
    for window, tokens in ((1, 1), (5, 100), (500, 10_000)):
        options = AnnotatorOptions(window=window, plan=PlanOptions(batch_tokens=tokens))
        with Annotator(FakeBackend(), TREC, options) as annotator:
            assert {j.doc_id: j for j in annotator.label(reversed(PAIRS))} == expected


def test_an_interrupted_run_resumes_to_the_same_bytes(job: LabelJob) -> None:
    label(job, Fakes())
    expected = job.out.read_bytes()
    for fail_at in (0, 1, 7, 20):
        job.out.unlink()
        job.manifest.unlink()
        with pytest.raises(ModelError, match="broke down"):
            label(job, Fakes(fail_at=fail_at))
        assert not job.out.exists()
        fakes = Fakes()
        summary = label(job, fakes)
        assert job.out.read_bytes() == expected
        assert summary.effort.resumed + fakes.scored == 72
        assert (summary.effort.resumed > 0) == (fail_at > 0)


def _state(paths: Iterable[Path]) -> dict[Path, tuple[int, int, bytes]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def test_a_finished_run_writes_nothing(job: LabelJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = replace(job, qrels=job.out.with_name("judged.qrels"))
    label(job, Fakes())
    before = _state(job.out.parent.iterdir())
    assert len(before) == 3
    monkeypatch.setattr(run, "environment", lambda: {"cpu": "another machine"})
    assert label(job, Fakes()).already_finished
    assert label(replace(job, qrels=None), Fakes()).already_finished
    assert _state(job.out.parent.iterdir()) == before


def test_a_place_where_no_qrels_can_be_is_told_before_the_work(job: LabelJob, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"no qrels can be written there: .*file is a file; name another by --qrels"):
        label(replace(job, qrels=tmp_path / "file" / "q"), lambda: pytest.fail("the model is opened"))
    assert not job.folder.exists()


def test_qrels_that_cannot_be_written_are_no_killed_run(
    job: LabelJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(job, qrels=tmp_path / "later" / "q")
    with monkeypatch.context() as patch:
        patch.setattr(run_qrels.RunQrels, "check_place", lambda self: None)
        (tmp_path / "later").touch()
        with pytest.raises(StorageError):
            label(job, Fakes())
    beat = read_beat(job.folder / "heartbeat.json")
    assert beat is not None
    assert beat.phase == "failed"
    (tmp_path / "later").unlink()
    assert label(job, Fakes()).tally.labelled > 0
    assert (tmp_path / "later" / "q").is_file()


def test_a_finished_run_writes_the_qrels_that_are_not_there(job: LabelJob, tmp_path: Path) -> None:
    job = replace(job, qrels=tmp_path / "judged.qrels")
    label(job, Fakes())
    made, known = Manifest.load(job.manifest), _state([job.manifest])
    assert made is not None
    assert job.qrels is not None
    qrels = job.qrels.read_bytes()
    for damage in (b"", qrels[:-3], qrels + b"q9 0 d9 1\n", None):
        job.qrels.unlink() if damage is None else job.qrels.write_bytes(damage)
        if damage is not None:  # it may be somebody's work
            with pytest.raises(ResumeError, match=r"judged\.qrels was changed after its run; move it away, or"):
                label(job, Fakes())
            assert job.qrels.read_bytes() == damage
        assert label(replace(job, overwrite=damage is not None), Fakes()).already_finished
        assert job.qrels.read_bytes() == qrels
    assert _state([job.manifest]) == known
    other = tmp_path / "other.qrels"
    label(replace(job, qrels=other), Fakes())
    assert other.read_bytes() == qrels
    assert Manifest.load(job.manifest) == replace(made, environment=made.environment | {"qrels": str(other)})


def _stop_at_half(job: LabelJob) -> None:
    with pytest.raises(ModelError, match="broke down"):
        label(job, Fakes(fail_at=20))


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:5000], lambda data: data.replace(b"d", b"D")])
def test_a_damaged_copy_of_the_input_is_made_again(
    job: LabelJob, damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label(replace(job, out=tmp_path / "whole.jsonl"), Fakes())
    _stop_at_half(job)
    (spool,) = job.folder.glob("spool-*.sqlite")
    spool.write_bytes(damage(spool.read_bytes()))
    assert label(job, Fakes()).effort.resumed > 0
    assert job.out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert "the input's copy, is damaged and made again" in caplog.text


def test_two_names_of_one_output_are_one_run(job: LabelJob, tmp_path: Path) -> None:
    link = tmp_path / "link.jsonl"
    link.symlink_to(job.out)
    _stop_at_half(job)
    assert label(replace(job, out=link), Fakes()).effort.resumed > 0
    assert link.is_symlink()
    assert not job.folder.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.jsonl", "out", "pairs.jsonl"]
    assert label(job, Fakes()).already_finished
    assert run_status(link).state == run_status(job.out).state == "finished"


def test_qrels_that_came_meanwhile_are_not_written_over(job: LabelJob, tmp_path: Path) -> None:
    job = replace(job, qrels=tmp_path / "shared.qrels")

    def opened() -> Annotator:
        (tmp_path / "shared.qrels").write_text("q 0 d 1\n")  # by another run
        return Fakes()()

    with pytest.raises(InputError, match=r"shared\.qrels exists and was not written by this job"):
        label(job, opened)
    assert (tmp_path / "shared.qrels").read_text() == "q 0 d 1\n"
    again = label(replace(job, qrels=tmp_path / "own.qrels"), Fakes())
    assert again.effort.resumed == again.tally.labelled  # nothing was lost


def test_qrels_are_a_runs_own_as_it_left_them(job: LabelJob, tmp_path: Path) -> None:
    shared, words = tmp_path / "shared.qrels", "q 0 d 1\n"
    job = replace(job, qrels=shared)
    _stop_at_half(job)
    shared.write_text(words)  # by another run, before this one goes on
    with pytest.raises(InputError, match=r"shared\.qrels exists and was not written by this job"):
        label(job, Fakes())
    assert shared.read_text() == words
    shared.unlink()
    label(job, Fakes())
    job.out.unlink()  # so that it is made again
    label(job, Fakes())  # over its own qrels
    shared.write_text(words)  # by hand
    job.out.unlink()
    with pytest.raises(ResumeError, match=r"shared\.qrels was changed after its run"):
        label(job, Fakes())
    assert shared.read_text() == words
    assert label(replace(job, overwrite=True), Fakes()).tally.labelled == 72
    assert shared.read_text() != words


def test_a_copy_of_the_input_that_breaks_while_it_is_read_is_made_anew(
    job: LabelJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [asdict(pair) | {"document": "stone " * 3000} for pair in PAIRS]
    Path(job.source.pairs).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with monkeypatch.context() as patch:
        patch.setattr(run, "is_sound", lambda path: True)
        with pytest.raises(ModelError, match="broke down"):
            label(job, Fakes(fail_at=3))
        (spool,) = job.folder.glob("spool-*.sqlite")
        data = spool.read_bytes()
        spool.write_bytes(data.replace(b"stone stone", b"stone \xff\xff\xff\xff\xff"))
        with pytest.raises(StorageError, match="the input's copy was damaged while it was read; run the same") as told:
            label(job, Fakes())
    assert "stone" not in str(told.value)
    assert label(job, Fakes()).effort.resumed > 0


def test_an_input_without_a_pair_is_told_before_the_model(job: LabelJob, tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps([{"query_id": "q", "doc_id": "d", "query": "a", "document": "b"}], indent=1))
    told = r"list\.jsonl: no usable pair came of it; \d+ rows were rejected, the first: .*line 1: .*one JSON object"
    with pytest.raises(InputError, match=told):
        label(replace(job, source=Source(str(path))), lambda: pytest.fail("the model is opened"))
    assert not job.out.parent.exists()  # it was made on the way


def test_a_manifest_that_cannot_be_read_leaves_no_run_behind(job: LabelJob) -> None:
    job.out.parent.mkdir()
    job.manifest.write_text("{")
    with pytest.raises(ResumeError):
        label(job, Fakes())
    assert not job.folder.exists()


def test_a_finished_run_asks_the_model_nothing(job: LabelJob) -> None:
    first = label(job, Fakes())
    before = job.out.stat()
    fakes = Fakes()
    again = label(job, fakes)
    assert fakes.scored == 0
    assert again.already_finished
    assert again.tally == first.tally
    assert (job.out.stat().st_ino, job.out.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def _changed_input(job: LabelJob) -> LabelJob:
    write_jsonl(Path(job.source.pairs), PAIRS[::-1])
    return job


def _other_version(job: LabelJob) -> LabelJob:
    return job  # the test names another version


LETTERS = tuple(replace(g, label="abcd"[g.grade]) for g in TREC.grades)
CHANGES: dict[str, tuple[Callable[[LabelJob], LabelJob], Callable[[], Annotator]]] = {
    "input": (_changed_input, Fakes()),
    "selection.limit": (lambda job: replace(job, selection=Selection(limit=5)), Fakes()),
    "rubric": (lambda job: job, Fakes(rubric=replace(TREC, cue="Grade: "))),
    "label_tokens": (lambda job: job, Fakes(rubric=replace(TREC, grades=LETTERS))),
    "backend.context": (lambda job: job, Fakes(context=900)),
    "calibration": (lambda job: job, Fakes(calibration=Calibration(TREC.values, Cuts((0.5, 1.5, 2.5))))),
    # what a merged adapter, another quantization or library changes, each in the identity of a real backend
    **{
        name: (lambda job: job, Fakes(told={name: "other"}))
        for name in (
            "model_sha256", "prompt_version", "too_long", "backend.kind", "backend.quant", "backend.kv_unified",
            "backend.flash_attention", "backend.sequences", "backend.micro_batch", "backend.features",
            "backend.llama_cpp_python", "backend.onnxruntime", "backend.product", "backend.provider",
        )
    },
    **{name: (_other_version, Fakes()) for name in ("pairgrade", "numpy")},
}  # fmt: skip


def test_an_input_that_grows_while_it_is_read_is_told(job: LabelJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its digest would be of other bytes than were labelled."""
    original = readers.digest

    def digest(source: Source) -> str:
        found = original(source)
        with open(source.pairs, "a") as file:
            file.write(json.dumps({"query_id": "late", "doc_id": "d", "query": "late?", "document": "too late"}) + "\n")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(readers, "digest", digest)
        with pytest.raises(InputError, match="changed while it was read; when it is whole"):
            label(job, Fakes())
    assert not job.out.exists()
    assert not job.folder.exists()
    label(job, Fakes())
    assert "late" in job.out.read_text()


@pytest.mark.parametrize("field", CHANGES)
@pytest.mark.parametrize("finished", [True, False])
def test_a_changed_job_is_refused_and_the_field_named(
    job: LabelJob, field: str, finished: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if finished:
        label(job, Fakes())
    else:
        with pytest.raises(ModelError):
            label(job, Fakes(fail_at=3))
    kept = {p: p.read_bytes() for p in job.out.parent.rglob("*") if p.is_file() and p.name in ("journal", job.out.name)}
    change, fakes = CHANGES[field]
    if change is _other_version:
        real = run.package_version
        other = lambda name="pairgrade": "0.0.1" if name == field else real(name)  # noqa: E731
        monkeypatch.setattr(run, "package_version", other)
    with pytest.raises(ResumeError, match=rf"{field} \(was .*--overwrite"):
        label(change(job), fakes)
    assert kept
    assert {p: p.read_bytes() for p in kept} == kept


def test_overwrite_replaces_another_jobs_output_only_at_the_end(job: LabelJob) -> None:
    label(job, Fakes())
    old = job.out.read_bytes()
    other = replace(job, selection=Selection(limit=20), overwrite=True)
    with pytest.raises(ModelError):
        label(other, Fakes(fail_at=2))
    assert job.out.read_bytes() == old
    summary = label(replace(other, overwrite=False), Fakes())  # goes on where it was
    assert summary.effort.resumed > 0
    assert len(list(read_judgments(job.out))) == 20


def test_a_file_that_is_no_output_of_ours_is_not_touched(job: LabelJob) -> None:
    job.out.parent.mkdir()
    job.out.write_text("precious")
    fakes = Fakes()
    with pytest.raises(ResumeError, match="not made by this command"):
        label(job, fakes)
    assert fakes.scored == 0  # it is told before the work
    assert job.out.read_text() == "precious"


def test_an_output_that_was_edited_is_not_taken_for_finished(job: LabelJob) -> None:
    label(job, Fakes())
    whole = job.out.read_bytes()
    job.out.write_bytes(whole[:-40])
    with pytest.raises(ResumeError, match="was changed after its run"):
        label(job, Fakes())
    label(replace(job, overwrite=True), Fakes())
    assert job.out.read_bytes() == whole


def test_the_input_is_never_overwritten(job: LabelJob, tmp_path: Path) -> None:
    pairs = Path(job.source.pairs)
    (tmp_path / "link.jsonl").symlink_to(pairs)
    for out, qrels in ((pairs, None), (tmp_path / "link.jsonl", None), (job.out, pairs), (job.out, job.out)):
        with pytest.raises(InputError, match="would be overwritten"):
            LabelJob(job.source, out, qrels, overwrite=True)


def test_qrels_of_somebody_else_are_not_replaced(job: LabelJob, tmp_path: Path) -> None:
    human = tmp_path / "human.qrels"
    human.write_text("q 0 d 3\n")
    with pytest.raises(InputError, match="was not written by this job"):
        label(replace(job, qrels=human), Fakes())
    assert human.read_text() == "q 0 d 3\n"
    ours = replace(job, qrels=tmp_path / "ours.qrels")
    for _ in range(3):  # the first time, and again as a finished job
        label(ours, Fakes())
    assert len(list(read_qrels(tmp_path / "ours.qrels"))) == 72
    label(replace(job, qrels=human, overwrite=True), Fakes())
    assert len(list(read_qrels(human))) == 72


def test_the_same_grades_are_nobody_elses(job: LabelJob, tmp_path: Path) -> None:
    one, other = (replace(job, qrels=tmp_path / name) for name in ("one.qrels", "other.qrels"))
    for each in (one, other, one, other):
        label(each, Fakes())
    assert (tmp_path / "one.qrels").read_bytes() == (tmp_path / "other.qrels").read_bytes()
    with (tmp_path / "one.qrels").open("a") as file:
        file.write("q9 0 d9 1\n")
    with pytest.raises(InputError, match="was not written by this job"):
        label(one, Fakes())


def test_an_unfinished_run_survives_a_mistyped_command(job: LabelJob, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        label(job, Fakes(fail_at=9))
    kept = {p.name: p.read_bytes() for p in job.folder.iterdir() if p.name != "lock"}
    other = replace(job, source=Source(str(write_jsonl(tmp_path / "other.jsonl", PAIRS[:5]))))
    with pytest.raises(ResumeError, match="an unfinished run of another job: input"):
        label(other, lambda: pytest.fail("the model was opened"))
    assert {p.name: p.read_bytes() for p in job.folder.iterdir() if p.name != "lock"} == kept
    assert label(job, Fakes()).effort.resumed > 0


def test_only_what_a_run_makes_is_removed(job: LabelJob) -> None:
    job.folder.mkdir(parents=True)
    kept = [job.folder / "thesis.txt", job.out.with_name(".judged.jsonl.csv.12.tmp")]
    stale = job.out.with_name(".judged.jsonl.12.tmp")
    for path in (*kept, stale):
        path.write_text("x")
    label(job, Fakes())
    assert all(path.exists() for path in kept)
    assert not stale.exists()
    assert [p.name for p in job.folder.iterdir()] == ["thesis.txt"]


def test_a_signal_while_the_model_is_loaded_stops_the_run(job: LabelJob) -> None:
    def signalled() -> Annotator:
        os.kill(os.getpid(), signal.SIGTERM)
        return Fakes()()

    with pytest.raises(StopRequested):
        label(job, signalled)
    assert not job.out.exists()


def test_a_place_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path, job: LabelJob) -> None:
    with pytest.raises(StorageError):
        label(replace(job, out=Path(job.source.pairs) / "below" / "out.jsonl"), Fakes())


def test_every_row_is_labelled_or_reported(job: LabelJob) -> None:
    path = Path(job.source.pairs)
    lines = path.read_text().splitlines()
    lines[10] = "{broken"
    lines[20] = json.dumps({"query_id": "q", "doc_id": "d", "query": "x" * 3000, "document": "y"})
    lines[30] = lines[30].replace('"document": "', '"document": "\\ud800')
    path.write_text("\n".join(lines) + "\n")
    summary = label(job, Fakes())
    assert (summary.tally.labelled, summary.tally.rejected, summary.tally.unfit) == (69, 2, 1)
    assert summary.is_partial
    assert summary.errors == str(job.errors)
    errors = [json.loads(line) for line in job.errors.read_text().splitlines()]
    assert sorted(e["line"] for e in errors) == [11, 21, 31]
    reasons = {e["line"]: e["reason"] for e in errors}
    assert "leaves" in reasons[21]
    assert "surrogate" in reasons[31]
    assert [j.doc_id for j in read_judgments(job.out)] == [
        p.doc_id for i, p in enumerate(PAIRS) if i not in (10, 20, 30)
    ]


def test_duplicates_are_reported_before_a_model_is_opened(job: LabelJob) -> None:
    write_jsonl(Path(job.source.pairs), [*PAIRS, PAIRS[0]])
    with pytest.raises(InputError, match="on lines 1, 73"):
        label(job, lambda: pytest.fail("the model was opened"))


def test_equal_texts_under_distinct_ids_are_scored_once_and_labelled_alike(job: LabelJob) -> None:
    twins = [replace(p, doc_id=f"twin-{p.doc_id}") for p in PAIRS]
    write_jsonl(Path(job.source.pairs), PAIRS + twins)
    fakes = Fakes()
    backend_calls = label(job, fakes)
    assert backend_calls.tally.labelled == 144
    assert fakes.scored <= 72 + 144 // OPTIONS.window  # a twin may fall into the next window
    judged = {j.doc_id: j for j in read_judgments(job.out)}
    for pair in PAIRS:
        assert replace(judged[f"twin-{pair.doc_id}"], doc_id=pair.doc_id) == judged[pair.doc_id]


def test_no_grade_is_made_of_a_logit_that_is_no_number(job: LabelJob) -> None:
    write_jsonl(Path(job.source.pairs), [*PAIRS, Pair("q", "bad", "query", "a ~ in it")])
    with pytest.raises(NonFiniteError, match=r"not finite numbers for pair \(q, bad\)"):
        label(job, Fakes(nonfinite=ord("~")))
    assert not job.out.exists()


@pytest.mark.parametrize("moment", ["stopped", "labelling"])
def test_an_output_that_came_after_the_run_began_is_not_touched(job: LabelJob, moment: str) -> None:
    def foreign() -> None:
        job.out.write_text("another's work\n")

    fakes = Fakes(fail_at=7 if moment == "stopped" else None)
    with pytest.raises(PairgradeError) as caught:
        label(job, fakes, Meanwhile(foreign) if moment == "labelling" else None)
    if moment == "stopped":
        assert "broke down" in str(caught.value)
        foreign()
        with pytest.raises(ResumeError) as caught:
            label(job, Fakes())
    assert f"{job.out} exists already, of another job: it was not made by this command" in str(caught.value)
    assert job.out.read_text() == "another's work\n"
    assert label(replace(job, overwrite=True), Fakes()).effort.resumed > 0  # and nothing is lost
    assert len(list(read_judgments(job.out))) == 72


def test_a_second_run_on_the_same_output_is_locked_out(job: LabelJob) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow() -> Annotator:
        entered.set()
        leave.wait(20)
        return Fakes()()

    first = threading.Thread(target=label, args=(job, slow))
    first.start()
    assert entered.wait(20)
    with pytest.raises(LockedError, match=f"process {os.getpid()}"):
        label(job, Fakes())
    leave.set()
    first.join()
    assert len(list(read_judgments(job.out))) == 72


@pytest.mark.parametrize("point", ["write_outputs", "file_sha256", "write_qrels", "remove_stale_writers"])
@pytest.mark.parametrize("after", [False, True])
def test_a_run_that_dies_at_any_step_of_its_end_resumes_clean(
    job: LabelJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, after: bool
) -> None:
    reference = replace(job, out=job.out.with_name("reference.jsonl"))
    label(reference, Fakes())
    job = replace(job, qrels=tmp_path / "job.qrels")
    module = run_qrels if point == "write_qrels" else run
    real = getattr(module, point)

    def dying(*arguments: object) -> None:
        if after:
            real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, point, dying)
        with pytest.raises(KeyboardInterrupt):
            label(job, Fakes())
    fakes = Fakes()
    label(job, fakes)
    assert fakes.scored == 0  # everything had been labelled before
    assert job.out.read_bytes() == reference.out.read_bytes()
    assert len(list(read_qrels(tmp_path / "job.qrels"))) == 72
    names = {p.name for p in job.out.parent.iterdir()}
    assert names == {f"{stem}.jsonl{end}" for stem in ("judged", "reference") for end in ("", ".manifest.json")}


CLI = [sys.executable, "-m", "pairgrade.cli"]


def command(job: LabelJob, seconds: float = 0.0) -> list[str]:
    model = f"fake:{seconds}" if seconds else "fake:"
    return [*CLI, "label", job.source.pairs, "--model", model, "--out", str(job.out), "--batch-tokens", "1500"]


def _kill_at_random_moments(command: list[str], out: Path, kills: int, longest: float, last: list[str]) -> int:
    """Start the command and kill it, so often; then end by the last. Returns how many kills met a running process."""
    r = random.Random(7)
    met = 0
    for _ in range(kills):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            process.wait(r.uniform(0.2, longest))
        except subprocess.TimeoutExpired:
            met += 1
            process.send_signal(signal.SIGKILL)
            process.wait()
        if out.exists():
            break
    subprocess.run(last, check=True, stdout=subprocess.DEVNULL)
    return met


@pytest.mark.slow
def test_5000_pairs_killed_at_20_random_moments(tmp_path: Path) -> None:
    pairs = random.Random(2).sample(make_pairs(50, 100), 5000)
    source = Source(str(write_jsonl(tmp_path / "pairs.jsonl", pairs)))
    calm, killed = LabelJob(source, tmp_path / "calm.jsonl"), LabelJob(source, tmp_path / "killed.jsonl")
    subprocess.run(command(calm), check=True, stdout=subprocess.DEVNULL)
    seen: list[bytes] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            if killed.out.exists():
                seen.append(killed.out.read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    met = _kill_at_random_moments(command(killed, 0.002), killed.out, 20, longest=2.0, last=command(killed))
    done.set()
    watcher.join()
    assert met >= 15
    assert killed.out.read_bytes() == calm.out.read_bytes()
    assert {bytes(s) for s in seen} <= {calm.out.read_bytes()}  # whole or absent, never a part
    ids = [(j.query_id, j.doc_id) for j in read_judgments(killed.out)]
    assert ids == [(p.query_id, p.doc_id) for p in pairs]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "calm.jsonl", "calm.jsonl.manifest.json", "killed.jsonl", "killed.jsonl.manifest.json", "pairs.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_signal_keeps_the_work_and_says_how_to_go_on(job: LabelJob, number: signal.Signals) -> None:
    process = subprocess.Popen(command(job, 0.05), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    journal = job.folder / "journal"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not (journal.exists() and journal.read_bytes().count(b"\n") > 2):
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}" in stderr
    resume = stderr.splitlines()[-1].strip()
    assert resume.startswith("pairgrade label ")
    assert not job.out.exists()
    again = subprocess.run(
        [sys.executable, "-m", "pairgrade.cli", *command(job)[3:], "--json"], check=True, capture_output=True
    )
    summary = json.loads(again.stdout)
    assert summary["effort"]["resumed"] > 0
    assert summary["tally"]["labelled"] == 72


@pytest.mark.model
@pytest.mark.slow
def test_the_real_model_killed_at_3_random_moments(smollm2_path: Path, tmp_path: Path) -> None:
    pairs = random.Random(5).sample(make_pairs(6, 5), 30)
    source = Source(str(write_jsonl(tmp_path / "pairs.jsonl", pairs)))
    calm, killed = LabelJob(source, tmp_path / "calm.jsonl"), LabelJob(source, tmp_path / "killed.jsonl")

    def real(job: LabelJob) -> list[str]:
        options = ["--model", str(smollm2_path), "--ctx", "400", "--batch-tokens", "100"]
        return [*CLI, "label", source.pairs, "--out", str(job.out), *options]

    start = time.monotonic()
    subprocess.run(real(calm), check=True, stdout=subprocess.DEVNULL)
    longest = (time.monotonic() - start) * 0.6
    met = _kill_at_random_moments(real(killed), killed.out, 3, longest=longest, last=real(killed))
    assert met >= 2
    assert killed.out.read_bytes() == calm.out.read_bytes()
    assert [j.doc_id for j in read_judgments(killed.out)] == [p.doc_id for p in pairs]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Ten times the pairs may take 8 bytes more for each, and some for the caches of SQLite."""
    code = (
        "import resource, sys; from pairgrade import cli\n"
        "try: cli.cli(sys.argv[1:], standalone_mode=False)\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for queries in (40, 400):
        pairs = write_jsonl(tmp_path / f"{queries}.jsonl", make_pairs(queries, 50))
        options = ["--model", "fake:", "--out", str(tmp_path / f"{queries}.out.jsonl"), "--quiet"]
        command = [sys.executable, "-c", code, "label", str(pairs), *options]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 12 * 1024  # KiB; the larger file alone has more
    assert (tmp_path / "400.jsonl").stat().st_size - (tmp_path / "40.jsonl").stat().st_size > 4e6
