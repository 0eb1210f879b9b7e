"""A labelling run: from a source of pairs to a judgments file, resumable and exact.

Beside the output OUT lie, while it runs, ``OUT.run/`` (lock, manifest, spool, journal) and, when it has finished,
``OUT.manifest.json`` and, if any row had no judgment, ``OUT.errors.jsonl``. OUT appears whole or not at all.
"""

from __future__ import annotations

import glob
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pairgrade import readers
from pairgrade.annotator import Annotator, Unfit, windows
from pairgrade.assemble import write_outputs
from pairgrade.backend import Counters
from pairgrade.environment import environment, package_version
from pairgrade.errors import InputError, ResumeError
from pairgrade.journal import Entry, Journal, read_entries
from pairgrade.judgments import read_judgments, required_format
from pairgrade.lock import exclusive
from pairgrade.manifest import Identity, Manifest, differences, identity_digest
from pairgrade.models import file_sha256
from pairgrade.qrels import write_qrels
from pairgrade.records import Pair
from pairgrade.spool import Selection, Spool, build
from pairgrade.stop import PoliteStop
from pairgrade.summary import Effort, Summary, Tally


@dataclass(frozen=True, slots=True)
class LabelJob:
    """What is to be labelled, and where the judgments go."""

    source: readers.Source
    out: Path
    qrels: Path | None = None
    selection: Selection = Selection()
    overwrite: bool = False  # an output of another job may be replaced

    def __post_init__(self) -> None:
        required_format(self.out)
        for path in (self.out, self.qrels):
            if path is not None and path.is_dir():
                raise InputError(f"{path} is a folder; name a file in it")

    def beside(self, suffix: str) -> Path:
        """Return the path of a companion of the output."""
        return self.out.with_name(self.out.name + suffix)


class Progress:
    """What a run tells while it works; this one keeps silent."""

    def phase(self, name: str) -> None:
        """Begin one of the phases reading, loading, labelling, writing."""

    def start(self, total: int, done: int) -> None:
        """Labelling begins, of so many pairs in all; so many were done in an earlier run."""

    def advance(self, pairs: int, counters: Counters) -> None:
        """So many more pairs are done."""


def label(
    job: LabelJob,
    open_annotator: Callable[[], AbstractContextManager[Annotator]],
    progress: Progress | None = None,
    stop: PoliteStop | None = None,
) -> Summary:
    """Run or resume a job and return its summary; a finished job is not done again.

    Raises InputError for an unusable source, LockedError where another process works on OUT, ResumeError where OUT
    belongs to another job, ModelError or NonFiniteError from the model, StorageError from the disk, StopRequested
    after a signal. Whatever it raises, what is in the journal is kept.
    """
    folder = job.beside(".run")
    folder.mkdir(parents=True, exist_ok=True)
    stop = stop or PoliteStop()
    with exclusive(folder / "lock"), stop.listening():
        run = _Run(job, folder, progress or Progress(), stop)
        try:
            summary = run.complete(open_annotator)
        except BaseException:
            run.leave()
            raise
        run.clean_up()
    if job.qrels is not None:
        job.qrels.parent.mkdir(parents=True, exist_ok=True)
        judgments = read_judgments(job.out)
        write_qrels(job.qrels, ((j.query_id, j.doc_id, j.grade) for j in judgments))
    return replace(summary, qrels=str(job.qrels) if job.qrels else None)


