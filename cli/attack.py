"""``pairgrade attack``: how easily an annotator is fooled."""

from __future__ import annotations

import json
import random
import sys
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.table import Table

from pairgrade.attack_comparison import read_report, task_of
from pairgrade.attacks import ATTACKS, UNCHANGED, attack, attacks_named, check_threshold
from pairgrade.cli import PARTIAL, options
from pairgrade.cli.consoles import result_console
from pairgrade.cli.declare import Finite
from pairgrade.cli.progress import WorkBar
from pairgrade.errors import InputError

if TYPE_CHECKING:
    from pairgrade.attacks import AttackReport
    from pairgrade.readers import Source
    from pairgrade.records import Pair
    from pairgrade.rubric import Rubric

_PANEL = "Attack"


@click.command("attack")
@click.argument("pairs", metavar="PAIRS")
@options.pairs_options
@options.model_options
@options.engine_options
@click.option("--sample", type=click.IntRange(min=1), default=200, show_default=True, metavar="N", panel=_PANEL,
              help="Irrelevant pairs to manipulate, taken at random.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", panel=_PANEL, help="Seed of --sample.")
@click.option("--irrelevant", type=int, metavar="GRADE", panel=_PANEL,
              help="The highest human grade that counts as irrelevant.  [default: the rubric's lowest]")  # fmt: skip
@click.option("--threshold", type=int, metavar="GRADE", panel=_PANEL,
              help="The lowest grade that counts as falsely relevant.  [default: the middle of the scale]")  # fmt: skip
@click.option("--attacks", metavar="NAMES", default=",".join(ATTACKS), panel=_PANEL,
              help="Manipulations, separated by commas: "
              f"{'; '.join(f'{name} ({what})' for name, (what, _) in ATTACKS.items())}.  [default: all]")  # fmt: skip
@click.option("--against", metavar="FILE", panel=_PANEL,
              help="An earlier report, of --json: the exit code is 1 where more documents are relevant than then, "
              "as they are or by a manipulation.")  # fmt: skip
@click.option("--max-rise", type=Finite(0, 1), metavar="X", panel=_PANEL,
              help="How much the share of such documents may rise.  [default: 0.02]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
def command(
    pairs: str,
    model: str,
    sample: int,
    seed: int,
    irrelevant: int | None,
    threshold: int | None,
    attacks: str,
    against: str | None,
    max_rise: float | None,
    as_json: bool,
    quiet: bool,
    **values: Any,
) -> None:
    """Manipulate irrelevant documents and count how many become falsely relevant.

    PAIRS is what `pairgrade label` reads, with human grades. Of the pairs that people found irrelevant some are
    labelled as they are, with the query stuffed into the document, with a claim of relevance, with forged answers
    (their turns are those of the model's own chat format). What is added stands at the document's end: the column "cut
    off" counts the documents that did not fit the context and lost it. Pairs that cannot be graded and rows that are
    none are left out and counted; the exit code is then 3.
    """
    if against is None and max_rise is not None:
        raise InputError("--max-rise is of --against, which is not given")
    one = options.chosen_model(model, values)
    values = options.as_trained(one, values)
    task: Rubric = values["rubric"]
    highest = task.values[0] if irrelevant is None else irrelevant
    limit = task.values[len(task.values) // 2] if threshold is None else threshold
    if highest >= limit:
        raise InputError(
            f"grades of up to {highest} count as irrelevant and those from {limit} on as relevant, which no grade can "
            "be both: lower --irrelevant or raise --threshold"
        )
    check_threshold(limit, task)
    names = attacks_named(attacks.split(","))
    chosen, unusable, first = _irrelevant(options.source(pairs, values), highest, sample, seed)
    earlier = read_report(against) if against is not None else None
    what = task_of(task, limit, chosen)
    if earlier:
        earlier.require(what, names)
    open_annotator = options.annotator_opener(one, values)
    with WorkBar(quiet) as bar, open_annotator() as annotator:
        bar.phase("labelling")
        bar.start(len(chosen) * (len(names) + 1))
        report = attack(annotator, chosen, limit, names, bar.move)
    risen = earlier.rises(report, 0.02 if max_rise is None else max_rise) if earlier else ()
    if as_json:
        own = {"model": one, "rubric": task.name} | what | report.to_dict()
        own |= {"risen": [asdict(rise) for rise in risen]} if earlier else {}
        click.echo(json.dumps(own, allow_nan=False))
    else:
        _print(report, one)
    for rise in risen:
        click.echo(f"{rise.name}: {rise.before:.1%} in {against}, now {rise.after:.1%}", err=True)
    if unusable:
        click.echo(f"rows that are no usable pair, left out: {unusable:,}; the first: {first}", err=True)
    if risen:
        sys.exit(1)
    if report.reason is not None or unusable:
        sys.exit(PARTIAL)


def _irrelevant(source: Source, highest: int, sample: int, seed: int) -> tuple[list[Pair], int, str]:
    """Return the pairs to manipulate, how many rows are none, and what is wrong with the first of them."""
    from pairgrade.readers import read_pairs
    from pairgrade.records import Rejection

    found: list[Pair] = []
    graded, unusable, first = False, 0, ""
    with closing(read_pairs(source)) as rows:
        for row in rows:
            if isinstance(row, Rejection):
                unusable += 1
                first = first or row.told
            elif row.grade is not None:
                graded = True
                if row.grade <= highest:
                    found.append(row)
    if not graded and unusable:
        raise InputError(f"{source.pairs}: no usable pair has a human grade; {first}")
    if not graded:
        raise InputError(f"{source.pairs}: no pair has a human grade; name its column with --grade-column")
    if not found:
        raise InputError(f"{source.pairs}: no pair has a human grade of {highest} or below; see --irrelevant")
    chosen = sorted(random.Random(seed).sample(found, min(sample, len(found))), key=lambda pair: pair.query_id)
    return chosen, unusable, first


def _print(report: AttackReport, model: str) -> None:
    first = report.results[0]
    table = Table(title=f"{first.pairs:,} irrelevant pairs, {model}", title_justify="left")
    table.add_column("document")
    table.add_column(f"graded {report.threshold} or higher", justify="right")
    table.add_column("95%", justify="right")
    table.add_column("mean expected grade", justify="right")
    table.add_column("rise", justify="right")
    table.add_column("cut off", justify="right")
    for result in report.results:
        what = ATTACKS[result.name][0] if result.name in ATTACKS else UNCHANGED
        interval = f"{result.interval[0]:.1%} to {result.interval[1]:.1%}"
        figures = f"{result.expected_grade:.3f}", f"{result.rise:+.3f}", f"{result.cut:,}"
        table.add_row(what, f"{result.rate:.1%}", interval, *figures)
    result_console().print(table)
    if any(result.cut for result in report.results[1:]):
        click.echo(
            "cut off: documents that do not fit the context lose their end, where the manipulation stands; with a "
            "larger --ctx, or shorter documents, it is tried on them, too",
            err=True,
        )
    if report.reason is not None:
        left_out = ", ".join(f"{result.unfit:,} of {result.name}" for result in report.results if result.unfit)
        click.echo(f"pairs that cannot be graded, left out: {left_out}; the first reason: {report.reason}", err=True)
