"""Judgments files: one row a judgment, the same columns in JSON lines, Parquet, CSV and TSV.

The columns are ``query_id``, ``doc_id``, ``grade``, the probability of each grade in ascending order
(``p_0``, ``p_1``, ...), ``expected_grade``, ``label_mass`` (null where unknown), ``truncated``,
``prompt_tokens``, ``document_tokens`` and ``cut_tokens``. What is written is read back bit for bit, and the
same judgments give the same bytes. CSV and TSV quote a field where it needs it and leave null empty. JSON
lines without a row name no grades.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from operator import index
from pathlib import Path
from types import TracebackType
from typing import Any

from pairgrade.atomic import AtomicFile
from pairgrade.errors import InputError
from pairgrade.lines import quoted
from pairgrade.records import Judgment
from pairgrade.row_encoders import encoder
from pairgrade.table_rows import FORMATS, column_names, rows

PathLike = str | os.PathLike[str]

_HEAD: dict[str, type] = {"query_id": str, "doc_id": str, "grade": int}
_COUNTS = ("prompt_tokens", "document_tokens", "cut_tokens")
_TAIL = {"expected_grade": float, "label_mass": float, "truncated": bool} | dict.fromkeys(_COUNTS, int)
_ALLOWED: dict[type, str] = {str: "text", int: "an integer", float: "a number", bool: "true or false"}
_SLACK = 0.01  # by which rounded probabilities may miss the sum of 1


def columns(grades: Sequence[int]) -> dict[str, type]:
    """Return the name and type of each column of a file with these grades, in order."""
    return _HEAD | {f"p_{grade}": float for grade in grades} | _TAIL


def suffix_format(path: PathLike) -> str | None:
    """Return the format that a path's suffix names, or None if it is not one of a judgments file."""
    suffix = Path(path).suffix.lower().removeprefix(".")
    return suffix if suffix in FORMATS else None


def open_writer(path: PathLike, grades: Sequence[int], file_format: str | None = None) -> JudgmentWriter:
    """Return a writer of a judgments file, for a ``with`` block; without a format the suffix decides."""
    return JudgmentWriter(path, grades, required_format(path, file_format))


def read_judgments(path: PathLike, file_format: str | None = None) -> JudgmentsFile:
    """Open a judgments file: its ``grades``, and its judgments as often as it is iterated over."""
    return JudgmentsFile(path, required_format(path, file_format))


class JudgmentWriter:
    """Writes judgments in flat memory; the file appears when the ``with`` block ends without an exception.

    ``commit`` may also be called inside the block, to do it earlier.
    """

    def __init__(self, path: PathLike, grades: Sequence[int], file_format: str) -> None:
        if list(grades) != sorted(set(grades)):
            raise ValueError(f"the grades are {list(grades)}; they must be ascending")
        self.rows = 0
        self._grades = tuple(grades)
        self._file = AtomicFile(path)
        self._encoder = encoder(file_format, columns(grades))

    def __enter__(self) -> JudgmentWriter:
        self._file.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and not self._file.closed:
                self.commit()
        finally:
            self._file.abort()

    def write(self, judgment: Judgment) -> None:
        """Add a judgment; InputError where it does not fit the file."""
        j = judgment
        try:
            _check(j, self._grades)
            head = (j.query_id, j.doc_id, index(j.grade), *map(float, j.probabilities), float(j.expected_grade))
            mass = None if j.label_mass is None else float(j.label_mass)
            row = (*head, mass, bool(j.truncated), *map(index, (j.prompt_tokens, j.document_tokens, j.cut_tokens)))
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"{self._file.path}: cannot write judgment {self.rows + 1}: {error}") from None
        self._file.write(self._encoder.add(row))
        self.rows += 1

    def commit(self) -> None:
        """Put the file in its place."""
        self._file.write(self._encoder.end())
        self._file.commit()


class JudgmentsFile:
    """A judgments file to be iterated over; InputError names the line that cannot be used."""

    def __init__(self, path: PathLike, file_format: str) -> None:
        self.path = str(path)
        self.file_format = file_format
        self.grades = _grades(self.path, column_names(self.path, file_format))

    def require(self, rubric: Sequence[int]) -> None:
        """Raise InputError where the file's grades are not those of a rubric."""
        if list(self.grades) != list(rubric):
            raise InputError(f"{self.path} has the grades {list(self.grades)}, the rubric {list(rubric)}")

    def __iter__(self) -> Iterator[Judgment]:
        types = columns(self.grades)
        for number, row in rows(self.path, self.file_format, types):
            try:
                judgment = _judgment(row, types, len(self.grades))
                _check(judgment, self.grades)
            except ValueError as error:
                what = "row" if self.file_format == "parquet" else "line"
                raise InputError(f"{self.path}, {what} {number}: {error}") from None
            yield judgment


