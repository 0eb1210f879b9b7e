"""Deliberate faults of the package, each with the tests of ``tests/reliability`` that must notice it.

The table is ``tests/reliability/faults.toml``; ``tests/reliability/mutate.py`` puts them in, one at a time.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "reliability"


@dataclass(frozen=True, slots=True)
class Fault:
    """A text of one file and what stands in its place."""

    source: str  # path below the repository's root
    old: str  # found there exactly once
    new: str
    tests: tuple[str, ...]  # FILE::FUNCTION of tests/reliability, each of which must fail

    @property
    def name(self) -> str:
        """The file and the first line that is changed, short."""
        old, new = self.old.splitlines(), self.new.splitlines()
        changed = next((line for line in old if line not in new), old[0])
        return f"{self.source}: {changed.strip()[:80]}"

    def applied(self, text: str) -> str:
        """Return the file's text with the fault in it; ValueError where its place is not found once."""
        if text.count(self.old) != 1 or self.old == self.new:
            raise ValueError(f"{self.name}: found {text.count(self.old)} times")
        return text.replace(self.old, self.new)


def load_faults() -> list[Fault]:
    """Read the table."""
    table = tomllib.loads((FOLDER / "faults.toml").read_text(encoding="utf-8"))
    return [
        Fault(source, row["old"], row["new"], tuple(row["tests"])) for source, rows in table.items() for row in rows
    ]


def all_tests() -> list[str]:
    """Return FILE::FUNCTION of every test function of the folder."""
    found = []
    for path in sorted(FOLDER.glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.append(f"{path.name}::{node.name}")
    return found
