"""How much of a training is left in a GGUF file: ``python -m pairgrade.bench.kept_training BASE MERGED FILE.gguf...``.

BASE and MERGED are the transformers folders before and after. Of each linear layer's change (MERGED - BASE) the share
that is in the file, its projection on that change: <rounded - base, change> / <change, change>. 1 keeps all of it, 0 is
the base again; rounding to steps of its own blurs a change and keeps it on average, rounding to those that the base
lies on takes it back. The shares are of all layers of a type of the file together. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from pairgrade.bench.telling import telling
from pairgrade.errors import InputError
from pairgrade.export.decoder import read_decoder
from pairgrade.export.gguf_tensors import LINEAR, Tensor, tensors
from pairgrade.export.weights import Weights
from pairgrade.gguf_check import check_gguf


def linear_layers(folder: Path) -> dict[str, Tensor]:
    """Return the linear layers of a transformers folder's blocks, by their names in a GGUF file."""
    decoder = read_decoder(folder)
    found = tensors(decoder, Weights(folder), decoder.vocabulary)
    return {tensor.name: tensor for tensor in found if _kind(tensor.name) in LINEAR.values()}


def kept(base: dict[str, Tensor], merged: dict[str, Tensor], paths: Sequence[Path]) -> list[dict[str, float]]:
    """Return the share of the change that is in each file, by the type of its weights; types without one are out.

    ModelError where a file is not sound, InputError where it lacks a layer or has it in another shape.
    """
    from gguf import GGUFReader
    from gguf.quants import dequantize

    for path in paths:
        check_gguf(path)
    files = [{tensor.name: tensor for tensor in GGUFReader(path).tensors} for path in paths]
    along: list[dict[str, list[float]]] = [{} for _ in paths]
    for name, tensor in base.items():
        before = tensor.read()
        change = merged[name].read() - before
        whole = float((change * change).sum())
        for path, file, sums in zip(paths, files, along, strict=True):
            own = file.get(name)
            if own is None or tuple(int(size) for size in reversed(own.shape)) != before.shape:
                raise InputError(
                    f"{path} has no {name} of the shape {list(before.shape)}; give a file of the same model"
                )
            rounded = dequantize(own.data, own.tensor_type).reshape(before.shape)
            found = sums.setdefault(own.tensor_type.name, [0.0, 0.0])
            found[0] += float(((rounded - before) * change).sum())
            found[1] += whole
    return [{kind: part / whole for kind, (part, whole) in sums.items() if whole} for sums in along]


def _kind(name: str) -> str:
    """Return what a weight is in its block: ``attn_q`` of ``blk.3.attn_q.weight``."""
    parts = name.split(".")
    return parts[2] if len(parts) == 4 and parts[3] == "weight" else ""


def main() -> None:
    """Read, compare, print; exit with what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="the transformers folder that was trained")
    parser.add_argument("merged", type=Path, help="what `pairgrade merge` made of it")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.gguf", help="exports of the merged model")
    given = parser.parse_args()
    with telling("kept_training"):
        base, merged = linear_layers(given.base), linear_layers(given.merged)
        if base.keys() != merged.keys():
            raise InputError(f"{given.merged} has other layers than {given.base}; give what was made of it")
        shares = dict(zip(map(str, given.files), kept(base, merged, given.files), strict=True))
    for path, found in shares.items():
        print(f"{path}: " + ", ".join(f"{share:.3f} in {kind}" for kind, share in found.items()))
    print(json.dumps({"bench": "kept_training", "kept": shares}))


if __name__ == "__main__":
    main()
