"""Which of several exports of one model to run here, and why.

A reference that names one model decides by itself. A folder that holds exports, GGUF files and ONNX folders in it or
one level below, leaves the choice to what the processor does well; the reason is given in words. Which model ran is
part of a run's identity: another choice on another machine never goes on with a run silently.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pairgrade.errors import ModelError
from pairgrade.gguf_check import check_gguf
from pairgrade.hardware import cpu_features, has_vnni, memory_bytes
from pairgrade.onnx_manifest import WEIGHTS, installed_is_too_old, is_onnx_folder, read_facts

_OF_8_BITS = ("int8", "fp32", "q8", "f16", "bf16", "f32")  # and of more
_ONNX_REST = 200_000_000  # bytes that ONNX Runtime takes beside the weights, which it holds twice: see onnx_runner
BACKENDS = ("auto", "llama", "onnx")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Export:
    """One model of a folder that holds several."""

    path: Path
    backend: str  # "llama" or "onnx"
    weights: str  # one of QUANTS of ONNX folders; the tensor type of most products of GGUF files: "q8_0"
    memory: int  # bytes that it takes, about

    @property
    def is_4_bit(self) -> bool:
        """Whether labels may have moved more than 8 bits move them."""
        return self.weights == "int4" or not self.weights.startswith(_OF_8_BITS)


@dataclass(frozen=True, slots=True)
class Choice:
    """The model to run."""

    model: str
    why: str | None  # None where there was nothing to choose


@dataclass(frozen=True, slots=True)
class Machine:
    """What the choice depends on."""

    features: frozenset[str]
    memory: int | None  # bytes that are free
    cuda: bool = False  # ONNX models are to run on CUDA
    has_onnx: bool = True  # what runs ONNX models is installed, and new enough


def this_machine(cuda: bool = False) -> Machine:
    """Look at the machine."""
    memory = memory_bytes()
    has_onnx = all(importlib.util.find_spec(name) for name in ("onnxruntime", "tokenizers"))
    return Machine(cpu_features(), memory[1] if memory else None, cuda, has_onnx and not installed_is_too_old())


def choose_model(
    reference: str, backend: str = "auto", machine: Machine | None = None, *, cuda: bool = False
) -> Choice:
    """Return the model to run; ModelError where the folder has none for that backend or memory has room for none.

    The machine is this one if none is given, and looked at only where there is a choice; ``cuda`` as in ``Machine``.
    """
    if backend not in BACKENDS:
        raise ModelError(f"backend '{backend}': one of {', '.join(BACKENDS)}")
    if not reference:
        raise ModelError("the model's name is empty; give a .gguf file, a folder, pkg:PACKAGE or hf:org/repo/file.gguf")
    folder = Path(reference)
    if is_onnx_folder(folder):
        if backend == "llama":
            raise ModelError(f"{reference} is an ONNX folder, which --backend onnx runs; llama runs GGUF files")
        return Choice(reference, None)
    if not folder.is_dir():
        if backend == "onnx" and not reference.startswith("fake:"):
            raise ModelError(f"{reference} is no folder of `pairgrade export --to onnx`, which --backend onnx runs")
        return Choice(reference, None)
    found = exports(folder)
    fit = [export for export in found if backend in ("auto", export.backend)]
    if not fit:
        if (folder / "config.json").is_file():
            raise ModelError(
                f"{reference} is a transformers folder; pairgrade export makes a model to label with of one whose "
                "weights are in safetensors"
            )
        listed = ", ".join(str(export.path) for export in found) or "nothing that can be labelled with"
        wanted = "" if backend == "auto" else f" for --backend {backend}"
        raise ModelError(
            f"{reference} has no model{wanted}: it holds {listed}. A model is a .gguf file or a folder of "
            "`pairgrade export --to onnx`, or a folder with several of them"
        )
    return _choose(reference, fit, machine or this_machine(cuda))


def exports(folder: Path) -> list[Export]:
    """Return the exports in a folder and one level below: GGUF files by name, then ONNX folders.

    A file that is no sound model is passed over with a warning; ModelError where nothing else is there.
    """
    found: list[Export] = []
    unusable: list[ModelError] = []
    # hidden folders are exports that have not ended
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    inside = [sorted(path.glob("[!.]*.gguf")) if path.is_dir() else [path] for path in paths]
    for path in [*(p for own in inside for p in own if p.suffix == ".gguf"), *filter(is_onnx_folder, paths)]:
        try:
            found.append(_onnx_export(path) if path.is_dir() else _gguf_export(path))
        except ModelError as reason:
            unusable.append(reason)
    if unusable and not found:
        raise unusable[0]
    for error in unusable:
        _log.warning("passed over: %s", error)
    return found


def _gguf_export(path: Path) -> Export:
    facts = check_gguf(path)
    products = [kind for kind, _ in facts.types if kind != "f32"]
    return Export(path, "llama", products[0] if products else "f32", facts.size)


def _onnx_export(path: Path) -> Export:
    quant, weights = read_facts(path).quant, path / WEIGHTS
    size = weights.stat().st_size if weights.is_file() else 0  # a folder that lacks it is refused when it is opened
    return Export(path, "onnx", quant, 2 * size + _ONNX_REST)  # of the tables only the rows in use are read


def _choose(reference: str, found: list[Export], machine: Machine) -> Choice:
    if len(found) == 1:
        return Choice(str(found[0].path), None)
    free = machine.memory
    fit = [export for export in found if free is None or export.memory < free]
    if not fit:
        least = min(export.memory for export in found)
        raise ModelError(
            f"{reference}: its smallest model takes {least / 1e9:.1f} GB of memory and {(free or 0) / 1e9:.1f} GB are "
            "free; export it with 4 bits, or name a model to try it all the same"
        )
    rank, why = _preference(machine)
    ready = [export for export in fit if machine.has_onnx or export.backend == "llama"]
    if ready and not machine.has_onnx:  # where nothing else is there, opening an ONNX model tells what is missing
        why = "what runs ONNX models is not installed, or too old (pip install 'pairgrade[onnx]')"
    best = min(ready or fit, key=lambda export: (export.is_4_bit, *rank(export), str(export.path)))
    others = ", ".join(export.path.name for export in found if export is not best)
    tight = "" if len(fit) == len(found) else f"; {len(found) - len(fit)} of {len(found)} do not fit into memory"
    return Choice(str(best.path), f"{best.path.name} ({best.backend}, {best.weights}): {why}{tight}; not {others}")


def _preference(machine: Machine) -> tuple[Callable[[Export], tuple[int, int]], str]:
    """Return the order of exports of the same precision class, and its reason."""
    if machine.cuda:
        return _order("onnx", ("fp32", "int8", "q8_0")), "CUDA was asked for, which runs float products"
    if "asimd" in machine.features:
        return _order("llama", ("q8_0", "int8")), "on ARM only llama.cpp's kernels were made for its dot products"
    if has_vnni(machine.features):
        return _order(
            "onnx", ("int8", "fp32", "q8_0")
        ), "this processor multiplies 8-bit numbers in one instruction (VNNI)"
    if "avx2" in machine.features:
        why = "AVX2 without VNNI: ONNX int8 with exact sums ran ahead of ONNX fp32 and of llama.cpp's q8_0"
        return _order("onnx", ("int8", "fp32", "q8_0")), why
    return _order("llama", ("q8_0", "int8")), "nothing is known of this processor, and llama.cpp runs on every one"


def _order(backend: str, weights: tuple[str, ...]) -> Callable[[Export], tuple[int, int]]:
    def rank(export: Export) -> tuple[int, int]:
        place = weights.index(export.weights) if export.weights in weights else len(weights)
        return int(export.backend != backend), place

    return rank
