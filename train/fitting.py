"""Steps of AdamW over a model: deterministic, resumable at any step, the best state kept, stopped early."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from typing import Any, Protocol

from pairgrade.errors import ModelError
from pairgrade.stop import PoliteStop
from pairgrade.train.checkpoint import Checkpoints, State
from pairgrade.train.seeds import part_seed

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
        """Begin one of the phases reading, making pairs, loading, training, exporting, writing."""

    def start(self, steps: int, done: int) -> None:
        """Training begins, of so many steps in all; so many were done in an earlier run."""

    def step(self, loss: float) -> None:
        """One more step is done; its loss."""

    def looking(self, done: int, total: int) -> None:
        """So many of the validation pairs or dev queries of a look are done."""

    def evaluated(self, found: Look) -> None:
        """Tell what a look at the validation pairs or dev queries found."""


class Schedule(Protocol):
    """What of a run's options decides its steps."""

    @property
    def epochs(self) -> float:
        """Passes over what is learnt from."""

    @property
    def batch(self) -> int:
        """How much of it one step takes."""

    @property
    def learning_rate(self) -> float:
        """The peak."""

    @property
    def warmup(self) -> float:
        """Share of the steps over which the rate rises."""

    @property
    def weight_decay(self) -> float:
        """AdamW's."""

    @property
    def patience(self) -> int:
        """Evaluations without a better one before it stops; 0: never."""

    @property
    def seed(self) -> int:
        """Seed of all that is random."""


def total_steps(items: int, options: Schedule) -> int:
    """Return the optimizer steps of a run over so many items, at least 1."""
    return max(1, math.ceil(options.epochs * math.ceil(items / options.batch)))


def rate_at(step: int, steps: int, options: Schedule) -> float:
    """Return the learning rate of a step, counted from 0: a linear rise, then a cosine to zero."""
    rise = max(1, round(options.warmup * steps))
    if step < rise:
        return options.learning_rate * (step + 1) / rise
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


class Fitting(ABC):
    """One run: what it computes is a function of the parameters, the seed and the step.

    So a run that was stopped and resumed ends with the same weights as one that was not.
    """

    memory_advice: str  # what a user may lower where the GPU's memory is not enough

    def __init__(
        self, model: Any, schedule: Schedule, items: int, every: int, checkpoints: Checkpoints, progress: TrainProgress
    ) -> None:
        """Prepare to train the parameters of a torch module on so many items, and to look every so many steps."""
        import torch

        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._schedule, self._every, self._steps = schedule, every, total_steps(items, schedule)
        self._checkpoints, self._progress = checkpoints, progress
        self._began = time.monotonic()
        self._sound = True  # whether parameters and optimizer are those of a whole number of steps
        on_cpu = all(parameter.device.type == "cpu" for parameter in self._parameters.values())
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(),
            lr=schedule.learning_rate,
            weight_decay=schedule.weight_decay,
            fused=on_cpu or None,  # one pass over the memory for six; None: as torch chooses
        )

    @abstractmethod
    def _batch_loss(self, step: int) -> float:
        """Add the gradient of a step's batch to the parameters, and return its loss."""

    @abstractmethod
    def _look(self, step: int) -> Look:
        """Evaluate the model as it is after so many steps."""

    @abstractmethod
    def _is_better(self, found: Any, best: Any) -> bool:
        """Whether an evaluation beats another."""

    def run(self, stop: PoliteStop, finish: bool = False) -> State:
        """Train, or go on from the last checkpoint, and leave the best weights there; return the curves.

        A signal saves a checkpoint before it goes on up. What was there before the first step is never the best.
        To ``finish`` is to take the last checkpoint as the end.
        """
        import torch

        state = self._checkpoints.load(self._parameters, self._optimizer) or State()
        self._progress.start(self._steps, state.step)
        if finish:
            if state.best is None:
                raise self._checkpoints.nothing_to_finish_with()
            state.stopped_early = True
            return state
        saved = time.monotonic()
        self._began = saved - state.seconds  # as if earlier processes had worked right before this one
        try:
            if self._is_due(state):  # at the start, and where an earlier run was stopped before or while it looked
                self._evaluate(state, stop)
            while state.step < self._steps and not state.stopped_early:
                loss = self._gradients(state.step)
                with stop.uninterrupted():
                    self._update(state, loss)
                    if time.monotonic() - saved > _SAVE_SECONDS:
                        self._save(state)
                        saved = time.monotonic()
                self._progress.step(loss)
                if self._is_due(state):
                    self._evaluate(state, stop)
        except BaseException as error:
            if self._sound:
                self._save(state)
            if isinstance(error, torch.OutOfMemoryError):
                raise ModelError(
                    f"the GPU's memory was not enough at step {state.step:,} of {self._steps:,}; what was learnt up to "
                    f"the last checkpoint is kept. {self.memory_advice}"
                ) from None
            raise
        return state

    def _is_due(self, state: State) -> bool:
        """Whether the model as it is has to be looked at, and was not yet."""
        looked = bool(state.evaluations) and state.evaluations[-1].step == state.step
        return not looked and (state.step % self._every == 0 or state.step == self._steps)

    def _gradients(self, step: int) -> float:
        import torch

        torch.manual_seed(part_seed(self._schedule.seed, step))  # dropout's
        self._optimizer.zero_grad()
        loss = self._batch_loss(step)
        for parameter in self._parameters.values():
            if parameter.grad is None:  # the model does not use it; the optimizer keeps a state of each
                parameter.grad = torch.zeros_like(parameter)
        return loss

    def _update(self, state: State, loss: float) -> None:
        import torch

        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), _GRADIENT_NORM)
        if not torch.isfinite(norm):
            raise ModelError(
                f"the gradient of step {state.step + 1:,} is not finite (loss {loss:g}), and the step was not taken; a "
                "lower --learning-rate or another --seed may help, which is another run: give another --out, or "
                "--overwrite"
            )
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(state.step, self._steps, self._schedule)
        self._sound = False
        self._optimizer.step()
        self._sound = True
        state.step += 1
        state.losses.append(loss)

    def _evaluate(self, state: State, stop: PoliteStop) -> None:
        found = self._look(state.step)
        with stop.uninterrupted():
            is_best = bool(state.step) and (state.best is None or self._is_better(found, state.best))
            if is_best:  # written before the state tells of them: a state is saved even where this fails
                self._checkpoints.keep_best(self._parameters, state.step)
            state.evaluations.append(found)
            if is_best:
                state.best = found
            elif state.best is not None and self._schedule.patience:
                worse = sum(e.step > state.best.step for e in state.evaluations)
                state.stopped_early = worse >= self._schedule.patience
            self._save(state)
        self._progress.evaluated(found)

    def _save(self, state: State) -> None:
        state.seconds = time.monotonic() - self._began
        self._checkpoints.save(state, self._parameters, self._optimizer)
