"""Input files as lines of bounded length, plain or gzipped, and JSON lines as rows.

Only a line feed ends a line: every other character that Unicode calls a line break belongs to the text around
it. A line above the limit is passed over in pieces, so that no file makes a reader hold more than one row.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import cast

from pairgrade.errors import InputError
from pairgrade.records import Rejection

Row = tuple[int, Sequence[object]]  # line; one value for each wanted field, None for one that is not there

_BLOCK = 2**20  # bytes read at a time where lines do not matter
_GZIP = b"\x1f\x8b"  # how such a file begins
_DELIMITERS = ",;\t|"  # one of which in a name tells of a table that is parted by another
_WIDE_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # LE: of UTF-32 as well
_MAX_DIGITS = 1000  # of an integer in JSON: reading one takes quadratic time


def has_gzip_name(path: str) -> bool:
    """Say whether the file's name promises gzip."""
    return path.lower().endswith(".gz")


@contextmanager
def readable(path: str) -> Iterator[io.BufferedReader]:
    """Open the bytes of a file as they lie on disk; whatever goes wrong with them is an InputError."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise InputError(f"{path}: is {kind}; give the path of a file (inputs are read more than once)")
        with open(path, "rb") as stream:
            yield stream
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except gzip.BadGzipFile as error:
        raise InputError(f"{path}: not a sound gzip file ({error}); rename it if it is plain text") from None
    except EOFError:
        raise InputError(f"{path}: the gzip file is cut off; fetch or write it again") from None
    except zlib.error as error:
        raise InputError(f"{path}: the gzip file is damaged: {error}; fetch or write it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def file_blocks(path: str) -> Iterator[bytes]:
    """Yield the bytes of a file as they lie on disk, in blocks."""
    with readable(path) as stream:
        while block := stream.read(_BLOCK):
            yield block


def numbered_lines(path: str, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield each line's number from 1 and its bytes without the newline, or None for a line above the limit.

    A carriage return before the newline stays and does not count towards the limit; a byte order mark at the
    start of the file is dropped. Raises InputError for a file that is missing, UTF-16, or not the sound gzip
    its name promises; for one that is cut off, after the lines before the cut.
    """
    with readable(path) as raw:
        stream = raw
        if has_gzip_name(path):
            stream = io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=raw)), _BLOCK // 8)
        limit = max_bytes + 2  # room for the line end
        number = 1
        chunk = _without_bom(path, stream.readline(limit + len(codecs.BOM_UTF8)))
        while chunk:
            line = chunk.removesuffix(b"\n")
            if len(line) > max_bytes and len(line.removesuffix(b"\r")) > max_bytes:
                yield number, None
                while chunk and not chunk.endswith(b"\n"):
                    chunk = stream.readline(_BLOCK)
            else:
                yield number, line
            number += 1
            chunk = stream.readline(limit)


def _without_bom(path: str, start: bytes) -> bytes:
    if start.startswith(_GZIP):
        raise InputError(f"{path}: is compressed by gzip; let its name end in .gz")
    if start.startswith(_WIDE_BOMS):
        raise InputError(f"{path}: is UTF-16 or UTF-32; convert it with: iconv -f UTF-16 -t UTF-8")
    # a line of nothing but the mark must not look like the end of the file
    return start.removeprefix(codecs.BOM_UTF8) or (b"\n" if start else b"")


def too_long(path: str, number: int, max_bytes: int) -> Rejection:
    """Reject a line above the limit."""
    return Rejection(path, number, f"the line is longer than {max_bytes:,} bytes")


def bad_utf8(error: UnicodeDecodeError) -> str:
    """Say where bytes stop being UTF-8."""
    return f"not valid UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start} of the line"


def text_lines(path: str, max_bytes: int) -> Iterator[tuple[int, str] | Rejection]:
    """Yield each line's number and text, or its rejection where it is too long or not UTF-8."""
    for number, line in numbered_lines(path, max_bytes):
        if line is None:
            yield too_long(path, number, max_bytes)
            continue
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            yield Rejection(path, number, bad_utf8(error))
            continue
        yield number, text


@dataclass(frozen=True, slots=True)
class Field:
    """A column that is wanted of a table; in a list of them the required ones come first."""

    names: tuple[str, ...]  # the column's name, or several of which the first that is there counts
    required: bool = True  # every row must have it
    named: bool = False  # the user named it: a header must have it even where rows need not
    option: str = ""  # the command's option that names it
    integers: bool = False  # a Parquet column of numbers will do


