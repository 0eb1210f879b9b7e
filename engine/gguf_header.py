"""A GGUF file's header, read with every length checked against the bytes that are left.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Nothing here trusts the file; what does not fit is
a ModelError that says which part. Of string arrays the vocabulary alone is kept. The file is read and not mapped: one
that shrinks meanwhile would end the process.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pairgrade.errors import ModelError
from pairgrade.foreign_text import shown

VERSIONS = (2, 3)
MAX_ENTRIES = 50_000  # metadata keys or tensors of one file; real ones have hundreds
MAX_KEY = 65_535  # bytes, by the specification
MAX_TEXT = 2**24  # bytes of a text of the metadata; chat templates have thousands
MAX_ELEMENTS = 2**20  # of all arrays that are read; 262,144 tokens with their merges are 780,000
MAX_VALUES = 4096  # numbers of an array that is read; hyper-parameters have one a layer
MAX_HEADER = 2**26  # bytes; 262,144 tokens with their merges take 13 million
TOKENS = "tokenizer.ggml.tokens"
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, INT32, FLOAT32 = 8, 5, 6
_ARRAY = 9

Value = int | float | bool | str


@dataclass(frozen=True, slots=True)
class ArrayValue:
    """An array of the metadata: its length, and its values where they are numbers and few, or the vocabulary."""

    count: int
    kind: int  # the specification's type number of the elements
    values: tuple[Value, ...] = ()
    texts: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        return f"an array of {self.count:,}"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies."""

    name: str
    shape: tuple[int, ...]  # fastest dimension first, as in the file
    kind: int  # ggml's type number
    offset: int  # bytes from the start of the data


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """All of a file but its tensors' bytes."""

    version: int
    metadata: Mapping[str, Value | ArrayValue]
    tensors: tuple[TensorInfo, ...]
    end: int  # bytes of the header; the data begins at the next multiple of the alignment
    size: int  # bytes of the file


