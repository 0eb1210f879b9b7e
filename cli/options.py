"""Options that several commands share, and how they become the library's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

from pairgrade.annotator import Annotator, AnnotatorOptions, entered
from pairgrade.calibration import Calibration
from pairgrade.chat import FORMAT_NAMES
from pairgrade.cli.declare import decorate
from pairgrade.errors import InputError
from pairgrade.llama import LlamaOptions
from pairgrade.model_choice import BACKENDS, choose_model
from pairgrade.onnx_backend import PROVIDERS, OnnxOptions
from pairgrade.onnx_manifest import is_onnx_folder
from pairgrade.plan import PlanOptions
from pairgrade.readers import Columns, Source
from pairgrade.rubric import Rubric
from pairgrade.spool import Selection
from pairgrade.trained_prompt import prompt_in_force

F = TypeVar("F", bound=Callable[..., Any])

_FIELDS = ("query_id", "doc_id", "query", "document", "title", "grade")

_FORMATS = ("jsonl", "csv", "tsv", "parquet", "qrels", "run")
_INPUT, _MODEL_PANEL, _ENGINE_PANEL = "Input", "Model and prompt", "Engine"


def _choice(
    *names: str, choices: Sequence[str], panel: str, text: str, metavar: str, default: str | None = None
) -> Any:
    """Declare an option with a fixed set of values, which stand in its help instead of its metavar."""
    help_text = f"{text} One of {', '.join(choices)}."
    return _option(*names, type=click.Choice(choices), metavar=metavar, panel=panel, default=default, help=help_text)


def _number(name: str, text: str, panel: str, default: int | None = None, least: int | None = 1) -> Any:
    kind = int if least is None else click.IntRange(min=least)
    return _option(name, type=kind, metavar="N", panel=panel, default=default, help=text)


def _text(*names: str, metavar: str, panel: str, text: str, default: str | None = None, required: bool = False) -> Any:
    return _option(*names, metavar=metavar, panel=panel, default=default, required=required, help=text)


def _option(*names: str, default: str | int | None, **settings: Any) -> Any:
    """Declare an option; a default of None is left out, for click would take it for a value that was given."""
    if default is not None:
        settings |= {"default": default, "show_default": True}
    return click.option(*names, **settings)


_PAIRS = [
    _text("--queries", metavar="FILE", panel=_INPUT, text="Queries (JSONL, TSV or Parquet): PAIRS is then a qrels "
          "or run file."),
    _text("--docs", metavar="FILE", panel=_INPUT, text="Documents (JSONL, TSV or Parquet), with --queries."),
    _choice("--format", "file_format", choices=_FORMATS, metavar="FORMAT", panel=_INPUT,
            text="Format of PAIRS, where its suffix does not tell."),
    *(
        _text(f"--{name.replace('_', '-')}-column", metavar="NAME", default=name, panel=_INPUT,
              text=f"Column that holds the {name.replace('_', ' ')}.")
        for name in _FIELDS[:-1]
    ),
]  # fmt: skip

_GRADE = _text("--grade-column", metavar="NAME", default="grade", panel=_INPUT, text="Column that holds the grade.")

_SELECTION = [
    _number("--limit", "Take only the first N usable pairs, of which --duplicates may reject some.", _INPUT),
    _number("--sample", "Take N of the pairs at random; see --seed.", _INPUT),
    _number("--seed", "Seed of --sample.", _INPUT, 0, least=None),
    _choice("--duplicates", choices=["refuse", "first"], metavar="POLICY", default="refuse", panel=_INPUT,
            text="Pairs with the ids of an earlier one: refuse the file, or take the first and reject the others."),
]  # fmt: skip

_MODEL = [
    _text("--model", "-m", metavar="MODEL", required=True, panel=_MODEL_PANEL,
          text="A .gguf file, pkg:PACKAGE (a GGUF inside an installed Python package) or "
          "hf:org/repo/file.gguf@revision; a folder of `pairgrade export --to onnx`; or a folder that holds "
          "several such models, of which --backend takes one."),
    _text("--rubric", "-r", metavar="RUBRIC", panel=_MODEL_PANEL,
          text="trec, binary, esci or a TOML file; see `pairgrade rubric show trec`.  [default: the one the model was "
          "trained with, else trec]"),
    _choice("--chat", choices=["auto", *FORMAT_NAMES], metavar="NAME", default="auto", panel=_MODEL_PANEL,
            text="The turns around the prompt; auto is its training's, or tells by the model's control tokens."),
    _number("--ctx", "Longest prompt in tokens; documents are cut to fit.  [default: its training's, else 2048 or the "
            "model's own, if less]", _MODEL_PANEL, least=64),
    _choice("--too-long", choices=["cut", "reject"], metavar="POLICY", default="cut", panel=_MODEL_PANEL,
            text="A document that does not fit is cut and marked, or its row rejected."),
    _text("--calibration", metavar="FILE", panel=_MODEL_PANEL,
          text="Grade by a calibration, which `pairgrade calibrate` fits to pairs with human grades."),
]  # fmt: skip

_ENGINE = [
    _choice("--backend", choices=list(BACKENDS), metavar="NAME", default="auto", panel=_ENGINE_PANEL,
            text="llama runs GGUF files, onnx ONNX folders. Of a folder that holds several models, auto takes the one "
            "that this processor is fastest with, and says why."),
    _number("--threads", "Threads.  [default: the physical cores that it may use]", _ENGINE_PANEL),
    _number("--batch-tokens", "Document tokens of one batch, which is what a killed run loses at most. ONNX Runtime "
            "computes so many at once: more memory, and no other judgments where it is exact (pairgrade's own "
            "pass over int8's documents takes about 256 a thread).  [default: 2048, of which ONNX Runtime computes 512 "
            "at a time]", _ENGINE_PANEL),
    _number("--window", "Pairs that are planned together.", _ENGINE_PANEL, AnnotatorOptions().window),
    _number("--gpu-layers", "Layers on the GPU, -1 for all; llama-cpp-python must be built for it.", _ENGINE_PANEL, 0,
            least=-1),
    _number("--sequences", "Documents in one decode; more than 1 is for GPUs, and not exact.", _ENGINE_PANEL, 1),
    click.option("--flash-attention", is_flag=True, panel=_ENGINE_PANEL,
                 help="llama.cpp's flash attention: other roundings, and no faster on the CPUs we measured."),
    click.option("--label-mass/--no-label-mass", default=False, show_default=True, panel=_ENGINE_PANEL,
                 help="Of ONNX models: tell the share of probability on label words, which takes a product with the "
                 "whole vocabulary for each document. GGUF models always tell it."),
    _choice("--provider", choices=list(PROVIDERS), metavar="NAME", default="cpu", panel=_ENGINE_PANEL,
            text="What runs ONNX models; cuda needs onnxruntime-gpu (pairgrade[gpu]) and is not exact; it was tried "
            "on tiny models only."),
    click.option("--in-process", is_flag=True, panel=_ENGINE_PANEL,
                 help="Run the model in this process, not in a worker whose death is survived."),
]  # fmt: skip


pairs_options = decorate([*_PAIRS, _GRADE])
ungraded_options = decorate(_PAIRS)  # for pairs whose grades nothing is made of: a column of any values is no hindrance
source_options = decorate([*_PAIRS, *_SELECTION])
model_options = decorate(_MODEL)
engine_options = decorate(_ENGINE)


def source(pairs: str, values: dict[str, Any]) -> Source:
    """Build the source that the options describe; of a command that has no ``--grade-column`` no grade is read."""
    columns = Columns(**{name: values[f"{name}_column"] for name in _FIELDS[:-1]}, grade=values.get("grade_column"))
    return Source(pairs, values["queries"], values["docs"], columns, values["file_format"])


def refuse_unused(values: dict[str, Any], pairs: str | None) -> None:
    """Raise InputError where options say how pairs are to be read and there are none."""
    if pairs is not None:
        return
    usual = Columns()
    given = [f"--{name}" for name in ("queries", "docs") if values[name] is not None]
    given += ["--format"] if values["file_format"] is not None else []
    columns = [name for name in _FIELDS if values.get(f"{name}_column", getattr(usual, name)) != getattr(usual, name)]
    given += [f"--{name.replace('_', '-')}-column" for name in columns]
    if given:
        raise InputError(f"{', '.join(given)} says how --pairs is to be read; give --pairs too, or leave that out")


def selection(values: dict[str, Any]) -> Selection:
    """Build the selection that the source options describe."""
    return Selection(values["limit"], values["sample"], values["seed"], values["duplicates"])


def as_trained(model: str | Path, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with the rubric loaded, and it, turns and context as given, else as of the model's training."""
    names = "rubric", "chat", "ctx"
    found = prompt_in_force(model, *(values[name] for name in names))
    return values | dict(zip(names, found, strict=True))


