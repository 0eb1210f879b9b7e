"""Whether an ONNX model reads weights from nowhere but its own folder.

A tensor of an ONNX file may name an external file that holds its bytes, and a runtime opens what it names: with
``..``, an absolute path or a link that is any file of the machine. The names are found by a small reader of the
protobuf wire format (https://protobuf.dev/programming-guides/encoding), so that nothing is loaded to find them.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from pairgrade.errors import ModelError
from pairgrade.foreign_text import shown
from pairgrade.hub_cache import is_foreign_link

# Which fields of onnx.proto lead to tensors: message -> field number -> message
_CHILDREN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_GRAPH, _NAME, _EXTERNAL, _LOCATION = 7, 8, 13, 14  # ModelProto.graph; TensorProto's name, external_data, data_location
_MEMORY = "_ORT_MEM_ADDR_"  # ONNX Runtime takes the offset in a "file" of such a name for an address
_DEEPEST = 64  # graphs inside graphs
_NUMBER = re.compile(r"\d{1,19}")


@dataclass(slots=True)
class _Tensor:
    name: str = ""
    external: bool = False
    entries: dict[str, str] = field(default_factory=dict)


def check_onnx(path: Path) -> int:
    """Check an ONNX file and the files that it names; return how many of its tensors lie outside it.

    ModelError for a file that is no ONNX model, and for a tensor whose bytes are not in a plain file of the model's
    own folder, all of them. Links are refused but for those of the hub's cache, whose files are links into the
    ``blobs`` folder of the same repository.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ModelError(f"{path} is no regular file")
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise ModelError(f"{path} is empty; it is not an ONNX model")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed with the last view of it
            # those with entries too: a tensor may be given in parts, which the runtime puts together
            tensors = [t for t in _tensors(memoryview(data), "model", 0, path) if t.external or t.entries]
        for tensor in tensors:
            _check_external(path, tensor)
    except OSError as error:
        raise ModelError(f"{path} or a file that it names cannot be read: {error.strerror or error}") from None
    return len(tensors)


def _check_external(model: Path, tensor: _Tensor) -> None:
    location = tensor.entries.get("location", "")
    what = f"{model}: the tensor '{shown(tensor.name)}'"
    parts = PurePosixPath(location).parts
    if not location or "\x00" in location:
        raise ModelError(f"{what} lies in an external file without a name")
    if PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor or ".." in parts or "\\" in location:
        raise ModelError(f"{what} names the external file {location!r}; only files of the model's own folder are read")
    if _MEMORY in location:
        raise ModelError(f"{what} lies in memory, which no file can know of")
    path = model.parent / location
    for step in [path, *list(path.parents)[: len(parts) - 1]]:
        if is_foreign_link(model.parent, step):
            raise ModelError(f"{what} names {location!r}, which is a link; only plain files are read")
    if not path.is_file():
        raise ModelError(f"{what} names the external file {location!r}, which is not there")
    state = path.stat()
    if state.st_nlink > 1:
        raise ModelError(f"{what} names {location!r}, which is a hard link to a file elsewhere; copy it into its place")
    offset, length = (_whole(what, key, tensor.entries.get(key, "0")) for key in ("offset", "length"))
    if offset + length > state.st_size:
        raise ModelError(f"{what} ends at byte {offset + length:,} of {location!r}, which has {state.st_size:,}")


def _whole(what: str, key: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ModelError(f"{what} has the {key} {text!r}; it must be a whole number, 0 or more")
    return int(text)


def _tensors(data: memoryview, message: str, depth: int, path: Path) -> Iterator[_Tensor]:
    """Yield the tensors of a message and of those inside it."""
    if depth > _DEEPEST:
        raise ModelError(f"{path} nests graphs more than {_DEEPEST} deep; it is not a real model")
    children = _CHILDREN[message]
    found = False
    for number, value in _fields(data, path):
        found = found or number == _GRAPH
        child = children.get(number)
        if child is None or not isinstance(value, memoryview):
            continue
        if child == "tensor":
            yield _tensor(value, path)
        else:
            yield from _tensors(value, child, depth + 1, path)
    if message == "model" and not found:
        raise ModelError(f"{path} holds no graph; it is not an ONNX model")


def _tensor(data: memoryview, path: Path) -> _Tensor:
    tensor = _Tensor()
    for number, value in _fields(data, path):
        if number == _NAME and isinstance(value, memoryview):
            tensor.name = _text(value, path)
        elif number == _LOCATION and isinstance(value, int):
            tensor.external = value == 1
        elif number == _EXTERNAL and isinstance(value, memoryview):
            texts = {n: _text(v, path) for n, v in _fields(value, path) if not isinstance(v, int)}
            if texts.get(1) in tensor.entries:
                raise ModelError(f"{path}: the tensor '{shown(tensor.name)}' says twice what its {shown(texts[1])} is")
            tensor.entries[texts.get(1, "")] = texts.get(2, "")
    return tensor


def _text(data: memoryview, path: Path) -> str:
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"{path} holds a name that is no UTF-8; it is not a real model") from None


def _fields(data: memoryview, path: Path) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the fields of a message: numbers as int, everything else as bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at, path)
        if tag >= 2**32:  # other readers drop the bits above, and find another field
            raise ModelError(f"{path} is not an ONNX model: it has a field of an impossible number")
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at, path)
            yield number, value
            continue
        length = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            length, at = _varint(data, at, path)
        if length is None or number == 0 or at + length > len(data):
            raise ModelError(f"{path} is not an ONNX model, or is cut off")
        yield number, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int, path: Path) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ModelError(f"{path} is not an ONNX model, or is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ModelError(f"{path} is not an ONNX model: it holds a number of more than 64 bits")
