"""The exported graphs compute what transformers computes, for every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnx_helpers import LABELS, difference, export, opened, prompts
from pairgrade import InputError, ModelError
from pairgrade.export.onnx_export import export_onnx
from pairgrade.export.onnx_folder import OnnxSettings
from pairgrade.export.torch_backend import TorchBackend, TorchOptions
from tiny_models import FAMILIES

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.mark.reliability
@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_equals_transformers(family: str, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    source = tiny_folder(family)
    prefix, documents = prompts()
    reference = TorchBackend(source, TorchOptions(threads=1)).score(prefix, documents, LABELS)
    scores = opened(export(source, tmp_path / "out"), label_mass=True).score(prefix, documents, LABELS)
    np.testing.assert_allclose(scores.logits, reference.logits, atol=1e-4)
    assert scores.log_totals is not None
    np.testing.assert_allclose(scores.log_totals, reference.log_totals, atol=1e-4)
    assert np.ptp(reference.logits) > 1  # else anything would agree


def test_the_prefix_may_be_cut_anywhere(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    backend = opened(export(tiny_folder("gemma3"), tmp_path / "out"))
    (first, second), documents = prompts()
    reference = backend.score([first, second], documents, LABELS)
    whole = np.concatenate((first, second))
    for prefix in ([whole], [whole[:3], whole[3:]], [first, np.empty(0, np.int32), second]):
        assert difference(backend.score(prefix, documents, LABELS), reference) < 1e-5
    alone = backend.score([], [np.concatenate((whole, document)) for document in documents], LABELS)
    assert difference(alone, reference) < 1e-4


def test_a_sliding_window_hides_what_is_far(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    backend = opened(export(tiny_folder("gemma2"), tmp_path / "out"))
    (first, second), documents = prompts()
    changed = first.copy()
    changed[0] += 1  # out of the sliding layers' sight, not of the full layers'
    before = backend.score([first, second], documents, LABELS)
    assert difference(backend.score([changed, second], documents, LABELS), before) > 1e-4


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_all_data_lies_in_the_folder_and_fp32_is_plain_onnx(
    family: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    out = export(tiny_folder(family), tmp_path / "out")
    for name in ("documents.onnx", "prefix.onnx"):
        model = onnx.load(out / name, load_external_data=False)
        places = {e.value for i in model.graph.initializer for e in i.external_data if e.key == "location"}
        assert places == {"weights.bin"}
        assert {node.domain for node in model.graph.node} == {""}
    assert (out / "head.npy").is_file() == (family == "qwen2")  # the only one of these that is not tied


@pytest.mark.reliability
def test_nothing_is_left_of_an_export_that_fails(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in tiny_folder("llama").iterdir():
        (source / file.name).write_bytes(file.read_bytes()[: -1 if file.suffix == ".safetensors" else None])
    with pytest.raises(ModelError, match="bytes of data"):
        export(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists"):
        export_onnx(tiny_folder("llama"), tmp_path / "out", OnnxSettings("fp32"))
