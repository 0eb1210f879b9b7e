"""How engine options become the settings of a backend."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import rich_click as click
from click.testing import CliRunner

from pairgrade import PlanOptions
from pairgrade.cli import cli, options
from pairgrade.cli.label import command as label
from pairgrade.onnx_backend import OnnxOptions


def _values(*arguments: str) -> dict[str, Any]:
    """Parse a command line of the options that ``label`` and ``attack`` share."""
    found: dict[str, Any] = {}

    @click.command()
    @options.model_options
    @options.engine_options
    def command(**values: Any) -> None:
        found.update(values)

    result = CliRunner().invoke(command, ["--model", "m", *arguments])
    assert result.exit_code == 0, result.output
    return found


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), OnnxOptions()),
        (("--label-mass",), OnnxOptions(label_mass=True)),
        (("--label-mass", "--no-label-mass"), OnnxOptions()),
        (("--provider", "cuda"), OnnxOptions(provider="CUDAExecutionProvider")),
        (("--ctx", "512", "--threads", "3"), OnnxOptions(context=512, threads=3)),
        (("--batch-tokens", "700"), OnnxOptions(batch_tokens=700)),
    ],
)
def test_options_of_the_onnx_backend(arguments: tuple[str, ...], expected: OnnxOptions) -> None:
    assert options.onnx_options(_values(*arguments)) == expected


@pytest.mark.parametrize(("arguments", "plan"), [((), PlanOptions()), (("--batch-tokens", "700"), PlanOptions(700))])
def test_the_batch_is_planned_and_computed_alike(arguments: tuple[str, ...], plan: PlanOptions) -> None:
    values = options.as_trained("m", _values(*arguments))
    assert options.annotator_options(values).plan == plan


def test_the_help_tells_the_batches_of_both_engines() -> None:
    text = " ".join(CliRunner().invoke(label, ["--help"]).output.replace("│", " ").split())
    assert f"[default: {PlanOptions().batch_tokens}, of which ONNX Runtime computes" in text
    assert f"computes {OnnxOptions().batch_tokens} at a time]" in text


def _parameters(command: click.Command, name: str) -> Iterator[tuple[str, click.Parameter]]:
    """Yield the options of a command, and of those below it, with the command's name."""
    context = click.Context(command)
    if isinstance(command, click.Group):
        for own in command.list_commands(context):
            below = command.get_command(context, own)
            assert below is not None
            yield from _parameters(below, f"{name} {own}")
    for parameter in command.params:
        yield name, parameter


@pytest.mark.parametrize(("option", "value"), [("--threads", "0"), ("--ctx", "63")])
def test_no_command_takes_less_than_it_needs(option: str, value: str) -> None:
    """Wrong usage, before anything is read or loaded, wherever an option is declared."""
    found = [(name, own) for name, own in _parameters(cli, "pairgrade") if option in own.opts]
    assert len(found) >= 5
    for _, parameter in found:
        with pytest.raises(click.BadParameter, match="x>="):
            parameter.type.convert(value, parameter, None)


def test_no_help_tells_a_limit_that_is_none() -> None:
    kinds = {type(parameter.type).__name__: parameter for _, parameter in _parameters(cli, "pairgrade")}
    assert {"Finite", "Unlimited"} <= kinds.keys()
    for name, parameter in _parameters(cli, "pairgrade"):
        if isinstance(parameter, click.Option):
            with click.Context(cli) as context:
                shown = parameter.get_help_record(context)
            assert not shown or not re.search(r"[<>]=?None", shown[1]), name
