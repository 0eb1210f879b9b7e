"""Outlier channels of the down product's input, scaled away: what is taken from them goes into the weights.

After SmoothQuant (Xiao et al., https://arxiv.org/abs/2211.10438). The input is the gate's value times the up
product's, so that a channel's scale can be folded into a column of the one and a row of the other weight for nothing.
"""

from __future__ import annotations

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


def smooth_down(layer: Layer, channels: Channels, strength: float, *, powers: bool = False) -> tuple[Layer, Channels]:
    """Return the layer with its down input smoothed, and the ranges that it then has."""
    scales = smoothing(channels, layer.down, strength, powers=powers)
    layer = replace(layer, up=layer.up / scales, down=layer.down * scales[:, None])
    return layer, Channels(channels.low / scales, channels.high / scales)
