"""A result as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pairgrade.bench.report_tables import facts, tables
from pairgrade.bench.results import BenchResult
from pairgrade.foreign_text import in_markdown

_FIGURE = re.compile(r"[-+]?[0-9]|-?$")


def markdown(result: BenchResult, pictures: Sequence[tuple[str, str]] = ()) -> str:
    """Return the tables, the notes, the pictures (title, file name) and what is needed to repeat it."""
    lines = [f"# Benchmark of {result.date[:10]}", "", *(f"- {in_markdown(note)}" for note in result.notes)]
    for title, name in pictures:
        lines += ["", f"![{title}]({name})"]
    for table in tables(result):
        lines += ["", f"## {table.title}", "", *table_lines([table.header, *table.rows])]
    return "\n".join([*lines, "", "## To repeat it", "", *table_lines([("setting", "value"), *facts(result)])]) + "\n"


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose first row is the header; columns of figures are aligned to the right."""
    lines = [f"| {' | '.join(map(in_markdown, row))} |" for row in rows]
    figures = [all(_FIGURE.match(cell) for cell in column[1:]) for column in zip(*rows, strict=True)]
    ruler = ["---:" if is_figure and place else "---" for place, is_figure in enumerate(figures)]
    return [lines[0], f"| {' | '.join(ruler)} |", *lines[1:]]
