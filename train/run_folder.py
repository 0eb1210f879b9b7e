"""``OUT.run``, which lies beside OUT while a training works on it: its lock, its heartbeat, its manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pairgrade.errors import ResumeError
from pairgrade.lock import exclusive
from pairgrade.manifest import Identity, Manifest, differences
from pairgrade.run_folder import RunFolder, named, no_empty_parents
from pairgrade.stop import PoliteStop
from pairgrade.train.beating import BeatingProgress
from pairgrade.train.fitting import TrainProgress

_CHECKPOINT = ("state.json", "*.safetensors")  # as they are removed: the state, which needs the others, first
_OWN = (*_CHECKPOINT, "train-*.jsonl", "dev-*.jsonl", ".*.tmp")  # what a training makes beside what every run does


@contextmanager
def at_work(out: Path, progress: TrainProgress, stop: PoliteStop) -> Iterator[tuple[Path, TrainProgress]]:
    """Hold the folder's lock and listen for signals; yield the folder, and what is to be told how far the run is.

    The folder is removed when the block is done, and where it failed before the run began. LockedError where another
    process works on OUT.
    """
    out = named(out)
    folder = RunFolder(out.with_name(f"{out.name}.run"))
    with no_empty_parents(out), exclusive(folder.lock), stop.listening():
        try:
            with BeatingProgress(progress, folder.heartbeat) as beating:
                yield folder.path, beating
        except BaseException:
            if not folder.manifest.exists():
                folder.remove()  # the pairs of a pretraining, and then the folder, stay
            raise
        _remove(folder.path, _OWN)
        folder.remove()


def refuse_existing(out: Path, overwrite: bool, read: Callable[[Path], object]) -> None:
    """Raise ResumeError where OUT is there and not to be replaced, and ``read``'s error where it is of another kind."""
    if out.exists():
        if not overwrite:
            raise ResumeError(f"{out} exists already; name another folder, or replace it with --overwrite")
        read(out)


def claim(folder: Path, identity: Identity, overwrite: bool, finish: bool = False) -> None:
    """Make the run's folder this job's own, or see that it is; a run without a checkpoint is in nobody's way.

    To ``finish`` a run what lies there is needed, so that it is not replaced.
    """
    manifest = RunFolder(folder).manifest
    running = Manifest.load(manifest)
    if running is None or running.identity != identity:
        if running is not None and (finish or not overwrite) and (folder / _CHECKPOINT[0]).exists():
            how = "; ".join(differences(running.identity, identity))
            way_out = "name another output, or replace it with --overwrite"
            if finish:
                way_out = "give the options of that run to finish it"
            raise ResumeError(f"{folder} holds an unfinished run of another job: {how}; {way_out}")
        _remove(folder, _CHECKPOINT)
    Manifest(identity).save(manifest)


def _remove(folder: Path, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
