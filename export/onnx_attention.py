"""The attention of a batch of documents behind one prefix, in plain operators.

Tokens lie packed, one document after the other, so that no product computes padding. Attention alone wants a
rectangle: rows of the packed queries, keys and values are gathered straight into it, which takes the place of the
transpositions it would need anyway. Documents are padded at their end, where the causal mask hides it: the mask
depends on the longest document and the prefix only. The prefix's keys come with batch 1 and are repeated in the graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pairgrade.export.decoder import Decoder, Rope
from pairgrade.export.onnx_layers import Array, Layer
from pairgrade.export.onnx_writer import Graph
from pairgrade.onnx_layout import least_rows

_CHANNELS = 128  # of one product of queries and keys


@dataclass(frozen=True, slots=True)
class Places:
    """Values that all layers of a graph share: where tokens lie, the masks, the rotations."""

    queries: str  # (B, heads, S) rows of the packed product, seen as (-1, head_dim)
    padding: str | None  # of the queries: so many positions are added that threads share rows, never columns
    keys: str  # (B, kv_heads, S)
    values: str
    back: str  # (tokens, heads) rows of the attention's output
    last: str | None  # (B,) packed places of the last tokens; None where only keys and values are wanted
    prefix_shape: str  # of the repeated prefix keys
    split: str  # shape that parts the heads of a group from the positions: (B, kv_heads, group, S, P + S)
    join: str  # and the one that joins them again
    positions: str  # (B, S), counted from the document's first token
    masks: dict[int | None, str]  # by window: (S, P + S), added to the scores
    rotations: dict[Rope, tuple[str, str]]  # cosines and sines, each (S, head_dim / 2)


def add_places(graph: Graph, decoder: Decoder, prefix_keys: str, last: str | None) -> Places:
    """Add the inputs ``rows`` (B, S) and ``places`` (tokens,) and compute from them what the layers share.

    ``rows`` holds the packed place of each token of the rectangle (any for padding), ``places`` the reverse. Without
    ``last`` the rectangle may be narrow, and queries are padded here (``least_rows`` says why).
    """
    rows, places = graph.input("rows", np.int64, ["B", "S"]), graph.input("places", np.int64, ["tokens"])
    heads, kv_heads = decoder.heads, decoder.kv_heads
    batch = graph.op("Shape", rows, start=0, end=1)
    length = graph.op("Shape", rows, start=1, end=2)
    prefix = graph.op("Shape", prefix_keys, start=2, end=3)
    total = graph.op("Add", prefix, length)
    first = graph.op("Mul", graph.op("Unsqueeze", rows, graph.constant([1])), graph.constant(heads + 2 * kv_heads))

    def head_rows(start: int, count: int) -> str:
        return graph.op("Add", first, graph.constant(np.arange(start, start + count).reshape(1, count, 1)))

    width, padding = length, None
    if last is None:
        least = least_rows(heads, kv_heads, decoder.head_dim)
        width = graph.op("Max", length, graph.constant([least]))
        more = graph.op("Sub", width, length)
        padding = graph.op("Concat", graph.constant([0] * 6), more, graph.constant([0]), axis=0)
    row = graph.op("Div", places, length)
    column = graph.op("Unsqueeze", graph.op("Sub", places, graph.op("Mul", row, length)), graph.constant([1]))
    head = graph.op("Add", graph.op("Mul", graph.op("Unsqueeze", row, graph.constant([1])), graph.constant(heads)),
                    graph.constant(np.arange(heads)[None]))  # fmt: skip
    own, asking = _range(graph, length), _range(graph, width)
    group = graph.constant([0, 0, heads // kv_heads, -1])
    head_dim = graph.constant([decoder.head_dim])
    used = range(decoder.layers)
    return Places(
        queries=head_rows(0, heads),
        padding=padding,
        keys=head_rows(heads, kv_heads),
        values=head_rows(heads + kv_heads, kv_heads),
        back=graph.op("Add", graph.op("Mul", head, width), column),
        last=last,
        prefix_shape=graph.op("Concat", batch, graph.constant([kv_heads]), prefix, head_dim, axis=0),
        split=graph.op("Concat", group, total, axis=0),
        join=graph.op("Concat", graph.constant([0, 0, -1]), total, axis=0),
        positions=graph.op("Expand", own, graph.op("Concat", batch, length, axis=0)),
        masks={window: _mask(graph, window, prefix, asking, total) for window in {_window(decoder, i) for i in used}},
        rotations={
            rope: _rotation(graph, rope, decoder, prefix, own) for rope in {decoder.layer_rope(i) for i in used}
        },
    )


def add_keys_and_values(
    graph: Graph, decoder: Decoder, layer: Layer, index: int, packed: str, places: Places, prefix: tuple[str, str]
) -> tuple[str, str]:
    """Return keys and values of prefix and documents, each (B, kv_heads, P + S, head_dim)."""
    keys = graph.op("Gather", packed, places.keys, axis=0)
    if layer.key_norm is not None:
        keys = add_norm(graph, decoder, f"layer.{index}.key_norm", layer.key_norm, keys)
    keys = _rotate(graph, decoder, index, keys, places)
    values = graph.op("Gather", packed, places.values, axis=0)
    both = [
        graph.op("Concat", graph.op("Expand", old, places.prefix_shape), own, axis=2)
        for old, own in zip(prefix, (keys, values), strict=True)
    ]
    return both[0], both[1]


def add_attention(
    graph: Graph, decoder: Decoder, layer: Layer, index: int, packed: str, places: Places, keys: str, values: str
) -> str:
    """Return what the heads read, (tokens, heads head_dim); in the last layer for the last tokens only."""
    queries = graph.op("Gather", packed, places.queries, axis=0)
    if layer.query_norm is not None:
        queries = add_norm(graph, decoder, f"layer.{index}.query_norm", layer.query_norm, queries)
    queries = _rotate(graph, decoder, index, queries, places)
    if places.padding is not None:
        queries = graph.op("Pad", queries, places.padding)
    grouped = graph.op("Reshape", queries, graph.constant([0, decoder.kv_heads, -1, decoder.head_dim]))
    scores = _scores(graph, decoder.head_dim, grouped, graph.op("Transpose", keys, perm=[0, 1, 3, 2]))
    if decoder.attention_cap is not None:  # the queries were divided by it
        scores = graph.op("Mul", graph.op("Tanh", scores), graph.constant(decoder.attention_cap, np.float32))
    masked = graph.op("Add", graph.op("Reshape", scores, places.split), places.masks[_window(decoder, index)])
    weights = graph.op("Reshape", graph.op("Softmax", masked, axis=-1), places.join)
    read = graph.op("Reshape", graph.op("MatMul", weights, values), graph.constant([-1, decoder.head_dim]))
    back = places.back
    if index == decoder.layers - 1 and places.last is not None:
        back = graph.op("Gather", back, places.last, axis=0)
    packed_read = graph.op("Gather", read, back, axis=0)
    return graph.op("Reshape", packed_read, graph.constant([-1, decoder.heads * decoder.head_dim]))


def add_norm(graph: Graph, decoder: Decoder, name: str, gain: Array, value: str) -> str:
    """Divide by the root of the mean square over the last axis and multiply by the gain."""
    return graph.op("RMSNormalization", value, graph.tensor(name, gain), axis=-1, epsilon=decoder.norm_eps)


def _scores(graph: Graph, head_dim: int, queries: str, keys: str) -> str:
    """Return queries (B, kv_heads, M, head_dim) times keys (B, kv_heads, head_dim, N).

    As a sum of products over 128 channels at most: a longer sum is cut up by ONNX Runtime, and elsewhere for a thread
    that has few columns than for one that has many.
    """
    starts = range(0, head_dim, _CHANNELS)
    if len(starts) == 1:
        return graph.op("MatMul", queries, keys)
    parts = [graph.op("MatMul", _slice(graph, queries, start, 3), _slice(graph, keys, start, 2)) for start in starts]
    return graph.op("Sum", *parts)


def _slice(graph: Graph, value: str, start: int, axis: int) -> str:
    ends = graph.constant([start + _CHANNELS])
    return graph.op("Slice", value, graph.constant([start]), ends, graph.constant([axis]))


def _rotate(graph: Graph, decoder: Decoder, index: int, value: str, places: Places) -> str:
    cosines, sines = places.rotations[decoder.layer_rope(index)]
    return graph.op("RotaryEmbedding", value, cosines, sines, places.positions)


def _window(decoder: Decoder, index: int) -> int | None:
    return decoder.window if decoder.sliding[index] else None


def _range(graph: Graph, length: str) -> str:
    scalar = graph.op("Squeeze", length)
    return graph.op("Range", graph.constant(0), scalar, graph.constant(1))


def _mask(graph: Graph, window: int | None, prefix: str, own: str, total: str) -> str:
    """Return 0 where a token may look, minus infinity elsewhere."""
    here = graph.op("Unsqueeze", graph.op("Add", own, prefix), graph.constant([1]))
    there = graph.op("Unsqueeze", _range(graph, total), graph.constant([0]))
    hidden = graph.op("Greater", there, here)
    if window is not None:
        begin = graph.op("Sub", here, graph.constant(window - 1))
        hidden = graph.op("Or", hidden, graph.op("Less", there, begin))
    return graph.op("Where", hidden, graph.constant(-np.inf, np.float32), graph.constant(0, np.float32))


def _rotation(graph: Graph, rope: Rope, decoder: Decoder, prefix: str, own: str) -> tuple[str, str]:
    position = graph.op("Cast", graph.op("Add", own, prefix), to=1)
    frequencies = rope.frequencies(decoder.head_dim)[None]
    angles = graph.op(
        "Mul", graph.op("Unsqueeze", position, graph.constant([1])), graph.constant(frequencies, np.float32)
    )
    return graph.op("Cos", angles), graph.op("Sin", angles)
