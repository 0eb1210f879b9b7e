"""What is measured: models x engines x threads x batch budgets x rubrics, and on which pairs.

::

    models = ["smollm2-q8_0.gguf", "smollm2-onnx-int8"]
    engines = ["pairgrade", "llama-cpp-python"]
    threads = [1, 2]
    reference = "smollm2-f32.gguf"   # fidelity is against this model's judgments

    [data]
    pairs = "qrels.txt"
    queries = "queries.jsonl"
    docs = "docs.jsonl"
    per_query = 16
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from pairgrade.errors import InputError, ModelError
from pairgrade.hardware import usable_cores
from pairgrade.llama import LlamaOptions
from pairgrade.model_choice import Choice, choose_model
from pairgrade.onnx_backend import PROVIDERS

ENGINES = (
    "pairgrade",
    "llama-cpp-python",
    "llama-server",
    "transformers",
    "transformers-batched",
    "onnxruntime-genai",
    "openvino-genai",
    "vllm",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination."""

    model: str
    engine: str = "pairgrade"
    rubric: str = "trec"
    threads: int = 1
    batch_tokens: int = 2048


@dataclass(frozen=True, slots=True)
class Data:
    """The pairs that every cell judges."""

    pairs: str
    queries: str | None = None  # texts, where pairs is a qrels or run file
    docs: str | None = None
    max_queries: int = 16  # the most queries that are taken, at random
    per_query: int = 16  # the most documents of each, at random
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_queries", "per_query"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class Rounds:
    """How often the cells are measured."""

    least: int = 5
    most: int = 15
    width: float = 0.05  # the interval of the median may reach so far to both sides, as a share of it
    minutes: float = 60.0  # no round begins after so many

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise InputError(f"from {self.least} to {self.most} rounds; at least 1, and the most not below the least")
        if self.width <= 0 or self.minutes <= 0:
            raise InputError(f"width is {self.width} and minutes {self.minutes}; both must be above 0")


@dataclass(frozen=True, slots=True)
class Matrix:
    """Everything that a benchmark is asked to do."""

    models: tuple[str, ...]
    data: Data
    engines: tuple[str, ...] = ("pairgrade",)
    peer_models: tuple[str, ...] = ()  # those of the models that the other engines run; none: all
    threads: tuple[int, ...] = ()  # none: the physical cores that this process may use
    batch_tokens: tuple[int, ...] = (2048,)
    rubrics: tuple[str, ...] = ("trec",)
    context: int = 1024  # longest prompt in tokens
    gpu_layers: int = 0  # of GGUF models, in llama.cpp by whatever engine; -1 for all
    sequences: int = 1  # documents in one decode of a GGUF model; more is for GPUs
    provider: str = "cpu"  # of ONNX models
    reference: str | None = None  # the model in full precision that fidelity is against
    machine: str | None = None  # a type of the price table
    usd_per_hour: float | None = None
    rounds: Rounds = Rounds()

    def __post_init__(self) -> None:
        for name in ("models", "engines", "batch_tokens", "rubrics"):
            if not getattr(self, name):
                raise InputError(f"the matrix names no {name}; give at least one")
        for engine in self.engines:
            if engine not in ENGINES:
                raise InputError(f"no engine '{engine}'; there are {', '.join(ENGINES)}")
        for model in self.peer_models:
            if model not in self.models:
                raise InputError(
                    f"peer_models names '{model}'; only the models can stand there: {', '.join(self.models)}"
                )
        if self.usd_per_hour is not None and self.usd_per_hour <= 0:
            raise InputError(f"usd_per_hour is {self.usd_per_hour}; it must be above 0")
        if self.machine and self.usd_per_hour:
            raise InputError("give a machine of the price table or usd_per_hour, not both")
        LlamaOptions(gpu_layers=self.gpu_layers, sequences=self.sequences)  # tells of numbers that are out of range
        if self.provider not in PROVIDERS:
            raise InputError(f"the provider is '{self.provider}'; it can be {', '.join(PROVIDERS)}")
        if any(threads < 1 for threads in self.threads):
            raise InputError(f"threads are {list(self.threads)}; each must be at least 1")

    def cells(self) -> tuple[Cell, ...]:
        """Return every combination once; a peer has no batch budget and runs with the first."""
        threads = self.threads or (usable_cores(),)
        found = product(map(located, self.models), self.engines, self.rubrics, threads, self.batch_tokens)
        first, of_peers = self.batch_tokens[0], set(map(located, self.peer_models or self.models))
        kept = ((m, e, r, t, b) for m, e, r, t, b in found if e == "pairgrade" or m in of_peers)
        return tuple(dict.fromkeys(Cell(m, e, r, t, b if e == "pairgrade" else first) for m, e, r, t, b in kept))

    def reference_cells(self) -> dict[str, Cell]:
        """Return, by rubric, the cells whose judgments fidelity is against; none without a reference model.

        The first cell of that model and rubric, or one to be added.
        """
        if self.reference is None:
            return {}
        name, threads, found = located(self.reference), self.threads or (usable_cores(),), {}
        for rubric in self.rubrics:
            known = (c for c in self.cells() if (c.model, c.engine, c.rubric) == (name, "pairgrade", rubric))
            found[rubric] = next(known, Cell(name, "pairgrade", rubric, threads[0], self.batch_tokens[0]))
        return found


def chosen_models(cells: Iterable[Cell], cuda: bool = False) -> dict[str, Choice]:
    """Return what runs of each folder of several exports, chosen once: it depends on the memory that is free.

    ``cuda``: ONNX models are to run on CUDA.
    """
    found: dict[str, Choice] = {}
    for model in dict.fromkeys(cell.model for cell in cells if cell.engine == "pairgrade"):
        with suppress(ModelError):  # its cell tells what is wrong
            found[model] = choose_model(model, cuda=cuda)
    return {model: choice for model, choice in found.items() if choice.model != model}


def located(reference: str) -> str:
    """Make a path absolute, for cells run in a folder of their own; other references stay as they are.

    A link keeps its own name: in the cache of a hub the file's name is that of the link.
    """
    if not os.path.exists(reference):
        return reference
    path = Path(reference)
    return str(path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name)


def names(cells: Sequence[Cell]) -> list[str]:
    """Return a short name for each cell, of the model and of what differs between them."""
    models = _distinct({cell.model: _model_name(cell.model) for cell in cells})
    rubrics = _distinct({cell.rubric: Path(cell.rubric).stem for cell in cells})
    varied = {
        field: len({getattr(cell, field) for cell in cells}) > 1
        for field in ("engine", "rubric", "threads", "batch_tokens")
    }
    found = []
    for cell in cells:
        parts = [] if len(models) == 1 and any(varied.values()) else [models[cell.model]]
        if varied["engine"]:
            parts.append(cell.engine)
        if varied["rubric"]:
            parts.append(rubrics[cell.rubric])
        if varied["threads"]:
            parts.append(f"{cell.threads} threads" if cell.threads > 1 else "1 thread")
        if varied["batch_tokens"] and (cell.engine == "pairgrade" or not parts):
            parts.append(f"batch {cell.batch_tokens}")
        found.append(" / ".join(parts))
    return found


def _distinct(names: dict[str, str]) -> dict[str, str]:
    """Return short names, or the references themselves where two would have one name."""
    return names if len(set(names.values())) == len(names) else {reference: reference for reference in names}


def _model_name(reference: str) -> str:
    if reference.startswith(("pkg:", "fake:")):
        return reference
    return Path(reference.partition("@")[0]).name.removesuffix(".gguf")
