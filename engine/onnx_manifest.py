"""What an exported ONNX folder says of itself: manifest.json, with the sha256 of every file beside it.

::

    manifest.json     this
    documents.onnx    the graph of a batch of documents
    prefix.onnx       the graph of a prefix segment
    weights.bin       the tensors of both
    documents.json    documents.onnx in the terms of pairgrade's own pass (see document_facts); in int8
    probe.onnx        a small 8-bit product that tells how the processor does it; in int8
    embedding.npy     the embedding, a row a token; float32, or the upper halves of float32 (bfloat16) as uint16
    correction.npy    what is added to the last hidden state, see ``pairgrade.export.onnx_calibrate``; in int8
    head.npy          the output head in the same form, where it is not the embedding
    tokenizer.json    and tokenizer_config.json, as in the folder that was exported
    provenance.json   what it was made from and how it compared; README.md, a short card; rubric.toml, the rubric that
                      the model was trained with, if it was. Nothing of these is needed to run it
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pairgrade.environment import package_version
from pairgrade.errors import ModelError
from pairgrade.file_hashes import MANIFEST, verify_files
from pairgrade.foreign_text import shown
from pairgrade.hub_cache import is_foreign_link

DOCUMENTS, PREFIX, WEIGHTS = "documents.onnx", "prefix.onnx", "weights.bin"
FACTS = "documents.json"
EMBEDDING, HEAD = "embedding.npy", "head.npy"
PROBE = "probe.onnx"
CORRECTION = "correction.npy"
MIN_ONNXRUNTIME = (1, 31)  # the oldest that this was tested with
MIN_PYTHON = (3, 11)  # the oldest that it is built for
QUANTS = ("fp32", "int8", "int4")
_FORMAT, _VERSION = "pairgrade-onnx", 1
_LEAST = ".".join(map(str, MIN_ONNXRUNTIME))
_VERSIONS = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}")


def why_too_old(version: str, least: tuple[int, ...] = MIN_ONNXRUNTIME) -> str | None:
    """Say so where a version of onnxruntime is older than ``least``; None where it is not, or none is installed."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if version == "none" or (match and (int(match[1]), int(match[2])) >= least):
        return None
    return f"{version} is {'too old' if match else 'no version'}; {'.'.join(map(str, least))} or later is needed"


def installed_is_too_old() -> str | None:
    """Say so where the installed onnxruntime, or onnxruntime-gpu, is older than any that a model is run with."""
    reasons = (why_too_old(package_version(name)) for name in ("onnxruntime", "onnxruntime-gpu"))
    return next(filter(None, reasons), None)


@dataclass(frozen=True, slots=True)
class OnnxManifest:
    """The facts that the engine needs, and the files."""

    quant: str  # how the document graph multiplies, one of QUANTS
    opset: int
    family: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    final_cap: float | None
    tied: bool
    recipe: dict[str, str]  # how the quantization was made, for people and for a run's identity
    files: dict[str, str]  # name to sha256
    min_onnxruntime: str = _LEAST  # an older one does not run it

    @property
    def least_onnxruntime(self) -> tuple[int, ...]:
        """The oldest version of onnxruntime that runs it."""
        return tuple(map(int, self.min_onnxruntime.split(".")))

    def write(self, folder: Path) -> None:
        """Write manifest.json."""
        table = {"format": _FORMAT, "version": _VERSION}
        text = json.dumps(table | asdict(self), indent=2, sort_keys=True)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def is_onnx_folder(path: Path) -> bool:
    """Whether a path is a folder with a manifest of this format."""
    try:
        return _table(path / MANIFEST).get("format") == _FORMAT
    except ModelError:
        return False


def read_manifest(folder: Path) -> OnnxManifest:
    """Read a folder's manifest and check every file against it; ModelError where one is missing or altered."""
    manifest = read_facts(folder)
    verify_files(folder)
    return manifest


def read_facts(folder: Path) -> OnnxManifest:
    """Read a folder's manifest without looking at the other files; ModelError where it is not well-formed."""
    path = folder / MANIFEST
    table = _table(path)
    if table.pop("format", None) != _FORMAT or table.pop("version", None) != _VERSION:
        raise ModelError(f"{path}: not a manifest of format {_FORMAT} {_VERSION}; export the model again")
    table.setdefault("min_onnxruntime", _LEAST)
    if set(table) != set(OnnxManifest.__dataclass_fields__):
        odd = ", ".join(sorted(set(table) ^ set(OnnxManifest.__dataclass_fields__)))
        raise ModelError(f"{path}: fields that are missing or not known: {odd}; export the model again")
    manifest = OnnxManifest(**table)
    _check_facts(path, manifest)
    for name in manifest.files:
        if Path(name).name != name or is_foreign_link(folder, folder / name):
            raise ModelError(f"{path}: '{name}' is not a plain file of the same folder")
    return manifest


def _check_facts(path: Path, manifest: OnnxManifest) -> None:
    wanted = {DOCUMENTS, PREFIX, WEIGHTS, EMBEDDING, "tokenizer.json"} | (set() if manifest.tied else {HEAD})
    wanted |= {PROBE} if manifest.quant == "int8" else set()
    names = ("vocabulary", "hidden", "layers", "heads", "kv_heads", "head_dim", "context")
    numbers = [getattr(manifest, name) for name in names]
    if not all(type(n) is int and n > 0 for n in numbers):
        raise ModelError(f"{path}: sizes must be whole numbers above 0")
    if not isinstance(manifest.files, dict) or not wanted <= set(manifest.files):
        raise ModelError(f"{path}: files must name {', '.join(sorted(wanted))}")
    if manifest.quant not in QUANTS:
        raise ModelError(f"{path}: quant is {shown(repr(manifest.quant))}; it can be {', '.join(QUANTS)}")
    if type(manifest.tied) is not bool or not isinstance(manifest.recipe, dict):
        raise ModelError(f"{path}: tied must be true or false, and recipe an object")
    if not isinstance(manifest.min_onnxruntime, str) or not _VERSIONS.fullmatch(manifest.min_onnxruntime):
        raise ModelError(f"{path}: min_onnxruntime is {shown(repr(manifest.min_onnxruntime))}; it must be like '1.31'")
    cap = manifest.final_cap
    if cap is not None and not (type(cap) in (int, float) and 0 < cap < math.inf):
        raise ModelError(f"{path}: final_cap is {shown(repr(cap))}; it must be a number above 0, or null")


def _table(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; give a folder that `pairgrade export --to onnx` wrote") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from None
    if not isinstance(table, dict):
        raise ModelError(f"{path}: not a JSON object")
    return table
