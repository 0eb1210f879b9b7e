"""The optimizer loop of ``pairgrade train``: deterministic, resumable at any step, the best state kept."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pairgrade.errors import ModelError
from pairgrade.stop import PoliteStop
from pairgrade.train.checkpoint import Checkpoints, State
from pairgrade.train.examples import Example, micro_batches, suffix_of
from pairgrade.train.fitting import Fitting, TrainProgress
from pairgrade.train.label_model import LabelModel
from pairgrade.train.losses import label_loss
from pairgrade.train.metrics import Evaluation, evaluation, is_better
from pairgrade.train.options import TrainOptions
from pairgrade.train.seeds import part_seed


@dataclass(frozen=True, slots=True)
class Data:
    """What a run learns from and is judged by."""

    train: Sequence[Example]
    validation: Sequence[Example]
    grades: tuple[int, ...]


def fit(
    model: LabelModel,
    data: Data,
    options: TrainOptions,
    checkpoints: Checkpoints,
    stop: PoliteStop,
    progress: TrainProgress,
    finish: bool = False,
) -> State:
    """Train, or go on from the last checkpoint, and leave the best adapter in ``checkpoints``; return the curves.

    Deterministic on one machine: a run that was stopped and resumed ends with the same weights as one that was
    not. A signal saves a checkpoint before it goes on up. To ``finish`` is to train no further.
    """
    return _Fit(model, data, options, checkpoints, progress).run(stop, finish)


def batch_at(step: int, grades: Sequence[int], options: TrainOptions) -> list[int]:
    """Return the places of the pairs of one step, given every pair's grade; a function of the seed and the step alone.

    An epoch is cut so that each batch holds the grades in about the proportion of the whole. A step has one label
    token a pair: were batches drawn at random, most of its gradient would be about which grade they happen to have
    too many of.
    """
    each = math.ceil(len(grades) / options.batch)
    epoch, index = divmod(step, each)
    dice = random.Random(part_seed(options.seed, epoch))
    spread: list[tuple[float, int]] = []
    for grade in sorted(set(grades)):
        places = [place for place, own in enumerate(grades) if own == grade]
        dice.shuffle(places)
        start = dice.random()
        spread += [((rank + start) / len(places), place) for rank, place in enumerate(places)]
    order = [place for _, place in sorted(spread)]
    return order[index * options.batch : (index + 1) * options.batch]


def predict(
    model: LabelModel, examples: Sequence[Example], options: TrainOptions, progress: TrainProgress | None = None
) -> Any:
    """Return the label logits of examples, an array (n, k), without gradients."""
    import torch

    model.model.eval()
    shared = options.shares_prefix
    rows = [suffix_of(example, shared) for example in examples]
    logits: list[Any] = [None] * len(rows)
    done = 0
    with torch.inference_mode():
        prefix = model.prefix(examples[0].prompt.prefix[0]) if shared else None
        for places in micro_batches([len(row) for row in rows], 2 * options.micro_batch_tokens):
            found = model.logits([rows[place] for place in places], prefix).cpu().numpy()
            for place, values in zip(places, found, strict=True):
                logits[place] = values
            done += len(places)
            if progress:
                progress.looking(done, len(rows))
    return np.stack(logits)


def gradients(model: LabelModel, batch: Sequence[Example], options: TrainOptions) -> float:
    """Add the gradient of a batch's mean loss to the parameters, and return the loss."""
    import torch

    model.model.train()
    rows = [suffix_of(example, options.shares_prefix) for example in batch]
    prefix = model.prefix(batch[0].prompt.prefix[0]) if options.shares_prefix else None
    total = 0.0
    for places in micro_batches([len(row) for row in rows], options.micro_batch_tokens):
        targets = torch.tensor([batch[place].target for place in places], device=model.device)
        logits = model.logits([rows[place] for place in places], prefix)
        loss = label_loss(logits, targets, options.ordinal_weight).sum() / len(batch)
        loss.backward()
        total += float(loss.detach())
    if prefix:
        prefix.backward()
    return total


class _Fit(Fitting):
    """One run's parts."""

    memory_advice = (
        "Give a lower --micro-batch-tokens: it changes the memory and, without --dropout, not the result, and the same "
        "command goes on"
    )

    def __init__(
        self,
        model: LabelModel,
        data: Data,
        options: TrainOptions,
        checkpoints: Checkpoints,
        progress: TrainProgress,
    ) -> None:
        every = options.evaluate_every or max(1, math.ceil(len(data.train) / options.batch) // 2)
        super().__init__(model.model, options, len(data.train), every, checkpoints, progress)
        self._model, self._data, self._options = model, data, options

    def _batch_loss(self, step: int) -> float:
        places = batch_at(step, [example.grade for example in self._data.train], self._options)
        return gradients(self._model, [self._data.train[place] for place in places], self._options)

    def _look(self, step: int) -> Evaluation:
        logits = predict(self._model, self._data.validation, self._options, self._progress)
        if not np.isfinite(logits).all():
            raise ModelError(
                f"after {step:,} steps the model's logits are not finite: its base's weights are not sound"
            )
        return evaluation(step, logits, self._data.validation, self._data.grades, self._options.ordinal_weight)

    def _is_better(self, found: Evaluation, best: Evaluation) -> bool:
        return is_better(found, best, self._options.select_by)
