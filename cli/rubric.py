"""``pairgrade rubric``: show the built-in rubrics, check one's own."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import rich_click as click
from rich.table import Table

from pairgrade.chat import FORMAT_NAMES
from pairgrade.cli.consoles import result_console
from pairgrade.errors import InputError
from pairgrade.rubric import BUILT_IN, Rubric


@click.group("rubric")
def command() -> None:
    """Show the built-in rubrics, or check your own."""


@command.command("show")
@click.argument("name", type=click.Choice(BUILT_IN), default="trec")
def show(name: str) -> None:
    """Print a built-in rubric as TOML, to start your own from."""
    click.echo((files("pairgrade") / "rubrics" / f"{name}.toml").read_text(encoding="utf-8"), nl=False)


@command.command("check")
@click.argument("rubric", metavar="RUBRIC")
@click.option("--model", "-m", metavar="MODEL", help="Check the label words against this model's tokenizer, too.")
@click.option("--chat", type=click.Choice(["auto", *FORMAT_NAMES]), default="auto", show_default=True,
              help="The turns around the prompt.")  # fmt: skip
@click.option("--prompt", "show_prompt", is_flag=True, help="Print the prompt of an example pair, token by token.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(rubric: str, model: str | None, chat: str, show_prompt: bool, as_json: bool) -> None:
    """Check a rubric: its file, and with --model that every label word is one token right after the cue.

    Turns and context are those of the model's training where its folder tells them.
    """
    if model is None and (show_prompt or chat != "auto"):
        raise InputError("--prompt and --chat are about a model's prompt; give --model too, or leave them out")
    loaded = Rubric.load(rubric)
    findings: dict[str, Any] = {"rubric": loaded.name, "digest": loaded.digest, "grades": list(loaded.values)}
    if model is not None:
        from pairgrade.rubric_check import check_rubric

        findings |= check_rubric(loaded, model, chat, show_prompt)
    if as_json:
        click.echo(json.dumps(findings, ensure_ascii=False))
        return
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in findings.items():
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        table.add_row(name.replace("_", " "), text)
    result_console().print(table)
