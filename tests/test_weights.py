from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pairgrade import ModelError
from pairgrade.export.weights import Weights
from pairgrade.safetensors_check import MAX_HEADER


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    values = np.random.default_rng(3).standard_normal((5, 7))
    return {"a.weight": values.astype(np.float32), "b.weight": values.astype(np.float16)}


def _save(folder: Path, tensors: dict[str, np.ndarray], name: str = "model.safetensors") -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file(tensors, folder / name)


def test_values_are_those_of_the_file(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    _save(tmp_path, tensors)
    weights = Weights(tmp_path)
    assert weights.names() == ["a.weight", "b.weight"]
    for name, stored in tensors.items():
        assert weights.shape(name) == stored.shape
        read = weights.get(name)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, stored.astype(np.float32))


def test_bfloat16_is_widened_as_torch_does(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    values = torch.tensor([[1.0, -2.5e-20, 3e38], [float("inf"), -0.0, 1e-45]]).to(torch.bfloat16)
    save_file({"w": values}, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(Weights(tmp_path).get("w"), values.float().numpy())


def test_shards_read_as_one_file(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    for i, (name, values) in enumerate(tensors.items()):
        _save(tmp_path, {name: values}, f"model-{i}.safetensors")
    _index(tmp_path, {name: f"model-{i}.safetensors" for i, name in enumerate(tensors)})
    weights = Weights(tmp_path)
    assert weights.names() == sorted(tensors)
    for name, values in tensors.items():
        np.testing.assert_array_equal(weights.get(name), values.astype(np.float32))


def _index(folder: Path, files: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def test_a_missing_shard_is_named(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    _index(tmp_path, {"a.weight": "model-1.safetensors"})
    with pytest.raises(ModelError, match=r"model-1\.safetensors is missing"):
        Weights(tmp_path)
    _save(tmp_path, {"b.weight": tensors["b.weight"]}, "model-1.safetensors")
    with pytest.raises(ModelError, match="does not hold it"):
        Weights(tmp_path)


@pytest.mark.parametrize("keep", [4, 40, -1])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, tensors: dict[str, np.ndarray], keep: int) -> None:
    _save(tmp_path, tensors)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match="cut off"):
        Weights(tmp_path)


def test_a_header_has_the_limit_of_the_check_before_loading(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    _save(tmp_path, tensors)
    path = tmp_path / "model.safetensors"
    stored = path.read_bytes()
    end = 8 + int.from_bytes(stored[:8], "little")
    for length, refused in ((MAX_HEADER, False), (MAX_HEADER + 1, True)):
        path.write_bytes(length.to_bytes(8, "little") + stored[8:end].ljust(length) + stored[end:])
        with pytest.raises(ModelError, match="10,000,000 are the most") if refused else contextlib.nullcontext():
            assert Weights(tmp_path).names() == sorted(tensors)


def test_other_types_and_names_are_refused(tmp_path: Path) -> None:
    _save(tmp_path, {"counts": np.arange(3)})
    weights = Weights(tmp_path)
    with pytest.raises(ModelError, match="stored as I64; F32, F16, BF16"):
        weights.get("counts")
    with pytest.raises(ModelError, match=r"no tensor lm_head\.weight"):
        weights.get("lm_head.weight")


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(ModelError, match="safetensors only"):
        Weights(tmp_path)


def test_a_real_folder(tiny_folder: Callable[[str], Path]) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    folder = tiny_folder("qwen2")
    stored = safetensors.load_file(folder / "model.safetensors")
    weights = Weights(folder)
    assert weights.names() == sorted(stored)
    assert "lm_head.weight" in weights
    for name, values in stored.items():
        np.testing.assert_array_equal(weights.get(name), values)
