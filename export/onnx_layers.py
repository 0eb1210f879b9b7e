"""The weights of a decoder's layers as its graph wants them: products laid out (in, out), packed, scales folded in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pairgrade.export.decoder import Decoder
from pairgrade.export.weights import Weights, finite

Array = npt.NDArray[np.float32]


@dataclass(slots=True)
class Layer:
    """One layer. Norms are what the normalized value is multiplied by: Gemma's 1 + w, elsewhere w.

    The scale of the attention scores (over their soft cap, if there is one) is in the queries, or in their norm.
    """

    attention_norm: Array  # (hidden,)
    qkv: Array  # (hidden, (heads + 2 kv_heads) head_dim): queries, keys, values
    qkv_bias: Array | None
    query_norm: Array | None  # (head_dim,)
    key_norm: Array | None
    out: Array  # (heads head_dim, hidden)
    attention_post_norm: Array | None  # Gemma: of what the attention gives, before it is added
    mlp_norm: Array
    gate: Array  # (hidden, intermediate)
    up: Array
    down: Array  # (intermediate, hidden)
    mlp_post_norm: Array | None


def read_layer(weights: Weights, decoder: Decoder, index: int) -> Layer:
    """Read one layer of a transformers folder."""
    at = f"model.layers.{index}."
    scale = np.float32(decoder.attention_scale / (decoder.attention_cap or 1.0))

    def gain(name: str) -> Array:
        value = finite(weights, f"{at}{name}.weight")
        return value + np.float32(1) if decoder.gemma else value

    def side(kind: str) -> list[Array]:
        return [finite(weights, f"{at}self_attn.{part}_proj.{kind}") for part in "qkv"]

    parts, biases = side("weight"), side("bias") if decoder.qkv_bias else None
    query_norm = key_norm = None
    if decoder.qk_norm:
        query_norm, key_norm = gain("self_attn.q_norm") * scale, gain("self_attn.k_norm")
    else:
        parts[0] *= scale
        if biases:
            biases[0] *= scale
    before_mlp = "pre_feedforward_layernorm" if decoder.gemma else "post_attention_layernorm"
    return Layer(
        attention_norm=gain("input_layernorm"),
        qkv=_columns(parts),
        qkv_bias=np.concatenate(biases) if biases else None,
        query_norm=query_norm,
        key_norm=key_norm,
        out=_columns([finite(weights, f"{at}self_attn.o_proj.weight")]),
        attention_post_norm=gain("post_attention_layernorm") if decoder.gemma else None,
        mlp_norm=gain(before_mlp),
        gate=_columns([finite(weights, f"{at}mlp.gate_proj.weight")]),
        up=_columns([finite(weights, f"{at}mlp.up_proj.weight")]),
        down=_columns([finite(weights, f"{at}mlp.down_proj.weight")]),
        mlp_post_norm=gain("post_feedforward_layernorm") if decoder.gemma else None,
    )


def read_final_norm(weights: Weights, decoder: Decoder) -> Array:
    """Read what the last normalized value is multiplied by."""
    value = finite(weights, "model.norm.weight")
    return value + np.float32(1) if decoder.gemma else value


def _columns(parts: list[Array]) -> Array:
    """Stack (out, in) matrices and transpose."""
    return np.ascontiguousarray(np.concatenate(parts).T)
