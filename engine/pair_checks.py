"""What makes a row of the input a pair: ids that qrels can carry, text that is text, grades that are whole numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pairgrade.errors import InputError
from pairgrade.lines import quoted
from pairgrade.records import Pair, Rejection

_NOT_IN_IDS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")
_WHOLE_NUMBER = re.compile(r"([+-]?[0-9]{1,9})(\.0*)?")
_GRADE_LIMIT = 10**9
_LONGEST_ID = 1000  # characters
SHOWN = 5  # repeated pairs that an error names
SHOWN_LINES = 6  # of each of them


def checked_pair(source: str, line: int, values: Sequence[object]) -> Pair | Rejection:
    """Make a pair of query id, document id, query, document, title and perhaps grade, or say why it is none."""
    query_id = doc_id = None
    try:
        query_id = checked_identifier(values[0], "query_id")
        doc_id = checked_identifier(values[1], "doc_id")
        query = checked_text(values[2], "query")
        document = checked_text(values[3], "document")
        title = checked_optional_text(values[4])
        if not query or query.isspace():
            return Rejection(source, line, "query is blank", query_id, doc_id, lacks_query=True)
        if (not document or document.isspace()) and (not title or title.isspace()):
            raise ValueError("document and title are both blank")
        return Pair(query_id, doc_id, query, document, title, _grade(values[5]) if len(values) > 5 else None)
    except ValueError as error:
        return Rejection(source, line, str(error), query_id, doc_id)


def repeated_pairs(
    name: str, found: Sequence[tuple[tuple[str, str], Sequence[int]]], total: int, remedy: str
) -> InputError:
    """Return the error for pairs whose ids occur more than once: some of all, each with its ids and first lines."""
    named = [
        f"({quoted(query_id)}, {quoted(doc_id)}) on lines {', '.join(map(str, lines[:SHOWN_LINES]))}"
        for (query_id, doc_id), lines in found[:SHOWN]
    ]
    more = "; ..." if total > SHOWN else ""
    return InputError(f"{name}: {total} pair(s) of ids occur more than once: {'; '.join(named)}{more}. {remedy}")


def checked_identifier(value: object, name: str) -> str:
    """Return an id as text; ValueError says why it cannot be one."""
    if type(value) is str:
        if not value:
            raise ValueError(f"{name} is empty")
        if len(value) > _LONGEST_ID:
            raise ValueError(f"{name} has {len(value):,} characters; at most {_LONGEST_ID:,} are allowed")
        if _NOT_IN_IDS.search(value):
            held = "white space, a control character, a byte order mark or a lone surrogate"
            raise ValueError(f"{name} {quoted(value)} holds {held}; a TREC qrels file cannot carry it")
        return value
    if type(value) is int and abs(value) < 10**_LONGEST_ID:
        return str(value)
    raise ValueError(f"{name} is {_described(value)}; an id is a string or an integer: write it in quotes")


def checked_text(value: object, name: str) -> str:
    """Return a text that UTF-8 can hold; ValueError says why it is none."""
    if type(value) is not str:
        raise ValueError(f"{name} is {_described(value)}; it must be a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            found = f"a lone surrogate (U+{ord(value[error.start]):04X}) at character {error.start + 1}"
            raise ValueError(f"{name} holds {found}") from None
    return value


def checked_optional_text(value: object) -> str:
    """Return a title, empty where there is none; ValueError says why it cannot be one."""
    return "" if value is None else checked_text(value, "title")


def _grade(value: object) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        if value.isspace():
            return None
        match = _WHOLE_NUMBER.fullmatch(value.strip())
        if match:
            return int(match[1])
    elif (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) < _GRADE_LIMIT
        and value == int(value)
    ):
        return int(value)
    raise ValueError(f"grade is {_described(value)}; it must be a whole number of at most 9 digits")


def _described(value: object) -> str:
    if isinstance(value, bytes):
        return "not valid UTF-8"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, dict)):
        return "an array" if isinstance(value, list) else "an object"
    return quoted(value) if isinstance(value, str) else f"the number {quoted(str(value))}"
