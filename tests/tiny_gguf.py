"""A small sound GGUF, written by hand, that tests take apart."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Any

UINT8, UINT32, INT32, FLOAT32, STRING, ARRAY, UINT64 = 0, 4, 5, 6, 8, 9, 10


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def number(value: int) -> tuple[int, bytes]:
    return UINT32, struct.pack("<I", value)


def real(value: float) -> tuple[int, bytes]:
    return FLOAT32, struct.pack("<f", value)


def strings(values: list[str]) -> tuple[int, bytes]:
    return ARRAY, struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values))


def numbers(kind: int, layout: str, values: list[Any]) -> tuple[int, bytes]:
    return ARRAY, struct.pack(f"<IQ{len(values)}{layout}", kind, len(values), *values)


@dataclass(frozen=True)
class Model:
    """A small sound GGUF, written by hand; tests replace one part of it."""

    magic: bytes = b"GGUF"
    version: int = 3
    counts: tuple[int | None, int | None] = (None, None)  # tensors, entries; None: as many as there are
    metadata: dict[str, tuple[int, bytes]] = field(
        default_factory=lambda: {
            "general.architecture": (STRING, text("llama")),
            "llama.block_count": number(1),
            "llama.context_length": number(128),
            "llama.embedding_length": number(64),
            "llama.attention.head_count": number(4),
            "tokenizer.ggml.model": (STRING, text("gpt2")),
            "tokenizer.ggml.tokens": strings(["a", "b", "c", "d"]),
            "tokenizer.ggml.scores": numbers(FLOAT32, "f", [0.0] * 4),
            "tokenizer.ggml.bos_token_id": number(1),
        }
    )
    tensors: tuple[tuple[str, tuple[int, ...], int, int], ...] = (
        ("token_embd.weight", (64, 4), 0, 0),
        ("blk.0.attn_q.weight", (64, 64), 8, 1024),
    )
    data: int = 1024 + 64 * 2 * 34
    repeated_key: bool = False

    def entry(self, **changes: tuple[int, bytes] | None) -> Model:
        table = dict(self.metadata)
        for key, value in changes.items():
            name = key.replace("__", ".")
            if value is None:
                del table[name]
            else:
                table[name] = value
        return replace(self, metadata=table)

    def tensor(self, name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> Model:
        return replace(self, tensors=((name, shape, kind, offset), *self.tensors[1:]))

    def bytes(self) -> bytes:
        entries = [(key, *value) for key, value in self.metadata.items()]
        if self.repeated_key:
            entries.append(entries[1])
        tensors = len(self.tensors) if self.counts[0] is None else self.counts[0]
        count = len(entries) if self.counts[1] is None else self.counts[1]
        parts = [self.magic, struct.pack("<IQQ", self.version, tensors, count)]
        parts += [text(key) + struct.pack("<I", kind) + value for key, kind, value in entries]
        for name, shape, kind, offset in self.tensors:
            parts.append(text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
        head = b"".join(parts)
        return head + bytes(-len(head) % 32 + self.data)


SOUND = Model()
