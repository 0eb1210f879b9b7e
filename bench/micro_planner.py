"""Micro-benchmarks of the planner; see ``pairgrade.bench.micro``."""

from __future__ import annotations

from typing import Any

import pytest

from pairgrade import PlanOptions, Rubric
from pairgrade.bench.planner_scale import made
from pairgrade.fake import FakeTokenizer
from pairgrade.plan import plan
from pairgrade.prompt import PromptBuilder


@pytest.mark.parametrize("per_query", [1, 16, 256])
def test_plan_of_a_window(benchmark: Any, per_query: int) -> None:
    """Plan 1,024 prompts."""
    builder = PromptBuilder(Rubric.load("trec"), FakeTokenizer(), 2048)
    prompts = [builder.build(pair) for pair in made(1024, per_query, 300)]
    batches = benchmark(lambda: list(plan(prompts, PlanOptions())))
    assert sum(len(batch.suffixes) for batch in batches) == 1024


def test_prompts_of_a_window(benchmark: Any) -> None:
    """Build 1,024 prompts, a byte a token."""
    builder = PromptBuilder(Rubric.load("trec"), FakeTokenizer(), 2048)
    pairs = list(made(1024, 16, 300))
    prompts = benchmark(lambda: [builder.build(pair) for pair in pairs])
    assert len(prompts) == 1024
