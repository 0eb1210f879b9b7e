"""The facts of a decoder that its exports need, read from a transformers folder's config.json.

Five families are known: Llama 3.x (and those of its shape, such as SmolLM2), Qwen 2 and 2.5, Qwen 3, Gemma 2 and
Gemma 3 (text only). What differs between them is data in ``Decoder``; the graph writers read it and nothing else.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pairgrade.errors import ModelError, PairgradeError
from pairgrade.extras import unusable

FAMILIES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
}
_EXPORTED = (
    f"What can be exported: {', '.join(FAMILIES)}, with the tokenizers of Llama 3, Qwen 2 and 3, SmolLM2, GPT-2 or "
    "Gemma; llama.cpp's own convert_hf_to_gguf.py knows many more, and pairgrade labels with its files too"
)
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


def not_exported(what: str) -> ModelError:
    """Return the refusal of a model that is sound, but of a kind that pairgrade does not export."""
    return ModelError(f"{what}. {_EXPORTED}")


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding over the whole head; ``kind`` is default, linear or llama3."""

    theta: float
    kind: str = "default"
    factor: float = 1.0  # linear, llama3
    low_factor: float = 1.0  # llama3
    high_factor: float = 4.0  # llama3
    original_context: int = 8192  # llama3

    def factors(self, head_dim: int) -> npt.NDArray[np.float32]:
        """Return by what each of the head_dim / 2 frequencies is divided, shape (head_dim / 2,); 1 is unscaled.

        llama3: frequencies whose wave is longer than the original context are divided by ``factor``, short ones
        kept, those between interpolated (Llama 3.1, https://arxiv.org/abs/2407.21783).
        """
        base = self._base(head_dim)
        if self.kind == "default":
            return np.ones_like(base, np.float32)
        if self.kind == "linear":
            return np.full_like(base, self.factor, np.float32)
        waves = 2 * math.pi / base
        ratio = self.original_context / waves
        smooth = np.clip((ratio - self.low_factor) / (self.high_factor - self.low_factor), 0, 1)
        scaled = (1 - smooth) / self.factor + smooth
        result: npt.NDArray[np.float32] = (1 / scaled).astype(np.float32)
        return result

    def frequencies(self, head_dim: int) -> npt.NDArray[np.float64]:
        """Return the angle per position of each pair of channels, shape (head_dim / 2,), radians."""
        return self._base(head_dim) / self.factors(head_dim)

    def _base(self, head_dim: int) -> npt.NDArray[np.float64]:
        exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
        base: npt.NDArray[np.float64] = self.theta**-exponents
        return base


@dataclass(frozen=True, slots=True)
class Decoder:
    """One decoder-only transformer. Weights are named as in transformers (``model.layers.0.self_attn.q_proj``...)."""

    family: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int  # positions that it was trained with
    norm_eps: float
    activation: str  # of the gate: "silu" or "gelu_tanh"
    tied: bool  # the head is the embedding
    qkv_bias: bool
    qk_norm: bool  # RMS norms over each head of queries and keys
    gemma: bool  # norms multiply by 1 + w, embeddings by sqrt(hidden), norms also after attention and feed-forward
    attention_scale: float  # what the scores are multiplied by
    attention_cap: float | None  # soft cap of the scores: cap * tanh(score / cap)
    final_cap: float | None  # soft cap of the logits
    window: int | None  # a sliding layer sees so many positions, itself included
    sliding: tuple[bool, ...]  # which layers slide
    rope: Rope  # of the layers that see everything
    local_rope: Rope  # of the sliding layers
    bos: int | None
    eos: tuple[int, ...]

    @property
    def embedding_scale(self) -> float:
        """What embeddings are multiplied by."""
        return math.sqrt(self.hidden) if self.gemma else 1.0

    def layer_rope(self, layer: int) -> Rope:
        """Return the rotary embedding of one layer."""
        return self.local_rope if self.sliding[layer] else self.rope


def read_decoder(folder: Path) -> Decoder:
    """Read a transformers folder's config.json; ModelError for a model that the exports do not know."""
    if folder.is_file():
        raise ModelError(f"{folder} is a file; an export is made of a transformers folder, as save_pretrained makes it")
    raw = read_config(folder)
    names = raw.get("architectures") or ["(none named)"]
    name = str(names[0] if isinstance(names, list) else names)
    family = FAMILIES.get(name)
    if family is None:
        raise not_exported(f"{folder}: architecture {name} is not one that pairgrade exports")
    config, sizes = _standard_config(folder)
    try:
        decoder = _decoder(family, config, sizes, folder)
    except PairgradeError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise ModelError(f"{folder}/config.json: no {family} model has such values ({error})") from None
    for size in ("vocabulary", "hidden", "intermediate", "layers", "heads", "kv_heads", "head_dim", "context"):
        if getattr(decoder, size) < 1:
            raise ModelError(f"{folder}/config.json: {size} is {getattr(decoder, size)}; it must be at least 1")
    if len(decoder.sliding) != decoder.layers:
        raise ModelError(f"{folder}/config.json: {len(decoder.sliding)} layer_types, and {decoder.layers} layers")
    return decoder


