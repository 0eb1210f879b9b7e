"""``pairgrade verify``: whether two forms of a model label alike."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.table import Table

from pairgrade.cli import options
from pairgrade.cli.check_options import check_options, floor, task
from pairgrade.cli.consoles import result_console
from pairgrade.trained_prompt import TrainedPrompt, read_trained_prompt

if TYPE_CHECKING:
    from pairgrade.export.fidelity import Fidelity
    from pairgrade.export.verify import Floor, Verification


_log = logging.getLogger(__name__)


@click.command("verify")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@check_options
def command(a: str, b: str, pairs: str | None, as_json: bool, quiet: bool, **values: Any) -> None:
    """Compare model B with model A: token ids, label logits, grades.

    A and B are each a transformers folder (run by torch in float32) or what `pairgrade label` takes. The floor is
    that of B's quantization; B in float32 must have the logits of a folder A, too. The exit code is 0 where B keeps
    it, and 1 where it does not.
    """
    from pairgrade.cli.progress import TerminalProgress
    from pairgrade.export.verify import floor_between, one_form, verify

    options.refuse_unused(values, pairs)
    a, b = str(one_form(a)), str(one_form(b))
    limits, values = floor(floor_between(a, b), values), options.as_trained(_teller(a, b), values)
    with TerminalProgress(quiet) as progress:
        found = verify(
            a, b, task(pairs, values), limits, context=values["ctx"], threads=values["threads"], progress=progress
        )
    if as_json:
        click.echo(json.dumps(found.to_dict(), ensure_ascii=False, allow_nan=False))
    else:
        _print(found)
    if found.problems:
        sys.exit(1)


def _teller(a: str, b: str) -> str:
    """Return the model that tells the prompt: A where it was trained, else B where that was; two prompts are told."""
    first, second = (read_trained_prompt(Path(model)) for model in (a, b))
    if first and second and _decides(first) != _decides(second):
        _log.warning("%s and %s were trained with different prompts; what no option gives is that of the first", a, b)
    return a if first or not second else b


def _decides(prompt: TrainedPrompt) -> tuple[str, str, int]:
    return prompt.digest, prompt.chat, prompt.context


def _print(found: Verification) -> None:
    console = result_console()
    table = Table(title=f"B against A on {found.fidelity.pairs:,} pairs", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("A", found.a)
    table.add_row("B", found.b)
    same = found.strings - len(found.different_strings)
    table.add_row("strings with equal ids", f"{same:,} of {found.strings:,}")
    table.add_row("prompts with equal ids", f"{found.fidelity.pairs - found.different_prompts:,}")
    if found.unfit:
        table.add_row("pairs that do not fit", f"{found.unfit:,}")
    for name, value in _figures(found.fidelity):
        table.add_row(name, value)
    table.add_row("floor", ", ".join(_limits(found.floor)))
    console.print(table)
    console.print("\n".join(found.problems) or "B keeps the floor.")


def _limits(floor: Floor) -> Iterator[str]:
    yield f"agreement {floor.agreement}"
    yield f"mean KL {floor.mean_kl}"
    if floor.max_logit is not None:
        yield f"largest difference of a label logit {floor.max_logit}"
    if floor.logit_distance is not None:
        yield f"relative distance of label logits {floor.logit_distance}"


def _figures(f: Fidelity) -> Iterator[tuple[str, str]]:
    yield "grade agreement", f"{f.agreement:.4f}"
    yield "mean KL", f"{f.mean_kl:.2e}"
    yield "99% KL", f"{f.p99_kl:.2e}"
    yield "expected grade, mean difference", f"{f.expected_grade_difference:.2e}"
    yield "label logits, mean difference", f"{f.logit_difference:.2e}"
    yield "label logits, largest difference", f"{f.max_logit_difference:.2e}"
    yield "label logits, relative distance", f"{f.relative_logit_distance:.2e}"
    if f.human:
        yield "pairs with a human grade", f"{f.human:,}"
        yield "quadratic kappa of A and of B", ", ".join(map(_number, f.quadratic_kappa))
        yield "AUC of A and of B", ", ".join(map(_number, f.auc))


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
