"""A run's progress on stderr: a bar in a terminal, elsewhere (a file, say) a line a minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

import rich_click as click
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from pairgrade.backend import Counters
from pairgrade.cli.consoles import progress_console
from pairgrade.progress import Progress

B = TypeVar("B", bound="WorkBar")
_WIDE = 110  # columns of a terminal in which all has room
_EVERY = 60.0  # seconds from line to line where there is no terminal


class SparseLines:
    """Lines on stderr, one a minute at most; a run that ends within a minute writes none."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def tell(self, line: Callable[[], str]) -> None:
        """Write the line if it is time for one."""
        if time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            click.echo(line(), err=True)


class WorkBar:
    """The phase's name, steps done of all, what the last step told, and the time left."""

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
        self._lines = None if quiet or console.is_terminal else SparseLines()
        self._earlier, self._began = 0, time.monotonic()

    def phase(self, name: str) -> None:
        """Show the phase's name."""
        self._bar.update(self._task, description=name)

    def start(self, total: int, done: int = 0) -> None:
        """Begin with the steps, of which an earlier run did some."""
        self._earlier, self._began = done, time.monotonic()
        self._bar.update(self._task, total=total, completed=done)

    def move(self, steps: int = 0, told: str | None = None) -> None:
        """Show that so many more steps are done, and what they told."""
        latest = self._bar.tasks[0].fields["told"] if told is None else told
        self._bar.update(self._task, advance=steps, told=latest)
        if self._lines:
            self._lines.tell(self._line)

    def left(self) -> timedelta | None:
        """Return the time left, at the speed since the start; None before the first step."""
        task = self._bar.tasks[0]
        worked = task.completed - self._earlier
        if not worked or task.total is None:
            return None
        left = max(0.0, task.total - task.completed)
        return timedelta(seconds=round(left * (time.monotonic() - self._began) / worked))

    def _line(self) -> str:
        task, left = self._bar.tasks[0], self.left()
        of = "" if task.total is None else f" of {task.total:,.0f}"
        told = f", {task.fields['told']}" if task.fields["told"] else ""
        return f"{task.description}: {task.completed:,.0f}{of}{told}" + ("" if left is None else f"; about {left} left")

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
        speed, tokens = self._bar.tasks[0].speed, counters.computed + counters.reused
        rate = f"{speed:.1f} pairs/s, " if speed else ""
        self.move(pairs, f"{rate}{counters.reused / tokens:.0%} reused" if tokens else rate.rstrip(", "))
