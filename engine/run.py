"""A labelling run: from a source of pairs to a judgments file, resumable and exact.

Beside the output OUT lie, while it runs, ``OUT.run/`` (lock, manifest, spool, journal) and, when it has finished,
``OUT.manifest.json`` and, if any row had no judgment, ``OUT.errors.jsonl``. OUT appears whole or not at all.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, replace
from pathlib import Path

from pairgrade import readers
from pairgrade.annotator import Annotator
from pairgrade.assemble import write_outputs
from pairgrade.canaries import Canaries, CanaryReport
from pairgrade.environment import environment, package_version
from pairgrade.errors import InputError, PairgradeError, ResumeError, StorageError
from pairgrade.file_hashes import file_sha256
from pairgrade.heartbeat import Heartbeat
from pairgrade.job import LabelJob
from pairgrade.label_loop import LabelLoop
from pairgrade.lock import exclusive
from pairgrade.manifest import Identity, Manifest, differences, identity_digest
from pairgrade.progress import Clock, Progress
from pairgrade.run_folder import RunFolder, no_empty_parents, remove_stale_writers
from pairgrade.run_qrels import CONTENT, PLACE, RunQrels
from pairgrade.spool import Spool, build, is_sound
from pairgrade.stop import PoliteStop
from pairgrade.summary import Effort, Summary, Tally

_log = logging.getLogger(__name__)


def label(
    job: LabelJob,
    open_annotator: Callable[[], AbstractContextManager[Annotator]],
    progress: Progress | None = None,
    stop: PoliteStop | None = None,
) -> Summary:
    """Run or resume a job and return its summary; a finished job is not done again.

    Raises InputError for an unusable source, LockedError where another process works on OUT, ResumeError where OUT
    belongs to another job, or it or its qrels were changed after their run, ModelError or NonFiniteError from the
    model, StorageError from the disk, StopRequested after a signal. Whatever it raises, what is in the journal is kept.
    """
    stop = stop or PoliteStop()
    folder = RunFolder(job.folder)
    try:
        with no_empty_parents(job.out), exclusive(folder.lock), stop.listening():
            return _Run(job, folder, progress or Progress(), stop).complete(open_annotator)
    except OSError as error:
        if isinstance(error, PairgradeError):
            raise
        raise StorageError(f"{error.filename or job.out}: {error.strerror or error}") from error
    except sqlite3.Error:  # whose words quote the text that they stumble over
        raise StorageError(
            f"{folder.path}: the input's copy was damaged while it was read; run the same command again, which makes "
            "it anew"
        ) from None


class _Run:
    """One job in its folder, under the lock."""

    def __init__(self, job: LabelJob, folder: RunFolder, progress: Progress, stop: PoliteStop) -> None:
        self._job, self._folder, self._progress, self._stop = job, folder, progress, stop
        self._clock = Clock()
        self._canaries: Canaries | None = None
        self._stamps: dict[str, tuple[int, int]] = {}
        self._sound: Path | None = None  # the spool that was made or looked through
        self._qrels = RunQrels(job.qrels, job.out) if job.qrels else None
        self._finished: Manifest | None = None
        self._running: Manifest | None = None
        self._may_replace = job.overwrite  # what lies at OUT

    def complete(self, open_annotator: Callable[[], AbstractContextManager[Annotator]]) -> Summary:
        try:
            self._finished, self._running = Manifest.load(self._job.manifest), Manifest.load(self._folder.manifest)
            if self._qrels:
                self._qrels.check_place()
                if not self._job.overwrite:
                    self._qrels.refuse_foreign((self._finished, self._running))
            if self._job.canaries:
                self._canaries = Canaries(self._job.canaries, self._folder.canaries)
            self._progress.phase("reading")
            self._stamps = readers.stamps(self._job.source)
            asked = self._asked(readers.digest(self._job.source))
            finished = self._finished is not None and self._job.out.exists() and _holds(self._finished, asked)
            if not finished:
                self._refuse_others(self._running, asked)
                self._require_pairs(self._spool(asked))  # before the model is loaded: bad input is told at once
            prepare = self._clock.lap()
            self._progress.phase("loading")
            with self._stop.uninterrupted():  # a signal would be lost inside the library's callbacks
                annotator_context = open_annotator()
            with annotator_context as annotator:
                identity = asked | self._decided(annotator)
                load = self._clock.lap()
                summary = self._already(identity) or self._work(annotator, identity, prepare, load)
        except BaseException:
            if not self._folder.manifest.exists():
                self._folder.remove()  # the run failed before it began
            raise
        running = Manifest.load(self._folder.manifest)
        if running is None or running.identity == identity:
            self._folder.remove()
        for target in filter(None, (self._job.out, self._job.errors, self._job.manifest, self._job.qrels)):
            remove_stale_writers(target)
        return summary

    def _asked(self, digest: str) -> Identity:
        """Name what decides the result and is known before the model is loaded."""
        selection = asdict(self._job.selection)
        if self._job.selection.sample is None:
            del selection["seed"]
        own = {"pairgrade": package_version(), "input": digest, "output": self._job.out.suffix}
        if own["output"] == ".parquet":
            own["pyarrow"] = package_version("pyarrow")
        return own | {f"selection.{name}": str(value) for name, value in selection.items()}

    def _decided(self, annotator: Annotator) -> Identity:
        return {"numpy": package_version("numpy")} | annotator.identity()

    def _already(self, identity: Identity) -> Summary | None:
        """Return the summary of a job that was finished before, or None where there is something to do."""
        finished, out = self._finished, self._job.out
        if finished is None or finished.identity != identity or not out.is_file():
            return None
        try:
            tally = Tally(**finished.result["tally"])
            sound = file_sha256(out) == finished.result["out_sha256"]
        except (KeyError, TypeError):
            raise ResumeError(f"{self._job.manifest} is damaged; move it and {out} away") from None
        if sound:
            self._add_qrels(finished)
            return self._summary(tally, Effort(), already_finished=True)
        if not self._job.overwrite:
            raise ResumeError(f"{out} was changed after its run; move it away, or have it made again with --overwrite")
        return None

    def _work(self, annotator: Annotator, identity: Identity, prepare: float, load: float) -> Summary:
        running = self._claim(identity, annotator)
        with (
            closing(Spool(self._spool(identity))) as spool,
            Heartbeat(self._folder.heartbeat, len(spool), spool.rejected()) as heartbeat,
        ):
            loop = LabelLoop(self._folder, self._progress, self._stop, self._canaries, self._job.canary_every)
            effort, offsets = loop.run(annotator, spool, identity_digest(identity), heartbeat)
            self._clock.lap()
            if not self._may_replace:
                self._require_no_output()
                running = replace(running, environment=running.environment | {_MAY_REPLACE: True})
                running.save(self._folder.manifest)  # from here on OUT may be this run's own
            self._progress.phase("writing")
            heartbeat.writing()
            grades = annotator.rubric.values
            tally = write_outputs(self._job.out, grades, self._folder.journal, offsets, spool, self._job.errors)
            if self._qrels:
                if not self._job.overwrite:  # another run may have written it meanwhile
                    self._qrels.refuse_foreign((self._finished, self._running))
                self._qrels.write()
        effort = replace(effort, prepare_seconds=prepare, load_seconds=load, write_seconds=self._clock.lap())
        result = {"tally": asdict(tally), "effort": asdict(effort), "out_sha256": file_sha256(self._job.out)}
        Manifest(identity, self._environment(annotator), result).save(self._job.manifest)
        return self._summary(tally, effort, canaries=self._canaries.report() if self._canaries else None)

    def _environment(self, annotator: Annotator) -> dict[str, object]:
        finished = self._finished.environment if self._finished else {}
        qrels = self._qrels.facts() if self._qrels else {key: finished.get(key) for key in (PLACE, CONTENT)}
        return environment() | {"threads": annotator.threads} | qrels

    def _summary(
        self, tally: Tally, effort: Effort, already_finished: bool = False, canaries: CanaryReport | None = None
    ) -> Summary:
        errors = str(self._job.errors) if tally.rejected + tally.unfit else None
        qrels = str(self._job.qrels) if self._job.qrels else None
        return Summary(str(self._job.out), errors, qrels, tally, effort, already_finished, canaries)

    def _add_qrels(self, finished: Manifest) -> None:
        """Write the qrels of a finished job where they are not there already; else nothing is touched."""
        if self._qrels is None:
            return
        self._qrels.write_missing()
        known = finished.environment | self._qrels.facts()
        if finished.environment != known:
            replace(finished, environment=known).save(self._job.manifest)

    def _claim(self, identity: Identity, annotator: Annotator) -> Manifest:
        """Make the folder this job's own, or see that it is; another job's is refused or, if told so, replaced."""
        self._refuse_others(self._running, identity)
        if self._running is not None and self._running.identity == identity:
            self._may_replace |= self._running.environment.get(_MAY_REPLACE) is True
        if not self._may_replace:
            self._require_no_output(identity)
        if self._running is None or self._running.identity != identity:
            self._folder.journal.unlink(missing_ok=True)
            self._folder.canaries.unlink(missing_ok=True)
        running = Manifest(identity, self._environment(annotator) | {_MAY_REPLACE: self._may_replace})
        running.save(self._folder.manifest)
        return running

    def _require_no_output(self, identity: Identity | None = None) -> None:
        """Refuse to replace a file that is not this run's."""
        if self._job.out.exists():
            how = "it was not made by this command"
            if self._finished is not None and identity is not None:
                how = _difference(self._finished, identity)
            raise ResumeError(f"{self._job.out} exists already, of another job: {how}. {_WAYS_OUT}")

    def _refuse_others(self, running: Manifest | None, identity: Identity) -> None:
        """Refuse to touch the unfinished run of another job."""
        if running is not None and not self._job.overwrite and not _holds(running, identity):
            how = _difference(running, identity)
            raise ResumeError(f"{self._folder.path} holds an unfinished run of another job: {how}. {_WAYS_OUT}")

    def _spool(self, identity: Identity) -> Path:
        """Return the path of the input's spool, made now if it is not there."""
        reading = {k: v for k, v in identity.items() if k in ("pairgrade", "input") or k.startswith("selection.")}
        path = self._folder.spool(identity_digest(reading)[:16])
        if path.exists() and path != self._sound and not is_sound(path):
            _log.warning("%s, the input's copy, is damaged and made again", path)
            path.unlink()
        self._sound = path
        if not path.exists():
            self._folder.remove_scratch()
            rows = readers.numbered_pairs(self._job.source, self._folder.path)
            build(path, rows, self._job.selection, self._job.source.pairs)
            try:
                readers.require_same(self._stamps, readers.stamps(self._job.source))
            except InputError:
                self._folder.remove_scratch()
                raise
        return path

    def _require_pairs(self, path: Path) -> None:
        """Raise InputError where no row of the input is a usable pair."""
        with closing(Spool(path)) as spool:
            if not len(spool):
                first = next(spool.rejections(), None)
                told = f"; {spool.rejected():,} rows were rejected, the first: {first.told}" if first else ""
                raise InputError(f"{spool.name}: no usable pair came of it{told}")


_MAY_REPLACE = "may_replace_output"  # key of an unfinished run's environment
_WAYS_OUT = "Name another output, or replace it with --overwrite"


def _holds(manifest: Manifest, identity: Identity) -> bool:
    """Whether a manifest's identity agrees with all that is known of another."""
    return all(manifest.identity.get(name) == value for name, value in identity.items())


def _difference(manifest: Manifest, identity: Identity) -> str:
    return "; ".join(differences({k: v for k, v in manifest.identity.items() if k in identity}, identity))
