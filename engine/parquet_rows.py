"""Rows of a Parquet file, whose schema is a header.

A file whose schema lacks a wanted column is an InputError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

from pairgrade.errors import InputError
from pairgrade.lines import Field, Row, locate, quoted, readable
from pairgrade.records import Rejection

_BATCH_BYTES = 8 * 2**20  # of rows held at a time, uncompressed
_BATCH_ROWS = 1024


def parquet_rows(path: str, fields: Sequence[Field], max_bytes: int) -> Iterator[Row | Rejection]:
    """Read a Parquet file batch by batch; the line is the row's number from 1.

    A cell that is not UTF-8 comes as bytes.
    """
    import pyarrow as pa
    from pyarrow import parquet

    with readable(path) as stream:
        try:
            table = parquet.ParquetFile(stream, buffer_size=2**20, pre_buffer=False)
            names = table.schema_arrow.names
            places = locate(path, fields, names)
            for field, place in zip(fields, places, strict=True):
                if place is not None:
                    _check_type(path, field, names[place], table.schema_arrow.field(place).type)
            columns = [None if place is None else names[place] for place in places]
            batches = table.iter_batches(
                _batch_rows(table.metadata), columns=[name for name in columns if name], use_threads=False
            )
            row = 0
            for batch in batches:
                cells = [repeat(None) if name is None else _cells(batch.column(name)) for name in columns]
                for values in zip(*cells, strict=False):
                    row += 1
                    if batch.nbytes > max_bytes and _size(values) > max_bytes:
                        yield Rejection(path, row, f"the row is longer than {max_bytes:,} bytes")
                    else:
                        yield row, values
        except InputError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a name that is not UTF-8, say
            raise InputError(f"{path}: not a sound Parquet file: {error}") from None


def _check_type(path: str, field: Field, name: str, kind: Any) -> None:
    """Refuse a column whose values could never be used."""
    from pyarrow import types

    inner = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner):
        return
    if field.integers and types.is_integer(inner):
        return
    if not field.required and (types.is_null(inner) or (field.integers and types.is_floating(inner))):
        return
    allowed = "strings or integers" if field.integers else "strings"
    raise InputError(f"{path}: the column {quoted(name)} is {kind}; it must hold {allowed}: cast it")


def _batch_rows(metadata: Any) -> int:
    groups = [metadata.row_group(k) for k in range(metadata.num_row_groups)]
    widest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=1)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, widest)))


def _cells(column: Any) -> list[object]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_cell(scalar) for scalar in column]


def _cell(scalar: Any) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes()


def _size(values: Sequence[object]) -> int:
    return sum(len(value.encode(errors="surrogatepass")) for value in values if isinstance(value, str))
