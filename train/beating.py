"""A training's heartbeat: what it tells while it works, in the file that ``pairgrade status`` reads."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from pairgrade.heartbeat import Heartbeat
from pairgrade.train.fitting import Look, TrainProgress

_RATE_SECONDS = 3600.0  # a step may take a minute, and the looks between count


class BeatingProgress(TrainProgress):
    """Passes on all that it is told, and writes it into a heartbeat file; use it in a ``with``."""

    def __init__(self, progress: TrainProgress, path: Path) -> None:
        self._progress, self._path = progress, path
        self._beat: Heartbeat | None = None  # from the first step on; before that the lock alone tells of the run

    def __enter__(self) -> BeatingProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        early = error is not None and not self._path.exists()  # an earlier process's tells more than this one could
        beat = self._beat or (self._new(0) if early else None)
        if beat:
            beat.__exit__(kind, error, trace)

    def phase(self, name: str) -> None:
        """Begin a phase; those after the training are ``writing`` in the file."""
        self._progress.phase(name)
        if self._beat:
            self._beat.writing()

    def start(self, steps: int, done: int) -> None:
        """Make the file."""
        self._progress.start(steps, done)
        self._beat = self._new(steps)
        self._beat.resume(done, 0)

    def step(self, loss: float) -> None:
        """Count the step."""
        self._progress.step(loss)
        if self._beat:
            self._beat.advance(1, 0)

    def looking(self, done: int, total: int) -> None:
        """Tell how far the look is."""
        self._progress.looking(done, total)
        if self._beat:
            self._beat.tell(f"look: {done:,} of {total:,}")

    def evaluated(self, found: Look) -> None:
        """Tell the figures."""
        self._progress.evaluated(found)
        if self._beat:
            self._beat.tell(f"step {found.step:,}: {found.summary}")

    def _new(self, steps: int) -> Heartbeat:
        return Heartbeat(self._path, steps, phase="training", unit="steps", rate_seconds=_RATE_SECONDS)
