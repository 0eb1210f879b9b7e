"""What a re-ranker's folder says of itself: manifest.json, with the sha256 of every file beside it.

::

    manifest.json       this
    model.onnx          the encoder and its head in full precision
    model-int8.onnx     the same with int8 products, where it ranks like the first one
    tokenizer.json
    model.safetensors, config.json, modules.json, ...   the same model as sentence-transformers' CrossEncoder reads it
    report.json, curves.png, README.md
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pairgrade.errors import ModelError
from pairgrade.file_hashes import MANIFEST, file_sha256, verify_files

TOKENIZER = "tokenizer.json"
MODELS = {"fp32": "model.onnx", "int8": "model-int8.onnx"}
_FORMAT, _VERSION = "pairgrade-reranker", 1


@dataclass(frozen=True, slots=True)
class RerankerManifest:
    """The facts that scoring needs, and where the model came from."""

    max_length: int  # tokens of query and document together
    pad_id: int
    identity: dict[str, str]  # what decided the training
    metrics: dict[str, Any]  # how it ranks the dev queries, by precision
    files: dict[str, str] = field(default_factory=dict)  # name to sha256

    def write(self, folder: Path) -> None:
        """Write manifest.json with the digests of all that lies in the folder."""
        files = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
        table = {"format": _FORMAT, "version": _VERSION} | asdict(self) | {"files": files}
        text = json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_reranker_manifest(folder: Path) -> RerankerManifest:
    """Read a folder's manifest; ModelError where it is none of a re-ranker."""
    path = folder / MANIFEST
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(
            f"{folder} holds no {MANIFEST}; a re-ranker is a folder that `pairgrade train-reranker` wrote"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from None
    if not isinstance(table, dict) or (table.get("format"), table.get("version")) != (_FORMAT, _VERSION):
        raise ModelError(f"{path} is not a manifest of format {_FORMAT} {_VERSION}; train the re-ranker again")
    known = {name: table.get(name) for name in RerankerManifest.__dataclass_fields__}
    manifest = RerankerManifest(**known)  # type: ignore[arg-type]
    numbers = type(manifest.max_length) is int and manifest.max_length > 0 and type(manifest.pad_id) is int
    if not numbers or not all(isinstance(known[name], dict) for name in ("identity", "metrics", "files")):
        raise ModelError(f"{path}: fields are missing or of another kind; train the re-ranker again")
    return manifest


def checked_file(folder: Path, manifest: RerankerManifest, name: str) -> Path:
    """Return the path of a file of the folder; ModelError where it is missing, changed or not in the manifest."""
    if name not in manifest.files:
        raise ModelError(f"{folder}: its manifest names no {name}")
    verify_files(folder / name)
    return folder / name