def read_header(path: Path) -> GgufHeader:
    """Read the header of a GGUF file; ModelError says what is wrong with it."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
            _refuse_foreign(path, start)
            return _Parser(path, file).header()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None


def _refuse_foreign(path: Path, start: bytes) -> None:
    if start[:4] == b"GGUF":
        return
    if not start:
        raise ModelError(f"{path} is empty; it is not a GGUF file")
    if start.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a git-lfs pointer, not the model: run `git lfs pull` where it came from")
    if start.lstrip()[:1] == b"<":
        raise ModelError(f"{path} is a web page, not a model: the download went wrong")
    if start[:4] == b"FUGG":
        raise ModelError(f"{path} is a big-endian GGUF, which this machine's llama.cpp does not run")
    raise ModelError(f"{path} is not a GGUF file (it starts with {start[:4]!r}, not with b'GGUF')")


class UnsoundError(Exception):
    """A reason not to load a file, as the end of a sentence that begins with its name."""


class _Parser:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file, self._at = path, file, 4
        self._size = os.fstat(file.fileno()).st_size
        self._elements = 0  # of the arrays that were read
        file.seek(4)

    def header(self) -> GgufHeader:
        version = int(self._number("<I", "its version"))
        if version not in VERSIONS:
            raise self._wrong(f"is GGUF version {version}; {' and '.join(map(str, VERSIONS))} are supported")
        tensors = self._count("<Q", "tensors", 24)
        entries = self._count("<Q", "metadata entries", 13)
        metadata: dict[str, Value | ArrayValue] = {}
        for _ in range(entries):
            key = self._string("a metadata key", MAX_KEY)
            if key in metadata:
                raise self._wrong(f"has the metadata key '{key}' twice")
            metadata[key] = self._value(key)
        infos = tuple(self._tensor() for _ in range(tensors))
        return GgufHeader(version, metadata, infos, self._at, self._size)

    def _value(self, key: str) -> Value | ArrayValue:
        kind = int(self._number("<I", f"the type of '{key}'"))
        if kind == STRING:
            return self._string(f"the value of '{key}'", MAX_TEXT)
        if kind in _SCALARS:
            return self._number(_SCALARS[kind], f"the value of '{key}'")
        if kind == _ARRAY:
            return self._array(key)
        raise self._wrong(f"gives '{key}' the type {kind}, which there is not")

    def _array(self, key: str) -> ArrayValue:
        kind = int(self._number("<I", f"the element type of '{key}'"))
        if kind == _ARRAY:
            raise self._wrong(f"has arrays inside the array '{key}', which no model needs")
        if kind == STRING:
            count = self._count("<Q", f"strings in '{key}'", 8, most=None)
            self._add(count, f"strings in '{key}'")
            what = f"a string of '{key}'"
            texts = [self._raw_string(what, MAX_KEY) for _ in range(count)] if key == TOKENS else []
            for _ in range(count - len(texts)):
                self._raw_string(what, MAX_TEXT)
            return ArrayValue(count, kind, texts=tuple(texts))
        if kind not in _SCALARS:
            raise self._wrong(f"gives the elements of '{key}' the type {kind}, which there is not")
        layout = _SCALARS[kind]
        width = struct.calcsize(layout)
        count = self._count("<Q", f"numbers in '{key}'", width, most=None)
        if count > MAX_VALUES:
            self._at = self._file.seek(self._at + width * count)
            return ArrayValue(count, kind)
        self._add(count, f"numbers in '{key}'")
        raw = self._take(width * count, f"the numbers in '{key}'")
        return ArrayValue(count, kind, struct.unpack(f"<{count}{layout[1]}", raw))

    def _add(self, count: int, what: str) -> None:
        self._elements += count
        if self._elements > MAX_ELEMENTS:
            raise self._wrong(
                f"has {count:,} {what}, {self._elements:,} with those before; {MAX_ELEMENTS:,} are the most"
            )

    def _tensor(self) -> TensorInfo:
        name = self._string("a tensor's name", MAX_KEY)
        dimensions = int(self._number("<I", f"the dimensions of '{name}'"))
        if not 1 <= dimensions <= 4:
            raise self._wrong(f"gives the tensor '{name}' {dimensions} dimensions; 1 to 4 are possible")
        shape = tuple(int(self._number("<Q", f"the shape of '{name}'")) for _ in range(dimensions))
        kind = int(self._number("<I", f"the type of '{name}'"))
        return TensorInfo(name, shape, kind, int(self._number("<Q", f"the offset of '{name}'")))

    def _count(self, layout: str, what: str, width: int, most: int | None = MAX_ENTRIES) -> int:
        """Read how many things of at least ``width`` bytes follow."""
        count = int(self._number(layout, f"the number of {what}"))
        if count * width > self._size - self._at:
            raise self._wrong(f"claims {count:,} {what}, more than a file of {self._size:,} bytes can hold")
        if most is not None and count > most:
            raise self._wrong(f"has {count:,} {what}; {most:,} are the most")
        return count

    def _number(self, layout: str, what: str) -> int | float | bool:
        number: int | float | bool = struct.unpack(layout, self._take(struct.calcsize(layout), what))[0]
        return number

    def _string(self, what: str, most: int) -> str:
        raw = self._raw_string(what, most)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self._wrong(f"holds bytes that are no UTF-8 in {what}") from None

    def _raw_string(self, what: str, most: int) -> bytes:
        length = int.from_bytes(self._take(8, what), "little")
        if length > min(most, self._size - self._at):
            raise self._wrong(
                f"claims {length:,} bytes for {what}; {self._size - self._at:,} are left, {most:,} allowed"
            )
        return self._take(length, what)

    def _take(self, count: int, what: str) -> bytes:
        if self._at + count > MAX_HEADER:
            raise self._wrong(f"has a header of more than {MAX_HEADER:,} bytes, counted to {what}")
        raw = self._file.read(count)
        if len(raw) < count:
            raise self._wrong(f"ends inside {what}")
        self._at += count
        return raw

    def _wrong(self, what: str) -> ModelError:
        return ModelError(f"{self._path} {shown(what)}: the file is damaged or not a real model")
