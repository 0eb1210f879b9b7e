"""What ``documents.json`` of an int8 export says: the document graph in the terms of the engine's own pass.

The pass takes the prefix from it, too, whose weights are the same. Offsets are bytes in ``weights.bin``, where both
the graphs and the pass find the tensors. Everything is checked before native code is given an address.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairgrade.errors import ModelError
from pairgrade.foreign_text import shown
from pairgrade.onnx_manifest import FACTS, WEIGHTS, OnnxManifest

FORMAT, VERSION = "pairgrade-documents", 1
PARTS = ("qkv", "out", "gate", "up", "down")
NORMS = ("attention", "query", "key", "attention_post", "mlp", "mlp_post")
ACTIVATIONS = ("silu", "gelu_tanh")
WIDEST = 65536  # channels of a product: its sums stay below 2 to the 31
LARGEST_TURN, LARGEST_TAIL = 512, 1024
_MOST_SHARED = 16  # times the bytes of a file that its products may take, where some are the same


@dataclass(frozen=True, slots=True)
class ProductFacts:
    """A product: the places of weight (in, out) int8, scales (out,) and perhaps bias (out,) float32, and its input's.

    ``step`` and ``zero`` are the size of a whole number of the input and the one that stands for 0; a step of None
    is taken from each token.
    """

    weight: int
    scale: int
    bias: int | None
    step: float | None
    zero: int


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """A layer: how far back it sees (None: everything), which rotation it takes, its products and its norms."""

    window: int | None
    rope: int
    products: dict[str, ProductFacts]
    norms: dict[str, int]


@dataclass(frozen=True, slots=True)
class DocumentFacts:
    """The document graph of an int8 export."""

    intermediate: int
    norm_eps: float
    activation: str
    embedding_scale: float
    attention_cap: float | None
    turn: int  # channels of a block by which the down product's input is turned; 0: it is not
    ropes: list[list[float]]  # kinds of rotation: the angle per position of each pair of channels
    layers: list[LayerFacts]
    final_norm: int
    norm_turn: int = 0  # the same as turn of normalized values, before their products
    tail: int = 0  # a document's last tokens whose activations have 16 bits; where it is not 0, no step is calibrated

    def shapes(self, manifest: OnnxManifest) -> dict[str, tuple[int, int]]:
        """Return (in, out) of each part."""
        hidden, read = manifest.hidden, manifest.heads * manifest.head_dim
        both = (manifest.heads + 2 * manifest.kv_heads) * manifest.head_dim
        wide = self.intermediate
        sizes = [(hidden, both), (read, hidden), (hidden, wide), (hidden, wide), (wide, hidden)]
        return dict(zip(PARTS, sizes, strict=True))


def norm_sizes(manifest: OnnxManifest) -> dict[str, int]:
    """Return how many gains each kind of norm has."""
    return {name: manifest.head_dim if name in ("query", "key") else manifest.hidden for name in NORMS}


def read_document_facts(folder: Path, manifest: OnnxManifest) -> DocumentFacts | None:
    """Read a folder's file; None where its manifest names none, ModelError where it is not sound."""
    if FACTS not in manifest.files:
        return None
    path = folder / FACTS
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table.pop("format") != FORMAT or table.pop("version") != VERSION:
            raise ModelError(f"{path}: not of format {FORMAT} {VERSION}; export the model again")
        layers = [
            LayerFacts(**layer | {"products": {name: ProductFacts(**own) for name, own in layer["products"].items()}})
            for layer in table.pop("layers")
        ]
        facts = DocumentFacts(**table, layers=layers)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read ({shown(str(error))}); export the model again") from None
    _check(path, facts, manifest, (folder / WEIGHTS).stat().st_size)
    return facts


