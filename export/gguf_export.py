"""From a transformers folder to a folder of GGUF files, each measured against the original before it is kept.

::

    OUT/model-QUANT.gguf   one file a quantization that kept its floor
    OUT/manifest.json      the sha256 of every file, what they were made from and how they were measured
    OUT/README.md          a short model card
    OUT/rubric.toml        the rubric that the model was trained with, if it was
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pairgrade.errors import InputError, ModelError
from pairgrade.export.gguf_card import write_card, write_manifest
from pairgrade.export.gguf_writer import write_gguf
from pairgrade.export.imatrix import importance_matrix
from pairgrade.export.measure import Measured, Task, measure, texts_for
from pairgrade.export.output import new_folder
from pairgrade.export.provenance import Origin, read_origin, shared_pairs
from pairgrade.export.quantize import QUANTS, Importance, Quant, quantize
from pairgrade.export.torch_backend import TorchBackend, TorchOptions
from pairgrade.export.verify import STRINGS, Floor, Verification, compare, floor_of, open_model
from pairgrade.folder_check import check_folder
from pairgrade.progress import Progress

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GgufOptions:
    """What is written, and how it is checked."""

    quants: tuple[Quant, ...]
    check: Task  # the pairs that every file is compared with the original on
    calibration: Task | None = None  # pairs for an importance matrix, which quantizations below 8 bits then use
    floors: tuple[Floor, ...] = ()  # what each must keep; none: by its bits
    allow_below_floor: bool = False  # keep what is below, and say so
    context: int | None = None  # longest prompt of the checks in tokens
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.quants:
            raise InputError(f"no quantization to write; there are: {', '.join(QUANTS)}")
        if self.floors and len(self.floors) != len(self.quants):
            raise InputError(f"{len(self.floors)} floors for {len(self.quants)} quantizations")


@dataclass(frozen=True, slots=True)
class ExportedQuant:
    """One quantization and what was measured of it."""

    quant: Quant
    file: str  # its name in OUT
    size: int  # bytes
    importance: bool  # whether an importance matrix was used
    verification: Verification
    kept: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, JSON-ready."""
        table = self.verification.to_dict()
        own = {"quant": self.quant.name, "bytes": self.size, "importance_matrix": self.importance, "kept": self.kept}
        return own | {name: table[name] for name in ("floor", "passed", "problems", "fidelity", "unfit")}


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What came of an export."""

    out: Path
    files: tuple[ExportedQuant, ...]
    shared_pairs: int = 0  # of those that were compared, those that the importance matrix was made from

    @property
    def refused(self) -> tuple[ExportedQuant, ...]:
        """Those that were below their floor and are not there."""
        return tuple(file for file in self.files if not file.kept)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-ready."""
        files = {file.file: file.to_dict() for file in self.files}
        return {"out": str(self.out), "files": files, "shared_pairs": self.shared_pairs}


def export_gguf(folder: Path, out: Path, options: GgufOptions, progress: Progress | None = None) -> ExportReport:
    """Write the quantizations of a transformers folder that keep their floor.

    ModelError where the model cannot be written as GGUF or no quantization kept its floor; InputError where ``out``
    exists. After an error nothing is left.
    """
    progress = progress or Progress()
    with new_folder(out) as work:
        if folder.is_dir():  # else there is a better message
            check_folder(folder)
        progress.phase("writing")
        origin = read_origin(folder)
        _warn_of_the_old_grid(origin, options.quants)
        plain = work / _file_name(QUANTS["f32"])
        write_gguf(folder, plain, out.name)
        reference, options, importance = _reference(folder, options, progress)
        files = tuple(_quantized(plain, reference, options, importance, progress))
        if not any(file.kept for file in files):
            problems = "; ".join(f"{f.quant.name}: {', '.join(f.verification.problems)}" for f in files)
            raise ModelError(f"{folder}: no quantization kept its floor ({problems}); see --allow-below-floor")
        if not any(file.kept and file.file == plain.name for file in files):
            plain.unlink()
        report = ExportReport(out, files, shared_pairs(options.check, options.calibration if importance else None))
        if origin.trained:
            origin.trained.write(work)
        write_card(work, origin, report)
        write_manifest(work, origin, report, options.check, options.calibration if importance else None)
    return report


def _warn_of_the_old_grid(origin: Origin, quants: Sequence[Quant]) -> None:
    """Tell of quantizations that take the training back: weights that it moved by less than half a step return."""
    before = origin.base_quant
    for quant in quants:
        if before and quant.bits <= 6 and quant.grid == before.grid:
            _log.warning(
                "%s: the base was %s before it was trained, and rounding to the same steps again takes nearly "
                "all of the training back; take q8_0, or 4 bits of another kind",
                quant.name, before.name,
            )  # fmt: skip


def _reference(
    folder: Path, options: GgufOptions, progress: Progress
) -> tuple[Measured, GgufOptions, Importance | None]:
    """Measure the original; its tokenizer also fills in the strings to compare."""
    progress.phase("original")
    backend = TorchBackend(folder, TorchOptions(options.context, options.threads))
    try:
        strings = options.check.strings or texts_for(backend.tokenizer, STRINGS)
        options = replace(options, check=replace(options.check, strings=strings))
        measured = measure(str(folder), backend, options.check, progress)
        if options.calibration is None or not any(quant.uses_importance for quant in options.quants):
            if options.calibration is not None:
                named = ", ".join(quant.name for quant in options.quants)
                _log.warning("none of %s weighs by an importance matrix: the calibration pairs do nothing", named)
            return measured, options, None
        progress.phase("importance")
        return measured, options, importance_matrix(backend, options.calibration, progress)
    finally:
        backend.close()


def _quantized(
    plain: Path, reference: Measured, options: GgufOptions, importance: Importance | None, progress: Progress
) -> Iterator[ExportedQuant]:
    floors = options.floors or tuple(floor_of(quant.bits, from_folder=True) for quant in options.quants)
    for quant, floor in zip(options.quants, floors, strict=True):
        progress.phase(quant.name)
        path = plain.with_name(_file_name(quant))
        used = importance if quant.uses_importance else None
        if path != plain:
            quantize(plain, path, quant, used, options.threads)
        backend = open_model(path, options.context, options.threads)
        try:
            measured = measure(path.name, backend, options.check, progress)
        finally:
            backend.close()
        verification = compare(reference, measured, options.check, floor)
        kept = options.allow_below_floor or not verification.problems
        size = path.stat().st_size
        if not kept:
            _log.info("%s is below its floor: %s", path.name, ", ".join(verification.problems))
            if path != plain:  # which the others are made from
                path.unlink()
        yield ExportedQuant(quant, path.name, size, used is not None, verification, kept)


def _file_name(quant: Quant) -> str:
    return f"model-{quant.name}.gguf"
