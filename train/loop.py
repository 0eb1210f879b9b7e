"""The optimizer loop of ``pairgrade train``: deterministic, resumable at any step, the best state kept."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pairgrade.stop import PoliteStop
from pairgrade.train.checkpoint import Checkpoints, State
from pairgrade.train.examples import Example, micro_batches, suffix_of
from pairgrade.train.label_model import LabelModel
from pairgrade.train.losses import label_loss
from pairgrade.train.metrics import evaluation, is_better
from pairgrade.train.options import TrainOptions

_GRADIENT_NORM = 1.0  # gradients are scaled down to this length
_SAVE_SECONDS = 120.0  # between checkpoints; the result does not depend on it


class Look(Protocol):
    """What an evaluation tells while a run works."""

    @property
    def step(self) -> int:
        """The steps that were done."""

    @property
    def summary(self) -> str:
        """The figures to watch, in a few words."""


class TrainProgress:
    """What a training run tells while it works; this one keeps silent."""

    def phase(self, name: str) -> None:
        """Begin one of the phases reading, loading, training, writing."""

    def start(self, steps: int, done: int) -> None:
        """Training begins, of so many steps in all; so many were done in an earlier run."""

    def step(self, loss: float) -> None:
        """One more step is done; its loss."""

    def evaluated(self, found: Look) -> None:
        """Tell what a look at the validation pairs or dev queries found."""


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
) -> State:
    """Train, or go on from the last checkpoint, and leave the best adapter in ``checkpoints``; return the curves.

    Deterministic on one machine: a run that was stopped and resumed ends with the same weights as one that was
    not. A signal saves a checkpoint before it goes on up.
    """
    return _Fit(model, data, options, checkpoints, progress).run(stop)


def total_steps(pairs: int, options: TrainOptions) -> int:
    """Return the optimizer steps of a run, at least 1."""
    return max(1, math.ceil(options.epochs * math.ceil(pairs / options.batch)))


def rate_at(step: int, steps: int, options: TrainOptions) -> float:
    """Return the learning rate of a step, counted from 0: a linear rise, then a cosine to zero."""
    rise = max(1, round(options.warmup * steps))
    if step < rise:
        return options.learning_rate * (step + 1) / rise
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def batch_at(step: int, pairs: int, options: TrainOptions) -> list[int]:
    """Return the places of the pairs of one step; a function of the seed and the step alone."""
    each = math.ceil(pairs / options.batch)
    epoch, index = divmod(step, each)
    order = list(range(pairs))
    random.Random(options.seed * 1_000_003 + epoch).shuffle(order)
    return order[index * options.batch : (index + 1) * options.batch]


def predict(model: LabelModel, examples: Sequence[Example], options: TrainOptions) -> Any:
    """Return the label logits of examples, an array (n, k), without gradients."""
    import torch

    model.model.eval()
    shared = options.shares_prefix
    rows = [suffix_of(example, shared) for example in examples]
    logits: list[Any] = [None] * len(rows)
    with torch.inference_mode():
        prefix = model.prefix(examples[0].prompt.prefix[0]) if shared else None
        for places in micro_batches([len(row) for row in rows], 2 * options.micro_batch_tokens):
            found = model.logits([rows[place] for place in places], prefix).cpu().numpy()
            for place, values in zip(places, found, strict=True):
                logits[place] = values
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


class _Fit:
    """One run's parts."""

    def __init__(
        self,
        model: LabelModel,
        data: Data,
        options: TrainOptions,
        checkpoints: Checkpoints,
        progress: TrainProgress,
    ) -> None:
        import torch

        self._model, self._data, self._options, self._checkpoints = model, data, options, checkpoints
        self._progress = progress
        self._parameters = {name: p for name, p in model.model.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self._steps = total_steps(len(data.train), options)
        per_epoch = math.ceil(len(data.train) / options.batch)
        self._every = options.evaluate_every or max(1, per_epoch // 2)

    def run(self, stop: PoliteStop) -> State:
        state = self._checkpoints.load(self._parameters, self._optimizer) or State()
        self._progress.start(self._steps, state.step)
        saved = time.monotonic()
        try:
            if not state.evaluations:
                self._evaluate(state, stop)
            while state.step < self._steps and not state.stopped_early:
                self._gradients(state.step)
                with stop.uninterrupted():
                    loss = self._update(state)
                    if time.monotonic() - saved > _SAVE_SECONDS:
                        self._save(state)
                        saved = time.monotonic()
                self._progress.step(loss)
                if state.step % self._every == 0 or state.step == self._steps:
                    self._evaluate(state, stop)
        except BaseException:
            self._save(state)
            raise
        return state

    def _gradients(self, step: int) -> None:
        import torch

        torch.manual_seed(self._options.seed * 1_000_003 + step)  # dropout's
        self._optimizer.zero_grad()
        places = batch_at(step, len(self._data.train), self._options)
        self._loss = gradients(self._model, [self._data.train[place] for place in places], self._options)

    def _update(self, state: State) -> float:
        import torch

        torch.nn.utils.clip_grad_norm_(self._parameters.values(), _GRADIENT_NORM, error_if_nonfinite=True)
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(state.step, self._steps, self._options)
        self._optimizer.step()
        state.step += 1
        state.losses.append(self._loss)
        return self._loss

    def _evaluate(self, state: State, stop: PoliteStop) -> None:
        logits = predict(self._model, self._data.validation, self._options)
        found = evaluation(state.step, logits, self._data.validation, self._data.grades, self._options.ordinal_weight)
        with stop.uninterrupted():
            state.evaluations.append(found)
            if state.step and (state.best is None or is_better(found, state.best, self._options.select_by)):
                state.best = found
                self._checkpoints.keep_best(self._parameters)
            elif state.best is not None and self._options.patience:
                worse = sum(e.step > state.best.step for e in state.evaluations)
                state.stopped_early = worse >= self._options.patience
            self._save(state)
        self._progress.evaluated(found)

    def _save(self, state: State) -> None:
        self._checkpoints.save(state, self._parameters, self._optimizer)
