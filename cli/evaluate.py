"""``pairgrade evaluate``: rankings by human grades, and whether one is better than another."""

from __future__ import annotations

import json
import re
from pathlib import Path

import rich_click as click
from rich.table import Table

from pairgrade.atomic import write_text
from pairgrade.cli.consoles import result_console
from pairgrade.cli.declare import RESAMPLES
from pairgrade.cli.outputs import check_outputs
from pairgrade.cli.report import figures_table
from pairgrade.evaluation import EvaluationOptions, evaluate_files
from pairgrade.evaluation_report import (
    Evaluation,
    comparison_cells,
    markdown,
    notes,
    shown_mean,
)

_BETWEEN = r"[,\s]+(?![^()]*\))"  # measures, not the parameters of one
_WIDE = 8  # measures that still fit beside each other, per query


@click.command("evaluate")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--qrels", required=True, metavar="HUMAN", type=click.Path(path_type=Path),
              help="The human grades, qrels of TREC or BEIR (.gz as well).")  # fmt: skip
@click.option("--measures", metavar="LIST",
              help="Measures as ir-measures writes them, parted by commas or blanks.  [default: nDCG@10, and with "
              "--threshold RR@10, AP, R@100; Judged@10]")  # fmt: skip
@click.option("--threshold", type=click.IntRange(min=1), metavar="N",
              help="Relevant from this grade on.  [default: 2, or 1 where no human grade is above 1]")  # fmt: skip
@click.option("--baseline", metavar="NAME",
              help="The run that the others are compared with: its file's name without suffix.  "
              "[default: the first]")  # fmt: skip
@click.option("--all-pairs", is_flag=True, help="Compare every two runs.")
@click.option("--per-query", is_flag=True, help="Show the values of each query, too.")
@click.option("--resamples", type=RESAMPLES, default=10_000, show_default=True, metavar="N",
              help="Resamples of the bootstrap over queries; 0 for no intervals.")  # fmt: skip
@click.option("--permutations", type=click.IntRange(1, 10_000_000), default=10_000, show_default=True, metavar="N",
              help="Permutations of the randomization test; all there are, if these are fewer.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="Seed of both.")  # fmt: skip
@click.option("--markdown", "markdown_file", metavar="FILE", type=click.Path(path_type=Path),
              help="Write the tables as Markdown, too.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    runs: tuple[Path, ...],
    qrels: Path,
    measures: str | None,
    threshold: int | None,
    baseline: str | None,
    all_pairs: bool,
    per_query: bool,
    resamples: int,
    permutations: int,
    seed: int,
    markdown_file: Path | None,
    as_json: bool,
) -> None:
    """Evaluate each RUN by human grades, and compare it with the first.

    A RUN is a TREC run (.gz as well) or a judgments file (.jsonl, .parquet, .csv, .tsv), whose expected grade ranks
    the documents. Every query of the qrels counts, one that a run lacks as 0.
    """
    options = EvaluationOptions(
        measures=tuple(filter(None, re.split(_BETWEEN, measures or ""))),
        threshold=threshold,
        baseline=baseline,
        all_pairs=all_pairs,
        resamples=resamples,
        permutations=permutations,
        seed=seed,
    )
    check_outputs(
        [(qrels, "the human grades"), *((run, "a run") for run in runs)], [(markdown_file, "the Markdown page")]
    )
    evaluation = evaluate_files(runs, qrels, options)
    if markdown_file is not None:  # before anything is printed, which may fail
        write_text(markdown_file, markdown(evaluation))
    if as_json:
        figures = evaluation.to_dict()
        if not per_query:
            for run in figures["runs"]:
                del run["per_query"]
        files = {"qrels": str(qrels), "files": [str(path) for path in runs]}
        click.echo(json.dumps(files | figures | {"notes": notes(evaluation)}, ensure_ascii=False, allow_nan=False))
    else:
        _print(qrels, evaluation, per_query)


def _print(qrels: Path, evaluation: Evaluation, per_query: bool) -> None:
    console = result_console()
    console.print(f"{qrels}: {evaluation.queries:,} queries, {evaluation.judged:,} grades\n")
    console.print(_means(evaluation))
    for measure in evaluation.measures if evaluation.comparisons else ():
        console.print(_comparisons(evaluation, measure))
    console.print("\n".join(notes(evaluation)))
    if per_query:
        for run in evaluation.runs:
            for start in range(0, len(evaluation.measures), _WIDE):
                measures = evaluation.measures[start : start + _WIDE]
                table = figures_table(f"each query of {run.name}", "query", *measures)
                for query in run.per_query[measures[0]]:
                    table.add_row(query, *(f"{run.per_query[measure][query]:.4f}" for measure in measures))
                console.print(table)


def _means(evaluation: Evaluation) -> Table:
    """Lay out the means with a row for each measure, which stays narrow, or for each run where there are many."""
    table = figures_table("means", "measure", *(run.name for run in evaluation.runs))
    for measure in evaluation.measures:
        table.add_row(measure, *(shown_mean(run.means[measure]).replace(" (", "\n(") for run in evaluation.runs))
    return table


def _comparisons(evaluation: Evaluation, measure: str) -> Table:
    columns = ("difference", "better/\nworse", "p (t-test)\nHolm", "p (randomization)\nHolm")
    table = figures_table(f"{measure}: run against run", "", *columns)
    for c in evaluation.comparisons:
        if c.measure == measure:
            difference, low_high, better, t_test, t_holm, randomization, randomization_holm = comparison_cells(c)
            table.add_row(
                f"{c.run}\n- {c.baseline}",
                f"{difference}\n({low_high})" if low_high != "-" else difference,
                better,
                f"{t_test}\n{t_holm}",
                f"{randomization}\n{randomization_holm}",
            )
    return table
