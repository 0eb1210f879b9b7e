"""Medians of repeated measurements, with an interval that assumes nothing of the noise."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

CONFIDENCE = 0.9  # what an interval must cover to count; reached from five measurements on


@dataclass(frozen=True, slots=True)
class Spread:
    """Repeated measurements of one thing."""

    median: float
    low: float  # ends of the interval of the median
    high: float
    coverage: float  # probability that such an interval holds the median
    values: tuple[float, ...]  # in the order they were measured

    @property
    def reach(self) -> float:
        """How far the interval reaches from the median on its longer side, as a share of the median."""
        return max(self.high - self.median, self.median - self.low) / self.median if self.median else 0.0

    def is_narrow(self, width: float) -> bool:
        """Whether the interval covers enough and reaches at most ``width`` (a share) to both sides."""
        return self.coverage >= CONFIDENCE and self.reach <= width


def spread(values: Sequence[float]) -> Spread:
    """Return median and interval of one or more measurements.

    The interval lies between two order statistics (the sign test turned round): the narrowest that covers the median
    with ``CONFIDENCE``, or from the lowest to the highest where there are too few for that.
    """
    ordered = sorted(values)
    count = len(ordered)
    place = 1
    while 2 * (place + 1) <= count + 1 and _coverage(count, place + 1) >= CONFIDENCE:
        place += 1
    return Spread(
        statistics.median(ordered), ordered[place - 1], ordered[count - place], _coverage(count, place), tuple(values)
    )


def _coverage(count: int, place: int) -> float:
    """Return the coverage of the interval from the ``place``-th lowest to the ``place``-th highest of ``count``."""
    outside = 2 * sum(comb(count, below) for below in range(place)) / float(2**count)
    return max(0.0, 1 - outside)
