"""Whether a safetensors file is what its header claims, before any library maps it.

Format: https://huggingface.co/docs/safetensors. The header alone is read.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from pairgrade.errors import ModelError
from pairgrade.foreign_text import shown

MAX_HEADER = 10_000_000  # bytes: 70,000 tensors of long names; the reference reader's 100 million take seconds to read
_MAX_RANK = 64  # dimensions; the product of a million would take hours
_NESTED = 100_000  # lists and tables that are read in any case
_SHOWN = 100  # characters of a name in a message
_KEYS = frozenset({"dtype", "shape", "data_offsets"})
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


def check_safetensors(path: Path) -> int:
    """Check a file's header and return the number of its tensors; ModelError gives the first reason not to load it."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ModelError(f"{path} is no regular file")
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > size - 8:
                raise _wrong(path, f"has {size:,} bytes and claims a header of {length:,}" if start else "is empty")
            if length > MAX_HEADER:
                raise _wrong(path, f"claims a header of {length:,} bytes; {MAX_HEADER:,} are the most")
            header = file.read(length)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    table = _table(path, header)
    notes = table.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise _wrong(path, "has a __metadata__ that is no table of texts")
    _check_spans(path, [_span(path, name, entry) for name, entry in table.items()], size - 8 - length)
    return len(table)


def _table(path: Path, header: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            raise _wrong(path, f"has '{name[:_SHOWN]}' twice in its header")
        return table

    if header.count(b"[") + header.count(b"{") > max(_NESTED, len(header) // 8):  # three a tensor, of 49 bytes at least
        raise _wrong(path, "has a header of more lists and tables than tensors need")
    try:
        table = json.loads(header.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise _wrong(path, "has a header that is not JSON") from None
    if not isinstance(table, dict):
        raise _wrong(path, "has a header that is no JSON object")
    return table


def _span(path: Path, name: str, entry: Any) -> tuple[int, int, str]:
    """Return the first byte of a tensor, the one after its last, and its name as messages show it."""
    name = name[:_SHOWN]
    if not isinstance(entry, dict) or entry.keys() != _KEYS:
        raise _wrong(path, f"describes the tensor '{name}' by other keys than dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _BITS:
        raise _wrong(path, f"gives the tensor '{name}' the dtype {repr(kind)[:_SHOWN]}, which is not known")
    if not _whole(shape) or not _whole(offsets) or len(offsets) != 2:
        raise _wrong(path, f"gives the tensor '{name}' a shape or offsets that are no lists of whole numbers")
    if len(shape) > _MAX_RANK:
        raise _wrong(path, f"gives the tensor '{name}' {len(shape):,} dimensions; {_MAX_RANK} are the most")
    bits = math.prod(shape) * _BITS[kind]
    if bits % 8 or offsets[1] - offsets[0] != bits // 8:
        raise _wrong(
            path, f"gives the tensor '{name}' {offsets[1] - offsets[0]:,} bytes; {kind} of {shape} takes {bits // 8:,}"
        )
    return offsets[0], offsets[1], name


def _whole(values: Any) -> bool:
    if not isinstance(values, list):
        return False
    for value in values:  # noqa: SIM110 - a generator takes three times as long for lists this short
        if type(value) is not int or not 0 <= value < 2**62:
            return False
    return True


def _check_spans(path: Path, spans: list[tuple[int, int, str]], available: int) -> None:
    spans = sorted(spans)
    for (_, end, name), (start, _, other) in pairwise(spans):
        if start != end:
            how = "one over the other" if start < end else "a hole between them"
            raise _wrong(path, f"has the tensors '{name}' and '{other}' with {how}")
    first, last = (spans[0][0], spans[-1][1]) if spans else (0, 0)
    if first or last != available:
        raise _wrong(path, f"has {available:,} bytes of data and its tensors take those from {first:,} to {last:,}")


def _wrong(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} {shown(what)}: the file is damaged or not a real model")
