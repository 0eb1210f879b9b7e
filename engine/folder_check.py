"""Whether a transformers folder may be loaded: safetensors that are sound, no pickle, no code, no adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pairgrade.errors import ModelError
from pairgrade.file_hashes import verify_files
from pairgrade.foreign_text import shown
from pairgrade.safetensors_check import check_safetensors

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_CONFIGS = ("config.json", "tokenizer_config.json")
_ADAPTER, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_LAYER_WEIGHTS = "model.safetensors"  # without it sentence-transformers reads a layer's pickle
_NESTING = ("Router", "Asym")  # modules that read others, from folders which modules.json does not name


def check_folder(folder: Path, *, adapter: bool = False) -> None:
    """Check a model's folder, or an adapter's; ModelError gives the first reason not to load it.

    Weights must be safetensors with sound headers; pickled ones run code when they are read, and are never read. Code
    that the configs point at is never run, and a model that needs it is refused. Where a manifest lists files, their
    sha256 must be right. An adapter is LoRA; a model has none beside it: libraries lay one over it without a word.
    """
    weights = _weights(folder)
    if not weights:
        raise ModelError(f"{folder} holds no weights in safetensors, the only format that is loaded")
    for module in _modules(folder):  # an encoder's layers
        _refuse_code(module / "config.json")
        _refuse_adapter(module)
        weights += _weights(module, _LAYER_WEIGHTS)
    for name in _CONFIGS:
        _refuse_code(folder / name)
    if adapter:
        _check_adapter(folder)
    else:
        _refuse_adapter(folder)
    for index in sorted(folder.rglob("*.safetensors.index.json")):  # a config can name one in a subfolder
        _check_index(index)
    for path in weights:
        check_safetensors(path)
    verify_files(folder)


def _weights(folder: Path, name: str = "*.safetensors") -> list[Path]:
    """Return a folder's weights; ModelError where those of that name are pickles alone."""
    found = sorted(folder.glob("*.safetensors"))
    pickled = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES] if folder.is_dir() else []
    if pickled and not any(path.match(name) for path in found):
        raise ModelError(
            f"{folder} holds no weights in safetensors, the only format that is loaded; {pickled[0]} is a pickle, "
            "which can run code and is never read: convert it"
        )
    return found


def _check_adapter(folder: Path) -> None:
    """Refuse an adapter whose weights peft would not take from safetensors, or from this folder alone."""
    for name in (_ADAPTER_WEIGHTS, _ADAPTER):  # peft looks for a pickle else, and on the hub
        if not (folder / name).is_file():
            raise ModelError(f"{folder} holds no {name}; an adapter has its weights in {_ADAPTER_WEIGHTS} alone")
    table = _table(folder / _ADAPTER)
    kind = table.get("peft_type")
    if kind != "LORA" or table.get("megatron_config"):
        what = f"of the kind {shown(repr(kind))}" if kind != "LORA" else "that wants a module of its own imported"
        raise ModelError(f"{folder}/{_ADAPTER} describes an adapter {what}; only plain LoRA is loaded")


def _refuse_adapter(folder: Path) -> None:
    if (folder / _ADAPTER).exists():
        raise ModelError(
            f"{folder} holds an adapter ({_ADAPTER}), which would be laid over the model that it names; fold it into "
            f"its base with pairgrade merge, or remove {_ADAPTER} if the folder's own weights are meant"
        )


def _modules(folder: Path) -> list[Path]:
    """Return the folders that a sentence-transformers model is put together from, its own too if a layer lies there."""
    listed = _json(folder / "modules.json")
    found = []
    for module in listed if isinstance(listed, list) else []:
        kind, path = (module.get(name) if isinstance(module, dict) else None for name in ("type", "path"))
        if not isinstance(kind, str) or not kind.startswith("sentence_transformers."):
            raise ModelError(
                f"{folder}/modules.json names {shown(repr(kind))}, which is none of sentence-transformers' own"
            )
        if kind.endswith(_NESTING):
            raise ModelError(f"{folder}/modules.json names {shown(repr(kind))}, whose own modules are not looked into")
        if not isinstance(path, str) or Path(path).is_absolute() or ".." in Path(path).parts:
            raise ModelError(f"{folder}/modules.json names the path {shown(repr(path))}; it must lie inside the folder")
        if Path(path).parts or not kind.endswith(".Transformer"):
            found.append(folder / path)
    return found


def _check_index(index: Path) -> None:
    """Check the list of a model's parts: transformers reads what it names, a pickle and one elsewhere as well."""
    parts = _table(index).get("weight_map")
    if not isinstance(parts, dict):
        raise ModelError(f"{index} has no weight_map; it is not the list of a model's parts")
    for part in parts.values():
        if not isinstance(part, str) or Path(part).name != part or not part.endswith(".safetensors"):
            raise ModelError(f"{index} names {shown(repr(part))}; a part is a .safetensors file of the same folder")


def _table(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one where there is no such file."""
    table = _json(path)
    return table if isinstance(table, dict) else {}


def _json(path: Path) -> Any:
    """Return what a JSON file holds, or None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not JSON ({error})") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None


def _refuse_code(config: Path) -> None:
    table = _table(config)
    if table.get("auto_map"):
        raise ModelError(
            f"{config} wants code of its own to be run ({shown(str(table['auto_map']))}), which pairgrade never "
            "does; if the model is of a known family, remove its auto_map"
        )
