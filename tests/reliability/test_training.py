"""A training run that was stopped goes on as if it had not been; damaged checkpoints and pickles are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import make_pairs, write_jsonl
from pairgrade import ModelError, ResumeError, Rubric
from pairgrade.readers import Source

pytest.importorskip("torch")
pytest.importorskip("peft")

from pairgrade.train.checkpoint import Checkpoints, State
from pairgrade.train.checkpoint import _evaluation as evaluation_of
from pairgrade.train.fitting import TrainProgress
from pairgrade.train.options import TrainOptions
from pairgrade.train.run import TrainJob, train

RUBRIC = Rubric.load("trec")
SMALL = TrainOptions(
    train_pairs=16, validation_pairs=8, epochs=2, batch=8, micro_batch_tokens=200, rank=4, learning_rate=5e-3,
    evaluate_every=2, patience=0, threads=1,
)  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


class Stop(TrainProgress):
    """Interrupts the training at a step."""

    def __init__(self, step: int) -> None:
        self._left = step

    def step(self, loss: float) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(str(write_jsonl(tmp_path / "graded.jsonl", make_pairs(8, 8))))


@pytest.mark.parametrize("layers", [0, 1])
def test_a_run_that_was_stopped_and_resumed_equals_one_that_was_not(
    layers: int, source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    base = str(tiny_folder("llama"))
    options = replace(SMALL, dropout=0.1, layers=layers)
    calm = train(TrainJob(source, base, tmp_path / "calm", RUBRIC), options)
    job = TrainJob(source, base, tmp_path / "stopped", RUBRIC)
    with pytest.raises(KeyboardInterrupt):
        train(job, options, Stop(3))
    assert not job.out.exists()
    resumed = train(job, options)
    assert resumed.losses == calm.losses
    assert resumed.evaluations == calm.evaluations
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("calm", "stopped")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "stopped.run").exists()


def test_a_damaged_checkpoint_is_named(source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    job = TrainJob(source, str(tiny_folder("llama")), tmp_path / "a", RUBRIC)
    with pytest.raises(KeyboardInterrupt):
        train(job, SMALL, Stop(1))
    (found,) = (tmp_path / "a.run").glob("step-*.safetensors")
    found.write_bytes(found.read_bytes()[:-7])
    with pytest.raises(ResumeError, match="cannot be read"):
        train(job, SMALL)


LOOK = {"step": 0, "loss": 0.5, "kappa": None, "tau": 0.1, "accuracy": 1.0, "confusion": [[1, 0], [0, 1]]}


@pytest.mark.parametrize(
    "damage",
    [
        '"x"', "[]", "null", "1",
        *({"step": step} for step in ("1", -1, True, 10**400, None)),
        *({"losses": losses} for losses in (5, ["x"], {"a": 1}, None)),
        {"stopped_early": "no"}, {"seconds": []}, {"seconds": 10**400}, {"tensors": ["x"]}, {"tensors": "absent"},
        *({"evaluations": [LOOK | {name: "x"}]} for name in LOOK),
        *({"best": value} for value in ("x", [1], LOOK | {"loss": None}, LOOK | {"confusion": [["x"]]})),
    ],
    ids=str,
)  # fmt: skip
def test_a_state_of_other_kinds_or_shapes_is_named(damage: str | dict[str, object], tmp_path: Path) -> None:
    import torch

    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoints = Checkpoints(tmp_path)
    look = evaluation_of(LOOK)
    checkpoints.save(State(0, [0.5], [look], look), dict(model.named_parameters()), optimizer)
    assert checkpoints.load(dict(model.named_parameters()), optimizer) == State(0, [0.5], [look], look)
    path = tmp_path / "state.json"
    sound = path.read_text()
    path.write_text(damage if isinstance(damage, str) else json.dumps(json.loads(sound) | damage))
    with pytest.raises(ResumeError, match="holds a checkpoint that cannot be read"):
        checkpoints.load(dict(model.named_parameters()), optimizer)
    path.write_text(sound)
    for other in (torch.nn.Linear(3, 2), torch.nn.Linear(2, 1), torch.nn.Linear(1, 1)):
        with pytest.raises(ResumeError, match="has another shape than the model's"):
            checkpoints.load(dict(other.named_parameters()), optimizer)


def test_pickled_weights_are_not_loaded(tmp_path: Path, source: Source, tiny_folder: Callable[[str], Path]) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    for path in tiny_folder("llama").iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04canary")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle, .* never read"):
        train(TrainJob(source, str(folder), tmp_path / "a", RUBRIC), SMALL)
