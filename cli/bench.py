"""``pairgrade bench``: pairs a second, dollars and agreement of engines side by side; and two results compared."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.core import ParameterSource
from rich.markup import escape

from pairgrade.bench.matrix import ENGINES
from pairgrade.cli.bench_tables import give, print_comparison
from pairgrade.cli.consoles import progress_console
from pairgrade.cli.declare import Finite, Unlimited
from pairgrade.cli.progress import SparseLines
from pairgrade.errors import InputError
from pairgrade.onnx_backend import PROVIDERS
from pairgrade.run_folder import no_empty_parents

if TYPE_CHECKING:
    from pairgrade.bench.matrix import Matrix

_GIVEN = ParameterSource.COMMANDLINE
_WHAT, _DATA, _ROUNDS, _PRICE, _OUTPUT = "What is measured", "Data", "Rounds", "Price", "Output"


@click.group("bench", invoke_without_command=True)
@click.option("--matrix", metavar="FILE", type=click.Path(path_type=Path), panel=_WHAT,
              help="A TOML file of all that the options say; an option given besides goes before it.")  # fmt: skip
@click.option("--model", "-m", "models", metavar="MODEL", multiple=True, panel=_WHAT,
              help="A model as for `pairgrade label`; may be given again, as may the next four.")  # fmt: skip
@click.option("--engine", "engines", type=click.Choice(ENGINES), metavar="NAME", multiple=True, panel=_WHAT,
              help=f"What runs it: {', '.join(ENGINES)}.  [default: pairgrade]")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), metavar="N", multiple=True, panel=_WHAT,
              help="Threads; their process is bound to as many CPUs, each of another core, where there are so many.  "
              "[default: the physical cores that it may use]")  # fmt: skip
@click.option("--batch-tokens", type=click.IntRange(min=1), metavar="N", multiple=True, panel=_WHAT,
              help="Document tokens of one batch.  [default: 2048, of which an ONNX model computes 512 at a "
              "time]")  # fmt: skip
@click.option("--rubric", "rubrics", metavar="RUBRIC", multiple=True, panel=_WHAT,
              help="trec, binary, esci or a TOML file.  [default: trec]")  # fmt: skip
@click.option("--ctx", "context", type=click.IntRange(min=64), metavar="N", panel=_WHAT,
              help="Longest prompt in tokens.  [default: 1024]")  # fmt: skip
@click.option("--gpu-layers", type=click.IntRange(min=-1), metavar="N", panel=_WHAT,
              help="Layers of GGUF models on the GPU, -1 for all; of llama.cpp by whatever engine.  "
              "[default: 0]")  # fmt: skip
@click.option("--sequences", type=click.IntRange(min=1), metavar="N", panel=_WHAT,
              help="Documents in one decode of a GGUF model; more than 1 is for GPUs.  [default: 1]")  # fmt: skip
@click.option("--provider", type=click.Choice(list(PROVIDERS)), metavar="NAME", panel=_WHAT,
              help="What runs ONNX models: cpu or cuda.  [default: cpu]")  # fmt: skip
@click.option("--reference", metavar="MODEL", panel=_WHAT,
              help="A model in full precision, whose grades the others are compared with.")  # fmt: skip
@click.option("--pairs", metavar="PAIRS", panel=_DATA, help="What `pairgrade label` reads.  [default: the sample]")
@click.option("--queries", metavar="FILE", panel=_DATA, help="Queries: PAIRS is then a qrels or run file.")
@click.option("--docs", metavar="FILE", panel=_DATA, help="Documents, with --queries.")
@click.option("--max-queries", type=click.IntRange(min=1), metavar="N", panel=_DATA,
              help="The most queries that are taken, at random.  [default: 16]")  # fmt: skip
@click.option("--per-query", type=click.IntRange(min=1), metavar="N", panel=_DATA,
              help="The most documents of each, at random.  [default: 16]")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), metavar="N", panel=_DATA, help="Seed of both.  [default: 0]")
@click.option("--rounds", "least", type=click.IntRange(min=1), metavar="N", panel=_ROUNDS,
              help="The fewest rounds, if --minutes lets them; below 5 no interval is good.  [default: 5]")  # fmt: skip
@click.option("--most-rounds", "most", type=click.IntRange(min=1), metavar="N", panel=_ROUNDS,
              help="The most rounds, if the intervals stay wide.  [default: 15, or --rounds]")  # fmt: skip
@click.option("--width", type=Finite(min=0, min_open=True), metavar="SHARE", panel=_ROUNDS,
              help="An interval is narrow if it reaches so far from the median.  [default: 0.05]")  # fmt: skip
@click.option("--minutes", type=Finite(min=0, min_open=True), metavar="N", panel=_ROUNDS,
              help="No round begins after so many.  [default: 60]")  # fmt: skip
@click.option("--usd-per-hour", type=Finite(0, 10**9, min_open=True), metavar="USD", panel=_PRICE,
              help="What this machine costs.")  # fmt: skip
@click.option("--machine", metavar="TYPE", panel=_PRICE, help="Take the price of this type from the price table.")
@click.option("--prices", metavar="FILE", type=click.Path(path_type=Path), panel=_PRICE,
              help="Your own price table; see `pairgrade bench prices`.")  # fmt: skip
@click.option("--measure", metavar="NAME", default="quadratic_kappa", show_default=True, panel=_OUTPUT,
              help="The agreement that the frontier is drawn by: kappa, quadratic_kappa, calibrated_kappa, tau_b or "
              "auc.")  # fmt: skip
@click.option("--out", "-o", metavar="FOLDER", type=click.Path(file_okay=False, path_type=Path), panel=_OUTPUT,
              help="Write results.json, cells.csv, report.md, report.html and pictures there.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, panel=_OUTPUT, help="Print the result as JSON.")
@click.option("--quiet", "-q", is_flag=True, panel=_OUTPUT, help="Do not say what is measured now.")
@click.pass_context
def command(
    ctx: click.RichContext,
    /,
    prices: Path | None,
    measure: str,
    out: Path | None,
    as_json: bool,
    quiet: bool,
    matrix: Path | None,
    **values: Any,
) -> None:
    """Measure models and engines side by side: pairs a second, dollars, memory, agreement with human grades.

    Every cell of the matrix runs in a process of its own, one after the other in rounds. Ctrl-C ends it: the
    rounds that are whole by then are reported, in the first one nothing.
    """
    if ctx.invoked_subcommand is not None:
        _refuse_before(ctx, ctx.invoked_subcommand)
        return
    from pairgrade.bench.benchmark import BenchOptions, bench
    from pairgrade.stop import PoliteStop, StopRequested

    asked, settings = _matrix(matrix, values), BenchOptions(prices, measure, base=matrix.parent if matrix else None)
    stop = PoliteStop()
    console, lines = progress_console(), SparseLines()
    with no_empty_parents((out or Path()) / "results.json"):  # nor an empty report's folder
        if out is not None:
            _make(out)
        with console.status("reading") as status:

            def tell(text: str) -> None:
                if quiet:
                    return
                if console.is_terminal:
                    status.update(escape(text))
                else:
                    lines.tell(lambda: text)

            if quiet or not console.is_terminal:
                status.stop()
            try:
                with stop.listening():
                    result = bench(asked, settings, tell, stop)
            except StopRequested as stopped:
                click.echo(f"\npairgrade: stopped by {stopped}; nothing was kept", err=True)
                sys.exit(128 + stopped.signal)
        give(result, out, as_json)
    if stop.number is not None:
        named = signal.Signals(stop.number).name
        click.echo(f"\npairgrade: stopped by {named}; the rounds before it are what is told", err=True)
        sys.exit(128 + stop.number)


@command.command("compare")
@click.argument("before", metavar="A", type=click.Path(path_type=Path))
@click.argument("after", metavar="B", type=click.Path(path_type=Path))
@click.option("--tolerance", type=Unlimited(), default=0.03, show_default=True, metavar="SHARE",
              help="A change must be larger than this.")  # fmt: skip
@click.option("--level", type=Unlimited(), default=0.05, show_default=True, metavar="P",
              help="Probability that noise alone has any cell called changed.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def compare_command(before: Path, after: Path, tolerance: float, level: float, as_json: bool) -> None:
    """Say which cells got faster or slower from A to B, two results.json, beyond the noise of both.

    Cells are matched by model (its path in the matrix file's folder, or its name), engine, rubric, threads and batch.
    Exit code 1 where any got slower, or B was to measure a cell of A and could not.
    """
    from pairgrade.bench.compare import CompareOptions, compare
    from pairgrade.bench.results import load_result

    found = compare(load_result(before), load_result(after), CompareOptions(tolerance, level))
    if as_json:
        click.echo(json.dumps(found.to_dict(), ensure_ascii=False, allow_nan=False))
    else:
        print_comparison(found)
    if found.slower or found.lost:
        sys.exit(1)


@command.command("report")
@click.argument("result", metavar="RESULTS", type=click.Path(path_type=Path))
@click.option("--out", "-o", metavar="FOLDER", type=click.Path(file_okay=False, path_type=Path),
              help="Write the report's files there.")  # fmt: skip
def report_command(result: Path, out: Path | None) -> None:
    """Show a results.json again, and write its report anew."""
    from pairgrade.bench.results import load_result

    give(load_result(result), out, as_json=False)


@command.command("prices")
def prices_command() -> None:
    """Print the price table that ships, a TOML file to start your own from."""
    from importlib.resources import files

    click.echo((files("pairgrade.bench") / "prices.toml").read_text(encoding="utf-8"), nl=False)


def _refuse_before(ctx: click.RichContext, name: str) -> None:
    given = [p.opts[0] for p in ctx.command.params if p.name and ctx.get_parameter_source(p.name) is _GIVEN]
    if given:
        raise InputError(f"{', '.join(given)} would do nothing in front of `{name}`; options of its own go behind it")


def _matrix(file: Path | None, values: dict[str, Any]) -> Matrix:
    """Build the matrix from the file and the options that were given."""
    from pairgrade.bench.matrix import Data, Matrix, Rounds
    from pairgrade.bench.matrix_file import load_matrix

    given = {name: value for name, value in values.items() if value not in (None, ())}
    if given.get("usd_per_hour") and given.get("machine"):
        raise InputError("give --machine or --usd-per-hour, not both")
    of_data = ("pairs", "queries", "docs", "max_queries", "per_query", "seed")
    data: dict[str, Any] = {name: given.pop(name) for name in of_data if name in given}
    rounds = {name: given.pop(name) for name in ("least", "most", "width", "minutes") if name in given}
    if file is None:
        if "models" not in given:
            raise InputError("no model is named; give --model, once or more, or --matrix FILE")
        if unread := [f"--{name}" for name in ("queries", "docs") if name in data and "pairs" not in data]:
            raise InputError(f"{', '.join(unread)} is of the ids in --pairs; give --pairs too, or leave that out")
        data.setdefault("pairs", str(_sample()))
        base = Matrix(given.pop("models"), Data(**data))
    else:
        base = load_matrix(file)
        if "pairs" in data:
            data = {"queries": None, "docs": None} | data
        base = replace(base, data=replace(base.data, **data))
        if given.get("usd_per_hour") or given.get("machine"):  # one of them takes the other's place
            given = {"usd_per_hour": None, "machine": None} | given
    if "least" in rounds:
        rounds.setdefault("most", max(rounds["least"], base.rounds.most if file else rounds["least"]))
    return replace(base, **given, rounds=replace(base.rounds, **rounds) if rounds else base.rounds or Rounds())


def _make(out: Path) -> None:
    """Make the folder of the report before anything is measured."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made: {error.strerror or error}; name another folder by --out") from None


def _sample() -> Path:
    from importlib.resources import files

    return Path(str(files("pairgrade") / "sample" / "pairs.jsonl"))
