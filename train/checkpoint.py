"""The state of a training run on disk: safetensors and JSON, never pickle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pairgrade.atomic import write_bytes, write_text
from pairgrade.errors import ResumeError
from pairgrade.train.metrics import Evaluation

_MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's
_BEST = "best-{}.safetensors"  # of a step
_AGES = 1e10  # seconds, more than a run can take
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError, OSError)


@dataclass(slots=True)
class State:
    """How far a run has come."""

    step: int = 0
    losses: list[float] = field(default_factory=list)  # of each step
    evaluations: list[Any] = field(default_factory=list)  # what the loop found, a dataclass of its own
    best: Any = None
    stopped_early: bool = False
    seconds: float = 0.0  # of all processes that worked on it, up to the last checkpoint


class Checkpoints:
    """The last state and the best weights in a run's folder.

    ``evaluation`` makes an evaluation of its table; without one it is the ``Evaluation`` of ``pairgrade train``.
    The tensors are written first, under names of their steps, then ``state.json``, which tells both, takes the
    place of the old one: at every moment one whole checkpoint can be read, with the best weights that it speaks of.
    """

    def __init__(self, folder: Path, evaluation: Callable[[dict[str, Any]], Any] | None = None) -> None:
        self._folder = folder
        self._evaluation = evaluation or _evaluation
        self._state = folder / "state.json"

    def load(self, parameters: Mapping[str, Any], optimizer: Any) -> State | None:
        """Bring parameters and optimizer to the last checkpoint; None where there is none."""
        if not self._state.exists():
            return None
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            table = json.loads(self._state.read_text(encoding="utf-8"))
            tensors = load_file(self._folder / table.pop("tensors"))
            table["evaluations"] = [self._evaluation(e) for e in table["evaluations"]]
            table["best"] = self._evaluation(table["best"]) if table["best"] else None
            state = State(**table)
            _check_kinds(state)
            _restore(tensors, parameters, optimizer, state.step)
        except (*_DAMAGED, SafetensorError) as error:
            raise ResumeError(
                f"{self._folder} holds a checkpoint that cannot be read ({error}); remove the folder to start anew"
            ) from None
        return state

    def save(self, state: State, parameters: Mapping[str, Any], optimizer: Any) -> None:
        """Write the state; the one before it is removed."""
        tensors = {f"parameter:{name}": p.detach() for name, p in parameters.items()}
        for name, parameter in parameters.items():
            moments = optimizer.state.get(parameter, {})
            tensors |= {f"{moment}:{name}": moments[moment] for moment in _MOMENTS if moment in moments}
        path = self._folder / f"step-{state.step}.safetensors"
        write_bytes(path, _serialized(tensors))
        table = asdict(state) | {"tensors": path.name}
        write_text(self._state, json.dumps(table, allow_nan=False))
        kept = {path} | ({self._best(state.best.step)} if state.best else set())
        for old in self._folder.glob("*.safetensors"):
            if old not in kept:
                old.unlink()

    def nothing_to_finish_with(self) -> ResumeError:
        """Return what a run cannot be finished by that has not looked at a step yet."""
        return ResumeError(
            f"{self._folder} holds no step that was looked at, so there is nothing to finish with; train until the "
            "first look after a step (--evaluate-every) without --finish"
        )

    def has_best(self) -> bool:
        """Whether a look after a step has kept its weights."""
        return any(self._folder.glob(_BEST.format("*")))

    def keep_best(self, parameters: Mapping[str, Any], step: int) -> None:
        """Write the parameters after a step as the best so far; they count as soon as a state is saved that says so."""
        write_bytes(self._best(step), _serialized({name: p.detach() for name, p in parameters.items()}))

    def load_best(self, parameters: Mapping[str, Any], step: int) -> None:
        """Set the parameters to those that were the best after a step; ResumeError where they are not there."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._best(step)
        try:
            tensors = load_file(path)
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(tensors[name])
        except (*_DAMAGED, SafetensorError) as error:
            raise ResumeError(f"{path} cannot be read ({error}); remove {self._folder} to start anew") from None

    def _best(self, step: int) -> Path:
        return self._folder / _BEST.format(step)


def _serialized(tensors: Mapping[str, Any]) -> bytes:
    from safetensors.torch import save

    data: bytes = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
    return data


def _check_kinds(state: State) -> None:
    """ValueError where a state that was read holds something else than a run writes."""
    looks = [*state.evaluations, *([] if state.best is None else [state.best])]
    sound = type(state.step) is int and state.step >= 0 and type(state.stopped_early) is bool
    sound = sound and type(state.seconds) in (int, float) and 0 <= state.seconds < _AGES
    sound = sound and isinstance(state.losses, list) and all(type(loss) in (int, float) for loss in state.losses)
    if not sound or not all(_is_sound(getattr(look, f.name), f.type) for look in looks for f in fields(look)):
        raise ValueError("values of another kind than a run writes")


def _is_sound(value: Any, kind: Any) -> bool:
    """Whether a figure of an evaluation is a number, or none where that may be, or a table of whole numbers."""
    if "tuple" in str(kind):
        return isinstance(value, tuple) and all(type(count) is int for row in value for count in row)
    return type(value) in (int, float) or (value is None and "None" in str(kind))


def _restore(tensors: Mapping[str, Any], parameters: Mapping[str, Any], optimizer: Any, step: int) -> None:
    import torch

    with torch.no_grad():
        for name, parameter in parameters.items():
            kinds = ("parameter", *_MOMENTS) if step else ("parameter",)
            own = {kind: tensors[f"{kind}:{name}"] for kind in kinds}
            if any(tensor.shape != parameter.shape for tensor in own.values()):
                raise ValueError(f"{name} has another shape than the model's")
            parameter.copy_(own["parameter"])
            if step:
                moments = {moment: own[moment].to(parameter.device) for moment in _MOMENTS}
                optimizer.state[parameter] = {"step": torch.tensor(float(step))} | moments


def _evaluation(table: dict[str, Any]) -> Evaluation:
    return Evaluation(**table | {"confusion": tuple(tuple(row) for row in table["confusion"])})
