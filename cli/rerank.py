"""``pairgrade rerank``: a run's documents ranked again by a trained re-ranker."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import rich_click as click

from pairgrade.cli import PARTIAL
from pairgrade.cli.consoles import result_console
from pairgrade.cli.outputs import check_outputs, refuse_existing
from pairgrade.cli.progress import WorkBar
from pairgrade.rerank_job import Reranked, RerankJob, RerankProgress, rerank
from pairgrade.reranker import QUANTS, Reranker


@click.command("rerank")
@click.argument("run", metavar="RUN")
@click.option("--queries", required=True, metavar="FILE", help="The queries' texts (JSONL, TSV or Parquet).")
@click.option("--docs", required=True, metavar="FILE", help="The documents' texts (JSONL, TSV or Parquet).")
@click.option("--model", "-m", required=True, metavar="RERANKER", type=click.Path(path_type=Path),
              help="A folder that `pairgrade train-reranker` wrote.")  # fmt: skip
@click.option("--out", "-o", required=True, metavar="RUN2", type=click.Path(path_type=Path), help="The run to write.")
@click.option("--top-k", type=click.IntRange(min=1), metavar="N",
              help="Rank the first N documents of each query again; the others follow in their old order.")  # fmt: skip
@click.option("--quant", type=click.Choice(QUANTS), default="auto", show_default=True,
              help="The precision; auto is int8 where the re-ranker has it.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), metavar="N",
              help="Threads.  [default: the physical cores that it may use]")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace RUN2.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
def command(
    run: str,
    queries: str,
    docs: str,
    model: Path,
    out: Path,
    top_k: int | None,
    quant: str,
    threads: int | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Rank the documents of a run again by a trained re-ranker.

    RUN is a TREC run, or (without --top-k) a qrels file, whose judged documents are then ranked. RUN2 is a TREC run for
    `pairgrade evaluate`. Documents whose text is not there are left out, and those of a query that has none, or is too
    long for the re-ranker, keep their old order (those of a qrels file, which has none, are left out); the exit code is
    then 3.
    """
    check_outputs([(run, "the run"), (queries, "the queries"), (docs, "the documents")], [(out, "the new run")])
    refuse_existing(out, force)
    job = RerankJob(run, queries, docs, out, top_k)
    with Reranker.open(model, quant, threads) as reranker, _TerminalProgress(quiet) as progress:
        precision = reranker.quant
        result = rerank(job, reranker, progress)
    if as_json:
        figures = asdict(result) | {"out": str(out), "quant": precision}
        click.echo(json.dumps(figures, ensure_ascii=False, allow_nan=False))
    else:
        _print(result, out, precision)
    if result.without_text or result.unfit:
        sys.exit(PARTIAL)


class _TerminalProgress(WorkBar, RerankProgress):
    def start(self, total: int, done: int = 0) -> None:
        self.phase("reranking")
        super().start(total, done)

    def advance(self, documents: int) -> None:
        self.move(documents)


def _print(result: Reranked, out: Path, precision: str) -> None:
    console = result_console(soft_wrap=True)
    speed = f", {result.scored / result.seconds:,.1f} documents/s" if result.seconds else ""
    console.print(f"{result.scored:,} documents of {result.ranked:,} queries ranked again in {precision}{speed}")
    if result.followed:
        console.print(f"{result.followed:,} documents follow in their old order")
    if result.unfit:
        unfit = f"{result.unfit:,} documents of {result.unfit_queries:,} queries"
        console.print(f"not ranked: {unfit}; {result.unfit_reason}")
    if result.without_text:
        console.print(f"{result.without_text:,} documents had no text and were left out, such as:")
        for row in result.examples:
            console.print(f"  {row.told}")
    console.print(f"run: {out}")
