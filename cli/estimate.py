"""``pairgrade estimate``: what labelling a file will take, before it is labelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.table import Table

from pairgrade.cli import options
from pairgrade.cli.consoles import result_console
from pairgrade.cli.declare import Finite
from pairgrade.errors import InputError

if TYPE_CHECKING:
    from pairgrade.bench.estimate import Estimate


@click.command("estimate")
@click.argument("pairs", metavar="PAIRS")
@options.model_options
@options.ungraded_options
@options.engine_options
@click.option("--sample", type=click.IntRange(min=2), default=200, show_default=True, metavar="N",
              help="Pairs that are labelled to see how long it takes, short and long ones.")  # fmt: skip
@click.option("--usd-per-hour", type=Finite(0, 10**9, min_open=True), metavar="USD",
              help="What the machine costs.")  # fmt: skip
@click.option("--machine", metavar="TYPE", help="Take the price of this type from the price table.")
@click.option("--prices", metavar="FILE", type=click.Path(path_type=Path), help="Your own price table.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    pairs: str,
    model: str,
    sample: int,
    usd_per_hour: float | None,
    machine: str | None,
    prices: Path | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Predict time, memory and cost of labelling PAIRS, from a sample of it that is labelled now.

    Give the options of input, model and engine that `pairgrade label` will be given: the sample is labelled in the same
    way, and all of PAIRS is counted. The interval of the time covers what the sample leaves open, not another load on
    the machine later.
    """
    from datetime import date

    from pairgrade.bench.estimate import EstimateOptions, estimate
    from pairgrade.bench.prices import age_warning, load_prices

    if usd_per_hour is not None and machine is not None:
        raise InputError("give --machine or --usd-per-hour, not both")
    if prices is not None and machine is None:
        raise InputError("--prices is where --machine is looked up; give --machine too, or leave it out")
    if machine is not None:
        price = load_prices(prices).machine(machine)
        usd_per_hour = price.usd_per_hour
        warning = age_warning(price.type, price.date, date.today())
        if warning:
            click.echo(f"beware: {warning}", err=True)
    chosen = options.chosen_model(model, values)
    values = options.as_trained(chosen, values)
    asked = EstimateOptions(
        chosen,
        values["rubric"],
        sample,
        options.annotator_options(values),
        options.llama_options(values),
        options.onnx_options(values),
        isolate=not values["in_process"],
        usd_per_hour=usd_per_hour,
    )
    found = estimate(options.source(pairs, values), asked)
    if as_json:
        click.echo(json.dumps(found.to_dict(), allow_nan=False))
    else:
        result_console().print(_table(pairs, model, found))


def _table(pairs: str, model: str, e: Estimate) -> Table:
    table = Table(title="labelling is expected to take", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("pairs", f"{e.pairs:,} of {e.queries:,} queries in {pairs}")
    if e.rejected:
        table.add_row("rows without a judgment", f"{e.rejected:,}")
    table.add_row("model", model)
    interval = "" if e.low is None or e.high is None else f" ({_duration(e.low)} to {_duration(e.high)})"
    table.add_row("time", f"{_duration(e.seconds)}{interval}")
    table.add_row("pairs/s", f"{e.pairs_per_second:,.2f}")
    table.add_row("tokens computed", f"{e.tokens:,.0f}")
    table.add_row("memory", f"{e.rss_low / 2**20:,.0f} to {e.rss_high / 2**20:,.0f} MiB")
    if e.model_bytes:
        table.add_row("model's files", f"{e.model_bytes / 2**20:,.0f} MiB")
    if e.usd is not None:
        ends = "" if e.usd_low is None or e.usd_high is None else f" ({e.usd_low:,.2f} to {e.usd_high:,.2f})"
        table.add_row("cost", f"{e.usd:,.2f} USD{ends}")
        table.add_row("cost of a million pairs", f"{e.usd_per_million_pairs:,.2f} USD")
    table.add_row("from", f"{e.sampled:,} pairs labelled in {e.batches:,} timed batches")
    return table


def _duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
