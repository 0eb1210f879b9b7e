from itertools import combinations, product

import numpy as np
import pytest

from pairgrade.bench.frontier import dominated
from pairgrade.bench.spread import CONFIDENCE, spread


@pytest.mark.parametrize("count", [1, 2, 5, 6, 8, 9, 15])
def test_the_interval_covers_the_median_as_often_as_it_says(count: int) -> None:
    random = np.random.default_rng(count)
    samples = random.exponential(size=(20_000, count))  # skewed: nothing is assumed of the noise
    low, high = np.array([[(found := spread(row.tolist())).low, found.high] for row in samples[:4000]]).T
    covered = np.mean((low <= np.log(2)) & (np.log(2) <= high))
    assert covered == pytest.approx(spread(samples[0].tolist()).coverage, abs=0.02)


def test_five_measurements_are_the_fewest_that_cover_enough() -> None:
    assert spread([1.0, 1.0, 1.0, 1.0]).coverage < CONFIDENCE
    assert spread([1.0] * 5).coverage >= CONFIDENCE
    assert not spread([1.0] * 4).is_narrow(0.5)
    assert spread([1.0] * 5).is_narrow(0.01)
    assert not spread([1.0, 1.0, 1.0, 1.0, 1.5]).is_narrow(0.2)
    assert not spread([1.0, 1.0, 1.0, 1.0, 1.09]).is_narrow(0.05)  # to one side alone it reaches further
    assert spread([1.0, 1.0, 1.0, 1.0, 1.05]).is_narrow(0.0501)


def test_no_narrower_interval_would_do() -> None:
    found = spread([float(value) for value in range(1, 16)])
    assert (found.median, found.low, found.high) == (8, 4, 12)
    ones = sum(1 for signs in product((0, 1), repeat=15) if 4 < sum(signs) < 11)  # what 5 to 11 would cover
    assert ones / 2**15 < CONFIDENCE <= found.coverage


def test_dominated_points_are_those_of_a_search_through_all_pairs() -> None:
    random = np.random.default_rng(0)
    for size in (1, 2, 7, 30):
        for _ in range(50):
            points = [tuple(map(float, row)) for row in random.integers(0, 6, (size, 2))]
            expected = [False] * size
            for a, b in combinations(range(size), 2):
                for own, other in ((a, b), (b, a)):
                    (cost, value), (less, more) = points[own], points[other]
                    if less <= cost and more >= value and (less, more) != (cost, value):
                        expected[own] = True
            assert dominated(points) == expected
