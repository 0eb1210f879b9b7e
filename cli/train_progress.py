"""A training run's progress as a bar on stderr; with -v its steps are logged too."""

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
        self._bar.update(self._task, advance=1, told=f"loss {loss:.3f}{self._validation}")
        _log.debug("step %d: loss %.4f", int(self._bar.tasks[0].completed), loss)

    def evaluated(self, found: Look) -> None:
        """Show the figures."""
        self._validation = f", {found.summary}"
        _log.debug("%s", found)
