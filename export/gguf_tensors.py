"""Which tensor of a transformers folder becomes which tensor of a GGUF file, and what is done to it on the way.

llama.cpp names tensors its own way, adds nothing to the gains of norms, and rotates neighbouring channels in
Llama's heads where transformers rotates the two halves; the rest is carried over as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pairgrade.errors import ModelError
from pairgrade.export.decoder import Decoder
from pairgrade.export.weights import TensorSource, finite, require_tied_head

Floats = npt.NDArray[np.float32]

# The linear layers of a block, by their names in transformers
LINEAR = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_GEMMA_NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
# llama.cpp scales the scores of these two depths by the hidden size over the heads, and of all others by the head's
_WIDE_SCALE_LAYERS = {"gemma2": 46, "gemma3": 62}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the file to be written; ``read`` makes it, shape as given."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Floats]


def tensors(decoder: Decoder, weights: TensorSource, vocabulary: int) -> Iterator[Tensor]:
    """Yield every tensor of the file; ModelError where the folder's weights are not those of its config.

    ``vocabulary`` is the number of tokens: the embedding must have as many rows.
    """
    plans = dict(_plans(decoder, vocabulary))
    expected = {plan.source for plan in plans.values()}
    require_tied_head(decoder, weights)
    unknown = [name for name in weights.names() if name not in expected and not _ignored(name, decoder)]
    if unknown:
        raise ModelError(
            f"{weights.folder}: {len(unknown)} tensors that a {decoder.family} model does not have, such as "
            f"{unknown[0]}; merge an adapter first, and export full-precision weights only"
        )
    for name, plan in plans.items():
        if weights.shape(plan.source) != plan.shape:
            raise ModelError(
                f"{weights.folder}: {plan.source} has the shape {weights.shape(plan.source)}; "
                f"by its config it must be {plan.shape}"
            )
        yield Tensor(name, plan.shape, _reader(weights, plan))
    if decoder.rope.kind == "llama3":
        factors = decoder.rope.factors(decoder.head_dim)
        yield Tensor("rope_freqs.weight", factors.shape, lambda: factors)


def weight_shapes(decoder: Decoder) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors that a transformers folder of this decoder holds, by name."""
    return {plan.source: plan.shape for _, plan in _plans(decoder, decoder.vocabulary)}


@dataclass(frozen=True, slots=True)
class _Plan:
    source: str
    shape: tuple[int, ...]
    change: Callable[[Floats], Floats] | None = None


def _plans(d: Decoder, vocabulary: int) -> Iterator[tuple[str, _Plan]]:
    """Yield the name in the file, and what it is made of."""
    norm = _add_one if d.gemma else None
    yield "token_embd.weight", _Plan("model.embed_tokens.weight", (vocabulary, d.hidden))
    yield "output_norm.weight", _Plan("model.norm.weight", (d.hidden,), norm)
    if not d.tied:
        yield "output.weight", _Plan("lm_head.weight", (vocabulary, d.hidden))
    width, kv_width = d.heads * d.head_dim, d.kv_heads * d.head_dim
    shapes = {
        "attn_q": (width, d.hidden),
        "attn_k": (kv_width, d.hidden),
        "attn_v": (kv_width, d.hidden),
        "attn_output": (d.hidden, width),
        "ffn_gate": (d.intermediate, d.hidden),
        "ffn_up": (d.intermediate, d.hidden),
        "ffn_down": (d.hidden, d.intermediate),
    }
    for layer in range(d.layers):
        ours, theirs = f"model.layers.{layer}.", f"blk.{layer}."
        for source, name in LINEAR.items():
            change = _projection(name, d)
            yield f"{theirs}{name}.weight", _Plan(f"{ours}{source}.weight", shapes[name], change)
            if d.qkv_bias and name in ("attn_q", "attn_k", "attn_v"):
                yield f"{theirs}{name}.bias", _Plan(f"{ours}{source}.bias", shapes[name][:1], change)
        for source, name in (_GEMMA_NORMS if d.gemma else _NORMS).items():
            yield f"{theirs}{name}.weight", _Plan(f"{ours}{source}.weight", (d.hidden,), norm)
        if d.qk_norm:
            for source, name in _HEAD_NORMS.items():
                change = _then(norm, _scale(d)) if name == "attn_q_norm" else norm
                yield f"{theirs}{name}.weight", _Plan(f"{ours}{source}.weight", (d.head_dim,), change)


def _projection(name: str, d: Decoder) -> Callable[[Floats], Floats] | None:
    """Return what is done to the weights (or the bias) of a linear layer."""
    change: Callable[[Floats], Floats] | None = None
    if name == "attn_q" and not d.qk_norm:
        change = _scale(d)
    if d.family == "llama" and name in ("attn_q", "attn_k"):
        heads = d.heads if name == "attn_q" else d.kv_heads
        change = _then(change, lambda rows: interleaved(rows, heads))
    return change


def interleaved(rows: Floats, heads: int) -> Floats:
    """Reorder each head's rows from two halves to pairs: row i and row i + half become neighbours."""
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    paired: Floats = halves.swapaxes(1, 2).reshape(rows.shape)
    return paired


def _scale(d: Decoder) -> Callable[[Floats], Floats] | None:
    """Return how queries are scaled so that llama.cpp's own scale of the scores gives the model's."""
    wide = _WIDE_SCALE_LAYERS.get(d.family) == d.layers
    factor = d.attention_scale * math.sqrt(d.hidden / d.heads if wide else d.head_dim)
    return None if math.isclose(factor, 1.0, rel_tol=1e-9) else lambda values: values * np.float32(factor)


def _then(
    first: Callable[[Floats], Floats] | None, second: Callable[[Floats], Floats] | None
) -> Callable[[Floats], Floats] | None:
    if first is None or second is None:
        return first or second
    return lambda values: second(first(values))


def _add_one(values: Floats) -> Floats:
    more: Floats = values + np.float32(1)
    return more


def _reader(weights: TensorSource, plan: _Plan) -> Callable[[], Floats]:
    def read() -> Floats:
        values = finite(weights, plan.source)
        return np.ascontiguousarray(plan.change(values) if plan.change else values)

    return read


def _ignored(name: str, d: Decoder) -> bool:
    """Whether a stored tensor says nothing new: the head of tied models, the frequencies of old checkpoints."""
    return (d.tied and name == "lm_head.weight") or name.endswith("rotary_emb.inv_freq")
