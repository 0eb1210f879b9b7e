"""docs/reliability.md names tests of this folder, all of them, and every promise has its test and its figure."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
PROMISES = [row for row in ROWS if row[0].startswith("**") and row[2] != "a report, not a promise"]


def _named(text: str) -> list[Path]:
    return [HERE / name for name in re.findall(r"`(?:[\w/]+/)?(test_\w+\.py)`", text)]


def test_every_promise_has_a_test_and_a_figure() -> None:
    assert len(PROMISES) > 40
    for row in PROMISES:
        assert len(row) == 3, row
        assert all(row), row
        assert _named(row[1]), row


def test_every_test_that_is_named_lies_in_this_folder() -> None:
    assert [path.name for path in _named(PAGE) if not path.is_file()] == []
    for row in PROMISES:
        sources = [path.read_text(encoding="utf-8") for path in _named(row[1])]
        for part in re.findall(r"[(,] ?`(\w+)`", row[1]):
            assert any(re.search(rf"def test_\w*{part}", source) for source in sources), part


def test_every_file_of_the_folder_is_named() -> None:
    for path in HERE.glob("test_*.py"):
        assert path in _named(PAGE) or path == Path(__file__), path.name
