"""Rotations that spread outlier channels, folded into the weights so that the model stays the same function.

After QuaRot (Ashkboos et al., https://arxiv.org/abs/2404.00456): norm gains go into the products that follow; the
residual stream is turned by one orthogonal matrix, value heads by one each layer. Only the input of the down product,
which comes out of an element-wise function, would have to be turned at run time; a block Hadamard matrix does that
where a recipe asks for it. Another one may turn normalized values, where the residual stream is left as it is: then the
gains of the norms are free to take outliers away before. Embedding and head stay as they are: the graph turns the
embedded tokens when they come in and the last hidden states when they go out.

Gemma multiplies by a gain between the output products and the residual stream, which no matrix commutes with: there,
and for every model where only the heads are to be turned, the residual stream is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import dataclass, replace

import numpy as np

from pairgrade.export.decoder import Decoder
from pairgrade.export.onnx_layers import Array, Layer
from pairgrade.export.onnx_linear import Channels
from pairgrade.export.onnx_recipe import Recipe

BEHIND_NORMS = ("qkv", "gate", "up")


@dataclass(frozen=True, slots=True)
class Rotation:
    """The matrices of one model."""

    seed: int
    is_on: bool  # whether gains are folded and value heads turned
    residual: Array | None  # (hidden, hidden)
    norms: Array | None  # (block, block), symmetric
    down: Array | None

    def turn(self, layer: Layer, decoder: Decoder, index: int) -> Layer:
        """Return the layer in turned coordinates."""
        if self.is_on:
            layer = _turn_values(_fold_norms(layer), decoder, orthogonal(decoder.head_dim, self.seed + 1 + index))
        if self.residual is not None:
            turn = self.residual
            layer = replace(
                layer,
                qkv=turn.T @ layer.qkv,
                gate=turn.T @ layer.gate,
                up=turn.T @ layer.up,
                out=layer.out @ turn,
                down=layer.down @ turn,
            )
        return layer if self.down is None else replace(layer, down=_by_blocks(self.down, layer.down))

    def turn_norms(self, layer: Layer) -> Layer:
        """Return the layer with the products behind its norms in turned coordinates."""
        if self.norms is None:
            return layer
        return replace(layer, **{part: _by_blocks(self.norms, getattr(layer, part)) for part in BEHIND_NORMS})

    def turn_together(self, ranges: MutableMapping[str, Channels], index: int) -> None:
        """Bring the sums of channels' products behind a layer's norms into turned coordinates."""
        for name in (f"layer.{index}.{part}" for part in BEHIND_NORMS):
            together = ranges[name].together
            if self.norms is not None and together is not None:
                half = [_by_blocks(self.norms, block).T for block in together]
                both = np.stack([_by_blocks(self.norms, block) for block in half])
                ranges[name] = replace(ranges[name], together=both)


def make_rotation(decoder: Decoder, recipe: Recipe) -> Rotation:
    """Return the matrices that a recipe asks for."""
    turns = recipe.rotate == "all" and not decoder.gemma
    return Rotation(
        seed=recipe.seed,
        is_on=recipe.rotate != "none",
        residual=orthogonal(decoder.hidden, recipe.seed) if turns else None,
        norms=_turning(recipe.norm_block, decoder.hidden),
        down=_turning(recipe.down_block, decoder.intermediate),
    )


def orthogonal(size: int, seed: int) -> Array:
    """Return a random orthogonal matrix (Haar measure): the Q of a Gaussian matrix, signs by R's diagonal."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    result: Array = (q * np.sign(np.diag(r))).astype(np.float32)
    return result


def hadamard(size: int) -> Array:
    """Return the orthogonal Hadamard matrix of a power of two, by Sylvester's construction."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    result: Array = (matrix / np.sqrt(size)).astype(np.float32)
    return result


def _turning(block: int, channels: int) -> Array | None:
    """Return the matrix of the largest block that divides the channels."""
    return hadamard(math.gcd(block, channels)) if block else None


def _by_blocks(turn: Array, weight: Array) -> Array:
    """Turn the rows of a weight (in, out), block by block."""
    turned: Array = turn.T @ weight.reshape(-1, len(turn), weight.shape[1])
    return turned.reshape(weight.shape)


def _fold_norms(layer: Layer) -> Layer:
    return replace(
        layer,
        attention_norm=np.ones_like(layer.attention_norm),
        qkv=layer.attention_norm[:, None] * layer.qkv,
        mlp_norm=np.ones_like(layer.mlp_norm),
        gate=layer.mlp_norm[:, None] * layer.gate,
        up=layer.mlp_norm[:, None] * layer.up,
    )


def _turn_values(layer: Layer, decoder: Decoder, turn: Array) -> Layer:
    """Turn what the heads carry: the value columns, and back in the rows of the output product."""
    start = (decoder.heads + decoder.kv_heads) * decoder.head_dim
    qkv, bias = layer.qkv.copy(), layer.qkv_bias
    qkv[:, start:] = _by_heads(qkv[:, start:], turn)
    if bias is not None:
        bias = bias.copy()
        bias[start:] = _by_heads(bias[None, start:], turn)[0]
    out = turn.T @ layer.out.reshape(decoder.heads, decoder.head_dim, -1)
    return replace(layer, qkv=qkv, qkv_bias=bias, out=out.reshape(layer.out.shape))


def _by_heads(columns: Array, turn: Array) -> Array:
    return (columns.reshape(len(columns), -1, len(turn)) @ turn).reshape(columns.shape)
