"""A turned model is the same function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnx_helpers import LABELS, difference, export, opened, prompts
from pairgrade import InputError
from pairgrade.export import onnx_graph
from pairgrade.export.decoder import read_decoder
from pairgrade.export.onnx_layers import read_layer
from pairgrade.export.onnx_linear import Channels
from pairgrade.export.onnx_recipe import Recipe
from pairgrade.export.onnx_rotate import BEHIND_NORMS, hadamard, make_rotation, orthogonal
from pairgrade.export.onnx_smooth import smooth_down, smooth_norms
from pairgrade.export.weights import Weights
from tiny_models import FAMILIES

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("recipe", [Recipe(rotate="all"), Recipe(rotate="heads", down_block=32), Recipe(norm_block=64)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_rotated_graph_equals_the_plain_one(
    family: str, recipe: Recipe, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    prefix, documents = prompts()
    plain = opened(export(tiny_folder(family), tmp_path / "plain")).score(prefix, documents, LABELS)
    turned = opened(export(tiny_folder(family), tmp_path / "turned", recipe=recipe)).score(prefix, documents, LABELS)
    assert 0 < difference(plain, turned) < 1e-4


def test_a_large_block_is_turned_by_two_small_products(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny models' 64 channels, and their inner 96, allow blocks of 64 and 32."""
    prefix, documents = prompts()
    recipe = Recipe(rotate="all", norm_block=512, down_block=512)
    rotation = make_rotation(read_decoder(tiny_folder("llama")), recipe)
    np.testing.assert_array_equal(rotation.norms, hadamard(64))
    np.testing.assert_array_equal(rotation.down, hadamard(32))
    plain = opened(export(tiny_folder("llama"), tmp_path / "plain")).score(prefix, documents, LABELS)
    monkeypatch.setattr(onnx_graph, "_WHOLE", 8)
    monkeypatch.setattr(onnx_graph, "_INNER", 4)
    turned = opened(export(tiny_folder("llama"), tmp_path / "turned", recipe=recipe)).score(prefix, documents, LABELS)
    assert 0 < difference(plain, turned) < 1e-4


@pytest.mark.parametrize("matrix", [orthogonal(48, 3), hadamard(64), hadamard(1)])
def test_matrices_are_orthogonal(matrix: np.ndarray) -> None:
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-6)


def test_a_rotation_spreads_an_outlier(tiny_folder: Callable[[str], Path]) -> None:
    decoder = read_decoder(tiny_folder("llama"))
    rotation = make_rotation(decoder, Recipe(rotate="all"))
    outlier = np.zeros(decoder.hidden, np.float32)
    outlier[7] = 100
    assert rotation.residual is not None
    assert np.abs(outlier @ rotation.residual).max() < 60


