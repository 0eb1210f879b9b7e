"""``pairgrade status``: how far a labelling run or a training is."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import rich_click as click
from rich.table import Table

from pairgrade.cli.consoles import result_console
from pairgrade.run_status import RunStatus

_MEANINGS = {
    "starting": "reading the input or loading the model",
    "stopped": "the same command resumes it",
    "failed": "the same command resumes it",
    "dead": "its process was killed; the same command resumes it",
}


@click.command("status")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(out: Path, as_json: bool) -> None:
    """Tell whether the run that writes OUT is running, finished, stopped, failed or dead, and how far it is.

    OUT is what was given as --out to `label`, `train`, `train-reranker` or `pretrain-reranker`. The exit code is 0
    whatever the state.
    """
    from pairgrade.run_status import run_status

    status = run_status(out)
    if as_json:
        click.echo(json.dumps(status.to_dict(), ensure_ascii=False))
    else:
        result_console().print(_table(status))


def _table(status: RunStatus) -> Table:
    table = Table(show_header=False, title=status.out, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    meaning = _MEANINGS.get(status.state)
    table.add_row("state", f"{status.state} ({meaning})" if meaning else status.state)
    if status.reason:
        table.add_row("reason", status.reason)
    if status.pid is not None:
        table.add_row("process", str(status.pid))
    if status.total is not None and status.done is not None:
        share = f" ({status.done / status.total:.1%})" if status.total else ""
        table.add_row(f"{status.unit} done", f"{status.done:,} of {status.total:,}{share}")
    if status.told:
        table.add_row("last found", status.told)
    if status.errors is not None and status.unit == "pairs":
        table.add_row("rows without judgment", f"{status.errors:,}")
    if status.rate:
        table.add_row(f"{status.unit}/s", f"{status.rate:.2f}" if status.rate >= 1 else f"{status.rate:.2g}")
    if status.state == "running" and status.seconds_left is not None:
        table.add_row("time left", str(timedelta(seconds=round(status.seconds_left))))
    if status.seconds_since_update is not None:
        table.add_row("last sign of life", f"{timedelta(seconds=round(status.seconds_since_update))} ago")
    return table
