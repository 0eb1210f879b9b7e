"""A transformers folder written as a GGUF file in float32, which llama.cpp then quantizes.

Written from the format's specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) and the facts in
``Decoder``. Tensors pass through the memory one at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.errors import StorageError
from pairgrade.export.decoder import Decoder, not_exported, read_decoder
from pairgrade.export.gguf_tensors import tensors
from pairgrade.export.gguf_tokenizer import Vocabulary, read_vocabulary
from pairgrade.export.weights import TensorSource, Weights
from pairgrade.extras import unusable


def write_gguf(folder: Path, path: Path, name: str | None = None, weights: TensorSource | None = None) -> None:
    """Write the model and the tokenizer of ``folder`` to ``path``; ModelError where llama.cpp could not run them.

    ``name`` is the model's name in the metadata; the folder's own without one. ``weights``: in place of the folder's.
    StorageError where the disk refuses.
    """
    decoder = read_decoder(folder)
    _require_known(decoder, folder)
    vocabulary = read_vocabulary(folder, decoder.vocabulary)
    plan = list(tensors(decoder, weights or Weights(folder), decoder.vocabulary))
    sizes = [4 * int(np.prod(tensor.shape)) for tensor in plan]  # bytes of float32
    try:
        from gguf import GGUFWriter
    except ImportError as error:
        raise unusable(error, "writing a GGUF file", "gguf", extra="train") from None
    writer = GGUFWriter(path, decoder.family)
    try:
        writer.add_name(name or folder.resolve().name)
        writer.add_file_type(0)  # all float32
        _add_decoder(writer, decoder)
        _add_vocabulary(writer, vocabulary, decoder)
        for tensor, size in zip(plan, sizes, strict=True):
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in plan:
            writer.write_tensor_data(tensor.read())
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; the file needs {sum(sizes):,} bytes and more"
        ) from error
    finally:
        writer.close()


def _require_known(d: Decoder, folder: Path) -> None:
    """Refuse what a GGUF file of the family cannot say."""
    problem = ""
    expected = "gelu_tanh" if d.gemma else "silu"
    if d.activation != expected:
        problem = f"the activation {d.activation}; llama.cpp's {d.family} has {expected}"
    elif d.rope.kind == "llama3" and d.family != "llama":
        problem = "Llama 3's scaling of the rotary embedding"
    elif d.local_rope.kind != "default" and d.local_rope != d.rope:
        problem = "a scaled rotary embedding in the sliding layers"
    elif d.gemma and d.window is None:
        problem = "no sliding window"
    elif d.window is not None and not d.gemma:
        problem = "a sliding window"
    elif d.gemma and (d.family == "gemma2") != (d.attention_cap is not None):
        problem = f"{'no' if d.attention_cap is None else 'a'} soft cap of the attention scores"
    elif d.family == "gemma2" and d.final_cap is None:
        problem = "no soft cap of the logits"
    elif d.gemma and not d.tied:
        problem = "a head of its own"
    elif d.window is not None and sliding_period(d.sliding) is None:
        problem = "sliding and full layers that do not alternate in a fixed period"
    if problem:
        raise not_exported(f"{folder}: a {d.family} model with {problem}, which cannot be exported to GGUF")


def sliding_period(sliding: tuple[bool, ...]) -> int | None:
    """Return p where every p-th layer, and no other, sees everything; None where there is no such period."""
    for period in range(1, len(sliding) + 2):
        if all(slides == ((layer + 1) % period != 0) for layer, slides in enumerate(sliding)):
            return period
    return None


def _add_decoder(writer: Any, d: Decoder) -> None:
    writer.add_context_length(d.context)
    writer.add_embedding_length(d.hidden)
    writer.add_block_count(d.layers)
    writer.add_feed_forward_length(d.intermediate)
    writer.add_head_count(d.heads)
    writer.add_head_count_kv(d.kv_heads)
    writer.add_key_length(d.head_dim)
    writer.add_value_length(d.head_dim)
    writer.add_layer_norm_rms_eps(d.norm_eps)
    writer.add_vocab_size(d.vocabulary)
    writer.add_rope_dimension_count(d.head_dim)
    writer.add_rope_freq_base(d.rope.theta)
    if d.rope.kind == "linear":
        writer.add_string(f"{d.family}.rope.scaling.type", "linear")
        writer.add_rope_scaling_factor(d.rope.factor)
    if d.window is not None:
        writer.add_sliding_window(d.window)
        writer.add_sliding_window_pattern(sliding_period(d.sliding))
        writer.add_rope_freq_base_swa(d.local_rope.theta)
    if d.attention_cap is not None:
        writer.add_attn_logit_softcapping(d.attention_cap)
    if d.final_cap is not None:
        writer.add_final_logit_softcapping(d.final_cap)


def _add_vocabulary(writer: Any, v: Vocabulary, d: Decoder) -> None:
    writer.add_tokenizer_model(v.model)
    writer.add_tokenizer_pre(v.pre)
    writer.add_token_list(v.tokens)
    writer.add_token_types([int(t) for t in v.types])
    if v.merges:
        writer.add_token_merges(v.merges)
    if v.scores:
        writer.add_token_scores(v.scores)
        writer.add_add_space_prefix(False)
    bos = d.bos if v.bos is None else v.bos
    if bos is not None:
        writer.add_bos_token_id(bos)
    if d.eos:
        writer.add_eos_token_id(d.eos[0])
    if v.unknown is not None:
        writer.add_unk_token_id(v.unknown)
    writer.add_add_bos_token(v.bos is not None)
    writer.add_add_eos_token(False)
    if v.chat_template is not None:
        writer.add_chat_template(v.chat_template)
