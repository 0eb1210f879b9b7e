from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairgrade.plan import PlanOptions, plan
from pairgrade.prompt import Prompt


def prompt(prefix: list[list[int]], suffix: list[int]) -> Prompt:
    return Prompt(tuple(np.array(s, np.int32) for s in prefix), np.array(suffix, np.int32), len(suffix), 0)


prompts = st.lists(
    st.builds(
        lambda query, suffix: prompt([[1, 2], query], suffix),
        st.lists(st.integers(0, 3), min_size=1, max_size=2),
        st.lists(st.integers(0, 3), min_size=1, max_size=6),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(prompts, st.integers(1, 20), st.booleans())
def test_every_prompt_runs_once_behind_its_own_prefix(window: list[Prompt], budget: int, by_length: bool) -> None:
    seen: dict[int, tuple[bytes, ...]] = {}
    for batch in plan(window, PlanOptions(budget, by_length)):
        assert len(batch.suffixes) == 1 or sum(map(len, batch.suffixes)) <= budget
        for suffix, indices in zip(batch.suffixes, batch.indices, strict=True):
            for index in indices:
                assert index not in seen
                seen[index] = tuple(s.tobytes() for s in (*batch.prefix, suffix))
    assert seen == {i: tuple(s.tobytes() for s in (*p.prefix, p.suffix)) for i, p in enumerate(window)}


@settings(max_examples=100, deadline=None)
@given(prompts, st.integers(1, 20))
def test_equal_prompts_are_scored_once_and_prefixes_never_come_back(window: list[Prompt], budget: int) -> None:
    batches = list(plan(window, PlanOptions(budget)))
    whole = [(b.prefix[1].tobytes(), s.tobytes()) for b in batches for s in b.suffixes]
    assert len(whole) == len(set(whole))
    prefixes = [b.prefix[1].tobytes() for b in batches]
    changes = sum(a != b for a, b in pairwise(prefixes))
    assert changes == max(0, len(set(prefixes)) - 1)


def test_groups_come_in_order_of_first_appearance() -> None:
    window = [prompt([[0], [q]], [9, i]) for i, q in enumerate([5, 3, 5, 4, 3])]
    assert [b.prefix[1][0] for b in plan(window, PlanOptions())] == [5, 3, 4]


def test_by_length_sorts_a_groups_documents() -> None:
    window = [prompt([[0]], [1] * n) for n in (5, 1, 4, 2)]
    (batch,) = plan(window, PlanOptions(by_length=True))
    assert [len(s) for s in batch.suffixes] == [1, 2, 4, 5]


def test_a_budget_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PlanOptions(0)
