"""What the check of GGUF headers lets through does not end the process in llama.cpp: it loads, or it is an error."""

from __future__ import annotations

import contextlib
import math
import struct
import subprocess
import sys
from pathlib import Path

from pairgrade import ModelError
from pairgrade.gguf_check import check_gguf
from tiny_gguf import ARRAY, FLOAT32, INT32, STRING, UINT32, Model, number, numbers, real, strings, text

SHAPES = {
    "token_embd.weight": (32, 8), "output_norm.weight": (32,), "blk.0.attn_norm.weight": (32,),
    "blk.0.attn_q.weight": (32, 32), "blk.0.attn_k.weight": (32, 32), "blk.0.attn_v.weight": (32, 32),
    "blk.0.attn_output.weight": (32, 32), "blk.0.ffn_norm.weight": (32,), "blk.0.ffn_gate.weight": (32, 64),
    "blk.0.ffn_up.weight": (32, 64), "blk.0.ffn_down.weight": (64, 32),
}  # fmt: skip
METADATA = {
    "general.architecture": (STRING, text("llama")),
    "llama.block_count": number(1),
    "llama.context_length": number(128),
    "llama.embedding_length": number(32),
    "llama.feed_forward_length": number(64),
    "llama.attention.head_count": number(2),
    "llama.attention.head_count_kv": number(2),
    "llama.attention.layer_norm_rms_epsilon": real(1e-5),
    "llama.rope.dimension_count": number(16),
    "llama.rope.freq_base": real(10_000.0),
    "llama.vocab_size": number(8),
    "tokenizer.ggml.model": (STRING, text("gpt2")),
    "tokenizer.ggml.pre": (STRING, text("default")),
    "tokenizer.ggml.tokens": strings(list("abcdefgh")),
    "tokenizer.ggml.token_type": numbers(INT32, "i", [1] * 8),
    "tokenizer.ggml.merges": strings(["a b"]),
    "tokenizer.ggml.bos_token_id": number(1),
    "tokenizer.ggml.eos_token_id": number(2),
}
OTHERS = [
    *("llama.expert_count", "llama.expert_used_count", "llama.expert_group_count", "llama.nextn_predict_layers"),
    *("llama.attention.sliding_window", "llama.attention.key_length", "llama.attention.value_length"),
    *("llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.rope.dimension_sections", "llama.pooling_type"),
    *("llama.leading_dense_block_count", "llama.attention.causal", "general.alignment", "general.file_type"),
    *("tokenizer.ggml.scores", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.unknown_token_id"),
    *("tokenizer.ggml.padding_token_id", "tokenizer.chat_template", "split.count"),
]
VALUES = {
    **{str(n): number(n) for n in (0, 1, 3, 8, 64, 513, 2**31, 2**32 - 1)},
    "-1": (INT32, struct.pack("<i", -1)),
    **{repr(x): real(x) for x in (0.0, -1.0, 1.5, math.nan, math.inf)},
    **{repr(word): (STRING, text(word)) for word in ("", "x", "none", "llama", "t5")},
    "u64": (10, struct.pack("<Q", 2**40)),
    "true": (7, b"\1"),
    "no numbers": numbers(UINT32, "I", []),
    "no texts": strings([]),
    "two numbers": numbers(UINT32, "I", [0, 2**31]),
    "eight reals": numbers(FLOAT32, "f", [math.nan] * 8),
    "eight bytes": (ARRAY, struct.pack("<IQ8B", 0, 8, *range(8))),
    "eight texts": strings(["a"] * 8),
    "eight texts up to NUL": strings([f"a\0{i}" for i in range(8)]),
}
RUN = """
import sys
from pathlib import Path
import numpy as np
from pairgrade.errors import PairgradeError
from pairgrade.llama import LlamaBackend, LlamaOptions
for name in Path(sys.argv[1]).read_text().split():
    print(name, flush=True)
    try:
        backend = LlamaBackend(Path(name), LlamaOptions(context=64, threads=1))
    except PairgradeError:
        continue
    ids = np.array([3, 4, 5], np.int32)
    backend.score([ids], [ids, ids[:2]], np.array([5, 6], np.int32))
    backend.close()
    print("scored", flush=True)
"""


def sound() -> Model:
    tensors, offset = [], 0
    for name, shape in SHAPES.items():
        tensors.append((name, shape, 0, offset))
        offset += 4 * math.prod(shape)
    return Model(metadata=METADATA, tensors=tuple(tensors), data=offset)


def test_nothing_that_passes_kills_the_process(tmp_path: Path) -> None:
    model = sound()
    variants = {"sound": model}
    for key in (*METADATA, *OTHERS):
        name = key.replace(".", "__")
        if key in METADATA:
            variants[f"without {key}"] = model.entry(**{name: None})
        variants |= {f"{key} = {value}": model.entry(**{name: entry}) for value, entry in VALUES.items()}
    passed = {}
    for index, (variant, changed) in enumerate(variants.items()):
        path = tmp_path / f"{index}.gguf"
        path.write_bytes(changed.bytes())
        with contextlib.suppress(ModelError):
            check_gguf(path)
            passed[str(path)] = variant
    (tmp_path / "names").write_text("\n".join(passed))
    done = subprocess.run([sys.executable, "-c", RUN, tmp_path / "names"], capture_output=True, text=True)
    lines = done.stdout.split()
    last = next((line for line in reversed(lines) if line in passed), "")
    assert done.returncode == 0, f"{passed.get(last)}: {done.stderr[-500:]}"
    assert lines[1] == "scored"  # the sound one, so that the others are near to a model that works
    assert len(variants) > 700
    assert 150 < len(passed) < len(variants) - 300
