"""Tables for people."""

from __future__ import annotations

from rich.table import Table

from pairgrade.cli.consoles import result_console
from pairgrade.summary import Summary, first_error


def summary_table(summary: Summary) -> Table:
    """Lay out a run's figures."""
    tally, effort = summary.tally, summary.effort
    table = Table(show_header=False, title="labelling run", title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("pairs labelled", f"{tally.labelled:,}")
    if effort.resumed:
        table.add_row("  of these before", f"{effort.resumed:,} (resumed)")
    if summary.already_finished:
        table.add_row("", "finished before; nothing was left to do")
    if summary.is_partial:
        table.add_row("without judgment", f"{tally.rejected:,} rows rejected, {tally.unfit:,} pairs unfit")
    if tally.truncated:
        table.add_row("documents cut", f"{tally.truncated:,}")
    if effort.pairs_per_second:
        table.add_row("pairs/s", f"{effort.pairs_per_second:.2f} ({effort.pairs:,} in {effort.seconds:,.1f} s)")
        share = effort.reused_share or 0.0
        table.add_row("tokens computed", f"{effort.computed_tokens:,}")
        table.add_row("tokens reused", f"{effort.reused_tokens:,} ({share:.0%})")
        table.add_row("time in the model", f"{effort.model_seconds / effort.seconds:.1%}")
    table.add_row("grades", ", ".join(f"{g}: {n:,}" for g, n in tally.grades.items()) or "none")
    if tally.mean_label_mass is not None:
        table.add_row("mean label mass", f"{tally.mean_label_mass:.3f}")
    if summary.canaries is not None:
        found = summary.canaries
        agreeing = f"; {found.agreeing} of {found.graded} graded as by people" if found.graded else ""
        table.add_row("canaries", f"{found.pairs} canary pairs unchanged in {found.checks} checks{agreeing}")
    table.add_row("judgments", summary.out)
    if summary.qrels:
        table.add_row("qrels", summary.qrels)
    if summary.errors:
        table.add_row("errors", summary.errors)
        first = first_error(summary.errors)
        if first is not None:
            table.add_row("  the first", f"line {first.line} of {first.source}: {first.reason}")
    return table


def figures_table(title: str, first: str, *columns: str) -> Table:
    """Return an empty table with a bold title, a first column of names and columns of figures."""
    table = Table(title=title, title_justify="left", title_style="bold", caption_justify="left")
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")  # no digit is left out where it is narrow
    return table


def print_summary(summary: Summary) -> None:
    """Print a run's figures to stdout."""
    result_console().print(summary_table(summary))
