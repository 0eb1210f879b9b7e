"""Two models compared on the same task, and the floor that a conversion must keep."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pairgrade.backend import Backend
from pairgrade.backends import open_backend
from pairgrade.errors import InputError
from pairgrade.export.fidelity import Fidelity, fidelity
from pairgrade.export.measure import Measured, Task, measure, texts_for
from pairgrade.export.quantize import quant_of
from pairgrade.export.torch_backend import TorchBackend, TorchOptions
from pairgrade.llama import LlamaOptions
from pairgrade.onnx_manifest import is_onnx_folder, read_facts
from pairgrade.run import Progress

STRINGS = 1000  # hostile strings whose ids are compared


@dataclass(frozen=True, slots=True)
class Floor:
    """What a conversion must keep of the labels."""

    agreement: float  # at least
    mean_kl: float  # at most

    def __post_init__(self) -> None:
        if not 0 <= self.agreement <= 1:
            raise InputError(f"the least agreement is {self.agreement}; it must be from 0 to 1")
        if not self.mean_kl >= 0:
            raise InputError(f"the largest mean KL is {self.mean_kl}; it must be 0 or more")


def floor_of(bits: int) -> Floor:
    """Return the floor for weights of so many bits: docs/decisions/export-floors.md."""
    return Floor(0.97, 0.01) if bits > 4 else Floor(0.90, 0.05)


@dataclass(frozen=True, slots=True)
class Verification:
    """Model B against model A, and against a floor."""

    a: str
    b: str
    floor: Floor
    fidelity: Fidelity
    strings: int  # texts whose ids were compared
    different_strings: tuple[str, ...]  # of these, with other ids
    different_prompts: int  # pairs whose prompts have other ids
    unfit: int  # pairs that fit the context of neither

    @property
    def problems(self) -> list[str]:
        """Say what is below the floor; empty where nothing is."""
        found = []
        if self.different_strings:
            example = f", such as {self.different_strings[0]!r}"
            found.append(f"{len(self.different_strings)} of {self.strings} strings have other ids{example}")
        if self.different_prompts:
            found.append(f"{self.different_prompts} prompts have other ids")
        if self.fidelity.agreement < self.floor.agreement:
            found.append(f"grade agreement {self.fidelity.agreement:.4f} is below {self.floor.agreement}")
        if self.fidelity.mean_kl > self.floor.mean_kl:
            found.append(f"mean KL {self.fidelity.mean_kl:.2g} is above {self.floor.mean_kl}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-ready."""
        return asdict(self) | {"passed": not self.problems, "problems": self.problems}


def verify(
    a: str | Path,
    b: str | Path,
    task: Task,
    floor: Floor | None = None,
    *,
    context: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Run the task on both models, one after the other; without a floor, that of B's bits.

    A model is a transformers folder, which runs in torch in float32, or whatever ``open_backend`` opens. The task's
    strings are filled in from A's tokenizer where it has none.
    """
    progress = progress or Progress()
    floor = floor or floor_of(model_bits(b))
    measured: list[Measured] = []
    for reference in (a, b):
        progress.phase(str(reference))
        backend = open_model(reference, context, threads)
        try:
            if not task.strings:
                task = Task(task.pairs, task.rubric, task.chat, texts_for(backend.tokenizer, STRINGS))
            measured.append(measure(str(reference), backend, task, progress))
        finally:
            backend.close()
    return compare(measured[0], measured[1], task, floor)


def compare(a: Measured, b: Measured, task: Task, floor: Floor) -> Verification:
    """Compare what two models said of the same task."""
    strings = zip(task.strings, a.strings, b.strings, strict=True)
    return Verification(
        a=a.name,
        b=b.name,
        floor=floor,
        fidelity=fidelity(a.logits, b.logits, task.rubric.values, task.pairs),
        strings=len(task.strings),
        different_strings=tuple(text for text, ours, theirs in strings if ours != theirs),
        different_prompts=sum(x != y for x, y in zip(a.prompts, b.prompts, strict=True)),
        unfit=sum(not (x or y) for x, y in zip(a.prompts, b.prompts, strict=True)),
    )


def open_model(reference: str | Path, context: int | None = None, threads: int | None = None) -> Backend:
    """Load a transformers folder in torch, and anything else as ``pairgrade label`` does."""
    if is_transformers_folder(reference):
        return TorchBackend(Path(reference), TorchOptions(context, threads))
    return open_backend(reference, LlamaOptions(context=context, threads=threads))[0]


def is_transformers_folder(reference: str | Path) -> bool:
    """Whether a reference is a folder with a model's config and weights in safetensors."""
    path = Path(reference)
    return path.is_dir() and (path / "config.json").is_file() and any(path.glob("*.safetensors"))


def model_bits(reference: str | Path) -> int:
    """Return the bits of most weights, 8 where nothing tells: the stricter floor."""
    path = Path(reference)
    if is_onnx_folder(path):
        return 4 if read_facts(path).quant == "int4" else 8
    quant = quant_of(path) if path.is_file() else None
    return quant.bits if quant else 8
