"""The whole way in each family: train two steps, merge, export, label; torch and the engine agree on the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tiny_models
from helpers import make_pairs, write_jsonl
from pairgrade import Annotator, Rubric
from pairgrade.readers import Source

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from pairgrade.export.gguf_export import GgufOptions, export_gguf  # noqa: E402
from pairgrade.export.measure import Task  # noqa: E402
from pairgrade.export.quantize import quants  # noqa: E402
from pairgrade.export.torch_backend import TorchBackend, TorchOptions  # noqa: E402
from pairgrade.export.verify import Floor  # noqa: E402
from pairgrade.train.merge import merge  # noqa: E402
from pairgrade.train.options import TrainOptions  # noqa: E402
from pairgrade.train.run import TrainJob, train  # noqa: E402

RUBRIC = Rubric.load("trec")
PAIRS = make_pairs(4, 6)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_trained_model_labels_as_it_does_in_torch(
    family: str, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    base = tiny_folder(family)
    source = Source(str(write_jsonl(tmp_path / "graded.jsonl", PAIRS)))
    options = TrainOptions(
        train_pairs=16, validation_pairs=4, epochs=1, batch=8, rank=4, learning_rate=2e-3, threads=1,
        layers=1 if family in ("qwen2", "gemma3") else 0,
    )  # fmt: skip
    trained = train(TrainJob(source, str(base), tmp_path / "adapter", RUBRIC), options)
    assert trained.steps == 2
    merged = merge(trained.adapter, tmp_path / "merged", PAIRS[:4], RUBRIC, threads=1)
    assert merged.moved > 1e-4
    task = Task(PAIRS, RUBRIC)
    export = GgufOptions(quants("f32"), task, floors=(Floor(0.95, 1e-4),), threads=1)
    report = export_gguf(tmp_path / "merged", tmp_path / "gguf", export)
    found = report.files[0].verification
    assert not found.problems
    assert found.strings == 1000
    assert found.fidelity.relative_logit_distance < 5e-3  # keys and values are kept in half precision
    with Annotator.open(tmp_path / "gguf" / "model-f32.gguf", RUBRIC) as engine:
        ours = list(engine.label(PAIRS))
    with Annotator(TorchBackend(tmp_path / "merged", TorchOptions(threads=1)), RUBRIC) as reference:
        theirs = list(reference.label(PAIRS))
    for one, other in zip(ours, theirs, strict=True):
        assert one.prompt_tokens == other.prompt_tokens
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=2e-2)
    with Annotator(TorchBackend(base, TorchOptions(threads=1)), RUBRIC) as untrained:
        before = list(untrained.label(PAIRS))
    moved = max(abs(a.expected_grade - b.expected_grade) for a, b in zip(before, theirs, strict=True))
    nearest = max(abs(a.expected_grade - b.expected_grade) for a, b in zip(ours, theirs, strict=True))
    assert nearest < moved / 3  # the export is the trained model, not its base
    manifest = json.loads((tmp_path / "gguf" / "manifest.json").read_text())
    assert manifest["base"] == str(base.resolve())
    assert manifest["adapter"]["name"] == "adapter"
