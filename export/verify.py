"""Two models compared on the same task, and the floor that a conversion must keep."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pairgrade.backend import Backend
from pairgrade.backends import one_model, open_backend
from pairgrade.errors import InputError
from pairgrade.export.fidelity import Fidelity, fidelity
from pairgrade.export.measure import Measured, Task, measure, texts_for
from pairgrade.export.quantize import quant_of
from pairgrade.export.torch_backend import TorchBackend, TorchOptions
from pairgrade.llama import LlamaOptions
from pairgrade.models import resolve
from pairgrade.onnx_manifest import is_onnx_folder, read_facts
from pairgrade.progress import Progress

STRINGS = 1000  # hostile strings whose ids are compared
_FLOAT32 = 32  # bits
_SAME_LOGITS = 1e-3  # the largest difference of an fp32 ONNX graph
_NEAR_LOGITS = 5e-3  # the relative distance of an f32 GGUF, whose keys and values are kept in half precision


@dataclass(frozen=True, slots=True)
class Floor:
    """What a conversion must keep of the labels."""

    agreement: float  # at least
    mean_kl: float  # at most
    max_logit: float | None = None  # the largest difference of a label logit, at most; None: as it may be
    logit_distance: float | None = None  # the relative distance of all label logits, at most; None: as it may be

    def __post_init__(self) -> None:
        if not 0 <= self.agreement <= 1:
            raise InputError(f"the least agreement is {self.agreement}; it must be from 0 to 1")
        if not self.mean_kl >= 0:
            raise InputError(f"the largest mean KL is {self.mean_kl}; it must be 0 or more")
        for name in ("max_logit", "logit_distance"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(f"{name} is {value}; it must be 0 or more")


def floor_of(bits: int, *, onnx: bool = False, from_folder: bool = False) -> Floor:
    """Return the floor for weights of so many bits: docs/decisions/export-floors.md.

    Float32 that is compared with a transformers folder must have the folder's logits as well.
    """
    if bits <= 4:
        return Floor(0.90, 0.05)
    if not from_folder or bits < _FLOAT32:
        return Floor(0.97, 0.01)
    return Floor(0.97, 0.01, max_logit=_SAME_LOGITS) if onnx else Floor(0.97, 0.01, logit_distance=_NEAR_LOGITS)


def floor_between(a: str | Path, b: str | Path) -> Floor:
    """Return the floor that B must keep of A where none is given."""
    return floor_of(model_bits(b), onnx=is_onnx_folder(Path(b)), from_folder=is_transformers_folder(a))


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
        most = self.floor.max_logit
        if most is not None and self.fidelity.max_logit_difference > most:
            found.append(f"a label logit differs by {self.fidelity.max_logit_difference:.2g}, which is above {most}")
        most = self.floor.logit_distance
        if most is not None and self.fidelity.relative_logit_distance > most:
            found.append(
                f"relative distance of label logits {self.fidelity.relative_logit_distance:.2g} is above {most}"
            )
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
    """Run the task on both models, one after the other; without a floor, that of ``floor_between``.

    A model is a transformers folder, which runs in torch in float32, or whatever ``open_backend`` opens. The task's
    strings are filled in from A's tokenizer where it has none.
    """
    progress = progress or Progress()
    a, b = one_form(a), one_form(b)
    floor = floor or floor_between(a, b)
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


def onnx_bits(quant: str) -> int:
    """Return the bits of most weights of an ONNX export."""
    return {"fp32": _FLOAT32, "int4": 4}.get(quant, 8)


def one_form(reference: str | Path) -> str | Path:
    """Return the model that runs: itself or, of a folder of several exports, the one that ``open_backend`` takes."""
    return reference if is_transformers_folder(reference) else one_model(reference)


def model_bits(reference: str | Path) -> int:
    """Return the bits of most weights, 8 where nothing tells: the stricter floor."""
    path = Path(reference)
    if is_onnx_folder(path):
        return onnx_bits(read_facts(path).quant)
    if str(reference).startswith(("pkg:", "hf:")):
        path = resolve(reference)
    quant = quant_of(path) if path.is_file() else None
    return quant.bits if quant else 8
