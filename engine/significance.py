"""Whether one ranking is better than another, from the values of both on the same queries.

The tests are those that M. D. Smucker, J. Allan and B. Carterette, "A comparison of statistical significance
tests for information retrieval evaluation", CIKM 2007, find fit: Student's paired t-test and Fisher's
randomization test on the difference of the means; both are two-sided. Several comparisons are corrected by
S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
Intervals are percentile intervals of a bootstrap over queries (``pairgrade.bootstrap``).

Arrays are (query, column): a column is a run or a difference of two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from pairgrade.bootstrap import Floats, draws, interval

_BLOCK = 1 << 20  # numbers of one intermediate array
_SLACK = 1e-12  # of a mean: sums of the same numbers in another order are equal


def paired_t_test(differences: Floats) -> list[float | None]:
    """Return the p-value of each column; None for fewer than two queries."""
    from scipy import stats

    queries, _ = differences.shape
    if queries < 2:
        return [None for _ in differences.T]
    values: list[float | None] = []
    for column in differences.T:
        spread = float(column.std(ddof=1))
        if spread <= _SLACK:  # every query differs by the same: no noise to test against
            values.append(1.0 if abs(column[0]) <= _SLACK else 0.0)
        else:
            statistic = float(column.mean()) / (spread / queries**0.5)
            values.append(float(2 * stats.t.sf(abs(statistic), queries - 1)))
    return values


def randomization_test(differences: Floats, permutations: int, seed: int) -> list[float]:
    """Return the p-value of each column: how often random signs give a mean as far from 0, or farther.

    All sign patterns are counted where there are no more of them than ``permutations``; else so many are drawn,
    and the observed one counts as one of them, so that no p-value is below 1 / (permutations + 1).
    """
    queries, columns = differences.shape
    found = np.abs(differences.sum(axis=0)) - _SLACK * max(1, queries)
    exact = queries < 63 and 2**queries <= permutations
    count = np.zeros(columns, dtype=np.int64)
    total = 0
    for signs in _all_signs(queries) if exact else _drawn_signs(queries, permutations, seed):
        count += (np.abs(signs @ differences) >= found).sum(axis=0)
        total += len(signs)
    extra = 0 if exact else 1
    return [float(p) for p in (count + extra) / (total + extra)]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p-values corrected for their number; None stays None and is not counted."""
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for step, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - step)))
        corrected[place] = highest
    return corrected


def mean_intervals(
    values: Floats, resamples: int, seed: int, confidence: float
) -> list[tuple[float, float] | tuple[None, None]]:
    """Return the bootstrap interval of each column's mean; (None, None) without resamples."""
    queries, columns = values.shape
    if not resamples or not queries:
        return [(None, None)] * columns
    source = draws(queries, resamples, seed)
    step = max(1, _BLOCK // queries)
    blocks = []
    while rows := list(islice(source, step)):
        blocks.append(np.asarray(rows, dtype=np.float64) @ values / queries)
    means = np.concatenate(blocks)
    return [interval(column, confidence) or (None, None) for column in means.T]


def _all_signs(queries: int) -> Iterator[Floats]:
    step = max(1, _BLOCK // max(1, queries))
    bits = np.arange(queries)
    for start in range(0, 2**queries, step):
        patterns = np.arange(start, min(start + step, 2**queries), dtype=np.int64)
        yield _signs((patterns[:, None] >> bits) & 1)


def _drawn_signs(queries: int, permutations: int, seed: int) -> Iterator[Floats]:
    random = np.random.default_rng(seed)
    step = max(1, _BLOCK // max(1, queries))
    for start in range(0, permutations, step):
        yield _signs(random.integers(2, size=(min(step, permutations - start), queries)))


def _signs(bits: npt.NDArray[np.int64]) -> Floats:
    return bits.astype(np.float64) * 2 - 1
