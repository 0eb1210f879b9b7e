"""What a long job tells while it works, and its clock."""

from __future__ import annotations

import time

from pairgrade.backend import Counters


class Progress:
    """What a run tells while it works; this one keeps silent."""

    def phase(self, name: str) -> None:
        """Begin one of the phases reading, loading, labelling, writing."""

    def start(self, total: int, done: int) -> None:
        """Labelling begins, of so many pairs in all; so many were done in an earlier run."""

    def advance(self, pairs: int, counters: Counters) -> None:
        """So many more pairs are done."""


class Clock:
    """Seconds from lap to lap."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        last, self._last = self._last, time.perf_counter()
        return self._last - last