def annotator_options(values: dict[str, Any]) -> AnnotatorOptions:
    """Build the prompt and planning options; the calibration must be one for the rubric's grades."""
    rubric: Rubric = values["rubric"]
    path, plan = values["calibration"], PlanOptions(values["batch_tokens"] or PlanOptions().batch_tokens)
    calibration = Calibration.load(path, rubric.values) if path is not None else None
    return AnnotatorOptions(values["chat"], values["too_long"], values["window"], plan, calibration)


def llama_options(values: dict[str, Any]) -> LlamaOptions:
    """Build the backend's options."""
    return LlamaOptions(
        context=values["ctx"],
        threads=values["threads"],
        gpu_layers=values["gpu_layers"],
        sequences=values["sequences"],
        flash_attention=values["flash_attention"],
    )


def onnx_options(values: dict[str, Any]) -> OnnxOptions:
    """Build the options of the backend of ONNX folders."""
    return OnnxOptions(
        context=values["ctx"],
        threads=values["threads"],
        batch_tokens=values["batch_tokens"] or OnnxOptions().batch_tokens,
        label_mass=values["label_mass"],
        provider=values["provider"],
    )


def chosen_model(model: str, values: dict[str, Any]) -> str:
    """Return the model that runs, and say why where there were several."""
    usual, names = asdict(LlamaOptions()), ("gpu_layers", "sequences", "flash_attention")
    of_llama = ", ".join(f"--{name.replace('_', '-')}" for name in names if values[name] != usual[name])
    several = not is_onnx_folder(Path(model))
    backend = "llama" if of_llama and several and values["backend"] == "auto" else values["backend"]
    choice = choose_model(model, backend, cuda=values["provider"] == "cuda")
    if of_llama and is_onnx_folder(Path(choice.model)):
        raise InputError(f"{of_llama} is for GGUF files, and {choice.model} is none; on a GPU give --provider cuda")
    if values["provider"] == "cuda" and not is_onnx_folder(Path(choice.model)):
        raise InputError(f"--provider cuda runs ONNX models, and {choice.model} is none; for a GGUF give --gpu-layers")
    if choice.why:
        click.echo(f"model: {choice.why}", err=True)
    return choice.model


def annotator_opener(model: str, values: dict[str, Any]) -> Callable[[], AbstractContextManager[Annotator]]:
    """Return what opens the annotator that the options describe, in a worker process unless --in-process is given.

    ``model`` and the values are those of ``chosen_model`` and ``as_trained``.
    """
    settings, isolate = annotator_options(values), not values["in_process"]
    llama, onnx = llama_options(values), onnx_options(values)
    opened = partial(Annotator.load, model, values["rubric"], settings, llama, onnx, isolate=isolate)
    return partial(entered, opened) if isolate else opened
