"""``pairgrade merge``: an adapter folded into its base model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rich_click as click

from pairgrade.cli import options
from pairgrade.cli.consoles import result_console
from pairgrade.cli.unfinished import whole_or_nothing


@click.command("merge")
@click.argument("adapter", metavar="ADAPTER", type=click.Path(path_type=Path))
@click.option(
    "--out", "-o", required=True, metavar="FOLDER", type=click.Path(path_type=Path), help="The folder to make."
)
@click.option("--base", metavar="FOLDER", type=click.Path(path_type=Path),
              help="The base model, where it lies elsewhere than when the adapter was trained.")  # fmt: skip
@click.option("--pairs", metavar="PAIRS", help="Pairs to compare on.  [default: the shipped sample]")
@click.option("--sample", type=click.IntRange(min=1), default=24, show_default=True, metavar="N",
              help="Take N of the pairs at random.")  # fmt: skip
@click.option("--rubric", "-r", metavar="RUBRIC", help="The rubric of the prompts.  [default: the one in the adapter]")
@options.ungraded_options
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads.  [default: the physical cores]")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(
    adapter: Path,
    out: Path,
    base: Path | None,
    pairs: str | None,
    sample: int,
    rubric: str | None,
    threads: int | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Fold the ADAPTER of `pairgrade train` into its base, in full precision.

    The logits with the adapter merged must equal those with it beside the base, to 1e-4 of the largest logit over
    the whole vocabulary; else nothing is written.
    """
    from pairgrade.export.decoder import why_not_exported
    from pairgrade.export.pairs import chosen_pairs
    from pairgrade.rubric import Rubric
    from pairgrade.train.merge import merge

    options.refuse_unused(values, pairs)
    task = Rubric.load(rubric) if rubric else None
    source = options.source(pairs, values) if pairs else None
    with whole_or_nothing():
        merged = merge(adapter, out, chosen_pairs(source, sample), task, base, threads)
    if as_json:
        click.echo(json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in asdict(merged).items()}))
        return
    console = result_console()
    console.print(
        f"{merged.prompts} prompts: the adapter moves logits by up to {merged.moved:.3g}; merged and adapter-on logits "
        f"differ by at most {merged.difference:.1e} of the largest",
        highlight=False,
    )
    reason = why_not_exported(out)
    then = f"not exported: {reason}" if reason else f"next: pairgrade export {out} --quant q8_0 --out FOLDER"
    console.print(f"model: {out}   {then}", soft_wrap=True, highlight=False, markup=False)
