"""``pairgrade mine``: a ranking set by BM25, or of triples, examples, qrels or a run."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import rich_click as click
from rich.table import Table

from pairgrade.bm25 import STOPWORDS, Bm25Options
from pairgrade.cli import PARTIAL
from pairgrade.cli.consoles import result_console
from pairgrade.cli.declare import Unlimited
from pairgrade.cli.outputs import check_outputs, refuse_existing
from pairgrade.errors import InputError
from pairgrade.mine_job import MineJob, MineReport, mine
from pairgrade.mining import MiningOptions
from pairgrade.ranking_columns import FORMS


@click.command("mine")
@click.argument("queries", metavar="[QUERIES", required=False)
@click.argument("docs", metavar="DOCS]", required=False)
@click.option("--out", "-o", required=True, metavar="SET", type=click.Path(path_type=Path),
              help="The ranking set, .jsonl or .parquet.")  # fmt: skip
@click.option("--from", "examples", metavar="FILE",
              help="Take FILE's labels instead of BM25's: with QUERIES and DOCS qrels, a run, triples or clicks by id; "
              "without them rows that hold texts (.jsonl, .parquet, .csv, .tsv).")  # fmt: skip
@click.option("--known", metavar="FILE",
              help="Known positives by id (qrels, triples, clicks); BM25, or the run of --from, then brings hard "
              "negatives.")  # fmt: skip
@click.option("--known-from", type=int, default=1, show_default=True, metavar="N",
              help="Documents of --known qrels are positive from this grade on.")  # fmt: skip
@click.option("--candidates", metavar="FILE",
              help="Rank only the documents that FILE (qrels or a run) has for a query.")  # fmt: skip
@click.option("--positives", type=click.IntRange(min=0), default=1, show_default=True, metavar="N",
              help="First ranks that are labelled positive, where none are known.")  # fmt: skip
@click.option("--negatives", type=click.IntRange(min=0), metavar="N",
              help="Negatives of each query, drawn at random of the --negative-ranks.  [default: all]")  # fmt: skip
@click.option("--negative-ranks", metavar="FIRST-LAST",
              help="Ranks of the hard negatives.  [default: all after the positives]")  # fmt: skip
@click.option("--depth", type=click.IntRange(min=1), metavar="N",
              help="Ranks that are looked at.  [default: 100 or all that are labelled, of candidates or a run all]"
              )  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="Seed of the draw.")  # fmt: skip
@click.option("--k1", type=Unlimited(), default=Bm25Options().k1, show_default=True, metavar="X", help="BM25's k1.")
@click.option("--b", type=Unlimited(), default=Bm25Options().b, show_default=True, metavar="X", help="BM25's b.")
@click.option("--stopwords", type=click.Choice(STOPWORDS), default="english", show_default=True, metavar="NAME",
              help=f"Words that BM25 leaves out. One of {', '.join(STOPWORDS)}.")  # fmt: skip
@click.option("--run", metavar="FILE", type=click.Path(path_type=Path),
              help="Write BM25's ranking as a TREC run, too.")  # fmt: skip
@click.option("--as", "form", type=click.Choice(["set", *FORMS]), default="set", show_default=True, metavar="FORM",
              help="Columns of SET: a ranking set, or those of sentence-transformers. "
              f"One of set, {', '.join(FORMS)}.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--force", is_flag=True, help="Replace SET, and the file of --run.")
def command(
    queries: str | None,
    docs: str | None,
    out: Path,
    examples: str | None,
    known: str | None,
    known_from: int,
    candidates: str | None,
    positives: int,
    negatives: int | None,
    negative_ranks: str | None,
    depth: int | None,
    seed: int,
    k1: float,
    b: float,
    stopwords: str,
    run: Path | None,
    form: str,
    as_json: bool,
    force: bool,
) -> None:
    """Make a ranking set: queries with labelled documents.

    BM25 ranks DOCS for each of QUERIES (both .jsonl, .tsv or .parquet); its first ranks are labelled positive and the
    rest negative. Or the labels come from a file: --from, --known. The exit code is 3 where rows or texts of the input
    could not be used, or a pair or query of its files has no text; the set holds all others. A ranking set that is
    given with --from must be sound.
    """
    job = MineJob(
        out=out,
        queries=queries,
        docs=docs,
        examples=examples,
        known=known,
        candidates=candidates,
        run=run,
        form=form,
        known_from=known_from,
        mining=MiningOptions(positives, _ranks(negative_ranks), negatives, depth, seed),
        bm25=Bm25Options(k1, b, stopwords),
    )
    ids = [(examples, "the file of --from"), (known, "the file of --known"), (candidates, "the file of --candidates")]
    check_outputs([(queries, "the queries"), (docs, "the documents"), *ids], [(out, "the set"), (run, "the run")])
    for path in filter(None, (out, run)):
        refuse_existing(path, force)
    report = mine(job)
    if as_json:
        click.echo(json.dumps({"out": str(out), "form": form} | asdict(report), ensure_ascii=False))
    else:
        _print(out, form, report)
    if report.rejected or report.documents_without_text or report.queries_without_text:
        sys.exit(PARTIAL)


def _ranks(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", text)
    if match is None:
        raise InputError(f"--negative-ranks is {text!r}; give the first and the last rank, as in 2-50")
    return int(match[1]), int(match[2])


def _print(out: Path, form: str, report: MineReport) -> None:
    table = Table(show_header=False, title="ranking set", title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("queries", f"{report.queries:,}")
    table.add_row("rows", f"{report.rows:,}")
    table.add_row("  label above 0", f"{report.positives:,} ({report.positives / report.rows:.1%})")
    for source, count in sorted(report.sources.items()):
        table.add_row(f"  from {source}", f"{count:,}")
    left_out = {
        "queries without text": report.queries_without_text,
        "queries without rows": report.queries_without_rows,
        "pairs without text": report.documents_without_text,
        "pairs that came again": report.repeated,
        "  with another label": report.conflicting,
        "rejected": report.rejected,
    }
    for name, count in left_out.items():
        if count:
            table.add_row(name, f"{count:,}")
    table.add_row("set" if form == "set" else f"rows as {form}", f"{out} ({report.written:,} rows)")
    console = result_console()
    console.print(table)
    for reason in report.reasons:
        console.print(reason)
