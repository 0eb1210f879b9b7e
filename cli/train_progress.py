"""A training run's progress on stderr; with -v its looks and steps are logged too."""

from __future__ import annotations

import logging

from pairgrade.cli.progress import WorkBar
from pairgrade.train.fitting import Look, TrainProgress

_log = logging.getLogger(__name__)


class TerminalTrainProgress(WorkBar, TrainProgress):
    """Steps, the loss, what the last look at the validation pairs found, the time left."""

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet)
        self._validation = ""

    def step(self, loss: float) -> None:
        """Move the bar."""
        self.move(1, f"loss {loss:.3f}{self._validation}")
        _log.debug("step %d: loss %.4f", int(self._bar.tasks[0].completed), loss)

    def looking(self, done: int, total: int) -> None:
        """Show how far a look is."""
        self.move(told=f"look: {done:,}/{total:,}{self._validation}")

    def evaluated(self, found: Look) -> None:
        """Show the figures, and log them with the time left."""
        self._validation = f", {found.summary}"
        self.move(told=found.summary)
        left = self.left()
        told = "" if left is None else f"; about {left} left"
        _log.info("step %d of %d: %s%s", found.step, int(self._bar.tasks[0].total or 0), found.summary, told)
