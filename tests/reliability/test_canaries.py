"""Canary pairs: a model that goes wrong in the middle of a run is found out, and what it judged since is forgotten."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import make_pairs, run_command, write_jsonl
from pairgrade import Annotator, InputError, PairgradeError, Rubric
from pairgrade.annotator import AnnotatorOptions
from pairgrade.backend import Counters, Scores
from pairgrade.canaries import Canaries, CanaryReport, _Memory, _remembered
from pairgrade.cli.label import command
from pairgrade.errors import SuspectError
from pairgrade.fake import FakeBackend
from pairgrade.job import LabelJob
from pairgrade.progress import Progress
from pairgrade.readers import Source
from pairgrade.run import label
from pairgrade.stop import StopRequested
from pairgrade.tokenizer import Ids

OPTIONS = AnnotatorOptions(window=50)


class Degrading(FakeBackend):
    """After so many documents its scores move a little; ``exact`` as given."""

    def __init__(self, after: int, exact: bool = True, by: float = 1e-6) -> None:
        super().__init__()
        self.exact = exact
        self._after, self._by = after, by

    def score(self, prefix: Sequence[Ids], suffixes: Sequence[Ids], labels: Ids) -> Scores:
        scores = super().score(prefix, suffixes, labels)
        if sum(self.calls) <= self._after:
            return scores
        moved = scores.logits.copy()
        moved[:, 0] += self._by
        return replace(scores, logits=moved)


def annotator(backend: FakeBackend) -> Annotator:
    return Annotator(backend, Rubric.load("trec"), OPTIONS)


def job(folder: Path, canaries: bool = True) -> LabelJob:
    write_jsonl(folder / "canaries.jsonl", [replace(p, query_id=f"c{p.query_id}") for p in make_pairs(2, 3)])
    pairs = write_jsonl(folder / "pairs.jsonl", make_pairs(20, 20))
    return LabelJob(
        Source(str(pairs)), folder / "out.jsonl", canaries=folder / "canaries.jsonl" if canaries else None,
        canary_every=60,
    )  # fmt: skip


def test_a_sound_run_says_so_and_its_output_is_that_of_one_without(tmp_path: Path) -> None:
    with_them = label(job(tmp_path), lambda: annotator(FakeBackend()))
    assert with_them.canaries is not None
    assert (with_them.canaries.pairs, with_them.canaries.graded) == (6, 6)
    assert with_them.canaries.checks == 1 + 4  # at the start; after 100, 200, 300 and 400 pairs
    assert 0 <= with_them.canaries.agreeing <= 6
    found = (tmp_path / "out.jsonl").read_bytes()
    (tmp_path / "other").mkdir()
    assert label(job(tmp_path / "other", canaries=False), lambda: annotator(FakeBackend())).canaries is None
    assert (tmp_path / "other" / "out.jsonl").read_bytes() == found
    assert not (tmp_path / "out.jsonl.run").exists()


@pytest.mark.parametrize("after", [6, 7, 120, 250, 400])
@pytest.mark.parametrize("resumed_with_canaries", [True, False])
def test_a_model_that_degrades_is_found_out_and_its_judgments_forgotten(
    resumed_with_canaries: bool, after: int, tmp_path: Path
) -> None:
    wanted = job(tmp_path)
    with pytest.raises(SuspectError, match=r"canary pair .* the model or the machine changed") as caught:
        label(wanted, lambda: annotator(Degrading(after)))
    assert isinstance(caught.value, PairgradeError)
    assert not wanted.out.exists()
    again = job(tmp_path, canaries=resumed_with_canaries)
    summary = label(again, lambda: annotator(FakeBackend()))  # on sound memory again
    assert (summary.canaries is not None) == resumed_with_canaries
    (tmp_path / "calm").mkdir()
    label(job(tmp_path / "calm"), lambda: annotator(FakeBackend()))
    assert wanted.out.read_bytes() == (tmp_path / "calm" / "out.jsonl").read_bytes()
    # without canaries the same model ends its run, and its judgments differ
    (tmp_path / "blind").mkdir()
    label(job(tmp_path / "blind", canaries=False), lambda: annotator(Degrading(min(after, 300))))
    assert (tmp_path / "blind" / "out.jsonl").read_bytes() != wanted.out.read_bytes()


def test_a_resumed_run_is_compared_with_its_beginning(tmp_path: Path) -> None:
    wanted = job(tmp_path)
    with pytest.raises(SuspectError):
        label(wanted, lambda: annotator(Degrading(200)))
    with pytest.raises(SuspectError):  # a model that was moved from the start
        label(wanted, lambda: annotator(Degrading(0)))


class Stopped(Progress):
    """Stops a run after so many pairs."""

    def __init__(self, after: int) -> None:
        self._left = after

    def advance(self, pairs: int, counters: Counters) -> None:
        self._left -= pairs
        if self._left <= 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("resumed_with", ["the same canaries", "other canaries", "none"])
def test_what_was_judged_after_the_last_check_of_a_stopped_run_is_done_again(resumed_with: str, tmp_path: Path) -> None:
    wanted = job(tmp_path)
    with pytest.raises(KeyboardInterrupt):  # 40 pairs after the check at 200; the model went wrong on the way
        label(wanted, lambda: annotator(Degrading(6 + 3 * 6 + 210)), Stopped(240))
    if resumed_with == "other canaries":
        write_jsonl(tmp_path / "canaries.jsonl", make_pairs(1, 3))
    again = replace(wanted, canaries=None) if resumed_with == "none" else wanted
    summary = label(again, lambda: annotator(FakeBackend()))
    assert summary.effort.resumed == 200
    (tmp_path / "calm").mkdir()
    label(job(tmp_path / "calm"), lambda: annotator(FakeBackend()))
    assert wanted.out.read_bytes() == (tmp_path / "calm" / "out.jsonl").read_bytes()


def test_what_was_done_before_a_stop_is_kept(tmp_path: Path) -> None:
    class Stopping(Progress):
        done = 0

        def advance(self, pairs: int, counters: Counters) -> None:
            self.done += pairs
            if self.done >= 30:  # before the first check and within a window
                raise StopRequested(signal.SIGTERM)

    with pytest.raises(StopRequested):
        label(replace(job(tmp_path), canary_every=1000), lambda: annotator(FakeBackend()), Stopping())
    resumed = label(replace(job(tmp_path), canary_every=1000), lambda: annotator(FakeBackend()))
    assert resumed.effort.resumed >= 30
    assert resumed.canaries is not None
    (tmp_path / "out.jsonl").unlink()
    (tmp_path / "out.jsonl.manifest.json").unlink()
    with pytest.raises(SuspectError):  # nor is what a model judged that had gone wrong before the stop
        label(replace(job(tmp_path), canary_every=1000), lambda: annotator(Degrading(6)), Stopping())
    assert label(job(tmp_path), lambda: annotator(FakeBackend())).effort.resumed == 0


def test_a_run_without_canaries_keeps_its_own_progress(tmp_path: Path) -> None:
    wanted = job(tmp_path)
    blind = replace(wanted, canaries=None)
    for each, after in ((wanted, 240), (blind, 100)):
        with pytest.raises(KeyboardInterrupt):
            label(each, lambda: annotator(FakeBackend()), Stopped(after))
    assert label(blind, lambda: annotator(FakeBackend())).effort.resumed >= 290


def test_another_job_that_replaces_one_is_not_compared_with_it(tmp_path: Path) -> None:
    wanted = job(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        label(wanted, lambda: annotator(FakeBackend()), Stopped(240))
    summary = label(replace(wanted, overwrite=True), lambda: annotator(FakeBackend(name="other")))
    assert (summary.effort.resumed, summary.canaries and summary.canaries.checks) == (0, 5)


@pytest.mark.parametrize(
    "damage",
    [
        {"probabilities": [1, 2, 3, 4, 5, 6]}, {"probabilities": [["x"] * 4] * 6}, {"probabilities": "abcdef"},
        {"probabilities": dict.fromkeys("abcdef", [0.25] * 4)}, {"sound": -1}, {"sound": True}, {"sound": "0"}, None,
    ],
)  # fmt: skip
def test_a_damaged_memory_is_begun_anew(damage: dict[str, object] | None, tmp_path: Path) -> None:
    wanted = job(tmp_path)
    assert wanted.canaries is not None
    memory = tmp_path / "memory.json"
    canaries = Canaries(wanted.canaries, memory)
    canaries.check(annotator(FakeBackend()))
    canaries.remember(7)
    table = json.loads(memory.read_text())
    assert _remembered(memory) == _Memory(**table)
    assert table["sound"] == 7
    memory.write_text(json.dumps(table | damage if damage else [table]))
    assert _remembered(memory) is None
    again = Canaries(wanted.canaries, memory)
    again.recall()
    again.check(annotator(FakeBackend()))
    assert again._first == table["probabilities"]


def test_a_backend_that_is_not_exact_may_move_a_little(tmp_path: Path) -> None:
    label(job(tmp_path), lambda: annotator(Degrading(100, exact=False)))
    (tmp_path / "far").mkdir()
    with pytest.raises(SuspectError):
        label(job(tmp_path / "far"), lambda: annotator(Degrading(100, exact=False, by=0.1)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows"),
        ('{"query_id": "q", "doc_id": "d", "query": "", "document": "x"}\n', "must be a usable pair"),
        ('{"query_id": "q"}\n', "no column"),
    ],
)
def test_canaries_that_cannot_be_used_are_told_before_the_model_loads(text: str, message: str, tmp_path: Path) -> None:
    wanted = job(tmp_path)
    (tmp_path / "canaries.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        label(wanted, lambda: pytest.fail("the model was loaded"))


def test_the_output_never_takes_the_place_of_the_canaries(tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1, 2))
    with pytest.raises(InputError, match="is the file of canaries"):
        LabelJob(Source(str(pairs)), tmp_path / "out.jsonl", canaries=tmp_path / "out.jsonl")


def test_the_command_line_tells_what_the_canaries_said(tmp_path: Path) -> None:
    wanted = job(tmp_path)
    arguments = [wanted.source.pairs, "--model", "fake:", "--in-process", "--quiet", "--canaries", wanted.canaries]
    result = run_command(command, *arguments, "--out", wanted.out)
    assert result.exit_code == 0, result.output
    assert "6 canary pairs unchanged in 2 checks" in " ".join(result.output.split())
    printed = run_command(command, *arguments, "--out", tmp_path / "other.jsonl", "--json")
    report = CanaryReport(**json.loads(printed.stdout)["canaries"])
    assert (report.pairs, report.checks) == (6, 2)
