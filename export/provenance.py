"""Where an export comes from, as its manifest tells it and its model card shows it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pairgrade.export.measure import Task
from pairgrade.export.quantize import QUANTS, Quant
from pairgrade.file_hashes import MANIFEST
from pairgrade.records import Pair
from pairgrade.train.base_model import folder_digest
from pairgrade.trained_prompt import RUBRIC, TrainedPrompt, read_trained_prompt


@dataclass(frozen=True, slots=True)
class Origin:
    """A folder that is exported, with what its manifest tells."""

    folder: Path
    manifest: dict[str, Any]  # empty where it has none
    trained: TrainedPrompt | None  # the prompt of its training, if it was trained

    def provenance(self, check: Task | None, calibration: Task | None) -> dict[str, Any]:
        """Return what was exported, and the pairs that it was compared and calibrated on."""
        identity = self.manifest.get("identity")
        return {
            "source": {"name": self.folder.resolve().name, "sha256": folder_digest(self.folder)},
            "base": self.manifest.get("base"),
            "base_source": self.manifest.get("base_source"),
            "adapter": self.manifest.get("adapter"),
            "data": identity.get("input") if isinstance(identity, dict) else None,  # what the adapter was trained on
            "validation": self.manifest.get("validation"),  # of the adapter beside its base
            "merge": self.manifest.get("merge"),
            "prompt": self.trained and self.trained.to_dict(),  # of the training
            "rubric": check and {"name": check.rubric.name, "sha256": check.rubric.digest},
            "check": check and _pairs(check),
            "calibration": calibration and _pairs(calibration),
            "shared_pairs": shared_pairs(check, calibration),
        }

    @property
    def base_quant(self) -> Quant | None:
        """What the base was quantized as before it was trained, if it was and that is known."""
        name = self.manifest.get("base_quant")
        return QUANTS.get(name) if isinstance(name, str) else None

    @property
    def name(self) -> str:
        """The folder's name, and that of its base."""
        base = base_name(self.manifest)
        return f"`{self.folder.resolve().name}`" + (f" (base: {base})" if base else "")

    def history(self) -> list[str]:
        """Return the lines of a model card that tell of the training, if there was one."""
        return history(self.manifest, self.trained)

    def use(self, model: str) -> str:
        """Say how to label, with the prompt of the training."""
        if self.trained is None:
            return f"`pairgrade label PAIRS --model {model}`."
        given, own = " --rubric RUBRIC", f"the longest prompt ({self.trained.context} tokens)"
        if self.trained.rubric:
            given, own = "", f"the rubric ({RUBRIC}) and {own}"
        return f"`pairgrade label PAIRS --model {model}{given}`, which takes {own} of its training from this folder."


def history(manifest: dict[str, Any], trained: TrainedPrompt | None) -> list[str]:
    """Return lines of a model card: base, adapter, data, rubric and figures of a training; none without one."""
    identity, adapter, found, merged = (_table(manifest, k) for k in ("identity", "adapter", "validation", "merge"))
    rows: list[tuple[str, object]] = [
        ("adapter", adapter.get("name")),
        ("its base", base_name(manifest)),
        ("sha256 of the base's GGUF", _table(manifest, "base_source").get("sha256")),
        ("sha256 of the graded pairs that it was trained on", identity.get("input")),
    ]
    if trained:
        name = f"`{trained.rubric.name}`, " if trained.rubric else ""
        rows.append(("rubric", f"{name}sha256 {trained.digest}"))
    names = (("quadratic kappa", "kappa"), ("Kendall's tau-b", "tau"))
    rows += [(f"{words}, the training's validation pairs", _figure(found.get(name))) for words, name in names]
    rows.append(("merged and adapter-on logits differ by", _figure(merged.get("difference"))))
    told = [f"| {words} | {value} |" for words, value in rows if value]
    return ["| | |", "|---|---|", *told, ""] if told else []


def base_name(manifest: dict[str, Any]) -> str | None:
    """Return the name of the base as it was given, with its GGUF's or its revision; None where there is no base.

    Older manifests do not tell what was given; there it is the folder's name.
    """
    base, source = manifest.get("base"), _table(manifest, "base_source")
    if not base:
        return None
    name = str(source.get("given") or base)
    if not name.startswith(("hf:", "pkg:")):
        name = Path(name).name
    exactly = str(source.get("gguf") or source.get("revision") or "")
    return name if exactly in name else f"{name} ({exactly})"


def _table(manifest: dict[str, Any], key: str) -> dict[str, Any]:
    found = manifest.get(key)
    return found if isinstance(found, dict) else {}


def _figure(value: object) -> str | None:
    return f"{value:.3g}" if isinstance(value, float) else None


def read_origin(folder: Path) -> Origin:
    """Read a folder that is to be exported; ModelError where its rubric.toml is not that of its training."""
    try:
        table = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        table = {}
    return Origin(folder, table if isinstance(table, dict) else {}, read_trained_prompt(folder))


def _pairs(task: Task) -> dict[str, Any]:
    return {"pairs": len(task.pairs), "sha256": pairs_digest(task.pairs)}


def shared_pairs(check: Task | None, calibration: Task | None) -> int:
    """Count the pairs of a comparison that the calibration had seen."""
    return len(set(check.pairs) & set(calibration.pairs)) if check and calibration else 0


def told_of_shared(pairs: int) -> str:
    """Say so, for a sentence that tells how many were compared."""
    return f", {pairs:,} of which it was calibrated on" if pairs else ""


def pairs_digest(pairs: Iterable[Pair]) -> str:
    """Return the sha256 of some pairs, in their order."""
    state = hashlib.sha256()
    for pair in pairs:
        state.update(json.dumps(asdict(pair), ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    return state.hexdigest()