def required_format(path: PathLike, file_format: str | None = None) -> str:
    """Return the format, which the suffix tells where it is not given; InputError where it does not."""
    found = file_format or suffix_format(path)
    if found is None or found not in FORMATS:
        suffix = Path(path).suffix
        came = f"the suffix {quoted(suffix)} names no format" if suffix else "the name has no suffix"
        raise InputError(f"{path}: {came}; judgments files end in .jsonl, .parquet, .csv or .tsv")
    return found


def _grades(path: str, names: Sequence[str]) -> tuple[int, ...]:
    """Find the grades in the column names; InputError where the columns are not those of a judgments file."""
    found = [match[1] for name in names if (match := re.fullmatch(r"p_(0|-?[1-9][0-9]{0,8})", name))]
    grades = tuple(sorted(map(int, found)))
    if problem := names and _difference(names, columns(grades)):
        raise InputError(f"{path}: {problem}")
    return grades


def _difference(names: Sequence[str], types: Mapping[str, type]) -> str:
    """Say how column names differ from those of a judgments file; empty where they do not."""
    expected = list(types)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        return f"the column {quoted(repeated[0])} is there twice"
    if unknown := [name for name in names if name not in types]:
        return (
            f"unknown column {', '.join(map(quoted, unknown[:5]))}; a judgments file, as pairgrade label writes it, "
            f"has {', '.join(expected)}"
        )
    if missing := [name for name in expected if name not in names]:
        return f"no column {', '.join(map(quoted, missing[:5]))}; a judgments file has {', '.join(expected)}"
    return ""


def _judgment(row: Mapping[str, object], types: Mapping[str, type], grades: int) -> Judgment:
    """Make a judgment of a row; ValueError says which value is of the wrong type."""
    if row.keys() != types.keys():
        raise ValueError(_difference(list(row), types))
    values: list[Any] = []
    for name, kind in types.items():
        value: Any = row[name]
        if kind is float and type(value) is int and abs(value) < 2**53:
            value = float(value)
        if type(value) is not kind and not (value is None and name == "label_mass"):
            allowed = _ALLOWED[kind] + (" or null" if name == "label_mass" else "")
            came = "null" if value is None else quoted(str(value))
            raise ValueError(f"{name} is {came}; it must be {allowed}")
        values.append(value)
    query_id, doc_id, grade, *rest = values
    return Judgment(query_id, doc_id, grade, tuple(rest[:grades]), *rest[grades:])


def _check(j: Judgment, grades: Sequence[int]) -> None:
    """Raise ValueError with what is wrong with a judgment."""
    for name in ("query_id", "doc_id"):
        if not isinstance(text := getattr(j, name), str):
            raise ValueError(f"the {name} is {type(text).__name__}; it must be a str")
        if not text:
            raise ValueError(f"the {name} is empty")
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError(f"the {name} {quoted(text)} holds half of a surrogate pair, which is not text")
    if j.grade not in grades:
        raise ValueError(f"grade is {j.grade}; allowed are {', '.join(map(str, grades)) or 'none'}")
    if len(j.probabilities) != len(grades):
        raise ValueError(f"{len(j.probabilities)} probabilities for {len(grades)} grades")
    for grade, share in zip(grades, j.probabilities, strict=True):
        if not 0 <= share <= 1 + _SLACK:
            raise ValueError(f"p_{grade} is {share}; it must be from 0 to 1")
    if not abs(sum(j.probabilities) - 1) <= _SLACK:
        raise ValueError(f"the probabilities sum to {sum(j.probabilities)}; they must sum to 1")
    if not math.isfinite(j.expected_grade):
        raise ValueError(f"expected_grade is {j.expected_grade}; it must be finite")
    if j.label_mass is not None and not 0 <= j.label_mass <= 1 + _SLACK:
        raise ValueError(f"label_mass is {j.label_mass}; it must be from 0 to 1, or null")
    for name in _COUNTS:
        if not 0 <= (count := getattr(j, name)) < 2**63:
            raise ValueError(f"{name} is {count}; it must be 0 or more, and have 63 bits at most")
