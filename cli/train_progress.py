"""A training run's progress as a bar on stderr; lines instead where stderr is not a terminal and -v was given."""

from __future__ import annotations

import logging
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from pairgrade.train.fitting import Look, TrainProgress

_log = logging.getLogger(__name__)


class TerminalTrainProgress(TrainProgress):
    """Steps, the loss, what the last look at the validation pairs found, the time left."""

    def __init__(self, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[found]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task: TaskID = self._bar.add_task("starting", total=None, found="")
        self._validation = ""

    def phase(self, name: str) -> None:
        """Show the phase's name."""
        self._bar.update(self._task, description=name)

    def start(self, steps: int, done: int) -> None:
        """Show how far an earlier run came."""
        self._bar.update(self._task, total=steps, completed=done)

    def step(self, loss: float) -> None:
        """Move the bar."""
        self._bar.update(self._task, advance=1, found=f"loss {loss:.3f}{self._validation}")
        _log.debug("step %d: loss %.4f", int(self._bar.tasks[0].completed), loss)

    def evaluated(self, found: Look) -> None:
        """Show the figures."""
        self._validation = f", {found.summary}"
        _log.debug("%s", found)

    def __enter__(self) -> TerminalTrainProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
