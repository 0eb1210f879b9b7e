"""Rounding weights so that what one loses the next ones make good, on the inputs that a product really has.

GPTQ (Frantar et al. 2022, arXiv 2210.17323): the rows of a weight are rounded one by one, those of the strongest
channels first, and each one's error is taken from the rows that are still to come, as their channels go along with
its own. Correlations between blocks of channels are left out. Scales and whole numbers are those that ``round8`` makes
of the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pairgrade.errors import ModelError
from pairgrade.export.onnx_layers import Array, Layer
from pairgrade.export.onnx_linear import Channels, round8

_DAMPING = 0.01  # of the mean square of a block's channels: as of so much noise in each
_ROWS = 64  # rows whose errors are taken from the later ones by one product


def fit_layer(layer: Layer, seen: Mapping[str, Channels], index: int) -> Layer:
    """Return a layer whose five weights are whole multiples of their columns' scales."""

    def fitted(part: str, weight: Array) -> Array:
        together = seen[f"layer.{index}.{part}"].together
        assert together is not None  # the recipe had them observed
        return fit_weight(weight, together)

    gate, up = np.split(fitted("gate", np.concatenate((layer.gate, layer.up), 1)), 2, 1)  # the same input
    return replace(
        layer,
        qkv=fitted("qkv", layer.qkv),
        out=fitted("out", layer.out),
        gate=np.ascontiguousarray(gate),
        up=np.ascontiguousarray(up),
        down=fitted("down", layer.down),
    )


def fit_weight(weight: Array, together: Array) -> Array:
    """Round a weight (in, out) by sums of products of its input's channels, (blocks, channels, channels).

    Returned are whole numbers of -127..127 times each column's scale, as float32: ``round8`` finds the same again.
    ModelError where a sum is not finite.
    """
    if not np.isfinite(together).all():
        raise ModelError(
            "squares of a product's inputs are beyond float32 on the calibration's prompts: the model cannot have "
            "weights of 8 bits; fp32 may run it"
        )
    scales = round8(weight)[1]
    largest = np.abs(weight).argmax(0)  # it stays the largest, of which ``round8`` makes the scale
    signs = np.sign(weight[largest, np.arange(weight.shape[1])])
    fitted = np.empty_like(weight)
    width = together.shape[1]
    for block, products in enumerate(together):
        rows = slice(block * width, (block + 1) * width)
        fitted[rows] = _fit_block(weight[rows], products, scales, largest - rows.start, signs)
    return fitted


def _fit_block(weight: Array, products: Array, scales: Array, largest: npt.NDArray[np.int64], signs: Array) -> Array:
    """Round a block's rows; ``largest``: the row of each column's largest number, of this block or of none of it."""
    order = np.argsort(-np.diag(products), kind="stable")
    factor = _factor(products[np.ix_(order, order)])
    rest, whole = weight[order], np.empty_like(weight)
    for start in range(0, len(rest), _ROWS):
        end = min(start + _ROWS, len(rest))
        errors = np.empty((end - start, weight.shape[1]), np.float32)
        for row in range(start, end):
            whole[row] = np.clip(np.rint(rest[row] / scales), -127, 127)
            own = largest == order[row]
            whole[row, own] = 127 * signs[own]
            errors[row - start] = (rest[row] - whole[row] * scales) / factor[row, row]
            rest[row + 1 : end] -= factor[row, row + 1 : end, None] * errors[row - start]
        rest[end:] -= factor[start:end, end:].T @ errors
    fitted = np.empty_like(weight)
    fitted[order] = whole * scales
    return fitted


def _factor(products: Array) -> Array:
    """Return the upper Cholesky factor of the inverse."""
    square = products.astype(np.float64)
    square = (square + square.T) / 2  # or few tokens' sums, rounded to float32, have no factor
    mean = np.diag(square).mean() or 1.0
    square[np.diag_indices_from(square)] += _DAMPING * mean
    upper: Array = np.linalg.cholesky(np.linalg.inv(square)).T.astype(np.float32)
    return upper
