"""Rows of tables with a header in text: CSV and TSV.

A file whose header lacks a wanted column is an InputError.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from pairgrade.errors import InputError
from pairgrade.lines import (
    Field,
    Row,
    bad_utf8,
    locate,
    numbered_lines,
    text_lines,
    too_long,
)
from pairgrade.records import Rejection

_Line = tuple[int, bytes | None]  # number; bytes, or None for a line above the limit

_MAX_RECORD_LINES = 10_000  # physical lines of one CSV record


class _UnsoundError(Exception):
    """Lines that are no CSV record, and why."""


def tab_separated(path: str, max_bytes: int) -> Iterator[tuple[int, list[str]] | Rejection]:
    """Yield the number and the fields of every line that is not blank; quotes have no meaning."""
    for item in text_lines(path, max_bytes):
        if isinstance(item, Rejection):
            yield item
            continue
        line, text = item
        text = text.removesuffix("\r")
        if text.strip(" "):
            yield line, text.split("\t")


def tsv_rows(path: str, fields: Sequence[Field], max_bytes: int) -> Iterator[Row | Rejection]:
    """Read tab-separated lines under a header; quotes have no meaning; blank lines are skipped."""
    places: list[int | None] | None = None
    width = 0
    for item in tab_separated(path, max_bytes):
        if isinstance(item, Rejection):
            if places is None:
                raise InputError(f"{path}: the header cannot be read: {item.reason}")
            yield item
            continue
        line, cells = item
        if places is None:
            places = locate(path, fields, cells)
            width = len(cells)
        elif len(cells) != width:
            yield Rejection(path, line, f"{field_count(len(cells))}, the header has {width}")
        else:
            yield line, [None if place is None else cells[place] for place in places]


def field_count(fields: int) -> str:
    """Say how many fields a record has."""
    return "1 field" if fields == 1 else f"{fields:,} fields"


def csv_rows(path: str, fields: Sequence[Field], max_bytes: int) -> Iterator[Row | Rejection]:
    """Read RFC 4180 records under a header; a quote inside an unquoted field stands for itself.

    Of a record that is not sound only the first physical line is rejected: reading goes on at the next, so
    that a quote that nobody closes costs one row.
    """
    records = csv_records(path, max_bytes)
    header = next(records, None)
    if header is None:
        return
    if isinstance(header, Rejection):
        raise InputError(f"{path}: the header cannot be read: {header.reason}")
    places = locate(path, fields, header[1])
    for record in records:
        if isinstance(record, Rejection):
            yield record
        else:
            yield record[0], [None if place is None else record[1][place] for place in places]


def csv_records(path: str, max_bytes: int) -> Iterator[tuple[int, list[str]] | Rejection]:
    """Yield the header, then the records of its width, each with the number of its first physical line."""
    trouble: list[InputError] = []
    lines = _until_trouble(numbered_lines(path, max_bytes), trouble)
    waiting: deque[_Line] = deque()  # lines read ahead for a record that was not sound
    width = 0  # of the header; 0 until it is known
    while True:
        first = waiting.popleft() if waiting else next(lines, None)
        if first is None:
            if trouble:
                raise trouble[0]
            return
        number, start = first
        if start is None:
            yield too_long(path, number, max_bytes)
            continue
        ahead: list[_Line] = []
        try:
            cells, reason = _csv_record(start, _read_ahead(waiting, lines, ahead), width, max_bytes)
        except _UnsoundError as error:
            waiting.extendleft(reversed(ahead))
            yield Rejection(path, number, str(error))
            continue
        if reason:
            yield Rejection(path, number, reason)
        else:
            width = width or len(cells)
            yield number, cells


def _until_trouble(lines: Iterator[_Line], trouble: list[InputError]) -> Iterator[_Line]:
    """End where the file does or cannot be read on, so that lines read ahead of the trouble are not lost."""
    try:
        yield from lines
    except InputError as error:
        trouble.append(error)


def _read_ahead(waiting: deque[_Line], lines: Iterator[_Line], ahead: list[_Line]) -> Iterator[_Line]:
    while (item := waiting.popleft() if waiting else next(lines, None)) is not None:
        ahead.append(item)
        yield item


def _csv_record(start: bytes, more: Iterator[_Line], width: int, max_bytes: int) -> tuple[list[str], str]:
    """Split one record, and say what keeps it from being text; _UnsoundError where it is not a record at all."""
    cells: list[str] = []
    text, reason = _decoded(start)
    pieces = _split(text, width, cells, None)
    size, count = len(start), 1
    while pieces is not None:
        opened = f"the quote that opens field {len(cells) + 1} is not closed within"
        number, line = next(more, (0, b""))
        size, count = size + 1 + len(line or b""), count + 1
        if not number:
            raise _UnsoundError(f"{opened} the file")
        if line is None or size > max_bytes:
            raise _UnsoundError(f"{opened} {max_bytes:,} bytes")
        if count > _MAX_RECORD_LINES:
            raise _UnsoundError(f"{opened} {_MAX_RECORD_LINES:,} lines")
        text, wrong = _decoded(line)
        reason = reason or (wrong and f"on line {number}: {wrong}")
        pieces = _split(text, width, cells, pieces)
    if width and len(cells) != width:
        found = "a blank line" if cells == [""] else field_count(len(cells))
        raise _UnsoundError(f"{found}, the header has {width}")
    return cells, reason


def _decoded(line: bytes) -> tuple[str, str]:
    """Decode a line so that it can be split in any case, and say what is wrong with it."""
    try:
        return line.decode(), ""
    except UnicodeDecodeError as error:
        return line.decode(errors="surrogateescape"), bad_utf8(error)


def _split(text: str, width: int, cells: list[str], pieces: list[str] | None) -> list[str] | None:
    """Add a physical line's fields to ``cells``; return the pieces of the last where its quote is still open.

    ``pieces`` are those of a field that an earlier line left open.
    """
    body = text.removesuffix("\r")
    at = 0
    while True:
        if pieces is None and body.startswith('"', at):
            pieces = []
            at += 1
        if pieces is None:
            end = body.find(",", at)
            cells.append(body[at:] if end < 0 else body[at:end])
            if end < 0:
                return None
            at = end + 1
        else:
            end = _closing_quote(body, at)
            if end < 0:
                pieces.append(text[at:].replace('""', '"') + "\n")
                return pieces
            pieces.append(body[at:end].replace('""', '"'))
            cells.append("".join(pieces))
            pieces = None
            at = end + 2
            if at > len(body):
                return None
            if body[end + 1] != ",":
                raise _UnsoundError(f"text follows the closing quote of field {len(cells)}")
        if width and len(cells) >= width:
            raise _UnsoundError(f"more than {field_count(width)}, the header has {width}")


def _closing_quote(text: str, at: int) -> int:
    """Find the quote that is not doubled; -1 where there is none."""
    while (quote := text.find('"', at)) >= 0 and text.startswith('"', quote + 1):
        at = quote + 2
    return quote
