"""Whether a library's threads get the cores that they were given: their processor time by the clock's."""

from __future__ import annotations

import logging

_ENOUGH_SECONDS = 5.0  # of work before anything is said, and between two looks
_LEAST_SHARE = 0.75
_log = logging.getLogger(__name__)


class CoreShare:
    """Warns once where threads that spin while they wait for each other do not run all at the same time.

    Such threads use all of their cores for as long as they work. Where the processor time of the process is less than
    that, something keeps some of them off their cores, and the others wait for these at the end of every product.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._seconds = self._used = 0.0
        self._warm = False
        self._told = threads == 1  # a single thread waits for nobody

    def add(self, seconds: float, used: float) -> None:
        """Count so many seconds of work, in which the process used so much processor time, and warn where it shows.

        The first time does not count: it may wait for the disk, which the weights are read from.
        """
        if self._told or not self._warm:
            self._warm = True
            return
        self._seconds += seconds
        self._used += used
        if self._seconds < _ENOUGH_SECONDS:
            return
        share = self._used / (self._seconds * self._threads)
        if share < _LEAST_SHARE:
            self._told = True
            _log.warning(
                "the %d threads of the model got %.0f%% of their processor time; are they more than the "
                "cores, or is other work running? They wait for each other, and all are slow: lower --threads",
                self._threads, 100 * share,
            )  # fmt: skip
        self._seconds = self._used = 0.0
