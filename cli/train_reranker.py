"""``pairgrade train-reranker``: a small ONNX re-ranker from a ranking set."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.table import Table

from pairgrade.cli.consoles import result_console
from pairgrade.cli.declare import decorate, settings_of
from pairgrade.train.encoder import DEFAULT_ENCODER
from pairgrade.train.reranker_options import LOSSES, TARGETS, RerankerOptions

if TYPE_CHECKING:
    from pairgrade.train.reranker_run import TrainedReranker

_DEFAULTS = RerankerOptions()
setting = settings_of(_DEFAULTS)
TRAINING, MACHINE = "Training", "Machine"


def run_options(out: str) -> Callable[[Any], Any]:
    """Declare the options of how a training runs; ``out``: what the help calls the folder."""
    options = (
        setting("--max-length", MACHINE, "Tokens of query and document together; documents are cut to fit."),
        setting("--micro-batch-tokens", MACHINE, "Tokens that run at a time: few pad less, a GPU wants more."),
        click.option("--threads", type=click.IntRange(min=1), metavar="N", panel=MACHINE,
                     help="Threads.  [default: torch's own choice]"),
        click.option("--overwrite", is_flag=True, help=f"Replace {out}, or the unfinished run of another job."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON to stdout."),
        click.option("--quiet", "-q", is_flag=True, help="Show no progress."),
    )  # fmt: skip
    return decorate(options)


@click.command("train-reranker")
@click.argument("ranking_set", metavar="SET", type=click.Path(path_type=Path))
@click.option("--base", "-b", default=DEFAULT_ENCODER, show_default=True, metavar="ENCODER",
              help="A transformers folder, pkg:PACKAGE or hf:org/repo@revision; at best what pretrain-reranker "
              "wrote.")  # fmt: skip
@click.option("--out", "-o", required=True, metavar="RERANKER", type=click.Path(path_type=Path),
              help="The folder to write.")  # fmt: skip
@click.option("--dev", metavar="SET2", type=click.Path(path_type=Path),
              help="Queries to judge the re-ranker by.  [default: a share of SET's]")  # fmt: skip
@setting("--dev-share", TRAINING, "Share of SET's queries that are kept apart as dev queries.", float)
@click.option("--loss", type=click.Choice(list(LOSSES)), default=_DEFAULTS.loss, show_default=True, panel=TRAINING,
              help="; ".join(f"{name}: {text}" for name, text in LOSSES.items()) + ". To learn the annotator's scores "
              "by marginmse give --target expected, too.")  # fmt: skip
@click.option("--target", type=click.Choice(TARGETS), default=_DEFAULTS.target, show_default=True, panel=TRAINING,
              help="Learn the labels, or the annotator's expected grade where a row has one.")  # fmt: skip
@setting("--epochs", TRAINING, "Passes over the training documents.", float)
@setting("--slate", TRAINING, "Documents of one query that a loss compares.")
@setting("--batch", TRAINING, "Slates of one optimizer step.")
@setting("--learning-rate", TRAINING, "The peak of the learning rate.", float)
@setting("--warmup", TRAINING, "Share of the steps over which the rate rises.", float)
@setting("--weight-decay", TRAINING, "AdamW's weight decay.", float)
@setting("--evaluate-every", TRAINING, "Steps between looks at the dev queries; 0 is four times an epoch.")
@setting("--patience", TRAINING, "Looks without a better one before it stops; 0 is never.")
@setting("--seed", TRAINING, "Seed of the dev queries, the order and the head's first weights.")
@run_options("RERANKER")
def command(
    ranking_set: Path,
    base: str,
    out: Path,
    dev: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **values: Any,
) -> None:
    """Train a small re-ranker from a ranking set and export it to ONNX.

    SET is what `pairgrade mine` and `pairgrade relabel` write: rows of query_id, doc_id, query, document and label.
    The re-ranker is a cross-encoder with one score; the step that ranks the dev queries best (nDCG@10) is kept. The
    same command resumes a run that was stopped or killed.

    RERANKER holds model.onnx and, where it ranks the dev queries alike, model-int8.onnx, which `pairgrade rerank` and
    pairgrade.Reranker run without torch; the same model as sentence-transformers reads it; report.json and curves.png.
    """
    from pairgrade.cli.train_progress import TerminalTrainProgress
    from pairgrade.train.reranker_run import RerankerJob, train_reranker

    options = RerankerOptions(**values)
    job = RerankerJob(ranking_set, out, base, dev, overwrite)
    with TerminalTrainProgress(quiet) as progress:
        trained = train_reranker(job, options, progress)
    tell(trained, as_json, f"pairgrade rerank RUN --model {trained.out}")


def tell(trained: TrainedReranker, as_json: bool, following: str) -> None:
    """Print what came of a run, and the command that may follow."""
    if as_json:
        click.echo(json.dumps(asdict(trained) | {"out": str(trained.out)}, allow_nan=False))
        return
    counts, fp32, int8 = trained.counts, trained.metrics["fp32"], trained.metrics["int8"]
    table = Table(title=f"{counts.dev_queries} dev queries, {counts.dev_documents:,} documents", title_justify="left")
    table.add_column("")
    table.add_column("nDCG@10", justify="right")
    table.add_row("before training", f"{trained.evaluations[0].ndcg:.4f}")
    table.add_row(f"step {trained.best.step}", f"{trained.best.ndcg:.4f}")
    table.add_row("ONNX fp32", f"{fp32['ndcg']:.4f}")
    table.add_row("ONNX int8" if int8["kept"] else "ONNX int8, not kept", f"{int8['ndcg']:.4f}")
    console = result_console()
    console.print(table)
    early = ", stopped early" if trained.stopped_early else ""
    console.print(
        f"{counts.train_documents:,} documents of {counts.train_queries:,} queries, {trained.steps} steps{early}, "
        f"{trained.seconds:.0f} s",
        soft_wrap=True,
    )
    figures = f"mean rank correlation with fp32 {int8['rho']:.4f}, lowest of a query {int8['lowest_rho']:.4f}"
    console.print(
        f"int8: {figures}" + ("" if int8["kept"] else "; too different from fp32, so it is not in the folder")
    )
    console.print(f"re-ranker: {trained.out}   next: {following}", soft_wrap=True)
