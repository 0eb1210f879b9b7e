"""A run's progress as a bar on stderr; nothing where stderr is not a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from pairgrade.backend import Counters
from pairgrade.cli.consoles import progress_console
from pairgrade.progress import Progress

B = TypeVar("B", bound="WorkBar")
_WIDE = 110  # columns of a terminal in which all has room


class WorkBar:
    """A bar with the phase's name, steps done of all, what the last step told, and the time left."""

    def __init__(self, quiet: bool = False) -> None:
        console = progress_console()
        is_wide = console.width >= _WIDE
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24 if is_wide else 8),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            *([TimeElapsedColumn()] if is_wide else []),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task: TaskID = self._bar.add_task("starting", total=None, told="")

    def phase(self, name: str) -> None:
        """Show the phase's name."""
        self._bar.update(self._task, description=name)

    def start(self, total: int, done: int) -> None:
        """Show how far an earlier run came."""
        self._bar.update(self._task, total=total, completed=done)

    def __enter__(self: B) -> B:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class TerminalProgress(WorkBar, Progress):
    """Pairs a second, the share of tokens that were reused, the time left."""

    def advance(self, pairs: int, counters: Counters) -> None:
        """Move the bar."""
        self._bar.update(self._task, advance=pairs)
        task = self._bar.tasks[0]
        tokens = counters.computed + counters.reused
        rate = f"{task.speed:.1f} pairs/s, " if task.speed else ""
        if tokens:
            rate += f"{counters.reused / tokens:.0%} reused"
        self._bar.update(self._task, told=rate)
