"""How the rows of a judgments file become bytes and are found again, in each of its formats.

Rows are plain values under column names; what they mean is left to ``pairgrade.judgments``.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from pairgrade.errors import InputError
from pairgrade.lines import readable, shown, text_lines, unique_keys
from pairgrade.records import Rejection

Row = tuple[int, Mapping[str, object]]  # number of the line (Parquet: row) from 1, value of each column

FORMATS = ("jsonl", "parquet", "csv", "tsv")

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_LONGEST_LINE = 2**24  # bytes
_GROUP_ROWS = 8192  # of a Parquet row group


class Encoder(Protocol):
    """Turns rows into the bytes of a file."""

    def add(self, row: Sequence[object]) -> bytes:
        """Return the bytes to write now that a row is added."""

    def end(self) -> bytes:
        """Return the bytes that are left to write."""


def encoder(file_format: str, types: Mapping[str, type], nullable: Sequence[str] = ("label_mass",)) -> Encoder:
    """Return an encoder of rows with these columns, of which some may be null."""
    return _Parquet(types, nullable) if file_format == "parquet" else _Lines(types, _DELIMITERS.get(file_format))


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


def column_names(path: str, file_format: str) -> list[str]:
    """Return the names of a file's columns, of JSON lines those of the first sound row; none without one."""
    if file_format == "parquet":
        return _parquet_names(path)
    if file_format == "jsonl":
        return list(next((item[1] for item in json_objects(path) if not isinstance(item, Rejection)), {}))
    header = next(_records(path, file_format), None)
    if header is None:
        raise InputError(f"{path}: is empty; a {file_format.upper()} file starts with a line of column names")
    return header[1]


def rows(path: str, file_format: str, types: Mapping[str, type]) -> Iterator[Row]:
    """Yield the rows of a file; InputError where one cannot be told from the next."""
    if file_format == "parquet":
        return _parquet_rows(path)
    if file_format == "jsonl":
        return _json_rows(path)
    return _delimited_rows(path, file_format, types)


def _text_lines(path: str) -> Iterator[tuple[int, str]]:
    for item in text_lines(path, _LONGEST_LINE):
        if isinstance(item, Rejection):
            raise InputError(f"{path}, line {item.line}: {item.reason}")
        yield item


def _json_rows(path: str) -> Iterator[Row]:
    for item in json_objects(path):
        if isinstance(item, Rejection):
            raise InputError(f"{path}, line {item.line}: {item.reason}")
        yield item


def json_objects(path: str) -> Iterator[Row | Rejection]:
    """Yield number and object of each line that is not blank, or why a line holds none."""
    for item in text_lines(path, _LONGEST_LINE):
        if isinstance(item, Rejection):
            yield item
            continue
        number, text = item
        if text and not text.isspace():
            try:
                row = json.loads(text, object_pairs_hook=unique_keys)
            except (ValueError, RecursionError) as error:
                yield Rejection(path, number, f"not sound JSON: {error}")
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                yield Rejection(path, number, f"{shown(text)} is no JSON object")


def _delimited_rows(path: str, file_format: str, types: Mapping[str, type]) -> Iterator[Row]:
    records = _records(path, file_format)
    _, names = next(records)
    for number, cells in records:
        if len(cells) != len(names):
            raise InputError(f"{path}, line {number}: {len(cells)} fields, but the header has {len(names)}")
        named = zip(names, cells, strict=True)
        yield number, {name: _value(cell, types.get(name, str)) for name, cell in named}


def _value(cell: str, kind: type) -> object:
    """Return what a cell stands for, or its text where that is nothing of its kind."""
    if kind is str:
        return cell
    if kind is bool:
        return {"true": True, "false": False}.get(cell.lower(), cell)
    if not cell:
        return None
    if kind is int:
        return int(cell) if re.fullmatch(r"[+-]?[0-9]{1,19}", cell) else cell
    try:
        return float(cell)
    except ValueError:
        return cell


def _records(path: str, file_format: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the records with the number of the line that each starts on; blank lines are none."""
    lines = (text + "\n" for _, text in _text_lines(path))
    reader = csv.reader(lines, delimiter=_DELIMITERS[file_format], strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{path}, line {number}: not sound {file_format.upper()}: {error}") from None
        if cells is None:
            return
        if cells:
            yield number, cells


def _parquet_names(path: str) -> list[str]:
    import pyarrow as pa
    from pyarrow import parquet

    with readable(path) as file:
        try:
            return list(parquet.read_schema(file).names)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{path}: not a sound Parquet file: {error}") from None


def _parquet_rows(path: str) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    with readable(path) as file:
        try:
            table = parquet.ParquetFile(file, buffer_size=2**20, pre_buffer=False)
            for batch in table.iter_batches(_GROUP_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pa.ArrowException, OSError, ValueError, LookupError, OverflowError) as error:  # dates out of range, say
            raise InputError(f"{path}, after row {number}: not a sound Parquet file: {error}") from None
