"""A training run that was stopped goes on as if it had not been; damaged checkpoints and pickles are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import make_pairs, write_jsonl
from pairgrade import ModelError, ResumeError, Rubric
from pairgrade.readers import Source

pytest.importorskip("torch")
pytest.importorskip("peft")

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


def test_pickled_weights_are_not_loaded(tmp_path: Path, source: Source, tiny_folder: Callable[[str], Path]) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    for path in tiny_folder("llama").iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04canary")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle, .* never read"):
        train(TrainJob(source, str(folder), tmp_path / "a", RUBRIC), SMALL)
