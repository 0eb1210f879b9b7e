"""From a transformers folder to an ONNX folder, compared with the original before it is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairgrade.errors import ModelError
from pairgrade.export.measure import Task
from pairgrade.export.onnx_card import describe
from pairgrade.export.onnx_folder import OnnxSettings, write_onnx
from pairgrade.export.output import new_folder
from pairgrade.export.provenance import shared_pairs
from pairgrade.export.verify import Floor, Verification, verify
from pairgrade.export.weights import Weights
from pairgrade.folder_check import check_folder
from pairgrade.onnx_manifest import OnnxManifest
from pairgrade.progress import Progress


@dataclass(frozen=True, slots=True)
class OnnxCheck:
    """How the folder is compared with the original."""

    task: Task
    floor: Floor | None = None  # what it must keep; None: by its bits
    allow_below_floor: bool = False  # keep what is below, and say so
    context: int | None = None  # longest prompt in tokens
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class OnnxReport:
    """What came of an export."""

    out: Path
    size: int  # bytes of all files
    manifest: OnnxManifest
    verification: Verification | None  # None: not compared
    shared_pairs: int = 0  # of those that were compared, those that the calibration had seen

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-ready."""
        found = self.verification.to_dict() if self.verification else None
        return {
            "out": str(self.out), "bytes": self.size, "quant": self.manifest.quant, "recipe": self.manifest.recipe,
            "verification": found, "shared_pairs": self.shared_pairs,
        }  # fmt: skip


def export_onnx(
    source: Path,
    out: Path,
    settings: OnnxSettings,
    check: OnnxCheck | None = None,
    progress: Progress | None = None,
) -> OnnxReport:
    """Write ``out``, whole or not at all.

    ModelError where the model is not one that is known or does not keep its floor; InputError where ``out`` exists.
    """
    progress = progress or Progress()
    needs = None
    if source.is_dir():  # else there is a better message
        check_folder(source)
        needs = _needs(source, settings)
    with new_folder(out, needs=needs) as work:
        progress.phase("writing")
        manifest = write_onnx(source, work, settings)
        found = None
        if check:
            found = verify(
                source, work, check.task, check.floor,
                context=check.context, threads=check.threads, progress=progress,
            )  # fmt: skip
            if found.problems and not check.allow_below_floor:
                problems = "; ".join(found.problems)
                raise ModelError(
                    f"{source}: {settings.quant} does not keep its floor ({problems}); see --allow-below-floor"
                )
        manifest = describe(work, source, out.name, settings, manifest, check, found)
        size = sum(path.stat().st_size for path in work.iterdir())
    return OnnxReport(out, size, manifest, found, shared_pairs(check.task if check else None, settings.calibrated_on))


def _needs(source: Path, settings: OnnxSettings) -> str | None:
    """Say what the folder takes at most while it is made, where float32 graphs are in it; else it is far less."""
    if settings.quant != "fp32" and not settings.how.is_calibrated:
        return None
    weights = Weights(source)
    size = 4 * sum(math.prod(weights.shape(name)) for name in weights.names())
    return f"an export in {settings.quant} needs up to {size:,} bytes while it is made"
