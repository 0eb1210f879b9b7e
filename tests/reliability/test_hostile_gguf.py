"""Damaged and hostile GGUF files: a reason of its own for each, quickly, and no native code sees them."""

from __future__ import annotations

import contextlib
import struct
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pairgrade import ModelError
from pairgrade.gguf_check import TYPES, check_gguf
from pairgrade.models import resolve
from tiny_gguf import ARRAY, FLOAT32, INT32, SOUND, STRING, UINT8, UINT32, UINT64, number, numbers, real, strings, text

# what is wrong -> (the file's bytes, a part of the reason)
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git-lfs pointer"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "web page"),
    "other file": (b"PK\x03\x04zip", "not a GGUF file"),
    "big endian": (b"FUGG" + SOUND.bytes()[4:], "big-endian"),
    "magic only": (b"GGUF", "ends inside its version"),
    "version 1": (replace(SOUND, version=1).bytes(), "GGUF version 1"),
    "version from the future": (replace(SOUND, version=2**31).bytes(), "GGUF version 2147483648"),
    "more tensors than bytes": (replace(SOUND, counts=(2**60, None)).bytes(), "tensors, more than a file"),
    "more entries than bytes": (replace(SOUND, counts=(None, 2**63)).bytes(), "metadata entries, more than a file"),
    "entries run into tensors": (replace(SOUND, counts=(None, 10)).bytes(), "the file is damaged"),
    "key twice": (replace(SOUND, repeated_key=True).bytes(), "twice"),
    "endless string": (SOUND.entry(general__architecture=(STRING, struct.pack("<Q", 2**62))).bytes(), "are left"),
    "text of 17 MB": (SOUND.entry(general__name=(STRING, text("x" * 17_000_000))).bytes(), "16,777,216 allowed"),
    "base as an array": (SOUND.entry(llama__rope__freq_base=numbers(FLOAT32, "f", [1.0])).bytes(), "an array of 1"),
    "base as a long text": (SOUND.entry(llama__rope__freq_base=(STRING, text("x" * 10**6))).bytes(), "freq_base = xxx"),
    "key without UTF-8": (SOUND.entry(general__architecture=(STRING, text(b"\xff\xfe"))).bytes(), "no UTF-8"),
    "unknown value type": (SOUND.entry(general__name=(77, b"")).bytes(), "the type 77"),
    "unknown element type": (
        SOUND.entry(general__tags=(ARRAY, struct.pack("<IQ", 50, 1))).bytes(),
        "the elements of 'general.tags' the type 50",
    ),
    "array of arrays": (SOUND.entry(general__tags=(ARRAY, struct.pack("<IQ", ARRAY, 1))).bytes(), "arrays inside"),
    "a million empty texts in each of 8 arrays": (
        SOUND.entry(**{f"x{i}": (ARRAY, struct.pack("<IQ", STRING, 2**20) + bytes(2**23)) for i in range(8)}).bytes(),
        "1,048,584 with those before; 1,048,576 are the most",
    ),
    "sixty million numbers in small arrays": (
        SOUND.entry(**{f"x{i}": (ARRAY, struct.pack("<IQ", UINT8, 4096) + bytes(4096)) for i in range(15_000)}).bytes(),
        "4,096 numbers in 'x255', 1,048,584 with those before",
    ),
    "endless array": (SOUND.entry(general__tags=(ARRAY, struct.pack("<IQ", UINT64, 2**61))).bytes(), "numbers in"),
    "no architecture": (SOUND.entry(general__architecture=None).bytes(), "names no architecture"),
    "architecture like a path": (SOUND.entry(general__architecture=(STRING, text("../x"))).bytes(), "no architecture"),
    "a part of a model": (SOUND.entry(split__count=number(3)).bytes(), "one of 3 parts"),
    "no blocks": (SOUND.entry(llama__block_count=number(0)).bytes(), "llama.block_count = 0"),
    "2^31 blocks": (SOUND.entry(llama__block_count=number(2**31)).bytes(), "llama.block_count = 2147483648"),
    "no block count": (SOUND.entry(llama__block_count=None).bytes(), "has no llama.block_count"),
    "block count as text": (SOUND.entry(llama__block_count=(STRING, text("9"))).bytes(), "llama.block_count = 9"),
    "no heads": (SOUND.entry(llama__attention__head_count=number(0)).bytes(), "head_count = 0"),
    "huge context": (SOUND.entry(llama__context_length=number(2**32 - 1)).bytes(), "context_length = 4294967295"),
    "more blocks than llama.cpp has": (SOUND.entry(llama__block_count=number(513)).bytes(), "block_count = 513"),
    "experts unused": (SOUND.entry(llama__expert_count=number(8)).bytes(), "8 experts, 0 of them used"),
    "used experts without any": (SOUND.entry(llama__expert_used_count=number(2)).bytes(), "0 experts, 2 of them used"),
    "thousands of experts": (SOUND.entry(llama__expert_count=number(513)).bytes(), "expert_count = 513"),
    "crooked groups of experts": (
        SOUND.entry(
            llama__expert_count=number(8), llama__expert_used_count=number(2), llama__expert_group_count=number(3)
        ).bytes(),
        "in 3 groups",
    ),
    "more predicting blocks than blocks": (
        SOUND.entry(llama__nextn_predict_layers=number(2)).bytes(),
        "nextn_predict_layers",
    ),
    "epsilon NaN": (SOUND.entry(llama__attention__layer_norm_rms_epsilon=real(float("nan"))).bytes(), "epsilon = nan"),
    "epsilon zero": (SOUND.entry(llama__attention__layer_norm_rms_epsilon=real(0.0)).bytes(), "epsilon = 0.0"),
    "rope base 0": (SOUND.entry(llama__rope__freq_base=real(0.0)).bytes(), "rope.freq_base = 0.0"),
    "unknown rope scaling": (SOUND.entry(llama__rope__scaling__type=(STRING, text("x"))).bytes(), "scaling.type = 'x'"),
    "no tokenizer": (SOUND.entry(tokenizer__ggml__model=None).bytes(), "model is None"),
    "tokenizer of no kind": (SOUND.entry(tokenizer__ggml__model=(STRING, text("none"))).bytes(), "model is 'none'"),
    "token twice": (SOUND.entry(tokenizer__ggml__tokens=strings(["a", "b", "a", "d"])).bytes(), "the token 'a' twice"),
    "token twice up to a NUL": (
        SOUND.entry(tokenizer__ggml__tokens=strings(["a", "b\0c", "b", "d"])).bytes(),
        "the token 'b' twice",
    ),
    "token like an empty one's name": (
        SOUND.entry(tokenizer__ggml__tokens=strings(["[EMPTY_1]", "", "c", "d"])).bytes(),
        "'[EMPTY_1]' twice",
    ),
    "tokens as numbers": (
        SOUND.entry(tokenizer__ggml__tokens=numbers(UINT32, "I", [1] * 4)).bytes(),
        "no list of texts",
    ),
    "scores as bytes": (
        SOUND.entry(tokenizer__ggml__scores=numbers(UINT8, "B", [0] * 4)).bytes(),
        "scores of another type",
    ),
    "bytes without tokens": (
        SOUND.entry(tokenizer__ggml__model=(STRING, text("llama"))).bytes(),
        "without a token for the byte 0x00",
    ),
    "no vocabulary": (SOUND.entry(tokenizer__ggml__tokens=None).bytes(), "has no vocabulary"),
    "scores for other tokens": (
        SOUND.entry(tokenizer__ggml__scores=numbers(FLOAT32, "f", [0.0])).bytes(),
        "4 tokens and 1 tokenizer.ggml.scores",
    ),
    "token outside the vocabulary": (SOUND.entry(tokenizer__ggml__bos_token_id=number(4)).bytes(), "= 4, outside"),
    "alignment 0": (SOUND.entry(general__alignment=number(0)).bytes(), "general.alignment = 0"),
    "alignment 8": (SOUND.entry(general__alignment=number(8)).bytes(), "general.alignment = 8"),
    "alignment 33": (SOUND.entry(general__alignment=number(33)).bytes(), "general.alignment = 33"),
    "no tensors": (replace(SOUND, tensors=()).bytes(), "has no tensors"),
    "tensor twice": (replace(SOUND, tensors=SOUND.tensors[:1] * 2).bytes(), "'token_embd.weight' twice"),
    "five dimensions": (SOUND.tensor("t", (1,) * 5).bytes(), "5 dimensions"),
    "no dimensions": (SOUND.tensor("t", ()).bytes(), "0 dimensions"),
    "empty shape": (SOUND.tensor("t", (64, 0)).bytes(), "the shape [64, 0]"),
    "shape that wraps round": (SOUND.tensor("t", (2**33, 2**33)).bytes(), "larger than any memory"),
    "unknown tensor type": (SOUND.tensor("t", (64, 4), 99).bytes(), "the type 99"),
    "rows of half a block": (SOUND.tensor("t", (48, 4), 8).bytes(), "rows of 48"),
    "long name": (SOUND.tensor("t" * 64, (64, 4)).bytes(), "a name of 64 bytes"),
    "block beyond the count": (SOUND.tensor("blk.7.attn_q.weight", (64, 4)).bytes(), "only 1 blocks"),
    "crooked offset": (SOUND.tensor("t", (64, 4), 0, 7).bytes(), "no multiple of 32"),
    "offset beyond the file": (SOUND.tensor("t", (64, 4), 0, 2**40).bytes(), "would end at"),
    "tensors over one another": (
        replace(SOUND, tensors=(SOUND.tensors[0], ("blk.0.attn_q.weight", (64, 64), 8, 512))).bytes(),
        "one over the other",
    ),
    "a hole between tensors": (
        replace(SOUND, tensors=(SOUND.tensors[0], ("t", (64, 8), 8, 1088)), data=2048).bytes(),
        "a hole of 64 bytes before the tensor 't'",
    ),
    "data cut off": (replace(SOUND, data=SOUND.data - 1).bytes(), "would end at"),
}  # fmt: skip