def _check(path: Path, facts: DocumentFacts, manifest: OnnxManifest, size: int) -> None:
    def require(fits: bool, what: str, value: object) -> None:
        if not fits:
            raise ModelError(f"{path}: {what} is {shown(repr(value))}; export the model again")

    require(_whole(facts.intermediate, 1, WIDEST), "intermediate", facts.intermediate)
    for name in ("hidden", "head_dim", "heads"):
        require(_whole(getattr(manifest, name), 1, WIDEST), name, getattr(manifest, name))
    require(manifest.heads % manifest.kv_heads == 0, "kv_heads", manifest.kv_heads)
    require(manifest.head_dim % 2 == 0, "head_dim", manifest.head_dim)
    shapes = facts.shapes(manifest)
    require(all(max(shape) <= WIDEST for shape in shapes.values()), "the width of a product", shapes)
    require(_above_0(facts.norm_eps), "norm_eps", facts.norm_eps)
    require(_above_0(facts.embedding_scale), "embedding_scale", facts.embedding_scale)
    require(facts.attention_cap is None or _above_0(facts.attention_cap), "attention_cap", facts.attention_cap)
    require(facts.activation in ACTIVATIONS, "activation", facts.activation)
    for turn, channels in ((facts.turn, facts.intermediate), (facts.norm_turn, manifest.hidden)):
        fits = _whole(turn, 0, LARGEST_TURN) and not turn & (turn - 1) and (not turn or channels % turn == 0)
        require(fits, "turn", turn)
    require(_whole(facts.tail, 0, LARGEST_TAIL), "tail", facts.tail)
    require(isinstance(facts.ropes, list) and 1 <= len(facts.ropes) <= 2, "ropes", facts.ropes)
    for rope in facts.ropes:
        right = isinstance(rope, list) and len(rope) == manifest.head_dim // 2
        require(right and all(type(x) is float and 0 <= x <= 1e9 for x in rope), "a rotation", rope)
    require(len(facts.layers) == manifest.layers, "the number of layers", len(facts.layers))

    bytes_ = manifest.layers * sum(rows * columns for rows, columns in shapes.values())
    require(bytes_ <= _MOST_SHARED * size, "the size of all products", bytes_)

    def place(what: str, offset: object, count: int, width: int) -> None:
        fits = _whole(offset, 0, size - count * width) and type(offset) is int and offset % width == 0
        require(fits, f"the place of {what}", offset)

    place("final_norm", facts.final_norm, manifest.hidden, 4)
    for layer in facts.layers:
        require(layer.window is None or _whole(layer.window, 1, 2**31 - 1), "window", layer.window)
        require(_whole(layer.rope, 0, len(facts.ropes) - 1), "rope", layer.rope)
        _check_layer(layer, shapes, norm_sizes(manifest), place, require)
        by_token = all(product.step is None for product in layer.products.values())
        require(by_token or not facts.tail, "the tail of calibrated steps", facts.tail)


def _check_layer(
    layer: LayerFacts,
    shapes: dict[str, tuple[int, int]],
    norms: dict[str, int],
    place: Callable[[str, object, int, int], None],
    require: Callable[[bool, str, object], None],
) -> None:
    require(set(layer.products) == set(PARTS), "the products", sorted(layer.products))
    require(isinstance(layer.norms, dict), "norms", layer.norms)
    known = {"attention", "mlp"} <= set(layer.norms) <= set(NORMS)
    require(known and ("query" in layer.norms) == ("key" in layer.norms), "the norms", sorted(layer.norms))
    for name, offset in layer.norms.items():
        place(name, offset, norms[name], 4)
    for name, product in layer.products.items():
        rows, columns = shapes[name]
        place(name, product.weight, rows * columns, 1)
        place(f"{name}'s scales", product.scale, columns, 4)
        if product.bias is not None:
            place(f"{name}'s bias", product.bias, columns, 4)
        require(product.step is None or _above_0(product.step), f"the step of {name}", product.step)
        require(_whole(product.zero, 0, 255), f"the zero of {name}", product.zero)
    gate, up = layer.products["gate"], layer.products["up"]
    require((gate.step, gate.zero) == (up.step, up.zero), "the step of gate and up", (gate.step, up.step))


def _whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _above_0(value: Any) -> bool:
    return type(value) in (int, float) and 1e-37 < value < 1e37  # float32 holds it, and one by it