def test_a_seed_is_a_model(tiny_folder: Callable[[str], Path]) -> None:
    decoder = read_decoder(tiny_folder("llama"))
    layer = read_layer(Weights(tiny_folder("llama")), decoder, 0)
    first, again, other = (
        make_rotation(decoder, Recipe(rotate="all", seed=seed)).turn(layer, decoder, 0).qkv for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_smoothing_keeps_the_product(tiny_folder: Callable[[str], Path]) -> None:
    decoder = read_decoder(tiny_folder("llama"))
    layer = read_layer(Weights(tiny_folder("llama")), decoder, 0)
    random = np.random.default_rng(0)
    gate, up = random.standard_normal((2, 5, decoder.intermediate)).astype(np.float32)
    hidden = random.standard_normal((5, decoder.hidden)).astype(np.float32)

    def down(each: object) -> np.ndarray:
        return np.asarray(((hidden @ each.gate) * (hidden @ each.up)) @ each.down)  # type: ignore[attr-defined]

    peaks = np.abs(gate * up).max(0)
    peaks[3] = 1000
    ranges = {"layer.0.down": Channels(-peaks, peaks)}
    smooth = smooth_down(layer, ranges, 0, 0.75)
    channels = ranges["layer.0.down"]
    np.testing.assert_allclose(down(smooth), down(layer), rtol=1e-3, atol=1e-3)
    assert channels.high.max() / np.median(channels.high) < 0.2 * peaks.max() / np.median(peaks)
    assert layer.down is not smooth.down
    assert np.array_equal(layer.down, replace(layer).down)


@pytest.mark.parametrize("family", FAMILIES)
def test_smoothed_norms_keep_the_products(family: str, tiny_folder: Callable[[str], Path]) -> None:
    """What the norm's gain divides, the weights multiply, and an outlier channel is one no longer."""
    decoder = read_decoder(tiny_folder(family))
    layer = read_layer(Weights(tiny_folder(family)), decoder, 0)
    normalized = np.random.default_rng(0).standard_normal((50, decoder.hidden)).astype(np.float32)
    normalized[:, 5] *= 40
    attention, mlp = normalized * layer.attention_norm, normalized * layer.mlp_norm
    seen = {"qkv": attention, "gate": mlp, "up": mlp}
    ranges = {f"layer.0.{part}": Channels(value.min(0), value.max(0)) for part, value in seen.items()}
    smooth = smooth_norms(layer, ranges, 0, 0.65)
    gains = {"qkv": smooth.attention_norm, "gate": smooth.mlp_norm, "up": smooth.mlp_norm}
    for part, value in seen.items():
        scaled = normalized * gains[part]
        np.testing.assert_allclose(scaled @ getattr(smooth, part), value @ getattr(layer, part), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(ranges[f"layer.0.{part}"].high, scaled.max(0), rtol=1e-5)
        np.testing.assert_allclose(ranges[f"layer.0.{part}"].low, scaled.min(0), rtol=1e-5)
        before, after = (np.abs(each).max(0) for each in (value, scaled))
        assert after.max() / np.median(after) < 0.3 * before.max() / np.median(before)


def test_sums_of_turned_values_are_turned_sums(tiny_folder: Callable[[str], Path]) -> None:
    decoder = read_decoder(tiny_folder("llama"))
    layer = read_layer(Weights(tiny_folder("llama")), decoder, 0)
    rotation = make_rotation(decoder, Recipe(norm_block=8))
    values = np.random.default_rng(0).standard_normal((50, decoder.hidden)).astype(np.float32)
    turned = (values.reshape(50, -1, 8) @ hadamard(8)).reshape(50, -1)

    def channels(each: np.ndarray) -> Channels:
        parts = each.reshape(50, 2, -1)
        return Channels(each.min(0), each.max(0), np.einsum("tbi,tbj->bij", parts, parts))

    ranges = {f"layer.0.{part}": channels(values) for part in BEHIND_NORMS}
    rotation.turn_together(ranges, 0)
    np.testing.assert_allclose(ranges["layer.0.qkv"].together, channels(turned).together, rtol=1e-4, atol=1e-4)
    for part in BEHIND_NORMS:
        weight, after = getattr(layer, part), getattr(rotation.turn_norms(layer), part)
        np.testing.assert_allclose(turned @ after, values @ weight, rtol=1e-3, atol=1e-4)
        assert not np.allclose(after, weight)


def test_recipes_that_make_no_sense_are_refused() -> None:
    for wrong in (
        {"weights": 3},
        {"activations": "static"},
        {"activations": "odd", "weights": 8},
        {"prefix": "odd"},
        {"down_block": 48},
        {"norm_block": 48},
        {"tail": -1, "weights": 8, "activations": "token"},
        {"tail": 1025, "weights": 8, "activations": "token"},
        {"tail": 8, "weights": 8},
        {"norm_block": 64, "weights": 8, "activations": "static"},
        {"rotate": "odd"},
        {"smooth_norms": -0.1, "weights": 8},
        {"smooth_norms": 0.5},
        {"smooth_down": 2.0, "weights": 8, "activations": "static"},
        {"smooth_down": 0.5, "weights": 8, "activations": "token"},
        {"smooth_down": 0.5, "weights": 8, "activations": "static", "down_block": 32},
    ):
        with pytest.raises(InputError):
            Recipe(**wrong)  # type: ignore[arg-type]
