"""The pairs that every cell judges: some queries, some documents of each, at random but always the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import blake2b, sha256
from pathlib import Path

from pairgrade.atomic import write_text
from pairgrade.bench.matrix import Data
from pairgrade.errors import InputError
from pairgrade.readers import Source, read_pairs
from pairgrade.records import Pair


def take_slice(data: Data) -> tuple[Pair, ...]:
    """Read the pairs and take the slice, grouped by query; of equal ids the first. InputError where there is none."""
    groups: dict[str, dict[str, Pair]] = {}
    for row in read_pairs(Source(data.pairs, data.queries, data.docs)):
        if isinstance(row, Pair):
            groups.setdefault(row.query_id, {}).setdefault(row.doc_id, row)
    if not groups:
        raise InputError(f"{data.pairs}: holds no usable pair, so there is nothing to measure")
    chosen = sorted(groups, key=lambda query: _key(data.seed, query))[: data.max_queries]
    pairs: list[Pair] = []
    for query in chosen:
        pairs += sorted(groups[query].values(), key=lambda pair: _key(data.seed, query, pair.doc_id))[: data.per_query]
    return tuple(pairs)


def write_slice(path: Path, pairs: Sequence[Pair]) -> str:
    """Write pairs as JSONL and return the sha256 of the bytes."""
    text = "".join(json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs)
    write_text(path, text)
    return sha256(text.encode()).hexdigest()


def _key(seed: int, *ids: str) -> bytes:
    return blake2b(json.dumps([seed, *ids]).encode(), digest_size=8).digest()
