"""What ``pairgrade bench`` prints of a result, and of two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from rich.table import Table as RichTable

from pairgrade.cli.consoles import result_console
from pairgrade.cli.report import figures_table

if TYPE_CHECKING:
    from pairgrade.bench.compare import Comparison
    from pairgrade.bench.report_tables import Table
    from pairgrade.bench.results import BenchResult

_NAME_WIDTH, _CELL_WIDTH = 30, 20  # columns of the terminal, of a figure's name and of a cell


def give(result: BenchResult, out: Path | None, as_json: bool) -> None:
    """Write the report's files into ``out``, if it is given, and print the result."""
    from pairgrade.bench.report_folder import write_report

    try:
        if out is not None:  # before anything is printed, which may fail
            written = write_report(result, out)
            click.echo(f"written to {out}: {', '.join(path.name for path in written)}", err=True)
    finally:  # the measuring is not lost where the disk refuses the report
        if as_json:
            click.echo(json.dumps(result.to_dict(), ensure_ascii=False, allow_nan=False))
        else:
            _print(result)


def _print(result: BenchResult) -> None:
    from pairgrade.bench.report_tables import tables

    console = result_console()
    console.print(
        f"{result.data['pairs']:,} pairs of {result.data['queries']:,} queries; {result.environment['cpu']}\n",
    )
    dominated = {cell.name for cell in result.cells if cell.dominated}
    fitting = max(2, (console.width - _NAME_WIDTH) // _CELL_WIDTH)
    for table in tables(result):
        if table.header[0] != "cell":
            shown = figures_table(table.title, table.header[0], *table.header[1:])
            for row in table.rows:
                shown.add_row(*row)
            console.print(shown)
            continue
        for start in range(0, len(table.rows), fitting):
            console.print(_across(table, table.rows[start : start + fitting], dominated))
    console.print("\n".join(result.notes))
    if dominated:
        console.print(f"Dimmed: by {result.measure} another cell is as good and as cheap.")


def _across(table: Table, cells: Sequence[tuple[str, ...]], dominated: set[str]) -> RichTable:
    """Lay out some cells beside each other, a row for each figure, which stays narrow."""
    shown = figures_table(table.title, "", *(name for name, *_ in cells))
    for column, (name, *_) in zip(shown.columns[1:], cells, strict=True):
        column.overflow = "fold"
        column.style = "dim" if name in dominated else ""
    for place, name in enumerate(table.header[1:], start=1):
        shown.add_row(name, *(cell[place].replace(" (", "\n(") for cell in cells))
    return shown


def print_comparison(found: Comparison) -> None:
    """Print what got faster or slower."""
    console = result_console()
    table = figures_table("pairs a second", "cell", "before", "after", "ratio", "interval", "memory", "verdict")
    for c in found.changes:
        between = "-" if c.low is None or c.high is None else f"{c.low:.3f} to {c.high:.3f}"
        table.add_row(c.name, f"{c.before:,.2f}", f"{c.after:,.2f}", f"{c.ratio:.3f}", between,
                      f"{c.memory_ratio:.2f}", c.verdict)  # fmt: skip
    console.print(table)
    others = tuple(name for name in found.only_before if name not in found.lost)
    for title, names in (("No longer measured", found.lost), ("Only in A", others), ("Only in B", found.only_after)):
        if names:
            console.print(f"{title}: {', '.join(names)}")
    for warning in found.warnings:
        console.print(f"Beware: {warning}.")