def test_the_sound_one_passes(tmp_path: Path) -> None:
    path = tmp_path / "sound.gguf"
    path.write_bytes(SOUND.bytes())
    facts = check_gguf(path)
    assert (facts.architecture, facts.blocks, facts.context, facts.vocabulary) == ("llama", 1, 128, 4)
    assert dict(facts.types) == {"f32": 1, "q8_0": 1}


@pytest.mark.parametrize("kind", BAD)
def test_each_bad_kind_has_a_reason_of_its_own(kind: str, tmp_path: Path) -> None:
    content, reason = BAD[kind]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        resolve(path)
    assert time.perf_counter() - start < 2
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_reasons_are_distinct(tmp_path: Path) -> None:
    path, reasons = tmp_path / "bad.gguf", set()
    for content, _ in BAD.values():
        path.write_bytes(content)
        with pytest.raises(ModelError) as caught:
            resolve(path)
        reasons.add(str(caught.value))
    assert len(BAD) >= 26
    assert len(reasons) == len(BAD)


def test_a_truncation_anywhere_is_told(tmp_path: Path) -> None:
    whole = SOUND.bytes()
    path = tmp_path / "cut.gguf"
    for step in range(100):
        path.write_bytes(whole[: step * len(whole) // 100])
        with pytest.raises(ModelError):
            check_gguf(path)


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=8))
def test_no_change_of_the_header_raises_anything_else(changes: list[tuple[int, int]], tmp_path: Path) -> None:
    content = bytearray(SOUND.bytes())
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path / "fuzzed.gguf"
    path.write_bytes(content)
    with contextlib.suppress(ModelError):
        check_gguf(path)


