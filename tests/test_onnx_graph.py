"""The exported graphs compute what transformers computes, for every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnx_helpers import LABELS, difference, export, opened, prompts

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


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
