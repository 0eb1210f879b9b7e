"""What full precision gives on real prompts: facts of every product's input, and the mean last hidden state.

Static 8-bit scales and smoothing are made from the ranges, the rounding of weights from what channels have in common
(``onnx_fit``). Rounded weights move every prompt's last hidden state by much the same, and so the label words' logits,
which turns near ties. What the mean over the prompts has lost is put into ``correction.npy`` and added to every last
hidden state, as Nagel et al. 2019 (arXiv 1906.04721, 4.2) do after each product; here once, behind the last norm, where
it is the shift of the labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.errors import ModelError
from pairgrade.export.onnx_linear import Channels
from pairgrade.hardware import usable_cores
from pairgrade.onnx_layout import cut
from pairgrade.onnx_runner import OnnxRunner
from pairgrade.onnx_table import Floats, TokenTable
from pairgrade.plan import PlanOptions, plan
from pairgrade.prompt import Prompt
from pairgrade.runner import State
from pairgrade.tokenizer import Ids

_TOKENS = 1024  # of a batch
_MERGE = {"low": np.minimum, "high": np.maximum, "together": np.add}  # fields of Channels

Ranges = dict[str, Channels]
_Seen = dict[str, dict[str, Floats]]  # of each input: fields of Channels


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What a run over the calibration's prompts found."""

    ranges: Ranges  # of each product's input, by its name
    hidden: Floats  # mean last hidden state, (hidden,)


def calibrate(
    folder: Path, embedding: TokenTable, prompts: Sequence[Prompt], *, with_prefix: bool, threads: int | None = None
) -> Calibrated:
    """Run observed graphs over prompts.

    Only documents count in the ranges, unless the prefix is to be rounded, too: its first tokens carry numbers a
    hundred times larger than any document's, and would spoil the scales. In the sums of channels' products, where they
    are observed, each prefix counts once. ModelError where a range is not finite.
    """
    runner = OnnxRunner(folder, embedding, threads or usable_cores(), "CPUExecutionProvider")
    seen: _Seen = {}
    last: list[Floats] = []
    known: set[tuple[bytes, ...]] = set()
    try:
        documents, prefixes = runner.outputs()
        for prefix, state, suffixes in _batches(runner, prompts):
            hidden, *values = runner.run(suffixes, state, ["hidden", *documents])
            last.append(hidden)
            _widen(seen, documents, values)
            for place, segment in enumerate(prefix):
                head = tuple(ids.tobytes() for ids in prefix[: place + 1])
                if head in known:
                    continue
                known.add(head)
                wanted = prefixes if with_prefix else [name for name in prefixes if name.startswith("together.")]
                if wanted:
                    before = runner.hold(prefix[:place])
                    _widen(seen, wanted, runner.run_prefix(segment, before, wanted))
    finally:
        runner.close()
    ranges = {name: Channels(**own) for name, own in seen.items()}
    for name, channels in ranges.items():
        if not np.isfinite([channels.low, channels.high]).all():
            raise ModelError(
                f"the inputs of {name} are not finite numbers on the calibration's prompts: this model cannot be used"
            )
    return Calibrated(ranges, _mean(last))


def mean_hidden(
    folder: Path, embedding: TokenTable, prompts: Sequence[Prompt], product: str, *, threads: int | None = None
) -> Floats:
    """Run rounded graphs over prompts; return the mean last hidden state, (hidden,). ``product``: see product_kind."""
    runner = OnnxRunner(folder, embedding, threads or usable_cores(), "CPUExecutionProvider", (product, product))
    try:
        return _mean([runner.hidden(suffixes, state) for _, state, suffixes in _batches(runner, prompts)])
    finally:
        runner.close()


def _batches(
    runner: OnnxRunner, prompts: Sequence[Prompt]
) -> Iterator[tuple[Sequence[Ids], State[dict[str, Any]], list[Ids]]]:
    for batch in plan(prompts, PlanOptions(by_length=True)):
        for indices in cut([len(suffix) for suffix in batch.suffixes], _TOKENS):
            yield batch.prefix, runner.hold(batch.prefix), [batch.suffixes[i] for i in indices]


def _mean(hidden: Sequence[Floats]) -> Floats:
    mean: Floats = np.concatenate(hidden).mean(0, dtype=np.float64).astype(np.float32)
    return mean


def _widen(seen: _Seen, outputs: Sequence[str], values: Sequence[Floats]) -> None:
    for output, value in zip(outputs, values, strict=True):
        kind, name = output.split(".", 1)
        own = seen.setdefault(name, {})
        own[kind] = _MERGE[kind](own[kind], value) if kind in own else value