def test_the_largest_real_vocabularies_pass_in_no_time(tmp_path: Path) -> None:
    """As many tokens and merges as the largest models have, with scores and kinds."""
    tokens, merges = [f"token {i}" for i in range(262_144)], [f"t {i}" for i in range(514_906)]
    model = SOUND.entry(
        tokenizer__ggml__tokens=strings(tokens),
        tokenizer__ggml__merges=strings(merges),
        tokenizer__ggml__scores=numbers(FLOAT32, "f", [0.0] * len(tokens)),
        tokenizer__ggml__token_type=numbers(INT32, "i", [1] * len(tokens)),
    )
    path = tmp_path / "large.gguf"
    path.write_bytes(model.bytes())
    start = time.process_time()
    assert check_gguf(path).vocabulary == 262_144
    assert time.process_time() - start < 2


@pytest.mark.model
def test_a_real_model_passes_in_no_time(smollm2_path: Path) -> None:
    start = time.perf_counter()
    facts = check_gguf(smollm2_path)
    assert time.perf_counter() - start < 2
    assert (facts.architecture, facts.blocks, facts.vocabulary) == ("llama", 30, 49152)


def test_block_sizes_are_those_of_the_format() -> None:
    gguf = pytest.importorskip("gguf")
    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: TYPES[kind][1:] for kind in TYPES if kind in sizes} == {k: sizes[k] for k in TYPES if k in sizes}
