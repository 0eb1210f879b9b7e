"""Measures cells in rounds, one measurement of each a round, until the medians are known well enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pairgrade.bench.cell_records import CellRun
from pairgrade.bench.matrix import Rounds
from pairgrade.bench.spread import spread
from pairgrade.errors import ModelError
from pairgrade.stop import StopRequested

Measure = Callable[[int, int], CellRun]  # (place of the cell, round) -> one measurement
Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """What the rounds gave."""

    runs: tuple[tuple[CellRun, ...], ...]  # of each cell, by round; empty for a cell that failed
    failed: dict[int, str]  # places of cells that cannot be measured, and why
    rounds: int
    stopped: str  # why there were no more rounds


def measure_rounds(names: Sequence[str], measure: Measure, options: Rounds, tell: Told = lambda _: None) -> Measured:
    """Interleave the cells, each round beginning with another; a cell that fails once is left out.

    Rounds go on until the interval of every median is narrow, the most rounds were made or the time is up. Where
    StopRequested comes after a whole round, the whole rounds are returned.
    """
    runs: list[list[CellRun]] = [[] for _ in names]
    failed: dict[int, str] = {}
    end = time.monotonic() + 60 * options.minutes
    done, stopped = 0, ""

    def play_round() -> None:
        for step in range(len(names)):
            place = (step + done) % len(names)
            if place in failed:
                continue
            tell(f"round {done + 1}: {names[place]}")
            try:
                runs[place].append(measure(place, done))
            except ModelError as error:
                failed[place] = str(error)
                runs[place].clear()

    def why_no_more() -> str:
        wide = [name for name, own in zip(names, runs, strict=True) if own and not _narrow(own, options.width)]
        near = f"within {options.width:.0%}"
        reached = f"not {near}: {', '.join(wide)}" if wide else f"every interval is {near} of its median"
        if len(failed) == len(names):
            return "no cell can be measured"
        if done >= options.least and not wide:
            return reached
        if done >= options.most:
            return f"no more were asked for; {reached}"
        if time.monotonic() > end:
            return f"the time was up; {reached}"
        return ""

    while not stopped:
        try:
            play_round()
            done += 1
            stopped = why_no_more()
        except StopRequested as stop:
            if not done:
                raise
            stopped = f"stopped by {stop}"
            for own in runs:
                del own[done:]
    return Measured(tuple(map(tuple, runs)), failed, done, stopped)


def rates(runs: Sequence[CellRun]) -> list[float]:
    """Return the pairs a second of each measurement."""
    return [run.pairs / run.total_seconds for run in runs]


def _narrow(runs: Sequence[CellRun], width: float) -> bool:
    return spread(rates(runs)).is_narrow(width)
