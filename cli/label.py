"""``pairgrade label``: from a file of pairs to judgments and qrels."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import rich_click as click

from pairgrade.cli import PARTIAL, options
from pairgrade.cli.report import print_summary
from pairgrade.errors import InputError


@click.command("label")
@click.argument("pairs", metavar="PAIRS")
@options.model_options
@click.option(
    "--out",
    "-o",
    required=True,
    panel="Output",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="The judgments: .jsonl, .parquet, .csv or .tsv.",
)
@click.option(
    "--qrels",
    panel="Output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the grades as TREC qrels, too.",
)
@options.source_options
@options.engine_options
@click.option(
    "--canaries",
    panel="Output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A few pairs, JSONL, CSV, TSV or Parquet, that are judged again and again: the run stops where one no longer "
    "gets what it got first, and forgets what was judged since the last check; one that was "
    "killed forgets as much when it goes on.",
)
@click.option(
    "--canary-every",
    panel="Output",
    type=click.IntRange(min=1),
    metavar="N",
    help="Pairs between two such checks, rounded up to --window.  [default: 1000]",
)
@click.option(
    "--overwrite",
    is_flag=True,
    panel="Output",
    help="Replace OUT and the file of --qrels where they belong to another job or to none.",
)
@click.option("--json", "as_json", is_flag=True, panel="Output", help="Print the summary as JSON.")
@click.option("--quiet", "-q", is_flag=True, panel="Output", help="Show no progress.")
def command(
    pairs: str,
    out: Path,
    qrels: Path | None,
    model: str,
    canaries: Path | None,
    canary_every: int | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **values: Any,
) -> None:
    """Label the pairs of a file.

    PAIRS is a JSONL, CSV or TSV file, .gz or not, or a Parquet file with the columns query_id, doc_id, query and
    document (title if there is one; a grade is not read); a qrels or run file together with --queries and --docs; or
    irds:DATASET, a dataset of ir_datasets where that package is installed. In TSV quotes have no meaning.

    The work is journaled: the same command resumes a run that was stopped or killed, and ends with the same bytes.
    Rows that are no usable pairs go to OUT.errors.jsonl with their line and the reason, and so do pairs on which the
    model's process dies; the exit code is then 3. `pairgrade status OUT` tells how far a run is.
    What decided the result is written to OUT.manifest.json.
    """
    from pairgrade.cli.progress import TerminalProgress
    from pairgrade.job import LabelJob
    from pairgrade.run import label

    if canaries is None and canary_every is not None:
        raise InputError("--canary-every is of --canaries, which are not given")
    source, selection = options.source(pairs, values), options.selection(values)
    job = LabelJob(source, out, qrels, selection, overwrite, canaries, canary_every or 1000)
    chosen = options.chosen_model(model, values)
    open_annotator = options.annotator_opener(chosen, options.as_trained(chosen, values))
    with TerminalProgress(quiet) as progress:
        summary = label(job, open_annotator, progress)
    if as_json:
        click.echo(json.dumps(summary.to_dict(), ensure_ascii=False))
    else:
        print_summary(summary)
    if summary.is_partial:
        sys.exit(PARTIAL)
