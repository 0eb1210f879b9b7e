"""``pairgrade relabel``: a ranking set with labels corrected by judgments, and what changed."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click
from rich.table import Table

from pairgrade.cli.consoles import result_console
from pairgrade.cli.declare import Unlimited
from pairgrade.cli.outputs import check_outputs, refuse_existing
from pairgrade.cli.report import figures_table
from pairgrade.label_changes import OUTCOMES, Counts, LabelChanges
from pairgrade.ranking_columns import FORMS
from pairgrade.relabel_policy import CONFIDENT, POLICIES, SCALES, SET_SCALES, RelabelOptions
from pairgrade.relabeling import relabel

_MOST_ROWS = 20  # sources in the text; --json has them all


def _explained(choices: dict[str, str]) -> str:
    return " ".join(f"{name}: {meaning}." for name, meaning in choices.items())


@click.command("relabel")
@click.argument("ranking_set", metavar="SET", type=click.Path(path_type=Path))
@click.option("--judgments", "-j", required=True, metavar="FILE", type=click.Path(path_type=Path),
              help="What `pairgrade label` wrote for the set's pairs, or for some.")  # fmt: skip
@click.option("--out", "-o", required=True, metavar="SET2", type=click.Path(path_type=Path),
              help="The corrected set, .jsonl or .parquet.")  # fmt: skip
@click.option("--policy", type=click.Choice(list(POLICIES)), default="replace", show_default=True, metavar="POLICY",
              help=_explained(POLICIES))  # fmt: skip
@click.option("--threshold", type=int, metavar="N",
              help="Relevant from this grade on.  [default: 2, or 1 where no grade is above 1]")  # fmt: skip
@click.option("--confidence", type=Unlimited(), metavar="P",
              help="A judgment whose side, relevant or not, is less probable changes nothing.  "
              f"[default: {CONFIDENT} for confident, else 0]")  # fmt: skip
@click.option("--scale", type=click.Choice(list(SCALES)), default="set", show_default=True, metavar="SCALE",
              help=f"Scale of SET2's labels. {_explained(SCALES)}")  # fmt: skip
@click.option("--set-scale", type=click.Choice(list(SET_SCALES)), default="auto", show_default=True, metavar="SCALE",
              help=f"Scale of SET's own labels. {_explained(SET_SCALES)}")  # fmt: skip
@click.option("--as", "form", type=click.Choice(["set", *FORMS]), default="set", show_default=True, metavar="FORM",
              help="Columns of SET2: a ranking set, or those of sentence-transformers. "
              f"One of set, {', '.join(FORMS)}.")  # fmt: skip
@click.option("--per-query", is_flag=True, help="Show the changes of each query, too.")
@click.option("--examples", type=click.IntRange(min=0), default=3, show_default=True, metavar="N",
              help="Examples of each label and grade, the most certain.")  # fmt: skip
@click.option("--with-text", is_flag=True, help="Show the examples' texts, not their ids alone.")
@click.option("--plot", metavar="FILE", type=click.Path(path_type=Path),
              help="Draw the changes into a .png, .svg or .pdf file.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--force", is_flag=True, help="Replace SET2 where it exists.")
def command(
    ranking_set: Path,
    judgments: Path,
    out: Path,
    policy: str,
    threshold: int | None,
    confidence: float | None,
    scale: str,
    set_scale: str,
    form: str,
    per_query: bool,
    examples: int,
    with_text: bool,
    plot: Path | None,
    as_json: bool,
    force: bool,
) -> None:
    """Correct the labels of a ranking SET by judgments, and report what changed.

    Rows that were not judged keep their label and are marked (column judged).
    """
    if plot is not None:
        from pairgrade.confusion_plot import picture_format

        picture_format(plot)
    options = RelabelOptions(policy, threshold, confidence, scale, form, examples, with_text, set_scale)
    check_outputs(
        [(ranking_set, "the set itself"), (judgments, "the judgments")], [(out, "the new set"), (plot, "the picture")]
    )
    refuse_existing(out, force)
    changes = relabel(ranking_set, judgments, out, options)
    if plot is not None:  # before anything is printed, which may fail
        from pairgrade.label_change_plot import draw_label_changes

        draw_label_changes(changes, plot)
    if as_json:
        figures = changes.to_dict()
        if not per_query:
            del figures["per_query"]
        files = {"set": str(ranking_set), "judgments": str(judgments), "out": str(out)}
        click.echo(json.dumps(files | figures, ensure_ascii=False, allow_nan=False))
    else:
        _print(ranking_set, judgments, out, changes, per_query)


def _print(ranking_set: Path, judgments: Path, out: Path, changes: LabelChanges, per_query: bool) -> None:
    console = result_console()
    total = changes.total
    lines = [
        f"{ranking_set} by {judgments}, policy {changes.policy}",
        f"{total.rows:,} rows of {changes.queries:,} queries, {total.rows - total.unjudged:,} judged; relevant from "
        f"grade {changes.threshold} on",
    ]
    if changes.unused_judgments:
        lines.append(f"judgments for pairs that the set lacks: {changes.unused_judgments:,}")
    if changes.other_columns:
        lines.append(f"columns of the set that are not carried on: {', '.join(changes.other_columns)}")
    console.print("\n".join(lines) + "\n")
    console.print(_summary(changes))
    console.print(_matrix(changes))
    if changes.policy != "replace":  # whose grades, above, are the new labels
        console.print(_moves(changes))
    console.print(_counts("by source", "source", changes.sources, _MOST_ROWS))
    if per_query:
        console.print(_counts("by query", "query", changes.per_query, len(changes.per_query)))
    if any(cell.examples for cell in changes.cells):
        console.print("examples, the most certain of each label and grade", style="bold")
        for cell in changes.cells:
            for example in cell.examples:
                where = f"label {cell.label}, grade {cell.grade} ({example.certainty:.2f})"
                console.print(f"{where}: {example.query_id} {example.doc_id}, {example.outcome}")
                if example.query is not None:
                    console.print(f"  {example.query}\n  {example.document}", style="dim")
    console.print(f"{out}: {total.rows - total.dropped:,} rows")


def _summary(changes: LabelChanges) -> Table:
    total = changes.total
    table = figures_table("labels", "", "before", "after")
    dropped = total.rows - total.dropped
    table.add_row("rows", f"{total.rows:,}", f"{dropped:,}")
    table.add_row("positive rows", f"{changes.positive_rows:,}", f"{changes.positive_rows_after:,}")
    after = "-" if changes.mean_label_after is None else f"{changes.mean_label_after:.4f}"
    table.add_row("mean label, from 0 to 1", f"{changes.mean_label:.4f}", after)
    return table


def _matrix(changes: LabelChanges) -> Table:
    title = "label in the set (rows), annotator's grade (columns): rows, of these changed"
    table = figures_table(title, "", *map(str, changes.grades), "judged")
    for label, row, changed in zip(changes.labels, changes.matrix, changes.changed, strict=True):
        cells = [f"{count:,}\n{part:,}" for count, part in zip(row, changed, strict=True)]
        table.add_row(label, *cells, f"{sum(row):,}\n{sum(changed):,}")
    return table


def _moves(changes: LabelChanges) -> Table:
    table = figures_table("labels of all rows", "in the set", "after", "rows")
    for move in changes.moves[:_MOST_ROWS]:
        table.add_row(move.before, move.after, f"{move.rows:,}")
    if len(changes.moves) > _MOST_ROWS:
        table.caption = f"and {len(changes.moves) - _MOST_ROWS:,} more, which --json lists"
    return table


def _counts(title: str, first: str, items: dict[str, Counts], most: int) -> Table:
    shown = [name for name in OUTCOMES if any(getattr(counts, name) for counts in items.values())]
    table = figures_table(title, first, "rows", "false\npositives", "false\nnegatives", *shown)
    for name, counts in sorted(items.items(), key=lambda item: -item[1].rows)[:most]:
        table.add_row(
            name or "-",
            f"{counts.rows:,}",
            f"{counts.false_positives:,}\nof {counts.positives:,}",
            f"{counts.false_negatives:,}\nof {counts.negatives:,}",
            *(f"{getattr(counts, outcome):,}" for outcome in shown),
        )
    if len(items) > most:
        table.caption = f"and {len(items) - most:,} more, which --json lists"
    return table
