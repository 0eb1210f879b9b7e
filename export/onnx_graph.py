"""The two graphs of a labelling model: one for prefixes, one for batches of documents.

The prefix graph computes the keys and values of a prefix segment after an earlier one (which may be empty); the
document graph those of a batch of documents behind a prefix, and gives the final normalized hidden state at each
document's last token. Embedding and head stay outside, in tables that the engine maps: a graph starts with embedded
tokens, and label logits are the product of the hidden state with a few rows of the head.

Inputs: ``embedded`` (tokens, hidden); ``rows`` and ``places``, see ``onnx_attention``; ``key.I`` and ``value.I``
(1, kv_heads, P, head_dim) of each layer; documents also ``last`` (B,). Outputs: ``hidden`` (B, hidden), or
``new_key.I`` and ``new_value.I`` (1, kv_heads, P + S, head_dim).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pairgrade.export.decoder import Decoder
from pairgrade.export.onnx_attention import add_attention, add_keys_and_values, add_norm, add_places
from pairgrade.export.onnx_layers import Array, Layer
from pairgrade.export.onnx_linear import Linear, TailLinear, Token8Linear, Weight8Linear
from pairgrade.export.onnx_rotate import Rotation, hadamard
from pairgrade.export.onnx_writer import DataFile, Graph

_WHOLE, _INNER = 64, 32  # blocks that one product turns, and of the two products that turn a larger one


class DecoderGraph:
    """A graph to which the layers are given one by one, in order, so that only one need be in memory."""

    def __init__(self, decoder: Decoder, linear: Linear, rotation: Rotation, data: DataFile, *, prefix: bool) -> None:
        self._decoder, self._rotation = decoder, rotation
        self._linear = self._last_linear = linear  # the second where only last tokens are left
        self._is_prefix = prefix
        self._graph = graph = Graph("prefix" if prefix else "documents", data)
        self._value = graph.input("embedded", np.float32, ["tokens", decoder.hidden])
        shape: list[str | int] = [1, decoder.kv_heads, "P", decoder.head_dim]
        self._old = [
            (graph.input(f"key.{i}", np.float32, shape), graph.input(f"value.{i}", np.float32, shape))
            for i in range(decoder.layers)
        ]
        last = None if prefix else graph.input("last", np.int64, ["B"])
        self._places = add_places(graph, decoder, self._old[0][0], last)
        if last is not None and isinstance(linear, Token8Linear) and linear.tail:
            self._linear = TailLinear(graph, last, "places", linear.tail)
            self._last_linear = Weight8Linear()
        if decoder.embedding_scale != 1:
            scale = graph.constant(decoder.embedding_scale, np.float32)
            self._value = graph.op("Mul", self._value, scale)
        if rotation.residual is not None:
            self._value = graph.op("MatMul", self._value, graph.tensor("enter", rotation.residual))

    def add_layer(self, index: int, layer: Layer) -> None:
        """Add one layer, given in turned coordinates if there is a rotation."""
        graph, decoder, places = self._graph, self._decoder, self._places
        is_last = index == decoder.layers - 1
        normal = self._turned_norm(f"layer.{index}.attention_norm", layer.attention_norm)
        packed = self._product(index, "qkv", normal, layer.qkv, layer.qkv_bias)
        packed = graph.op("Reshape", packed, graph.constant([-1, decoder.head_dim]))
        keys, values = add_keys_and_values(graph, decoder, layer, index, packed, places, self._old[index])
        if self._is_prefix:
            shape: list[str | int] = [1, decoder.kv_heads, "total", decoder.head_dim]
            graph.output(keys, f"new_key.{index}", np.float32, shape)
            graph.output(values, f"new_value.{index}", np.float32, shape)
            if is_last:
                return
        read = add_attention(graph, decoder, layer, index, packed, places, keys, values)
        if is_last and places.last is not None:
            self._value = graph.op("Gather", self._value, places.last, axis=0)
            self._linear = self._last_linear
        added = self._product(index, "out", read, layer.out)
        self._add(f"layer.{index}.attention_post_norm", layer.attention_post_norm, added)
        normal = self._turned_norm(f"layer.{index}.mlp_norm", layer.mlp_norm)
        gate, up = self._product(index, "gate", normal, layer.gate), self._product(index, "up", normal, layer.up)
        gated = self._turn_blocks(graph.op("Mul", self._activation(gate), up), self._rotation.down, "down_turn")
        self._add(f"layer.{index}.mlp_post_norm", layer.mlp_post_norm, self._product(index, "down", gated, layer.down))

    def finish(self, final_norm: Array) -> None:
        """Add the final norm, where there is an output for it."""
        if not self._is_prefix:
            hidden = self._final(final_norm)
            self._graph.output(hidden, "hidden", np.float32, ["B", self._decoder.hidden])

    def write(self, path: Path) -> None:
        """Check the graph and write it beside its data, which must be complete."""
        self._graph.write(path)

    def _product(self, index: int, part: str, value: str, weight: Array, bias: Array | None = None) -> str:
        return self._linear.add(self._graph, f"layer.{index}.{part}", value, weight, bias)

    def _norm(self, name: str, gain: Array, value: str) -> str:
        return add_norm(self._graph, self._decoder, name, gain, value)

    def _add(self, name: str, post_norm: Array | None, value: str) -> None:
        if post_norm is not None:
            value = self._norm(name, post_norm, value)
        self._value = self._graph.op("Add", self._value, value)

    def _final(self, gain: Array) -> str:
        """Normalize, in the coordinates of the head."""
        if self._rotation.residual is None:
            return self._norm("final_norm", gain, self._value)
        normal = self._norm("final_ones", np.ones_like(gain), self._value)
        return self._graph.op("MatMul", normal, self._graph.tensor("leave", self._rotation.residual.T * gain))

    def _turned_norm(self, name: str, gain: Array) -> str:
        return self._turn_blocks(self._norm(name, gain, self._value), self._rotation.norms, "norm_turn")

    def _turn_blocks(self, value: str, matrix: Array | None, name: str) -> str:
        """Turn a value by a Hadamard matrix, block by block, if there is one."""
        if matrix is None:
            return value
        graph = self._graph
        shape = graph.op("Shape", value)
        # a Hadamard matrix is the Kronecker product of two smaller ones
        inner = len(matrix) if len(matrix) <= _WHOLE else _INNER
        outer = len(matrix) // inner
        blocks = graph.op("Reshape", value, graph.constant([-1, outer, inner]))
        turned = graph.op("MatMul", blocks, graph.tensor(name, hadamard(inner)))
        if outer > 1:
            turned = graph.op("MatMul", graph.tensor(f"{name}_outer", hadamard(outer)), turned)
        return graph.op("Reshape", turned, shape)

    def _activation(self, gate: str) -> str:
        graph = self._graph
        if self._decoder.activation == "gelu_tanh":
            return graph.op("Gelu", gate, approximate="tanh")
        return graph.op("Mul", gate, graph.op("Sigmoid", gate))
