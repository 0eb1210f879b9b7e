"""The ``pairgrade`` command. One file a command; this one only registers them and maps errors to exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done in part, 130 and 143 stopped by a signal.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib
import io
import json
import logging
import shlex
import sys

import rich_click as click

from pairgrade.errors import PairgradeError
from pairgrade.stop import PoliteStop, StopRequested

PARTIAL = 3
_COMMANDS = (
    *("agree", "attack", "bench", "calibrate", "convert", "demo", "doctor", "estimate", "evaluate", "export"),
    *("label", "merge", "mine", "pretrain-reranker", "relabel", "rerank", "rubric", "status", "train"),
    *("train-reranker", "verify"),
)


class _Commands(click.RichGroup):
    """Imports a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"pairgrade.cli.{name.replace('-', '_')}").command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pairgrade")
@click.option("-v", "--verbose", is_flag=True, help="Log what the engine and the model library say, to stderr.")
def cli(verbose: bool) -> None:
    """Grade query-document pairs with small quantized language models, on the machine you have."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(levelname)s %(message)s",
        stream=sys.stderr,
    )
    if verbose:
        for noisy in ("matplotlib", "urllib3", "filelock"):
            logging.getLogger(noisy).setLevel(logging.INFO)


def main() -> None:
    """Run the command line."""
    codecs.register_error("pairgrade", _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="pairgrade")
    signals = PoliteStop()  # of commands that have nothing to keep; the others listen for themselves
    try:
        with signals.listening():
            cli()
    except PairgradeError as error:
        click.echo(f"pairgrade: {error}", err=True)
        sys.exit(1)
    except MemoryError as error:
        click.echo(f"pairgrade: there is not enough memory ({error or 'nothing more is known'})", err=True)
        sys.exit(1)
    except OSError as error:  # the library's own are of the kinds above: what is left is the place of our words
        wanted = "; a folder is wanted, and a file is there" if isinstance(error, NotADirectoryError) else ""
        click.echo(f"pairgrade: {error.filename or 'standard output'}: {error.strerror or error}{wanted}", err=True)
        with contextlib.suppress(OSError):
            sys.stdout.close()  # or Python tries once more, and complains
        sys.exit(1)
    except StopRequested as stop:
        kept = "" if signals.heard else f"; what was done is kept. Go on with:\n  {_again()}"
        click.echo(f"\npairgrade: stopped by {stop}{kept}", err=True)
        sys.exit(128 + stop.signal)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Write what a stream's encoding lacks, such as a byte of a file's name, as JSON and Python escape it."""
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def _again() -> str:
    """Return the command line that was given, ready for a shell."""
    return shlex.join(["pairgrade", *sys.argv[1:]])
