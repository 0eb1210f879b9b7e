"""Which cells nobody need run: another is as good and as cheap, and better in one of the two."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby


def dominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Tell for each (cost, value) whether another point costs no more and is worth no less, and one of them truly.

    Equal points do not dominate each other. One pass over the points sorted by cost.
    """
    order = sorted(range(len(points)), key=lambda place: points[place][0])
    found = [False] * len(points)
    best = float("-inf")  # the highest value at a lower cost
    for _, group in groupby(order, key=lambda place: points[place][0]):
        places = list(group)
        top = max(points[place][1] for place in places)
        for place in places:
            value = points[place][1]
            found[place] = value < top or value <= best
        best = max(best, top)
    return found