def locate(path: str, fields: Sequence[Field], found: Sequence[str]) -> list[int | None]:
    """Find each field's place among a header's columns; InputError where one must be there and is not, or is twice."""
    places: list[int | None] = []
    for field in fields:
        name = next((name for name in field.names if name in found), None)
        if name is None and (field.required or field.named):
            raise InputError(f"{path}: {missing(field, found)}")
        if name is not None and found.count(name) > 1:
            raise InputError(f"{path}: {found.count(name)} columns are named {quoted(name)}; keep one")
        places.append(None if name is None else found.index(name))
    return places


def missing(field: Field, found: Iterable[str]) -> str:
    """Say that a column is missing, which ones there are, and what to do."""
    given = list(islice(found, 21))
    listed = ", ".join(map(quoted, given[:20])) + (", ..." if len(given) > 20 else "")
    remedy = f"name the one to take with {field.option}" if field.option else "rename the one to take"
    if len(given) == 1 and any(mark in given[0] for mark in _DELIMITERS):
        remedy = "that is one column, so its fields are parted by something else; read are commas (csv) and tabs (tsv)"
    return f"no column {' or '.join(map(quoted, field.names))} (columns found: {listed or 'none'}); {remedy}"


def json_rows(path: str, fields: Sequence[Field], max_bytes: int) -> Iterator[Row | Rejection]:
    """Read JSON lines; blank ones are skipped. The first object decides which of a field's names is used.

    InputError where the first object lacks a required column, or all of them lack one that an option names.
    """
    names: list[str] = []
    unseen = {place: field for place, field in enumerate(fields) if field.named}
    last: dict[str, object] = {}
    required = [field for field in fields if field.required]
    for item in text_lines(path, max_bytes):
        if isinstance(item, Rejection):
            yield item
            continue
        line, text = item
        if not text.strip(" \t\r"):
            continue
        try:
            table = _object(text)
        except ValueError as error:
            hint = "; each line must be one JSON object, without a list around them" if text.lstrip()[:1] == "[" else ""
            yield Rejection(path, line, f"{error}{hint}")
            continue
        if not names:
            for field in required:
                if table.keys().isdisjoint(field.names):
                    raise InputError(f"{path}, line {line}: {missing(field, table)}")
            names = [next((name for name in f.names if name in table), f.names[0]) for f in fields]
        values = list(map(table.get, names))
        if unseen:
            unseen = {place: field for place, field in unseen.items() if names[place] not in table}
            last = table
        if None in values[: len(required)]:  # absent, or null, which is for others to judge
            absent = [field for field, name in zip(required, names, strict=False) if name not in table]
            if absent:
                yield Rejection(path, line, missing(absent[0], table))
                continue
        yield line, values
    if names and unseen:
        raise InputError(f"{path}: {missing(next(iter(unseen.values())), last)}")


def _object(text: str) -> dict[str, object]:
    """Read one JSON object; ValueError gives the reason why it is none."""
    try:
        value = _decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON at column {error.colno}: {error.msg.removesuffix(' at')}") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if type(value) is not dict:
        raise ValueError(f"expected a JSON object, got {_JSON_TYPES[type(value)]}")
    return cast("dict[str, object]", value)


def unique_keys(items: list[tuple[str, object]]) -> dict[str, object]:
    """Return the table of a JSON object; ValueError where a key appears twice. A hook for ``json.loads``."""
    table = dict(items)
    if len(table) != len(items):
        seen: set[str] = set()
        for name, _ in items:
            if name in seen:
                raise ValueError(f"the key {quoted(name)} appears twice in one JSON object")
            seen.add(name)
    return table


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits):,} digits; at most {_MAX_DIGITS:,} are read")
    return int(digits)


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_JSON_TYPES = {list: "an array", str: "a string", int: "a number", float: "a number", bool: "true or false"}
_JSON_TYPES[type(None)] = "null"
_decode = json.JSONDecoder(object_pairs_hook=unique_keys, parse_int=_integer, parse_constant=_constant).decode


def quoted(text: str) -> str:
    """Quote a name that a file gave, at bounded length and with what cannot be printed escaped."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
