"""``OUT.run``, which lies beside OUT while a training works on it: its lock, its heartbeat, its manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pairgrade.errors import ResumeError
from pairgrade.lock import exclusive
from pairgrade.manifest import Identity, Manifest, differences
from pairgrade.run_folder import RunFolder
from pairgrade.stop import PoliteStop
from pairgrade.train.beating import BeatingProgress
from pairgrade.train.fitting import TrainProgress


@contextmanager
def at_work(out: Path, progress: TrainProgress, stop: PoliteStop) -> Iterator[tuple[Path, TrainProgress]]:
    """Hold the folder's lock and listen for signals; yield the folder, and what is to be told how far the run is.

    The folder is removed when the block is done, and where it failed before the run began. LockedError where another
    process works on OUT.
    """
    folder = RunFolder(out.with_name(f"{out.name}.run"))
    with exclusive(folder.lock), stop.listening():
        try:
            with BeatingProgress(progress, folder.heartbeat) as beating:
                yield folder.path, beating
        except BaseException:
            if not folder.manifest.exists():
                folder.heartbeat.unlink(missing_ok=True)
                folder.lock.unlink(missing_ok=True)
                with suppress(OSError):  # the pairs of a pretraining lie in it
                    folder.path.rmdir()
            raise
        for path in folder.path.iterdir():
            path.unlink()
        folder.path.rmdir()


def refuse_existing(out: Path, overwrite: bool, read: Callable[[Path], object]) -> None:
    """Raise ResumeError where OUT is there and not to be replaced, and ``read``'s error where it is of another kind."""
    if out.exists():
        if not overwrite:
            raise ResumeError(f"{out} exists already; name another folder, or replace it with --overwrite")
        read(out)


def claim(folder: Path, identity: Identity, overwrite: bool) -> None:
    """Make the run's folder this job's own, or see that it is."""
    manifest = RunFolder(folder).manifest
    running = Manifest.load(manifest)
    if running is not None and running.identity != identity:
        if not overwrite:
            how = "; ".join(differences(running.identity, identity))
            raise ResumeError(
                f"{folder} holds an unfinished run of another job: {how}. Name another output, or replace it with "
                "--overwrite"
            )
        for path in folder.glob("*.safetensors"):
            path.unlink()
        (folder / "state.json").unlink(missing_ok=True)
    Manifest(identity).save(manifest)
