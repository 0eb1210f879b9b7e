"""The weights of a transformers folder, read tensor by tensor from safetensors without torch.

A tensor is mapped from the disk and turned into float32 when it is asked for, so a model larger than the memory can
be converted. The format: https://github.com/huggingface/safetensors#format. Nothing in such a file is code.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pairgrade.errors import ModelError
from pairgrade.export.decoder import Decoder, not_exported
from pairgrade.safetensors_check import MAX_HEADER

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies."""

    file: Path
    start: int  # byte in the file
    kind: str
    shape: tuple[int, ...]


class TensorSource(Protocol):
    """What an export reads weights from."""

    folder: Path  # named in messages

    def names(self) -> list[str]:
        """Return the names of all tensors, sorted."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""

    def get(self, name: str) -> npt.NDArray[np.float32]:
        """Return one tensor, an array of its own."""

    def are_equal(self, a: str, b: str) -> bool:
        """Whether two tensors hold the same values."""


def require_tied_head(decoder: Decoder, weights: TensorSource) -> None:
    """Raise ModelError where a head of its own lies beside a config that ties it, which transformers runs then."""
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if decoder.tied and head in weights.names() and not weights.are_equal(head, embedding):
        raise not_exported(
            f"{weights.folder}: {head} is another than {embedding}, though config.json ties them; set "
            "tie_word_embeddings to false there, or remove the tensor"
        )


class Weights:
    """All tensors of a folder, in one file or in shards with an index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, _Place] = {}
        index = folder / _INDEX
        if (folder / _SINGLE).is_file():
            self._places = _header(folder / _SINGLE)
        elif index.is_file():
            self._places = _sharded(index)
        else:
            found = sorted(p.name for p in folder.glob("*.safetensors")) if folder.is_dir() else []
            raise ModelError(
                f"{folder} has neither {_SINGLE} nor {_INDEX}"
                + (f", only {', '.join(found[:5])}" if found else "")
                + "; weights are read in safetensors only, as save_pretrained writes them"
            )

    def names(self) -> list[str]:
        """Return the names of all tensors, sorted."""
        return sorted(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it; ModelError where there is none of that name."""
        return self._place(name).shape

    def get(self, name: str) -> npt.NDArray[np.float32]:
        """Read one tensor as a float32 array of its own; ModelError where it is not there or of another type."""
        place, stored = self._place(name), self._stored(name)
        if place.kind == "BF16":  # the upper half of a float32
            wide = stored.astype(np.uint32)
            wide <<= 16
            return wide.view(np.float32)
        return np.array(stored, np.float32)

    def are_equal(self, a: str, b: str) -> bool:
        """Whether two tensors are stored alike, looked at row by row."""
        one, other = self._stored(a), self._stored(b)
        if one.dtype != other.dtype or one.shape != other.shape:
            return np.array_equal(self.get(a), self.get(b))
        return all(np.array_equal(x, y) for x, y in zip(one, other, strict=True))

    def _stored(self, name: str) -> npt.NDArray[Any]:
        """Map one tensor as it is stored."""
        place = self._place(name)
        if place.kind not in _STORED:
            raise ModelError(
                f"{place.file}: tensor {name} is stored as {place.kind}; {', '.join(_STORED)} can be read. "
                "Save the model in one of them first"
            )
        if 0 in place.shape:
            return np.empty(place.shape, _STORED[place.kind])
        return np.memmap(place.file, _STORED[place.kind], "r", place.start, place.shape)

    def _place(self, name: str) -> _Place:
        try:
            return self._places[name]
        except KeyError:
            raise ModelError(f"{self.folder} has no tensor {name} among its {len(self._places)}") from None


def finite(source: TensorSource, name: str) -> npt.NDArray[np.float32]:
    """Return one tensor; ModelError where it holds what is no finite number."""
    values = source.get(name)
    if values.size and not np.isfinite([values.min(), values.max()]).all():
        raise ModelError(
            f"{source.folder}: {name} holds values that are not finite: the file is damaged, or the training failed"
        )
    return values


def _sharded(index: Path) -> dict[str, _Place]:
    table = _parse(index, index.read_bytes())
    files = table.get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise ModelError(f"{index}: no weight_map from tensors to files")
    shards: dict[str, dict[str, _Place]] = {}
    places: dict[str, _Place] = {}
    for tensor, name in files.items():
        if Path(name).name != name:
            raise ModelError(f"{index}: the file {name!r} of {tensor} is not a plain name in the same folder")
        if name not in shards:
            shards[name] = _header(index.parent / name)
        if tensor not in shards[name]:
            raise ModelError(f"{index}: {tensor} is said to be in {name}, which does not hold it")
        places[tensor] = shards[name][tensor]
    return places


def _header(path: Path) -> dict[str, _Place]:
    """Read where a file's tensors lie, and check that all of them lie in it."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, MAX_HEADER):
                raise ModelError(
                    f"{path}: not a safetensors file, or cut off (a header of {length:,} bytes; {MAX_HEADER:,} are the "
                    "most)"
                )
            table = _parse(path, file.read(length))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing, though the folder's index names it") from None
    table.pop("__metadata__", None)
    return {name: _entry(path, name, entry, 8 + length, size) for name, entry in table.items()}


def _entry(path: Path, name: str, entry: Any, data: int, size: int) -> _Place:
    try:
        kind, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
        start, end = (int(n) for n in entry["data_offsets"])
    except (TypeError, KeyError, ValueError):
        raise ModelError(f"{path}: the entry of tensor {name} is malformed") from None
    inside = 0 <= start <= end <= size - data
    if kind in _STORED:
        inside = inside and end - start == math.prod(shape) * np.dtype(_STORED[kind]).itemsize
    if not inside or any(n < 0 for n in shape):
        raise ModelError(f"{path}: tensor {name} does not lie in the file as its header says; it may be cut off")
    return _Place(path, data + start, kind, shape)


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        table = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its header is not JSON ({error})") from None
    if not isinstance(table, dict):
        raise ModelError(f"{path}: its header is not a JSON object")
    return table
