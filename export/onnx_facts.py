"""Writing documents.json: the document graph of an int8 export in the terms of the engine's own pass."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pairgrade.document_facts import (
    FORMAT,
    LARGEST_TURN,
    NORMS,
    PARTS,
    VERSION,
    WIDEST,
    DocumentFacts,
    LayerFacts,
    ProductFacts,
)
from pairgrade.export.decoder import Decoder
from pairgrade.export.onnx_layers import Array, Layer
from pairgrade.export.onnx_linear import Rowwise, round8
from pairgrade.export.onnx_rotate import Rotation
from pairgrade.export.onnx_writer import DataFile


def can_be_told(decoder: Decoder, rotation: Rotation) -> bool:
    """Whether a model is within what the engine's own pass takes; the graph runs any."""
    widest = max(decoder.hidden, decoder.intermediate, (decoder.heads + 2 * decoder.kv_heads) * decoder.head_dim)
    turn = max(_block(rotation.norms), _block(rotation.down))
    return widest <= WIDEST and turn <= LARGEST_TURN and decoder.norm_eps > 0


def _block(turn: Array | None) -> int:
    return 0 if turn is None else len(turn)


class FactsWriter:
    """Takes the layers that the document graph takes; the data file holds their tensors once for both."""

    def __init__(self, decoder: Decoder, linear: Rowwise, rotation: Rotation, data: DataFile) -> None:
        self._decoder, self._linear, self._rotation, self._data = decoder, linear, rotation, data
        self._ropes = list(dict.fromkeys(decoder.layer_rope(index) for index in range(decoder.layers)))
        self._layers: list[LayerFacts] = []

    def add_layer(self, index: int, layer: Layer) -> None:
        """Add one layer, as the graph was given it."""
        decoder = self._decoder
        norms = {name: getattr(layer, f"{name}_norm") for name in NORMS}
        self._layers.append(
            LayerFacts(
                window=decoder.window if decoder.sliding[index] else None,
                rope=self._ropes.index(decoder.layer_rope(index)),
                products={part: self._product(f"layer.{index}.{part}", layer, part) for part in PARTS},
                norms={name: self._place(gain) for name, gain in norms.items() if gain is not None},
            )
        )

    def write(self, path: Path, final_norm: Array) -> None:
        """Write the file."""
        decoder = self._decoder
        facts = DocumentFacts(
            intermediate=decoder.intermediate,
            norm_eps=decoder.norm_eps,
            activation=decoder.activation,
            embedding_scale=decoder.embedding_scale,
            attention_cap=decoder.attention_cap,
            turn=_block(self._rotation.down),
            norm_turn=_block(self._rotation.norms),
            tail=self._linear.tail,
            ropes=[rope.frequencies(decoder.head_dim).tolist() for rope in self._ropes],
            layers=self._layers,
            final_norm=self._place(final_norm),
        )
        path.write_text(json.dumps({"format": FORMAT, "version": VERSION} | asdict(facts)) + "\n", encoding="utf-8")

    def _product(self, name: str, layer: Layer, part: str) -> ProductFacts:
        whole, scales = round8(getattr(layer, part))
        bias = layer.qkv_bias if part == "qkv" else None
        step, zero = self._linear.input_range(name)
        return ProductFacts(
            weight=self._data.put(whole)[0],
            scale=self._place(scales),
            bias=None if bias is None else self._place(bias),
            step=None if step is None else float(np.float32(step)),
            zero=zero,
        )

    def _place(self, array: Array) -> int:
        return self._data.put(array.astype(np.float32, copy=False))[0]
