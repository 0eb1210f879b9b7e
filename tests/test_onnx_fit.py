"""Rounding that is fitted to a product's inputs: nearer on them, by the same scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from onnx_helpers import export, relative
from pairgrade import InputError, ModelError
from pairgrade.document_facts import PARTS
from pairgrade.export import onnx_folder
from pairgrade.export.onnx_fit import fit_layer, fit_weight
from pairgrade.export.onnx_layers import Layer
from pairgrade.export.onnx_linear import Channels, round8
from pairgrade.export.onnx_recipe import Recipe
from pairgrade.export.onnx_smooth import _divided
from tiny_models import FAMILIES


def _inputs(channels: int, tokens: int = 600) -> np.ndarray:
    """Inputs whose channels go along with each other, (tokens, channels)."""
    random = np.random.default_rng(0)
    few = random.normal(size=(channels // 6, channels)).T @ random.normal(size=(channels // 6, tokens))
    few = few.T
    return (few + 0.2 * random.normal(size=few.shape)).astype(np.float32)


def _together(inputs: np.ndarray, blocks: int) -> np.ndarray:
    parts = inputs.reshape(len(inputs), blocks, -1)
    return np.einsum("tbi,tbj->bij", parts, parts)


def _weight(channels: int, columns: int = 40) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(channels, columns)).astype(np.float32)


def _rounded(weight: np.ndarray) -> np.ndarray:
    whole, scales = round8(weight)
    return whole * scales


@pytest.mark.parametrize(("blocks", "gain"), [(1, 3.0), (3, 1.7)])
def test_errors_cancel_on_the_inputs_that_it_is_fitted_to(blocks: int, gain: float) -> None:
    weight, inputs = _weight(192), _inputs(192, 1200)
    fitted = fit_weight(weight, _together(inputs[:600], blocks))
    for seen in (inputs[:600], inputs[600:]):  # and on others of the same kind
        nearest = relative(seen @ _rounded(weight), seen @ weight)
        assert relative(seen @ fitted, seen @ weight) < nearest / gain


def test_what_is_fitted_is_rounded_to_itself_by_the_scales_of_before() -> None:
    weight = _weight(96, 300)
    weight[:, 7] = 0
    fitted = fit_weight(weight, _together(_inputs(96), 2))
    np.testing.assert_array_equal(_rounded(fitted), fitted)
    np.testing.assert_allclose(round8(fitted)[1], round8(weight)[1], rtol=1e-6)


def test_channels_that_share_nothing_are_rounded_to_the_nearest() -> None:
    weight = _weight(64)
    alone = np.diag(np.linspace(1, 9, 64)).astype(np.float32)[None]
    np.testing.assert_array_equal(fit_weight(weight, alone), _rounded(weight))
    np.testing.assert_array_equal(fit_weight(weight, np.zeros_like(alone)), _rounded(weight))


def test_channels_that_are_never_used_harm_nothing() -> None:
    weight, inputs = _weight(96), _inputs(96)
    inputs[:, 10:40] = 0
    fitted = fit_weight(weight, _together(inputs, 1))
    assert np.isfinite(fitted).all()
    assert relative(inputs @ fitted, inputs @ weight) < relative(inputs @ _rounded(weight), inputs @ weight)


def test_few_tokens_are_fitted_to_whatever_their_sums_lost_by_rounding() -> None:
    """Sums in float32 of 40 tokens in 576 channels: where their two halves differ, there would be no factor."""
    weight, inputs = _weight(576, 8), _inputs(576, 40)
    together = _together(inputs, 1)
    together += np.random.default_rng(2).normal(scale=3e-6 * together.max(), size=together.shape).astype(np.float32)
    fitted = fit_weight(weight, together)
    assert relative(inputs @ fitted, inputs @ weight) < relative(inputs @ _rounded(weight), inputs @ weight)


def test_sums_that_are_not_finite_are_told() -> None:
    with pytest.raises(ModelError, match="beyond float32"):
        fit_weight(_weight(8), np.full((1, 8, 8), np.inf, np.float32))


def test_smoothed_inputs_have_smoothed_sums() -> None:
    inputs, scales = _inputs(96), np.linspace(0.5, 3, 96).astype(np.float32)
    channels = Channels(inputs.min(0), inputs.max(0), _together(inputs, 4))
    np.testing.assert_allclose(_divided(channels, scales).together, _together(inputs / scales, 4), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_fits_every_product_to_what_the_calibration_saw(
    family: str, tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    gains: dict[str, float] = {}

    def fit(layer: Layer, seen: Mapping[str, Channels], index: int) -> Layer:
        fitted = fit_layer(layer, seen, index)
        for part in PARTS:
            weight, together = getattr(layer, part), seen[f"layer.{index}.{part.replace('up', 'gate')}"].together
            assert together is not None
            nearest = _error(_rounded(weight) - weight, together)
            gains[f"{index}.{part}"] = nearest / _error(getattr(fitted, part) - weight, together)
        return fitted

    monkeypatch.setattr(onnx_folder, "fit_layer", fit)
    export(tiny_folder(family), tmp_path / "out", "int8")
    assert set(gains) == {f"{index}.{part}" for index in range(2) for part in PARTS}
    assert min(gains.values()) > 1.1


def _error(change: np.ndarray, together: np.ndarray) -> float:
    """The sum of squares of what a change of a weight changes on the inputs."""
    blocks = change.reshape(len(together), -1, change.shape[1])
    return float(np.einsum("bio,bij,bjo->", blocks, together.astype(np.float64), blocks))


def test_only_weights_of_8_bits_that_are_the_same_in_both_graphs_are_fitted() -> None:
    for changes in ({"weights": 4}, {"weights": 8, "activations": "static", "smooth_down": 0.5}):
        with pytest.raises(InputError, match="can be fitted"):
            Recipe(fit=True, **changes)
