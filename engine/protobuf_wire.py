"""Protobuf's wire format, read with every length checked; nothing but Python's own numbers and bytes comes of it.

Format: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pairgrade.errors import ModelError

MAX_FIELDS = 2**20  # of one file; an export of 64 layers has about 60,000


class WireReader:
    """Reads the messages of one file, whose fields it counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0

    def fields(self, data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """Yield the fields of a message by number: varints as int, what has a length as bytes, no fixed numbers."""
        at = 0
        while at < len(data):
            self._count += 1
            if self._count > MAX_FIELDS:
                raise ModelError(f"{self._path} has more than {MAX_FIELDS:,} fields; it is not a real model")
            tag, at = self._varint(data, at)
            if tag >= 2**32:  # other readers drop the bits above, and find another field
                raise self._wrong("it has a field of an impossible number")
            number, wire = tag >> 3, tag & 7
            if wire == 0:
                value, at = self._varint(data, at)
                yield number, value
                continue
            length = {1: 8, 5: 4}.get(wire)
            if wire == 2:
                length, at = self._varint(data, at)
            if length is None or number == 0 or at + length > len(data):
                raise ModelError(f"{self._path} is not an ONNX model, or is cut off")
            if wire == 2:
                yield number, data[at : at + length]
            at += length

    def varints(self, data: memoryview) -> list[int]:
        """Return the numbers of a packed field."""
        found, at = [], 0
        while at < len(data):
            value, at = self._varint(data, at)
            found.append(value)
        return found

    def text(self, data: memoryview) -> str:
        """Return a text; ModelError where it is no UTF-8."""
        try:
            return bytes(data).decode("utf-8")
        except UnicodeDecodeError:
            raise ModelError(f"{self._path} holds a name that is no UTF-8; it is not a real model") from None

    def _varint(self, data: memoryview, at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= len(data):
                raise ModelError(f"{self._path} is not an ONNX model, or is cut off")
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise self._wrong("it holds a number of more than 64 bits")

    def _wrong(self, why: str) -> ModelError:
        return ModelError(f"{self._path} is not an ONNX model: {why}")
