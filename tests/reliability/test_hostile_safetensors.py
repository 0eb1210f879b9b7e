"""Damaged and hostile safetensors files."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pairgrade import ModelError
from pairgrade.safetensors_check import check_safetensors

GOOD = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}


def content(table: dict[str, Any] | bytes, data: int = 32) -> bytes:
    header = table if isinstance(table, bytes) else json.dumps(table).encode()
    return len(header).to_bytes(8, "little") + header + bytes(data)


def changed(**values: Any) -> bytes:
    return content(GOOD | {"b": GOOD["b"] | values})


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "cut in the length": (b"\x10\x00", "claims a header"),
    "header longer than the file": (b"\xff" * 8 + b"{}", "claims a header"),
    "not JSON": (content(b"{nope"), "not JSON"),
    "deep JSON": (content(b"[" * 100_000), "not JSON"),
    "not an object": (content(b"[]"), "no JSON object"),
    "key twice": (content(b'{"a": 1, "a": 2}'), "'a' twice"),
    "missing key": (content({"a": {"dtype": "F32", "shape": [1]}}, 4), "other keys"),
    "a dtype that is a list": (changed(dtype=[]), "the dtype []"),
    "very many dimensions": (changed(shape=[2**61] * 100_000), "100,000 dimensions"),
    "key twice among many": (
        content(b"{" + b",".join(b'"%d":1' % i for i in range(100_000)) + b',"7":1}'),
        "'7' twice",
    ),
    "notes that are no texts": (content(GOOD | {"__metadata__": {"a": 1}}), "no table of texts"),
    "many empty lists": (content(b'{"a":[' + b"[]," * 3_000_000 + b"[]]}"), "more lists and tables than"),
    "a list of many numbers": (content(b'{"a":[' + b"1," * 4_900_000 + b"1]}"), "other keys"),
    "UTF-16": (content(json.dumps(GOOD).encode("utf-16")), "not JSON"),
    "unknown dtype": (changed(dtype="F7"), "'F7'"),
    "negative shape": (changed(shape=[-4]), "whole numbers"),
    "a shape of floats": (changed(shape=[4.0]), "whole numbers"),
    "one offset": (changed(data_offsets=[24]), "whole numbers"),
    "shape and bytes differ": (changed(shape=[5]), "takes 10"),
    "a shape that wraps round": (changed(shape=[2**61, 2**61]), "takes"),
    "overlap": (changed(data_offsets=[20, 28]), "one over the other"),
    "hole": (content(GOOD | {"b": GOOD["b"] | {"data_offsets": [28, 36]}}, 36), "a hole"),
    "data cut off": (content(GOOD, 31), "31 bytes of data"),
    "data left over": (content(GOOD, 40), "40 bytes of data"),
}


@pytest.mark.parametrize("kind", BAD)
def test_each_bad_kind_is_refused_with_its_reason(kind: str, tmp_path: Path) -> None:
    raw, reason = BAD[kind]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(raw)
    start = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        check_safetensors(path)
    assert time.perf_counter() - start < 2
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_header_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    with path.open("wb") as file:
        file.write((200_000_000).to_bytes(8, "little"))
        file.truncate(200_000_008)  # sparse
    start = time.perf_counter()
    with pytest.raises(ModelError, match="10,000,000 are the most"):
        check_safetensors(path)
    assert time.perf_counter() - start < 2


def test_a_hundred_thousand_tensors_take_no_time(tmp_path: Path) -> None:
    table = {f"t{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(100_000)}
    path = tmp_path / "many.safetensors"
    path.write_bytes(content(table, 100_000))
    start = time.process_time()
    assert check_safetensors(path) == 100_000
    assert time.process_time() - start < 2
    path.write_bytes(content(table | {"t7": table["t8"]}, 100_000))
    start = time.process_time()
    with pytest.raises(ModelError, match=r"one over the other|a hole"):
        check_safetensors(path)
    assert time.process_time() - start < 2


def test_what_the_library_writes_passes(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "good.safetensors"
    library.save_file({"a": np.ones((2, 3), np.float32), "b": np.ones(7, np.int8)}, path, {"format": "np"})
    assert check_safetensors(path) == 2


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=6))
def test_no_change_raises_anything_else(changes: list[tuple[int, int]], tmp_path: Path) -> None:
    raw = bytearray(content(GOOD))
    for place, value in changes:
        raw[place % len(raw)] = value
    path = tmp_path / "fuzzed.safetensors"
    path.write_bytes(raw)
    with contextlib.suppress(ModelError):
        check_safetensors(path)
