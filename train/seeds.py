"""Seeds of a run's parts: each a function of the run's seed and the part's number, so that a run can be resumed."""

from __future__ import annotations

MOST_SEED = 2**32 - 1  # so that torch's seeds, of 64 bits, have room for the part
_STRIDE = 1_000_003  # more than a run has steps, a prime


def part_seed(seed: int, number: int) -> int:
    """Return the seed of a run's step, epoch or example."""
    return seed * _STRIDE + number
