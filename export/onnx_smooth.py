"""Outlier channels of a product's input, scaled away: what is taken from them goes into the weights.

After SmoothQuant (Xiao et al., https://arxiv.org/abs/2211.10438). What divides a channel costs nothing at run time. Of
a normalized value it is in the norm's gain; of the down product's input, which is the gate's value times the up
product's, in a column of the up weight.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace

import numpy as np

from pairgrade.export.onnx_layers import Array, Layer
from pairgrade.export.onnx_linear import Channels

_SMALL = 1e-5


def smoothing(channels: Channels, weight: Array, strength: float, *, powers: bool = False) -> Array:
    """Return what each channel is divided by, (in,): peak ** strength / weight's peak ** (1 - strength), around 1.

    ``powers``: of two, so that the up product's columns round to the same whole numbers as before.
    """
    peaks = np.maximum(np.maximum(-channels.low, channels.high), _SMALL)
    scales = peaks**strength / np.maximum(np.abs(weight).max(1), _SMALL) ** (1 - strength)
    logs = np.log2(scales)
    logs -= logs.mean()
    result: Array = np.exp2(np.rint(logs) if powers else logs).astype(np.float32)
    return result


def smooth_norms(layer: Layer, ranges: MutableMapping[str, Channels], index: int, strength: float) -> Layer:
    """Return the layer with both normalized values smoothed; ``ranges`` becomes what its products then see."""
    before = f"layer.{index}."
    attention = smoothing(ranges[f"{before}qkv"], layer.qkv, strength)
    mlp = smoothing(ranges[f"{before}gate"], np.concatenate((layer.gate, layer.up), 1), strength)
    for part, scales in (("qkv", attention), ("gate", mlp), ("up", mlp)):
        ranges[before + part] = _divided(ranges[before + part], scales)
    return replace(
        layer,
        attention_norm=layer.attention_norm / attention,
        qkv=layer.qkv * attention[:, None],
        mlp_norm=layer.mlp_norm / mlp,
        gate=layer.gate * mlp[:, None],
        up=layer.up * mlp[:, None],
    )


def smooth_down(
    layer: Layer, ranges: MutableMapping[str, Channels], index: int, strength: float, *, powers: bool = False
) -> Layer:
    """Return the layer with its down input smoothed; ``ranges`` becomes what the product then sees."""
    name = f"layer.{index}.down"
    scales = smoothing(ranges[name], layer.down, strength, powers=powers)
    ranges[name] = _divided(ranges[name], scales)
    return replace(layer, up=layer.up / scales, down=layer.down * scales[:, None])


def _divided(channels: Channels, scales: Array) -> Channels:
    together = channels.together
    if together is not None:
        blocks = scales.reshape(len(together), -1)
        together = together / (blocks[:, :, None] * blocks[:, None, :])
    return Channels(channels.low / scales, channels.high / scales, together)
