"""Whether a GGUF file may be given to llama.cpp, which aborts the process on some damaged ones.

A check of the header alone: it says nothing of the weights' bytes, for which there is the sha256 of a manifest.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pairgrade.errors import ModelError
from pairgrade.foreign_text import shown
from pairgrade.gguf_header import ArrayValue, GgufHeader, TensorInfo, UnsoundError, read_header
from pairgrade.gguf_vocabulary import check_vocabulary

# ggml's tensor types: number -> (name, weights of a block, bytes of a block)
TYPES = {
    0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 10: ("q2_k", 256, 84), 11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210), 15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98), 19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110), 22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1), 25: ("i16", 1, 2), 26: ("i32", 1, 4), 27: ("i64", 1, 8), 28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56), 30: ("bf16", 1, 2), 34: ("tq1_0", 256, 54), 35: ("tq2_0", 256, 66), 39: ("mxfp4", 32, 17),
    40: ("nvfp4", 64, 36), 41: ("q1_0", 128, 18),
}  # fmt: skip
_MAX_NAME = 63  # bytes of a tensor's name that llama.cpp keeps
_MAX_BYTES = 2**62
# Whole-number hyper-parameters and the range within which a real model's lie
_RANGES = {
    "block_count": (1, 512),  # llama.cpp aborts on more, and on more experts
    "context_length": (1, 2**27),
    "embedding_length": (1, 2**20),
    "feed_forward_length": (1, 2**22),
    "attention.head_count": (1, 2**14),
    "attention.head_count_kv": (0, 2**14),
    "attention.key_length": (1, 2**14),
    "attention.value_length": (1, 2**14),
    "attention.sliding_window": (0, 2**27),
    "rope.dimension_count": (0, 2**14),
    "vocab_size": (1, 2**24),
    "expert_count": (0, 512),
    "expert_used_count": (0, 512),
    "expert_group_count": (0, 512),
    "expert_group_used_count": (0, 512),
    "nextn_predict_layers": (0, 512),
}
_REALS = {  # the same for real numbers: zero, infinity and NaN end as NaN, or as an abort
    "attention.layer_norm_epsilon": (1e-20, 1.0),
    "attention.layer_norm_rms_epsilon": (1e-20, 1.0),
    "rope.freq_base": (1e-3, 1e12),
    "rope.freq_base_swa": (1e-3, 1e12),
    "rope.scaling.factor": (1e-6, 1e6),
}
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_PER_LAYER = ("feed_forward_length", "attention.head_count")  # 0 in an array is a layer without
_REQUIRED = ("block_count", "context_length", "embedding_length", "attention.head_count")
_BLOCK = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What a sound header says of its model."""

    architecture: str
    blocks: int
    context: int  # positions that it was trained with
    vocabulary: int  # tokens
    tensors: int
    types: tuple[tuple[str, int], ...]  # tensor types and how many tensors have them, the most frequent first
    size: int  # bytes of the file


def check_gguf(path: Path) -> GgufFacts:
    """Check a GGUF file's header and return its facts; ModelError gives the first reason not to load it."""
    header = read_header(path)
    try:
        architecture = _architecture(header)
        blocks = _hyper_parameters(header, architecture)
        vocabulary = check_vocabulary(header.metadata)
        _tensors(header, blocks)
    except UnsoundError as reason:
        raise ModelError(f"{path} {shown(str(reason))}: the file is damaged or not a real model") from None
    context = header.metadata[f"{architecture}.context_length"]
    types = Counter(TYPES[tensor.kind][0] for tensor in header.tensors)
    assert isinstance(context, int)  # by _hyper_parameters
    return GgufFacts(
        architecture, blocks, context, vocabulary, len(header.tensors), tuple(types.most_common()), header.size
    )


def _architecture(header: GgufHeader) -> str:
    name = header.metadata.get("general.architecture")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_.-]{1,64}", name):
        raise UnsoundError(f"names no architecture that could be one (general.architecture is {name!r})")
    parts = header.metadata.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        raise UnsoundError(f"is one of {parts} parts of a model; join them first (llama-gguf-split --merge)")
    return name


