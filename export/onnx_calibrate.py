"""The ranges of every product's input on real prompts, from which the static 8-bit scales are made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pairgrade.errors import ModelError
from pairgrade.export.onnx_linear import Channels
from pairgrade.hardware import usable_cores
from pairgrade.onnx_layout import cut
from pairgrade.onnx_runner import OnnxRunner
from pairgrade.onnx_table import Floats, TokenTable
from pairgrade.plan import PlanOptions, plan
from pairgrade.prompt import Prompt

_TOKENS = 1024  # of a batch

Ranges = dict[str, Channels]


def calibrate(
    folder: Path, embedding: TokenTable, prompts: Sequence[Prompt], *, with_prefix: bool, threads: int | None = None
) -> Ranges:
    """Run observed graphs over prompts; return the ranges of each product's input, by its name.

    Only documents count, unless the prefix is to be rounded, too: its first tokens carry numbers a hundred times
    larger than any document's, and would spoil the scales. ModelError where a range is not finite.
    """
    runner = OnnxRunner(folder, embedding, threads or usable_cores(), "CPUExecutionProvider")
    seen: Ranges = {}
    try:
        documents, prefixes = runner.outputs()
        for batch in plan(prompts, PlanOptions(by_length=True)):
            state = runner.hold(batch.prefix)
            for indices in cut([len(suffix) for suffix in batch.suffixes], _TOKENS):
                _widen(seen, documents, runner.run([batch.suffixes[i] for i in indices], state, documents))
            if with_prefix:
                for place, segment in enumerate(batch.prefix):
                    before = runner.hold(batch.prefix[:place])
                    _widen(seen, prefixes, runner.run_prefix(segment, before, prefixes))
    finally:
        runner.close()
    for name, channels in seen.items():
        if not np.isfinite([channels.low, channels.high]).all():
            raise ModelError(
                f"the inputs of {name} are not finite numbers on the calibration's prompts: this model cannot be used"
            )
    return seen


def _widen(seen: Ranges, names: Sequence[str], values: Sequence[Floats]) -> None:
    numbers = dict(zip(names, values, strict=True))
    for name in (name.removeprefix("low.") for name in names if name.startswith("low.")):
        low, high = numbers[f"low.{name}"], numbers[f"high.{name}"]
        before = seen.get(name, Channels(low, high))
        seen[name] = Channels(np.minimum(before.low, low), np.maximum(before.high, high))
