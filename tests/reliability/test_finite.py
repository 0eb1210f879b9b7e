"""No grade comes of a model whose weights are no numbers, on either engine: the run stops and names the model."""

from __future__ import annotations

import json
import math
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import make_pairs, run_command, write_jsonl
from pairgrade import Annotator, ModelError, NonFiniteError
from pairgrade.cli.export import command as export
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


@pytest.mark.parametrize("to", ["gguf", "onnx"])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.down_proj.weight"])
def test_weights_that_are_not_finite_are_refused(
    name: str, to: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("gguf" if to == "gguf" else "onnx")
    folder = _with_a_value([name], math.nan, tiny_folder("llama"), tmp_path)
    with pytest.raises(ModelError, match=rf"{re.escape(name)} holds values that are not finite"):
        run_command(export, folder, "--to", to, "--out", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_model_that_gives_no_numbers_has_no_static_scales(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    names = [f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up")]  # their product overflows
    folder = _with_a_value(names, 1e25, tiny_folder("llama"), tmp_path)
    with pytest.raises(ModelError, match=r"the inputs of layer\.\d\.\w+ are not finite numbers on the calibration's"):
        run_command(export, folder, "--to", "onnx", "--out", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def _with_a_value(names: list[str], value: float, source: Path, root: Path) -> Path:
    """Copy a folder, and put a value into a row of some tensors."""
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(source, root / "folder")
    stored = load_file(folder / "model.safetensors")
    for name in names:
        stored[name][3] = value
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    return folder
