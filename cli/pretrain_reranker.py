"""``pairgrade pretrain-reranker``: what a re-ranker starts from, made of an encoder without labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import rich_click as click

from pairgrade.cli.train_reranker import TRAINING, run_options, setting, tell
from pairgrade.train.encoder import DEFAULT_ENCODER
from pairgrade.train.reranker_options import PRETRAINING_QUERIES


@click.command("pretrain-reranker")
@click.argument("ranking_set", metavar="SET", type=click.Path(path_type=Path))
@click.option("--base", "-b", default=DEFAULT_ENCODER, show_default=True, metavar="ENCODER",
              help="A bi-encoder: a folder, pkg:PACKAGE or hf:org/repo@revision.")  # fmt: skip
@click.option("--out", "-o", required=True, metavar="START", type=click.Path(path_type=Path),
              help="The folder to write, for --base of train-reranker.")  # fmt: skip
@click.option("--queries", type=click.IntRange(min=1), default=PRETRAINING_QUERIES, show_default=True, metavar="N",
              panel=TRAINING, help="Queries to make of SET's documents, 16 pieces of documents each.")  # fmt: skip
@setting("--learning-rate", TRAINING, "The peak of the learning rate.", float)
@setting("--seed", TRAINING, "Seed of the spans, the order and the head's first weights.")
@run_options("START")
def command(
    ranking_set: Path,
    base: str,
    out: Path,
    queries: int,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **values: Any,
) -> None:
    """Teach an encoder to read pairs, without labels: what a re-ranker had better start from.

    A bi-encoder such as MiniLM has never read a query and a document together. Here spans of SET's documents ask, and
    the cosine of the bi-encoder itself is what the cross-encoder learns to give. SET's labels are not read. What comes
    of it is a re-ranker whose order approaches the cosine's; `pairgrade train-reranker --base START` goes on from it,
    for as many re-rankers as wanted. The same command resumes a run that was stopped or killed.
    """
    from pairgrade.cli.train_progress import TerminalTrainProgress
    from pairgrade.train.pretrain import PRETRAINING, PretrainJob, pretrain_reranker

    job = PretrainJob(ranking_set, out, base, queries, overwrite)
    with TerminalTrainProgress(quiet) as progress:
        trained = pretrain_reranker(job, replace(PRETRAINING, **values), progress)
    tell(trained, as_json, f"pairgrade train-reranker SET --base {trained.out}")
