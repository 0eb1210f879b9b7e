"""A training run's progress as a bar on stderr; with -v its looks and steps are logged too."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

from pairgrade.cli.progress import WorkBar
from pairgrade.train.fitting import Look, TrainProgress

_log = logging.getLogger(__name__)


class TerminalTrainProgress(WorkBar, TrainProgress):
    """Steps, the loss, what the last look at the validation pairs found, the time left."""

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet)
        self._validation = ""
        self._earlier = 0
        self._began = time.monotonic()

    def start(self, steps: int, done: int) -> None:
        """Show how far an earlier run came."""
        super().start(steps, done)
        self._earlier, self._began = done, time.monotonic()

    def step(self, loss: float) -> None:
        """Move the bar."""
        self._bar.update(self._task, advance=1, told=f"loss {loss:.3f}{self._validation}")
        _log.debug("step %d: loss %.4f", int(self._bar.tasks[0].completed), loss)

    def looking(self, done: int, total: int) -> None:
        """Show how far a look is."""
        self._bar.update(self._task, told=f"look: {done:,}/{total:,}{self._validation}")

    def evaluated(self, found: Look) -> None:
        """Show the figures, and log them with the time left."""
        self._validation = f", {found.summary}"
        self._bar.update(self._task, told=found.summary)
        task = self._bar.tasks[0]
        worked, steps = task.completed - self._earlier, int(task.total or 0)
        left = (steps - task.completed) * (time.monotonic() - self._began) / worked if worked else None
        told = "" if left is None else f"; about {timedelta(seconds=round(left))} left"
        _log.info("step %d of %d: %s%s", found.step, steps, found.summary, told)
