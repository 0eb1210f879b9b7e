"""The grading task: what the grades mean, how to ask for one, and the word that answers.

A rubric is a TOML file. Three are built in (``trec``, ``binary``, ``esci``); ``Rubric.load`` takes a built-in
name or a path. Foreign files are validated in ``pairgrade.rubric_file``; here is only the checked result.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

from pairgrade.errors import RubricError

BUILT_IN = ("trec", "binary", "esci")


@dataclass(frozen=True, slots=True)
class Grade:
    """One step of the scale."""

    grade: int
    label: str  # the word that answers with this grade, exactly one token after the cue
    meaning: str


@dataclass(frozen=True, slots=True)
class Example:
    """A graded pair shown in the prompt."""

    query: str
    document: str
    grade: int


@dataclass(frozen=True, slots=True)
class Rubric:
    """A grading task; grades ascend and are distinct, label words are distinct."""

    name: str
    instruction: str
    grades: tuple[Grade, ...]
    cue: str = "Rating: "  # what stands right before the label word
    system: str = ""  # the system message of a chat model; left out of plain prompts
    query_header: str = "Query: "
    document_header: str = "Passage: "
    examples: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        values = self.values
        if len(values) < 2:
            raise RubricError(f"rubric '{self.name}' has {len(values)} grade(s); at least 2 are needed")
        if list(values) != sorted(set(values)):
            raise RubricError(f"rubric '{self.name}': grades must be distinct and ascending, not {list(values)}")
        labels = [g.label for g in self.grades]
        if len(set(labels)) < len(labels) or not all(labels):
            raise RubricError(f"rubric '{self.name}': label words must be distinct and not empty, not {labels}")
        if not self.cue:
            raise RubricError(f"rubric '{self.name}': the cue is empty; it is what the label word follows")
        for example in self.examples:
            if example.grade not in values:
                raise RubricError(
                    f"rubric '{self.name}': an example has grade {example.grade}; the grades are {list(values)}"
                )

    @property
    def values(self) -> tuple[int, ...]:
        """The grades, ascending."""
        return tuple(g.grade for g in self.grades)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label word of each grade, in the order of ``values``."""
        return tuple(g.label for g in self.grades)

    @property
    def digest(self) -> str:
        """The sha256 of everything in the rubric that can reach a prompt."""
        parts = asdict(self)
        del parts["name"]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @classmethod
    def load(cls, name_or_path: str | Path) -> Rubric:
        """Read a built-in rubric by name, or a TOML file by path; RubricError says what is wrong with it."""
        from pairgrade.rubric_file import parse_rubric

        name = str(name_or_path)
        if name in BUILT_IN:
            text = (files("pairgrade") / "rubrics" / f"{name}.toml").read_text(encoding="utf-8")
            return parse_rubric(text, name)
        path = Path(name_or_path)
        if not os.path.isfile(path):  # False also for a name that no file can have
            raise RubricError(
                f"no rubric '{name}': it is neither a file nor one of the built-in {', '.join(BUILT_IN)}; "
                "`pairgrade rubric show trec` prints one to start from"
            )
        try:
            return parse_rubric(path.read_text(encoding="utf-8-sig"), name)
        except UnicodeDecodeError as error:
            raise RubricError(f"{name}: not UTF-8 text ({error.reason} at byte {error.start})") from None
