"""Options that several commands share, and how they become the library's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import rich_click as click

from pairgrade.annotator import AnnotatorOptions
from pairgrade.chat import FORMAT_NAMES
from pairgrade.llama import LlamaOptions
from pairgrade.plan import PlanOptions
from pairgrade.readers import Columns, Source
from pairgrade.spool import Selection

F = TypeVar("F", bound=Callable[..., Any])

_FIELDS = ("query_id", "doc_id", "query", "document", "title", "grade")

_SOURCE = [
    click.option("--queries", metavar="FILE", help="Queries (JSONL or TSV): PAIRS is then a qrels or run file."),
    click.option("--docs", metavar="FILE", help="Documents (JSONL, TSV or Parquet), together with --queries."),
    click.option(
        "--format",
        "file_format",
        type=click.Choice(["jsonl", "csv", "tsv", "parquet", "qrels", "run"]),
        help="Format of PAIRS, where its suffix does not tell.",
    ),
    *(
        click.option(
            f"--{name.replace('_', '-')}-column",
            metavar="NAME",
            default=name,
            show_default=True,
            help=f"Column that holds the {name.replace('_', ' ')}.",
        )
        for name in _FIELDS
    ),
    click.option("--limit", type=int, metavar="N", help="Take only the first N usable pairs."),
    click.option("--sample", type=int, metavar="N", help="Take N of the pairs at random; see --seed."),
    click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of --sample."),
    click.option(
        "--duplicates",
        type=click.Choice(["refuse", "first"]),
        default="refuse",
        show_default=True,
        help="Pairs with the ids of an earlier one: refuse the file, or take the first and reject the others.",
    ),
]

_MODEL = [
    click.option(
        "--model",
        "-m",
        required=True,
        metavar="MODEL",
        help="A .gguf file, pkg:PACKAGE (a GGUF inside an installed Python package) or hf:org/repo/file.gguf@revision.",
    ),
    click.option(
        "--rubric",
        "-r",
        default="trec",
        show_default=True,
        metavar="RUBRIC",
        help="trec, binary, esci or a TOML file; see `pairgrade rubric show trec`.",
    ),
    click.option(
        "--chat",
        type=click.Choice(["auto", *FORMAT_NAMES]),
        default="auto",
        show_default=True,
        help="The turns around the prompt; auto tells by the model's control tokens.",
    ),
]

_ENGINE = [
    click.option("--threads", type=int, metavar="N", help="Threads.  [default: the physical cores it may use]"),
    click.option(
        "--ctx", type=int, metavar="N",
        help="Longest prompt in tokens; documents are cut to fit.  [default: 2048, or what the model was trained with]",
    ),
    click.option(
        "--too-long", type=click.Choice(["cut", "reject"]), default="cut", show_default=True,
        help="What happens to a document that does not fit: it is cut and marked, or its row rejected.",
    ),
    click.option(
        "--batch-tokens", type=int, default=PlanOptions().batch_tokens, show_default=True, metavar="N",
        help="Document tokens of one batch: what a killed run loses at most.",
    ),
    click.option(
        "--window", type=int, default=AnnotatorOptions().window, show_default=True, metavar="N",
        help="Pairs that are planned together.",
    ),
    click.option("--gpu-layers", type=int, default=0, show_default=True, metavar="N",
                 help="Layers on the GPU, -1 for all. Not verified on hardware."),
    click.option("--sequences", type=int, default=1, show_default=True, metavar="N",
                 help="Documents in one decode. More than 1 is for GPUs, and no longer exact."),
    click.option("--flash-attention/--no-flash-attention", default=False, show_default=True,
                 help="llama.cpp's flash attention. For GPUs; on CPUs it was slower, and it is another arithmetic."),
]  # fmt: skip


def _decorate(options: list[Any]) -> Callable[[F], F]:
    def decorator(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorator


source_options = _decorate(_SOURCE)
model_options = _decorate(_MODEL)
engine_options = _decorate(_ENGINE)


def source(pairs: str, values: dict[str, Any]) -> Source:
    """Build the source that the source options describe."""
    columns = Columns(**{name: values[f"{name}_column"] for name in _FIELDS})
    return Source(pairs, values["queries"], values["docs"], columns, values["file_format"])


def selection(values: dict[str, Any]) -> Selection:
    """Build the selection that the source options describe."""
    return Selection(values["limit"], values["sample"], values["seed"], values["duplicates"])


def annotator_options(values: dict[str, Any]) -> AnnotatorOptions:
    """Build the prompt and planning options."""
    return AnnotatorOptions(values["chat"], values["too_long"], values["window"], PlanOptions(values["batch_tokens"]))


def llama_options(values: dict[str, Any]) -> LlamaOptions:
    """Build the backend's options."""
    return LlamaOptions(
        context=values["ctx"],
        threads=values["threads"],
        gpu_layers=values["gpu_layers"],
        sequences=values["sequences"],
        flash_attention=values["flash_attention"],
    )
