"""Whether an ONNX model's tensors are what it says they are, and read from nowhere but its own folder.

A tensor of an ONNX file may name an external file that holds its bytes, and a runtime opens what it names: with
``..``, an absolute path or a link that is any file of the machine. The names are found by a small reader of the
protobuf wire format, so that nothing is loaded to find them.
"""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath, PureWindowsPath

from pairgrade.errors import ModelError
from pairgrade.foreign_text import shown
from pairgrade.hub_cache import is_foreign_link
from pairgrade.protobuf_wire import WireReader

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
# Of these the ones that are there once: readers of protobuf put two of them together, and find another tensor
_SINGLE = {("model", 7), ("attribute", 5), ("attribute", 6), ("attribute", 22)}
_SINGLE |= {(message, number) for message in ("training", "sparse") for number in (1, 2)}
_IR_VERSION, _GRAPH = 1, 7  # of ModelProto
_DIMS, _KIND, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14  # of TensorProto
_IR_VERSIONS = range(3, 64)  # since opsets are named; 13 is the newest in 2026, and runtimes refuse what is too new
BITS = {  # of an element, by TensorProto.DataType; a text (8) has no size
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
_MAX_RANK = 64  # dimensions
_MEMORY = "_ORT_MEM_ADDR_"  # ONNX Runtime takes the offset in a "file" of such a name for an address
_DEEPEST = 64  # graphs inside graphs
_NUMBER = re.compile("[0-9]{1,19}")


@dataclass(slots=True)
class _Tensor:
    name: str = ""
    dims: list[int] = field(default_factory=list)
    kind: int = 0
    raw: int | None = None  # bytes in the model's own file
    external: bool = False
    entries: dict[str, str] = field(default_factory=dict)


def check_onnx(path: Path) -> int:
    """Check an ONNX file and the files that it names; return how many of its tensors lie outside it.

    ModelError for a file that is no ONNX model, and for a tensor whose bytes are not those of its shape and type, or
    not in a plain file of the model's own folder, all of them. Two tensors may share their bytes, but not a part of
    them. Links are refused but for those of the hub's cache, whose files are links into the ``blobs`` folder of the
    same repository.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ModelError(f"{path} is no regular file")
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise ModelError(f"{path} is empty; it is not an ONNX model")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed with the last view of it
            outside = _External(path)
            for tensor in _tensors(WireReader(path), memoryview(data), "model", 0, path):
                what = f"{path}: the tensor '{shown(tensor.name)}'"
                # with entries alone, too: a tensor may be given in parts, which the runtime puts together
                if tensor.external or tensor.entries:
                    outside.add(tensor, what)
                elif tensor.raw is not None and tensor.raw != (size := _size(tensor, what)):
                    raise ModelError(f"{what} has {tensor.raw:,} bytes; its shape and type take {size:,}")
        outside.check_overlaps()
    except OSError as error:
        raise ModelError(f"{path} or a file that it names cannot be read: {error.strerror or error}") from None
    return outside.count


class _External:
    """The places outside the model's file that its tensors have."""

    def __init__(self, model: Path) -> None:
        self.count = 0
        self._model = model
        self._sizes: dict[str, int] = {}  # of the files, by the name that the model has for each
        self._spans: dict[str, dict[tuple[int, int], str]] = {}  # (first byte, the one after the last): a tensor there

    def add(self, tensor: _Tensor, what: str) -> None:
        location = tensor.entries.get("location", "")
        if location not in self._sizes:
            self._sizes[location] = _file_size(self._model, location, what)
        available = self._sizes[location]
        offset = _whole(what, "offset", tensor.entries.get("offset", "0"))
        # without a length, to the end of the file
        length = _whole(what, "length", tensor.entries.get("length", str(max(available - offset, 0))))
        if offset + length > available:
            raise ModelError(f"{what} ends at byte {offset + length:,} of {location!r}, which has {available:,}")
        size = _size(tensor, what)
        if length != size or tensor.raw is not None:
            own = f" and {tensor.raw:,} in the model's own" if tensor.raw is not None else ""
            raise ModelError(f"{what} has {length:,} bytes in {location!r}{own}; its shape and type take {size:,}")
        self.count += 1
        if size:
            self._spans.setdefault(str(PurePosixPath(location)), {})[offset, offset + length] = tensor.name

    def check_overlaps(self) -> None:
        for file, spans in self._spans.items():
            for ((_, end), name), ((start, _), other) in pairwise(sorted(spans.items())):
                if start < end:
                    names = f"'{shown(name)}' and '{shown(other)}'"
                    raise ModelError(f"{self._model}: the tensors {names} lie one over the other in {file!r}")


def _file_size(model: Path, location: str, what: str) -> int:
    """Return the size of an external file; ModelError where it is no plain file of the model's folder."""
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
    return state.st_size


def _whole(what: str, key: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ModelError(f"{what} has the {key} {text!r}; it must be a whole number, 0 or more")
    return int(text)


def _size(tensor: _Tensor, what: str) -> int:
    """Return how many bytes a tensor's shape and type take."""
    if tensor.kind not in BITS:
        raise ModelError(f"{what} has the data type {tensor.kind}, whose size is not known")
    if len(tensor.dims) > _MAX_RANK:
        raise ModelError(f"{what} has {len(tensor.dims):,} dimensions; {_MAX_RANK} are the most")
    if any(size >= 2**63 for size in tensor.dims):
        raise ModelError(f"{what} has a dimension below 0")
    return -(-math.prod(tensor.dims) * BITS[tensor.kind] // 8)


def _tensors(wire: WireReader, data: memoryview, message: str, depth: int, path: Path) -> Iterator[_Tensor]:
    """Yield the tensors of a message and of those inside it."""
    if depth > _DEEPEST:
        raise ModelError(f"{path} nests graphs more than {_DEEPEST} deep; it is not a real model")
    children = _CHILDREN[message]
    found: set[int] = set()
    version = 0
    for number, value in wire.fields(data):
        if isinstance(value, int):
            version = value if number == _IR_VERSION else version
            continue
        if number in found and (message, number) in _SINGLE:
            raise ModelError(f"{path} has two of what an ONNX {message} has one of; it is not a real model")
        found.add(number)
        child = children.get(number)
        if child == "tensor":
            yield _tensor(wire, value, path)
        elif child is not None:
            yield from _tensors(wire, value, child, depth + 1, path)
    if message == "model" and _GRAPH not in found:
        raise ModelError(f"{path} holds no graph; it is not an ONNX model")
    if message == "model" and version not in _IR_VERSIONS:
        raise ModelError(f"{path} has the IR version {version}, which is none of ONNX's; it is not a real model")


def _tensor(wire: WireReader, data: memoryview, path: Path) -> _Tensor:
    tensor = _Tensor()
    for number, value in wire.fields(data):
        if isinstance(value, int):
            if number == _DIMS:
                tensor.dims.append(value)
            elif number == _KIND:
                tensor.kind = value
            elif number == _LOCATION:
                tensor.external = value == 1
        elif number == _DIMS:
            tensor.dims += wire.varints(value)
        elif number == _NAME:
            tensor.name = wire.text(value)
        elif number == _RAW:
            tensor.raw = len(value)
        elif number == _EXTERNAL:
            texts = {n: wire.text(v) for n, v in wire.fields(value) if not isinstance(v, int)}
            if texts.get(1) in tensor.entries:
                raise ModelError(f"{path}: the tensor '{shown(tensor.name)}' says twice what its {shown(texts[1])} is")
            tensor.entries[texts.get(1, "")] = texts.get(2, "")
    return tensor