def _decoder(family: str, config: Any, sizes: Any, folder: Path) -> Decoder:
    gemma = family.startswith("gemma")
    layers, head_dim = int(sizes.num_layers), _head_dim(config)
    window, sliding = _sliding(config, layers) if family != "llama" else (None, (False,) * layers)
    rope, local_rope = _ropes(config, folder)
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation not in _ACTIVATIONS:
        raise not_exported(f"{folder}: activation '{activation}'; known are {', '.join(_ACTIVATIONS)}")
    if family != "qwen2" and (getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False)):
        raise not_exported(f"{folder}: a {family} model with biases; known are only Qwen 2's of query, key and value")
    if getattr(config, "use_bidirectional_attention", False):
        raise not_exported(f"{folder}: attention to later tokens (use_bidirectional_attention) is not known here")
    scalar = getattr(config, "query_pre_attn_scalar", None) if gemma else None
    eos = config.eos_token_id
    return Decoder(
        family=family,
        vocabulary=int(sizes.vocab_size),
        hidden=int(sizes.hidden_size),
        intermediate=int(config.intermediate_size),
        layers=layers,
        heads=int(sizes.num_attention_heads),
        kv_heads=int(sizes.num_key_value_heads),
        head_dim=head_dim,
        context=int(config.max_position_embeddings),
        norm_eps=float(config.rms_norm_eps),
        activation=_ACTIVATIONS[activation],
        tied=bool(config.tie_word_embeddings),
        qkv_bias=family == "qwen2",
        qk_norm=family in ("qwen3", "gemma3"),
        gemma=gemma,
        attention_scale=float(scalar or head_dim) ** -0.5,
        attention_cap=_cap(config, "attn_logit_softcapping") if family == "gemma2" else None,
        final_cap=_cap(config, "final_logit_softcapping"),
        window=window,
        sliding=sliding,
        rope=rope,
        local_rope=local_rope,
        bos=config.bos_token_id,
        eos=tuple(eos) if isinstance(eos, list) else () if eos is None else (int(eos),),
    )


def why_not_exported(folder: Path) -> str | None:
    """Say why a folder's model is none that ``pairgrade export`` writes; None where it is one."""
    from pairgrade.export.weights import Weights, require_tied_head

    try:
        require_tied_head(read_decoder(folder), Weights(folder))
    except ModelError as error:
        return str(error)
    return None


def read_config(folder: Path) -> dict[str, Any]:
    """Return what a transformers folder's config.json says; ModelError where it is not there or not sound."""
    try:
        table = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} has no config.json; give the folder that save_pretrained wrote") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{folder}/config.json: not JSON ({error})") from None
    except OSError as error:
        raise ModelError(f"{folder}/config.json cannot be read: {error.strerror or error}") from None
    if not isinstance(table, dict):
        raise ModelError(f"{folder}/config.json: not a JSON object")
    return table


def _standard_config(folder: Path) -> tuple[Any, Any]:
    """Return transformers' reading of the config, which evens out its versions, and optimum's names of the sizes."""
    try:
        from optimum.utils.normalized_config import NormalizedTextConfigWithGQA
        from transformers import AutoConfig
    except ImportError as error:
        raise unusable(error, "exporting a model", "optimum", "transformers", extra="train") from None
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        return config, NormalizedTextConfigWithGQA(config)
    except Exception as error:  # its checks of a config have errors of their own, which derive from nothing else
        raise ModelError(f"{folder}/config.json: transformers cannot read it ({error})") from None


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _cap(config: Any, name: str) -> float | None:
    value = getattr(config, name, None)
    return float(value) if value else None


def _sliding(config: Any, layers: int) -> tuple[int | None, tuple[bool, ...]]:
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * layers
    sliding = tuple(kind == "sliding_attention" for kind in kinds)
    if window is None or not any(sliding):
        return None, (False,) * layers
    return int(window), sliding


def _ropes(config: Any, folder: Path) -> tuple[Rope, Rope]:
    table = config.rope_parameters
    if "full_attention" in table:  # flat keys may stand beside those of the kinds of layers, which count
        return _rope(table["full_attention"], folder), _rope(table["sliding_attention"], folder)
    rope = _rope(table, folder)
    return rope, rope


def _rope(table: dict[str, Any], folder: Path) -> Rope:
    kind, theta = table.get("rope_type", "default"), float(table["rope_theta"])
    if float(table.get("partial_rotary_factor", 1.0)) != 1.0:
        raise not_exported(f"{folder}: rotary embeddings over a part of the head are not known here")
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, kind, float(table["factor"]))
    if kind == "llama3":
        low, high = float(table["low_freq_factor"]), float(table["high_freq_factor"])
        return Rope(theta, kind, float(table["factor"]), low, high, int(table["original_max_position_embeddings"]))
    raise not_exported(f"{folder}: rotary scaling '{kind}' is not known here; known are default, linear and llama3")
