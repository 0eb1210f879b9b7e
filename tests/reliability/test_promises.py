"""docs/reliability.md names tests that are there and carry the marker, and every promise has its figure."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
PROMISES = [row for row in ROWS if row[0].startswith("**")]


def _named(cell: str) -> list[Path]:
    found = []
    for name in re.findall(r"`(test_\w+\.py)`", cell):
        own = TESTS / "reliability" / name
        found.append(own if own.exists() else TESTS / name)
    return found


def test_every_promise_has_a_test_and_a_figure() -> None:
    assert len(PROMISES) > 40
    for row in PROMISES:
        assert len(row) == 3, row
        assert all(row), row
        assert _named(row[1]), row


def test_the_tests_are_there_and_marked() -> None:
    for row in PROMISES:
        sources = {path: path.read_text(encoding="utf-8") for path in _named(row[1])}
        for path, source in sources.items():
            assert path.parent.name == "reliability" or "mark.reliability" in source or "report" in row[2], path
        for part in re.findall(r"[(,] ?`(\w+)`", row[1]):
            assert any(re.search(rf"def test_\w*{part}", source) for source in sources.values()), part


def test_every_file_of_the_folder_is_named() -> None:
    for path in Path(__file__).parent.glob("test_*.py"):
        assert path.name in PAGE or path == Path(__file__), path.name