def _hyper_parameters(header: GgufHeader, architecture: str) -> int:
    for name, (least, most) in _RANGES.items():
        key = f"{architecture}.{name}"
        value = header.metadata.get(key)
        if value is None:
            if name in _REQUIRED:
                raise UnsoundError(f"has no {key}")
            continue
        numbers = value.values if isinstance(value, ArrayValue) else (value,)  # some are given per layer
        if isinstance(value, ArrayValue) and name in _PER_LAYER:
            least = 0
        if not numbers or not all(type(n) is int and least <= n <= most for n in numbers):
            shown = numbers[0] if len(numbers) == 1 else list(numbers[:8])
            raise UnsoundError(f"has {key} = {shown}; real models have {least:,} to {most:,}")
    for name, (low, high) in _REALS.items():
        real = header.metadata.get(f"{architecture}.{name}", low)
        if not isinstance(real, float) or not low <= real <= high:
            raise UnsoundError(f"has {architecture}.{name} = {real}; real models have {low:g} to {high:g}")
    scaling = header.metadata.get(f"{architecture}.rope.scaling.type", "none")
    if scaling not in _ROPE_SCALINGS:
        raise UnsoundError(f"has {architecture}.rope.scaling.type = {scaling!r}; {', '.join(_ROPE_SCALINGS)} are known")
    blocks = header.metadata[f"{architecture}.block_count"]
    for name in ("block_count", "context_length", "embedding_length"):
        if isinstance(header.metadata[f"{architecture}.{name}"], ArrayValue):
            raise UnsoundError(f"has {architecture}.{name} as an array")
    assert isinstance(blocks, int)  # by its range
    if _number(header, f"{architecture}.nextn_predict_layers") > blocks:
        raise UnsoundError(f"has more {architecture}.nextn_predict_layers than its {blocks} blocks")
    _experts(header, architecture)
    return blocks


def _experts(header: GgufHeader, architecture: str) -> None:
    """Refuse counts of experts that do not go together; llama.cpp aborts on them."""
    names = ("expert_count", "expert_used_count", "expert_group_count", "expert_group_used_count")
    count, used, groups, groups_used = (_number(header, f"{architecture}.{name}") for name in names)
    together = 0 < used <= count and groups < count if count else used == groups == 0
    if groups > 1:
        together = together and count % groups == 0 and 0 < groups_used < groups
    if not together:
        raise UnsoundError(f"has {count} experts, {used} of them used, in {groups} groups, {groups_used} of them used")


def _number(header: GgufHeader, key: str) -> int:
    """Return a checked whole number, the largest of an array, or 0 where there is none."""
    value = header.metadata.get(key, 0)
    numbers = value.values if isinstance(value, ArrayValue) else (value,)
    return max((n for n in numbers if isinstance(n, int)), default=0)


def _tensors(header: GgufHeader, blocks: int) -> None:
    if not header.tensors:
        raise UnsoundError("has no tensors")
    alignment = header.metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 32 <= alignment <= 2**16 or alignment & (alignment - 1):
        raise UnsoundError(f"has general.alignment = {alignment}; it must be a power of two from 32 to 65,536")
    data = -(-header.end // alignment) * alignment
    spans: list[tuple[int, int, str]] = []
    names: set[str] = set()
    for tensor in header.tensors:
        if tensor.name in names:
            raise UnsoundError(f"has the tensor '{tensor.name}' twice")
        names.add(tensor.name)
        size = _tensor_bytes(tensor)
        block = _BLOCK.match(tensor.name)
        if block and int(block[1]) >= blocks:
            raise UnsoundError(f"has the tensor '{tensor.name}' and only {blocks} blocks")
        if tensor.offset % alignment:
            raise UnsoundError(
                f"has the tensor '{tensor.name}' at offset {tensor.offset:,}, no multiple of {alignment}"
            )
        if data + tensor.offset + size > header.size:
            raise UnsoundError(
                f"has {header.size:,} bytes and the tensor '{tensor.name}' would end at {data + tensor.offset + size:,}"
            )
        spans.append((tensor.offset, size, tensor.name))
    spans.sort()
    for (offset, size, name), (following, _, other) in pairwise([(0, 0, "the header"), *spans]):
        if offset + size > following:
            raise UnsoundError(f"has the tensors '{name}' and '{other}' one over the other")
        if following - offset - size >= alignment:
            raise UnsoundError(f"leaves a hole of {following - offset - size:,} bytes before the tensor '{other}'")


def _tensor_bytes(tensor: TensorInfo) -> int:
    if not tensor.name or len(tensor.name.encode()) > _MAX_NAME:
        raise UnsoundError(
            f"has a tensor with a name of {len(tensor.name.encode()):,} bytes; 1 to {_MAX_NAME} are possible"
        )
    if tensor.kind not in TYPES:
        raise UnsoundError(f"gives the tensor '{tensor.name}' the type {tensor.kind}, which is not known")
    _, weights, block = TYPES[tensor.kind]
    count = 1
    for length in tensor.shape:
        if length < 1:
            raise UnsoundError(f"gives the tensor '{tensor.name}' the shape {list(tensor.shape)}")
        count *= length
    if tensor.shape[0] % weights:
        raise UnsoundError(f"gives the tensor '{tensor.name}' rows of {tensor.shape[0]}, no multiple of {weights}")
    size = count // weights * block
    if size > _MAX_BYTES:
        raise UnsoundError(f"gives the tensor '{tensor.name}' the shape {list(tensor.shape)}, larger than any memory")
    return size
