"""ONNX files that reach for other files, and files that are none."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pairgrade import ModelError
from pairgrade.onnx_check import BITS, check_onnx

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
    "a name beyond the system's limit": ({"location": "a" * 5000}, "too long"),
    "fewer bytes than its shape": ({"location": "weights.bin", "length": "8"}, "has 8 bytes in 'weights.bin'"),
    "no length and an offset": ({"location": "weights.bin", "offset": "4"}, "has 12 bytes in 'weights.bin'"),
    "an offset behind the end": ({"location": "weights.bin", "offset": "20"}, "ends at byte 20"),
    "digits of another script": ({"location": "weights.bin", "length": "\u0661\u0666"}, "must be a whole number"),
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


def _blobs_elsewhere(folder: Path) -> str:
    snapshot = folder / "snapshots" / "abc"  # made to look like the hub's cache
    snapshot.mkdir(parents=True)
    (folder / "blobs").symlink_to(folder.parent)
    (snapshot / "weights.bin").symlink_to("../../blobs/secret")
    return "snapshots/abc/weights.bin"


def _hard_link(folder: Path) -> str:
    os.link(folder.parent / "secret", folder / "hard.bin")
    return "hard.bin"


@pytest.mark.parametrize("make", [_link_to_a_file, _link_to_a_folder, _hard_link, _blobs_elsewhere])
def test_links_are_refused(make: Callable[[Path], str], folder: Path) -> None:
    location = make(folder)
    with pytest.raises(ModelError, match=r"is a (hard )?link"):
        check(folder, model(location))


def test_a_cache_whose_blobs_lie_elsewhere_is_refused(folder: Path) -> None:
    _blobs_elsewhere(folder)
    with pytest.raises(ModelError, match=r"is a (hard )?link"):
        check(folder / "snapshots" / "abc", model("weights.bin"))


@pytest.mark.parametrize("inside", ["", "onnx"])
def test_the_hubs_cache_works(inside: str, tmp_path: Path) -> None:
    repository = tmp_path / "models--org--repo"
    snapshot, blobs = repository / "snapshots" / "abc" / inside, repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_bytes(model("weights.bin"))
    (blobs / "2").write_bytes(bytes(16))
    up = "../../../" if inside else "../../"
    (snapshot / "model.onnx").symlink_to(f"{up}blobs/1")
    (snapshot / "weights.bin").symlink_to(f"{up}blobs/2")
    assert check_onnx(snapshot / "model.onnx") == 3
    (tmp_path / "secret").write_bytes(bytes(16))
    (snapshot / "weights.bin").unlink()
    (snapshot / "weights.bin").symlink_to(f"../{up}secret")
    with pytest.raises(ModelError, match=r"is a (hard )?link"):
        check_onnx(snapshot / "model.onnx")


def field(number: int, content: bytes | int) -> bytes:
    """One protobuf field: bytes, or a number as a varint."""

    def varint(value: int) -> bytes:
        low, rest = value & 127, value >> 7
        return bytes([low | 128]) + varint(rest) if rest else bytes([low])

    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def location(name: bytes) -> bytes:
    return field(13, field(1, b"location") + field(2, name))


SMUGGLED = {  # tensors that another reader of protobuf takes for external ones
    "an enum above 32 bits": (location(b"../secret") + field(14, 2**32 + 1), "own folder"),
    "external by its entries alone": (location(b"../secret"), "own folder"),
    "a name of two encodings": (location(b"\xff") + field(14, 1), "no UTF-8"),
    "two locations": (location(b"weights.bin") + location(b"../secret") + field(14, 1), "says twice"),
}


@pytest.mark.parametrize("kind", SMUGGLED)
def test_what_another_reader_might_take_for_external_is_refused(kind: str, folder: Path) -> None:
    tensor, reason = SMUGGLED[kind]
    (folder / "\N{REPLACEMENT CHARACTER}").write_bytes(bytes(16))
    with pytest.raises(ModelError, match=reason):
        check(folder, field(7, field(5, tensor)))


def tensor(dims: list[int], kind: int, *fields: bytes) -> bytes:
    return b"".join(field(1, size) for size in dims) + field(2, kind) + b"".join(fields)


def place(offset: int, length: int) -> bytes:
    entries = {"location": "weights.bin", "offset": str(offset), "length": str(length)}
    return b"".join(field(13, field(1, key.encode()) + field(2, value.encode())) for key, value in entries.items())


WRONG = {  # tensors of one model -> a part of the reason
    "more bytes than the shape": ([tensor([3], 1, field(9, bytes(16)))], "has 16 bytes; its shape and type take 12"),
    "a packed shape": ([field(1, b"\x02\x03") + field(2, 1) + field(9, bytes(16))], "take 24"),
    "halves of bytes": ([tensor([3], 22, field(9, bytes(3)))], "take 2"),
    "a shape that wraps round": ([tensor([2**33, 2**31], 1, field(9, b""))], "has 0 bytes"),
    "a negative dimension": ([tensor([2**64 - 1], 1, field(9, bytes(4)))], "a dimension below 0"),
    "very many dimensions": ([tensor([1] * 65, 1, field(9, bytes(4)))], "65 dimensions"),
    "no type": ([tensor([4], 0, field(9, bytes(16)))], "the data type 0"),
    "a type of more than 32 bits": ([tensor([4], 2**32 + 1, field(9, bytes(16)))], f"the data type {2**32 + 1}"),
    "inside and outside": ([tensor([4], 1, field(9, bytes(16)), place(0, 16))], "and 16 in the model's own"),
    "one over the other": ([tensor([2], 1, place(0, 8)), tensor([2], 1, place(4, 8))], "lie one over the other"),
    "one inside the other": ([tensor([4], 1, place(0, 16)), tensor([1], 1, place(8, 4))], "lie one over the other"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_tensor_whose_bytes_are_not_its_own_is_refused(kind: str, folder: Path) -> None:
    tensors, reason = WRONG[kind]
    with pytest.raises(ModelError) as caught:
        check(folder, field(1, 11) + field(7, b"".join(field(5, t) for t in tensors)))
    assert reason in str(caught.value)


def test_tensors_side_by_side_and_in_the_same_place_pass(folder: Path) -> None:
    tensors = [tensor([2], 1, place(0, 8)), tensor([2], 1, place(8, 8)), tensor([8], 2, place(0, 8))]
    tensors += [tensor([0, 5], 1, place(4, 0)), tensor([5], 22, field(9, bytes(3))), tensor([], 1, field(9, bytes(4)))]
    assert check(folder, field(1, 11) + field(7, b"".join(field(5, t) for t in tensors))) == 4


def test_the_sizes_of_elements_are_those_of_the_format() -> None:
    for name, kind in onnx.TensorProto.DataType.items():
        if kind not in BITS:
            assert name.startswith(("UNDEFINED", "STRING", "FLOAT6")), name
            continue
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
        if BITS[kind] >= 8:
            assert dtype.itemsize * 8 == BITS[kind], name
        else:
            assert name.endswith({4: ("4", "4E2M1"), 2: "2"}[BITS[kind]])


def test_two_graphs_that_readers_would_put_together_are_refused(folder: Path) -> None:
    graph = field(7, field(2, b"g"))
    assert check(folder, field(1, 11) + graph) == 0
    with pytest.raises(ModelError, match="two of what an ONNX model has one of"):
        check(folder, field(1, 11) + graph + graph)


@pytest.mark.parametrize("version", [b"", field(1, 0), field(1, 2), field(1, 2**32 + 11)])
def test_an_ir_version_of_no_onnx_is_refused(version: bytes, folder: Path) -> None:
    with pytest.raises(ModelError, match="has the IR version"):
        check(folder, version + field(7, field(2, b"g")))


def test_a_million_fields_are_the_most(folder: Path) -> None:
    start = time.process_time()
    with pytest.raises(ModelError, match="more than 1,048,576 fields"):
        check(folder, field(1, 11) + field(7, b"\x10\x01" * 10_000_000))
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "content", [b"", b"GGUF\x03", b"<html>", b"\x08\x07", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f"]
)
def test_what_is_no_model_is_told(content: bytes, folder: Path) -> None:
    with pytest.raises(ModelError):
        check(folder, content)


def test_graphs_without_end_are_refused(folder: Path) -> None:
    message = b""
    for _ in range(200):
        for number in (6, 5, 1):  # attribute.g in node.attribute in graph.node
            message = field(number, message)
    with pytest.raises(ModelError, match="deep"):
        check(folder, field(7, message))


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
