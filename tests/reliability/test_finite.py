"""No grade comes of a model whose weights are no numbers, on either engine: the run stops and names the model."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import make_pairs, run_command, write_jsonl
from pairgrade import Annotator, ModelError, NonFiniteError, Rubric
from pairgrade.cli.label import command
from pairgrade.file_hashes import file_sha256


def broken(path: Path, value: float) -> None:
    """Put a value over the last 64 floats of a file, which are weights of a tensor."""
    data = bytearray(path.read_bytes())
    data[-256:] = struct.pack("<f", value) * 64
    path.write_bytes(data)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_a_gguf_of_weights_that_are_no_numbers_is_not_loaded(
    value: float, tiny_gguf_path: Path, tmp_path: Path
) -> None:
    model = shutil.copyfile(tiny_gguf_path, tmp_path / "broken.gguf")
    broken(model, value)
    with pytest.raises(ModelError, match=r"broken\.gguf: llama\.cpp cannot load it"):
        Annotator.open(model)


def test_a_gguf_of_weights_that_give_no_numbers(tiny_gguf_path: Path, tmp_path: Path) -> None:
    model = shutil.copyfile(tiny_gguf_path, tmp_path / "broken.gguf")
    broken(model, 3e38)
    _is_refused(model, tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_an_onnx_folder_of_weights_that_are_no_numbers(
    value: float, tiny_onnx_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_onnx_folder("fp32"), tmp_path / "broken")
    broken(model / "weights.bin", value)
    table = json.loads((model / "manifest.json").read_text())
    table["files"]["weights.bin"] = file_sha256(model / "weights.bin")  # else its digest would tell
    (model / "manifest.json").write_text(json.dumps(table))
    _is_refused(model, tmp_path)


def _is_refused(model: Path, folder: Path) -> None:
    pairs, out = write_jsonl(folder / "pairs.jsonl", make_pairs(1, 3)), folder / "out.jsonl"
    with pytest.raises(NonFiniteError) as caught:
        run_command(command, pairs, "--model", model, "--out", out, "--in-process", "--threads", 1)
    assert str(model) in str(caught.value)
    assert "no grade is made of such" in str(caught.value)
    assert not out.exists()
    assert b'"q0"' not in (folder / "out.jsonl.run" / "journal").read_bytes()


def test_weights_that_are_not_finite_are_refused(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from safetensors.numpy import load_file, save_file

    from pairgrade.export.gguf_export import GgufOptions, export_gguf
    from pairgrade.export.measure import Task
    from pairgrade.export.quantize import QUANTS

    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "folder")
    task = Task(make_pairs(3, 4), Rubric.load("trec"))
    stored = load_file(folder / "model.safetensors")
    stored["model.norm.weight"][3] = math.nan
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.norm\.weight holds values that are not finite"):
        export_gguf(folder, tmp_path / "out", GgufOptions((QUANTS["q8_0"],), task))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
