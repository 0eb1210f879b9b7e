"""The rows of a file of judgments, ranking sets or examples, in each of its formats.

Rows are plain values under column names; what they mean is left to those who read them. Pairs to be labelled are read
elsewhere (``readers``), line by line past what is damaged.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping

from pairgrade.errors import InputError
from pairgrade.lines import quoted, readable, text_lines, unique_keys
from pairgrade.records import Rejection

Row = tuple[int, Mapping[str, object]]  # number of the line (Parquet: row) from 1, value of each column

FORMATS = ("jsonl", "parquet", "csv", "tsv")
DELIMITERS = {"csv": ",", "tsv": "\t"}

_LONGEST_LINE = 2**24  # bytes
_BATCH_ROWS = 8192  # of Parquet


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
                yield Rejection(path, number, f"{quoted(text)} is no JSON object")


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
    reader = csv.reader(lines, delimiter=DELIMITERS[file_format], strict=True)
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
            for batch in table.iter_batches(_BATCH_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pa.ArrowException, OSError, ValueError, LookupError, OverflowError) as error:  # dates out of range, say
            raise InputError(f"{path}, after row {number}: not a sound Parquet file: {error}") from None