class _Run:
    """One job in its folder, under the lock."""

    def __init__(self, job: LabelJob, folder: Path, progress: Progress, stop: PoliteStop) -> None:
        self._job, self._folder, self._progress, self._stop = job, folder, progress, stop
        self._clock = _Clock()
        self._identity_now: Identity = {}

    def complete(self, open_annotator: Callable[[], AbstractContextManager[Annotator]]) -> Summary:
        finished = Manifest.load(self._job.beside(".manifest.json"))
        self._progress.phase("reading")
        digest = readers.digest(self._job.source)
        if not (finished and finished.identity.get("input") == digest and self._job.out.exists()):
            self._spool(digest)  # before the model is loaded, so that bad input is told at once
        prepare = self._clock.lap()
        self._progress.phase("loading")
        with open_annotator() as annotator:
            identity = self._identity(digest, annotator)
            load = self._clock.lap()
            self._identity_now = identity
            if finished and self._is_finished(finished, identity):
                return self._again(finished)
            self._claim(finished, identity)
            with closing(Spool(self._spool(digest))) as spool:
                effort, offsets = self._label(annotator, spool, identity_digest(identity))
                self._progress.phase("writing")
                tally = write_outputs(
                    self._job.out, annotator.rubric.values, self._folder / "journal", offsets, spool, self._errors
                )
        effort = replace(effort, prepare_seconds=prepare, load_seconds=load, write_seconds=self._clock.lap())
        result = {"tally": asdict(tally), "effort": asdict(effort), "out_sha256": file_sha256(self._job.out)}
        Manifest(identity, environment(), result).save(self._job.beside(".manifest.json"))
        return self._summary(tally, effort)

    def clean_up(self) -> None:
        """Remove what killed writers left and the run's folder, unless another job's unfinished run lies in it."""
        for target in (self._job.out, self._errors, self._job.beside(".manifest.json")):
            for stale in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
                stale.unlink(missing_ok=True)
        running = Manifest.load(self._folder / "manifest.json")
        if running is None or running.identity == self._identity_now:
            shutil.rmtree(self._folder)

    def leave(self) -> None:
        """Remove the folder of a run that failed before it began."""
        if not (self._folder / "manifest.json").exists():
            shutil.rmtree(self._folder)

    @property
    def _errors(self) -> Path:
        return self._job.beside(".errors.jsonl")

    def _summary(self, tally: Tally, effort: Effort, already_finished: bool = False) -> Summary:
        errors = str(self._errors) if tally.rejected + tally.unfit else None
        return Summary(str(self._job.out), errors, None, tally, effort, already_finished)

    def _identity(self, digest: str, annotator: Annotator) -> Identity:
        selection = {f"selection.{name}": str(value) for name, value in asdict(self._job.selection).items()}
        own = {"pairgrade": package_version(), "input": digest, "output": self._job.out.suffix}
        return own | selection | annotator.identity()

    def _is_finished(self, finished: Manifest, identity: Identity) -> bool:
        out = self._job.out
        if finished.identity != identity or not out.is_file():
            return False
        if file_sha256(out) != finished.result["out_sha256"]:
            if self._job.overwrite:
                return False
            raise ResumeError(f"{out} was changed after its run; move it away, or have it made again with --overwrite")
        return True

    def _again(self, finished: Manifest) -> Summary:
        return self._summary(Tally(**finished.result["tally"]), Effort(), already_finished=True)

    def _claim(self, finished: Manifest | None, identity: Identity) -> None:
        """Make the folder this job's own, or see that it is; another job's is refused or, if told so, replaced."""
        path = self._folder / "manifest.json"
        running = Manifest.load(path)
        if running is not None and running.identity == identity:
            return
        out = self._job.out
        if not self._job.overwrite and (running is not None or out.exists()):
            what = f"{self._folder} holds an unfinished run" if running else f"{out} exists already"
            other = running or finished
            how = "; ".join(differences(other.identity, identity)) if other else "it was not made by this command"
            raise ResumeError(f"{what} of another job: {how}. Name another output, or replace it with --overwrite")
        (self._folder / "journal").unlink(missing_ok=True)
        Manifest(identity, environment()).save(path)

    def _spool(self, digest: str) -> Path:
        """Return the path of the input's spool, made now if it is not there."""
        name = identity_digest({"input": digest, "selection": repr(self._job.selection)})[:16]
        path = self._folder / f"spool-{name}.sqlite"
        if not path.exists():
            for stale in self._folder.glob("spool-*"):
                stale.unlink()
            rows = readers.numbered_pairs(self._job.source, self._folder)
            build(path, rows, self._job.selection, self._job.source.pairs)
        return path

    def _label(self, annotator: Annotator, spool: Spool, identity: str) -> tuple[Effort, npt.NDArray[np.int64]]:
        """Label what the journal lacks; return where in it each row's outcome lies (8 bytes a pair, -1 for gaps)."""
        path = self._folder / "journal"
        offsets = np.full(spool.last_row + 1, -1, np.int64)
        rows: list[int] = []

        def pairs() -> Iterator[Pair]:
            for row, pair in spool.pairs(lambda row: bool(offsets[row] < 0)):
                rows.append(row)
                yield pair

        with closing(Journal(path, identity)) as journal:
            for offset, entry in read_entries(path):
                if offsets[entry.row] < 0:
                    offsets[entry.row] = offset
            resumed = int((offsets >= 0).sum())
            self._progress.phase("labelling")
            self._progress.start(len(spool), resumed)
            before = replace(annotator.counters)
            self._clock.lap()
            for window in windows(pairs(), annotator.options.window):
                for batch in annotator.outcomes(window):
                    entries = [
                        Entry(rows[place], None, outcome.reason)
                        if isinstance(outcome, Unfit)
                        else Entry(rows[place], outcome)
                        for place, outcome in batch
                    ]
                    with self._stop.uninterrupted():
                        offsets[[entry.row for entry in entries]] = journal.append(entries)
                    self._progress.advance(len(batch), annotator.counters)
                del rows[: len(window)]
            journal.sync()
        after = annotator.counters
        effort = Effort(
            pairs=int((offsets >= 0).sum()) - resumed,
            resumed=resumed,
            seconds=self._clock.lap(),
            model_seconds=after.seconds - before.seconds,
            computed_tokens=after.computed - before.computed,
            reused_tokens=after.reused - before.reused,
        )
        return effort, offsets


class _Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        last, self._last = self._last, time.perf_counter()
        return self._last - last
