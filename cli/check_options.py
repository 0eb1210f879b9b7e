"""Options of the commands that compare two forms of a model, and how they become the library's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from pairgrade.chat import FORMAT_NAMES
from pairgrade.cli import options
from pairgrade.cli.declare import Finite, decorate

if TYPE_CHECKING:
    from pairgrade.export.measure import Task
    from pairgrade.export.verify import Floor

F = TypeVar("F", bound=Callable[..., Any])
_CHECK = "Check"

_OPTIONS = [
    click.option("--pairs", metavar="PAIRS", panel=_CHECK,
                 help="Pairs to compare on: what `pairgrade label` reads.  [default: the shipped sample; of `export` "
                 "those of --calibration-pairs that calibrated nothing, where they are given]"),
    click.option("--sample", type=click.IntRange(min=0), default=200, show_default=True, metavar="N", panel=_CHECK,
                 help="Take N of the pairs at random, the shipped sample's too; 0 takes all."),
    click.option("--rubric", "-r", metavar="RUBRIC", panel=_CHECK,
                 help="trec, binary, esci or a TOML file.  [default: the one the model was trained with, else trec]"),
    click.option("--chat", type=click.Choice(["auto", *FORMAT_NAMES]), default="auto", show_default=True,
                 metavar="NAME", panel=_CHECK,
                 help="The turns around the prompt; auto is its training's, or tells by the model's control tokens. "
                 f"One of auto, {', '.join(FORMAT_NAMES)}."),
    click.option("--min-agreement", type=Finite(0, 1), metavar="X", panel=_CHECK,
                 help="The least share of equal grades.  [default: 0.97; 0.90 for 4 bits]"),
    click.option("--max-kl", type=Finite(0), metavar="X", panel=_CHECK,
                 help="The largest mean KL over the label words, in nats.  [default: 0.01; 0.05 for 4 bits]"),
    click.option("--max-logit", type=Finite(0), metavar="X", panel=_CHECK,
                 help="The largest difference of a label logit.  [default: 0.001 for fp32 ONNX against a folder, else "
                 "none]"),
    click.option("--max-logit-distance", "logit_distance", type=Finite(0), metavar="X", panel=_CHECK,
                 help="The largest distance of all label logits, relative to A's.  [default: 0.005 for an f32 GGUF "
                 "against a folder, else none]"),
    click.option("--ctx", type=click.IntRange(min=64), metavar="N", panel=_CHECK,
                 help="Longest prompt in tokens; documents are cut to fit.  [default: its training's, else 2048 or "
                 "the model's own, if less]"),
    click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads.  [default: the physical cores]"),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    click.option("--quiet", "-q", is_flag=True, help="Show no progress."),
]  # fmt: skip


def check_options(function: F) -> F:
    """Declare the options on a command."""
    return decorate(_OPTIONS)(options.pairs_options(function))


def task(path: str | None, values: dict[str, Any], *, most: float = 1.0, apart_from: Task | None = None) -> Task:
    """Read the pairs of a file, or the shipped sample: at most that share of them, and others than a task's.

    The values are those of ``options.as_trained``.
    """
    from pairgrade.export.measure import Task
    from pairgrade.export.pairs import chosen_pairs

    source = options.source(path, values) if path else None
    others = apart_from.pairs if apart_from else ()
    pairs = chosen_pairs(source, values["sample"] or None, most=most, apart_from=others)
    return Task(pairs, values["rubric"], values["chat"])


def floor(own: Floor, values: dict[str, Any]) -> Floor:
    """Return a floor with the figures that were given instead of its own."""
    names = {"agreement": "min_agreement", "mean_kl": "max_kl", "max_logit": "max_logit",
             "logit_distance": "logit_distance"}  # fmt: skip
    return replace(own, **{name: values[option] for name, option in names.items() if values[option] is not None})
