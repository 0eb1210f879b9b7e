"""ONNX files that reach for other files, and files that are none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pairgrade import ModelError
from pairgrade.onnx_check import check_onnx

onnx = pytest.importorskip("onnx")


def model(location: str | None, **entries: str) -> bytes:
    """A model with one initializer, external at ``location`` or inline."""
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4])
    if location is None:
        tensor.raw_data = bytes(16)
    else:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in ({"location": location} | entries).items():
            tensor.external_data.add(key=key, value=value)
    inner = onnx.helper.make_graph([], "g", [], [], [tensor])
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4])
    branch = onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    graph = onnx.helper.make_graph([branch], "g", [value], [], [tensor])
    data: bytes = onnx.helper.make_model(graph).SerializeToString()
    return data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "outside" / "model"
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(16))
    (folder.parent / "secret").write_bytes(bytes(64))
    return folder


def check(folder: Path, content: bytes) -> int:
    (folder / "model.onnx").write_bytes(content)
    return check_onnx(folder / "model.onnx")


def test_a_file_of_the_own_folder_passes(folder: Path) -> None:
    assert check(folder, model("weights.bin", offset="0", length="16")) == 3  # in the graph and in both branches
    assert check(folder, model(None)) == 0


BAD: dict[str, tuple[dict[str, str], str]] = {
    "parent": ({"location": "../secret"}, "own folder"),
    "parent inside": ({"location": "a/../../secret"}, "own folder"),
    "absolute": ({"location": "/etc/passwd"}, "own folder"),
    "windows drive": ({"location": "C:\\secret"}, "own folder"),
    "backslashes": ({"location": "..\\secret"}, "own folder"),
    "no name": ({"location": ""}, "without a name"),
    "NUL": ({"location": "weights.bin\x00x"}, "without a name"),
    "missing": ({"location": "nowhere.bin"}, "not there"),
    "negative offset": ({"location": "weights.bin", "offset": "-4"}, "the offset '-4'"),
    "a petabyte": ({"location": "weights.bin", "length": str(10**15)}, "ends at byte"),
    "offset near 2^64": ({"location": "weights.bin", "offset": str(2**63), "length": "16"}, "ends at byte"),
    "no number": ({"location": "weights.bin", "length": "0x10"}, "the length '0x10'"),
}


@pytest.mark.parametrize("kind", BAD)
def test_each_way_out_is_refused(kind: str, folder: Path) -> None:
    entries, reason = BAD[kind]
    with pytest.raises(ModelError) as caught:
        check(folder, model(**entries))
    assert reason in str(caught.value)


def _link_to_a_file(folder: Path) -> str:
    (folder / "link.bin").symlink_to(folder.parent / "secret")
    return "link.bin"


def _link_to_a_folder(folder: Path) -> str:
    (folder / "sub").symlink_to(folder.parent)
    return "sub/secret"


def _hard_link(folder: Path) -> str:
    os.link(folder.parent / "secret", folder / "hard.bin")
    return "hard.bin"


@pytest.mark.parametrize("make", [_link_to_a_file, _link_to_a_folder, _hard_link])
def test_links_are_refused(make: Callable[[Path], str], folder: Path) -> None:
    location = make(folder)
    with pytest.raises(ModelError, match="link"):
        check(folder, model(location))


def test_the_hubs_cache_works(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--repo"
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_bytes(model("weights.bin"))
    (blobs / "2").write_bytes(bytes(16))
    (snapshot / "model.onnx").symlink_to("../../blobs/1")
    (snapshot / "weights.bin").symlink_to("../../blobs/2")
    assert check_onnx(snapshot / "model.onnx") == 3
    (tmp_path / "secret").write_bytes(bytes(16))
    (snapshot / "weights.bin").unlink()
    (snapshot / "weights.bin").symlink_to("../../../secret")
    with pytest.raises(ModelError, match="link"):
        check_onnx(snapshot / "model.onnx")


@pytest.mark.parametrize(
    "content", [b"", b"GGUF\x03", b"<html>", b"\x08\x07", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f"]
)
def test_what_is_no_model_is_told(content: bytes, folder: Path) -> None:
    with pytest.raises(ModelError):
        check(folder, content)


def test_graphs_without_end_are_refused(folder: Path) -> None:
    message = b""
    for _ in range(200):
        for tag in (6 << 3 | 2, 5 << 3 | 2, 1 << 3 | 2):  # attribute.g in node.attribute in graph.node
            size, raw = len(message), bytearray()
            while size > 127:
                raw.append(size & 127 | 128)
                size >>= 7
            message = bytes([tag, *raw, size]) + message
    size, raw = len(message), bytearray()
    while size > 127:
        raw.append(size & 127 | 128)
        size >>= 7
    with pytest.raises(ModelError, match="deep"):
        check(folder, bytes([7 << 3 | 2, *raw, size]) + message)


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6))
def test_no_change_raises_anything_else(changes: list[tuple[int, int]], folder: Path) -> None:
    raw = bytearray(model("weights.bin", offset="0", length="16"))
    for place, value in changes:
        raw[place % len(raw)] = value
    with contextlib.suppress(ModelError):
        check(folder, bytes(raw))
