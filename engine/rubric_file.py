"""A rubric as TOML; in reading, unknown keys, wrong types and missing fields are errors that name the place."""

from __future__ import annotations

import json
import sys
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

from pairgrade.errors import RubricError
from pairgrade.rubric import Example, Grade, Rubric

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_Text = Annotated[str, Field(strict=True)]
_Filled = Annotated[str, Field(strict=True, min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Grade(_Strict):
    grade: Annotated[StrictInt, Field(ge=-1000, le=1000)]
    label: _Filled
    meaning: _Filled


class _Example(_Strict):
    query: _Filled
    document: _Filled
    grade: StrictInt


class _RubricFile(_Strict):
    name: _Filled
    instruction: _Filled
    grades: list[_Grade]
    cue: _Filled = "Rating: "
    system: _Text = ""
    query_header: _Text = "Query: "
    document_header: _Text = "Passage: "
    examples: list[_Example] = []


def parse_rubric(text: str, source: str) -> Rubric:
    """Parse the TOML of a rubric; ``source`` names it in errors."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, tables without end
        raise RubricError(f"{source}: not valid TOML: {error}") from None
    try:
        file = _RubricFile.model_validate(table)
    except ValidationError as error:
        raise RubricError(f"{source}: " + "; ".join(problems(error))) from None
    return Rubric(
        name=file.name,
        instruction=file.instruction.strip(),
        grades=tuple(sorted((Grade(g.grade, g.label, g.meaning) for g in file.grades), key=lambda g: g.grade)),
        cue=file.cue,
        system=file.system.strip(),
        query_header=file.query_header,
        document_header=file.document_header,
        examples=tuple(Example(e.query, e.document, e.grade) for e in file.examples),
    )


def rubric_toml(rubric: Rubric) -> str:
    """Return the TOML that ``parse_rubric`` makes the same rubric of."""
    fields = ("name", "instruction", "cue", "system", "query_header", "document_header")
    lines = [f"{name} = {_quoted(getattr(rubric, name))}" for name in fields]
    for grade in rubric.grades:
        lines += ["", "[[grades]]", f"grade = {grade.grade}"]
        lines += [f"label = {_quoted(grade.label)}", f"meaning = {_quoted(grade.meaning)}"]
    for example in rubric.examples:
        lines += ["", "[[examples]]", f"query = {_quoted(example.query)}"]
        lines += [f"document = {_quoted(example.document)}", f"grade = {example.grade}"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a basic string of TOML, whose escapes are JSON's; the one that only TOML wants escaped is DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def problems(error: ValidationError) -> list[str]:
    """Describe each thing that is wrong with a file, by its place in it."""
    found = []
    for item in error.errors(include_url=False):
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            found.append(f"unknown key '{place}'")
        else:
            found.append(f"{place}: {item['msg'].lower()}")
    return found
