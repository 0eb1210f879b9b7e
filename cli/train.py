"""``pairgrade train``: a LoRA adapter from graded pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.table import Table

from pairgrade.chat import FORMAT_NAMES
from pairgrade.cli import options
from pairgrade.cli.consoles import result_console
from pairgrade.cli.declare import settings_of
from pairgrade.rubric import Rubric
from pairgrade.train.options import DTYPES, SELECT_BY, TrainOptions

if TYPE_CHECKING:
    from pairgrade.train.metrics import Evaluation
    from pairgrade.train.run import Trained

_DEFAULTS = TrainOptions()
_setting = settings_of(_DEFAULTS)
_SAMPLE, _LORA, _MACHINE = "Sample and target", "Training", "Machine"


def _flag(name: str, text: str) -> Callable[[Any], Any]:
    return click.option(name, is_flag=True, panel=_MACHINE, help=text)


@click.command("train")
@click.argument("pairs", metavar="PAIRS")
@click.option("--base", "-b", required=True, metavar="MODEL",
              help="A transformers folder, hf:org/repo@revision, or a GGUF by path, pkg:PACKAGE or hf:, which is "
              "dequantized into ADAPTER.base first. Text-only models: of Gemma 3 the 270m and 1b.")  # fmt: skip
@click.option(
    "--out", "-o", required=True, metavar="ADAPTER", type=click.Path(path_type=Path), help="The folder to write."
)
@click.option("--rubric", "-r", default="trec", show_default=True, metavar="RUBRIC",
              help="trec, binary, esci or a TOML file; it goes along with the model.")  # fmt: skip
@options.pairs_options
@_setting("--train-pairs", _SAMPLE, "Pairs to train on, as many of each grade as far as there are; 0 takes all.")
@_setting("--validation-pairs", _SAMPLE, "Pairs to validate on, of other queries.")
@click.option("--soft", metavar="JUDGMENTS", panel=_SAMPLE, type=click.Path(path_type=Path),
              help="Learn the probabilities of a judgments file, such as a larger model's labels.")  # fmt: skip
@_setting("--soft-weight", _SAMPLE, "Share of the soft target where a pair has a human grade too.", float)
@_setting(
    "--ordinal-weight", _LORA, "Adds so many times the squared earth mover's distance to the cross-entropy.", float
)
@_setting("--epochs", _LORA, "Passes over the training pairs.", float)
@_setting("--batch", _LORA, "Pairs of one optimizer step.")
@_setting("--learning-rate", _LORA, "The peak of the learning rate.", float)
@_setting("--warmup", _LORA, "Share of the steps over which the rate rises.", float)
@_setting("--weight-decay", _LORA, "AdamW's weight decay.", float)
@_setting("--rank", _LORA, "Rank of the LoRA matrices.")
@_setting("--alpha", _LORA, "LoRA's alpha; the scale is alpha / rank.")
@_setting(
    "--layers",
    _LORA,
    "Adapt only the last N layers: what those below compute is computed once a pair and kept "
    "(4 GiB at most), and a step costs less the fewer they are; 0 is all.",
)
@_setting("--dropout", _LORA, "LoRA's dropout.", float)
@_setting("--evaluate-every", _LORA, "Steps between looks at the validation pairs; 0 is twice an epoch.")
@_setting("--patience", _LORA, "Looks without a better one before it stops; 0 is never.")
@click.option("--select-by", type=click.Choice(SELECT_BY), default=_DEFAULTS.select_by, show_default=True, panel=_LORA,
              help="The validation figure that chooses the step to keep.")  # fmt: skip
@_setting("--seed", _LORA, "Seed of the sample, the order and the first weights.")
@_setting("--context", _MACHINE, "Longest prompt in tokens; documents are cut to fit.")
@click.option("--chat", type=click.Choice(["auto", *FORMAT_NAMES]), default="auto", show_default=True, metavar="NAME",
              panel=_MACHINE,
              help="The turns around the prompt; auto tells by the model's control tokens. "
              f"One of auto, {', '.join(FORMAT_NAMES)}.")  # fmt: skip
@_setting("--micro-batch-tokens", _MACHINE, "Tokens that run at a time: bounds the memory.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", panel=_MACHINE,
              help="Threads.  [default: torch's own choice]")  # fmt: skip
@click.option("--dtype", type=click.Choice(DTYPES), default=_DEFAULTS.dtype, show_default=True, panel=_MACHINE,
              help="What the base's weights are kept in; auto: bfloat16 on CUDA and on processors with AMX (amx_bf16), "
              "float32 elsewhere. The adapter is in float32 always.")  # fmt: skip
@_flag("--gradient-checkpointing", "Less memory, more time: recompute activations, and no shared instruction.")
@_flag(
    "--qlora",
    "4-bit base weights by bitsandbytes, which is to be installed by itself; CUDA only.",
)
@click.option("--finish", is_flag=True,
              help="Train no further: write the best step that an unfinished run of this job has found.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace ADAPTER, or the unfinished run of another job.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON to stdout.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
def command(
    pairs: str,
    base: str,
    out: Path,
    rubric: str,
    soft: Path | None,
    finish: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **values: Any,
) -> None:
    """Train an annotator: a LoRA adapter for a small language model, from graded pairs.

    PAIRS is what `pairgrade label` reads, with grades: about 1,000 are enough for a start (arXiv 2504.09816). The
    loss is the cross-entropy over the label words at the answer cue; validation pairs come from queries of their
    own, and the step that is best on them is kept. The same command resumes a run that was stopped or killed, and with
    --finish it ends it with what was best so far.

    ADAPTER holds the weights in peft's format, the rubric, report.json, curves.png, confusion.png, and held-out.qrels:
    what people graded of the validation queries, to calibrate on.
    """
    from pairgrade.cli.train_progress import TerminalTrainProgress
    from pairgrade.train.run import TrainJob, train

    source = options.source(pairs, values)
    settings = TrainOptions(**{name: values[name] for name in asdict(_DEFAULTS) if name in values})
    job = TrainJob(source, base, out, Rubric.load(rubric), soft, overwrite, finish)
    with TerminalTrainProgress(quiet) as progress:
        trained = train(job, settings, progress)
    if as_json:
        click.echo(json.dumps(_figures(trained), allow_nan=False))
    else:
        _print(trained, job.rubric.values)


def _figures(trained: Trained) -> dict[str, Any]:
    return {
        "adapter": str(trained.adapter),
        "base": str(trained.base),
        "train_pairs": len(trained.split.train),
        "train_queries": trained.split.train_queries,
        "train_grades": trained.split.train_grades,
        "validation_pairs": len(trained.split.validation),
        "validation_queries": trained.split.validation_queries,
        "validation_grades": trained.split.validation_grades,
        "rejected_rows": trained.rejected,
        "first_rejection": trained.rejection,
        "with_soft_targets": trained.softened,
        "steps": trained.steps,
        "stopped_early": trained.stopped_early,
        "seconds": trained.seconds,
        "helped": trained.helped,
        "before": asdict(trained.evaluations[0]),
        "best": asdict(trained.best),
    }


def _print(trained: Trained, grades: Sequence[int]) -> None:
    from pairgrade.train.adapter import counted

    before, best = trained.evaluations[0], trained.best
    table = Table(title=f"{len(trained.split.validation)} validation pairs", title_justify="left")
    for name in ("", "before", f"step {best.step}"):
        table.add_column(name, justify="right" if name else "left")
    for name, field in (
        ("loss", "loss"),
        ("quadratic kappa", "kappa"),
        ("Kendall tau-b", "tau"),
        ("accuracy", "accuracy"),
    ):
        table.add_row(name, *(_figure(found, field) for found in (before, best)))
    console = result_console()
    console.print(table)
    early = ", stopped early" if trained.stopped_early else ""
    rejected = f"; {trained.rejected} rows had no pair with a grade" if trained.rejected else ""
    rejected += f"; the first that is no pair: {trained.rejection}" if trained.rejection else ""
    console.print(
        f"{len(trained.split.train)} pairs of {trained.split.train_queries} queries, {trained.steps} steps{early}, "
        f"{trained.seconds:.0f} s{rejected}",
        highlight=False,
    )
    rare = "; the training queries have no more of the rare ones" if trained.split.uneven else ""
    console.print(f"trained on {counted(trained.split.train_grades)}{rare}", highlight=False)
    absent = [str(grade) for grade in grades if not trained.split.train_grades.get(grade)]
    if absent:
        console.print(
            f"No pair to train on has grade {', '.join(absent)}: the input has none, or all are of validation queries. "
            "The model will hardly give it.",
            highlight=False,
        )
    if not trained.helped:
        console.print("No step beat the model before training: try another learning rate, more pairs or more epochs.")
    console.print(
        f"adapter: {trained.adapter}   next: pairgrade merge {trained.adapter} --out FOLDER",
        soft_wrap=True,
        highlight=False,
    )


def _figure(found: Evaluation, field: str) -> str:
    value = getattr(found, field)
    return "undefined" if value is None else f"{value:.3f}"
