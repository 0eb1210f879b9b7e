"""How rows become the bytes of JSON lines, Parquet, CSV and TSV; ``table_rows`` finds them again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pairgrade.table_rows import DELIMITERS

_GROUP_ROWS = 8192  # of a Parquet row group


class Encoder(Protocol):
    """Turns rows into the bytes of a file."""

    def add(self, row: Sequence[object]) -> bytes:
        """Return the bytes to write now that a row is added."""

    def end(self) -> bytes:
        """Return the bytes that are left to write."""


def encoder(file_format: str, types: Mapping[str, type], nullable: Sequence[str] = ("label_mass",)) -> Encoder:
    """Return an encoder of rows with these columns, of which some may be null."""
    return _Parquet(types, nullable) if file_format == "parquet" else _Lines(types, DELIMITERS.get(file_format))


class _Lines:
    """JSON lines, or a header and delimited lines."""

    def __init__(self, types: Mapping[str, type], delimiter: str | None) -> None:
        self._names = list(types)
        self._delimiter = delimiter
        self._header = "" if delimiter is None else delimiter.join(types) + "\n"

    def add(self, row: Sequence[object]) -> bytes:
        if self._delimiter is None:
            text = json.dumps(dict(zip(self._names, row, strict=True)), ensure_ascii=False, allow_nan=False)
        else:
            text = self._delimiter.join(map(_cell, row))
        return self.end() + text.encode() + b"\n"

    def end(self) -> bytes:
        header, self._header = self._header, ""
        return header.encode()


def _cell(value: object) -> str:
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"' if re.search('[",\t\r\n]', value) else value
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else repr(value)


class _Parquet:
    """Parquet, a row group at a time; nothing in it but the rows depends on when or where it is made."""

    def __init__(self, types: Mapping[str, type], nullable: Sequence[str]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        arrow: dict[type, Any] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
        arrow |= {list[str]: pa.list_(pa.string()), list[float]: pa.list_(pa.float64())}
        fields = [pa.field(name, arrow[kind], nullable=name in nullable) for name, kind in types.items()]
        self._schema = pa.schema(fields)
        self._rows: list[Sequence[object]] = []
        self._made = _Memory()
        self._writer = parquet.ParquetWriter(self._made, self._schema, compression="zstd", store_schema=False)

    def add(self, row: Sequence[object]) -> bytes:
        self._rows.append(row)
        if len(self._rows) == _GROUP_ROWS:
            self._end_group()
        return self._made.take()

    def end(self) -> bytes:
        if self._rows:
            self._end_group()
        self._writer.close()
        return self._made.take()

    def _end_group(self) -> None:
        import pyarrow as pa

        table = zip(zip(*self._rows, strict=True), self._schema, strict=True)
        arrays = [pa.array(values, field.type) for values, field in table]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._rows.clear()


class _Memory:
    """A file whose bytes wait until they are taken: no failure of the disk passes through pyarrow."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data
