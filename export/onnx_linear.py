"""The products of a graph's layers, in the precision that it is written in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pairgrade.export.onnx_layers import Array
from pairgrade.export.onnx_writer import MICROSOFT, Graph

_TOGETHER = 1024  # channels at most whose products are summed: of more they would take too much memory
_BLOCK = 32  # weights that share a scale, in 4 bits
_FLOAT, _UINT8 = 1, 2  # ONNX's numbers of the types
_MIDDLE = 128  # stands for 0 where a scale is symmetric


@dataclass(frozen=True, slots=True)
class Channels:
    """The least and the greatest number that each channel of a product's input took, (in,) each.

    ``together``: sums over tokens of the products of channels of a block, (blocks, channels, channels).
    """

    low: Array
    high: Array
    together: Array | None = None


class Linear(Protocol):
    """How a graph multiplies by weights."""

    def add(self, graph: Graph, name: str, value: str, weight: Array, bias: Array | None = None) -> str:
        """Multiply a value (n, in) by a weight (in, out) known by ``name``, and return the result's name."""


class FloatLinear:
    """Full precision."""

    def add(self, graph: Graph, name: str, value: str, weight: Array, bias: Array | None = None) -> str:
        """Add a MatMul and the bias, if there is one."""
        return _with_bias(graph, name, graph.op("MatMul", value, graph.tensor(name, weight)), bias)


class ObservedLinear:
    """Full precision; what ``Channels`` holds of a product's input are outputs.

    ``together``: sums of channels' products, too, but not of the up product, whose input is the gate product's.
    """

    def __init__(self, together: bool = False) -> None:
        self._together = together

    def add(self, graph: Graph, name: str, value: str, weight: Array, bias: Array | None = None) -> str:
        """Add a MatMul, and outputs ``low.NAME``, ``high.NAME`` and perhaps ``together.NAME``."""
        for kind, output in (("ReduceMin", "low"), ("ReduceMax", "high")):
            found = graph.op(kind, value, graph.constant([0]), keepdims=0)
            graph.output(found, f"{output}.{name}", np.float32, [len(weight)])
        if self._together and not name.endswith(".up"):
            blocks = _blocks(len(weight))
            width = len(weight) // blocks
            parts = graph.op("Reshape", value, graph.constant([-1, blocks, width]))
            by_channel = graph.op("Transpose", parts, perm=[1, 2, 0])
            sums = graph.op("MatMul", by_channel, graph.op("Transpose", parts, perm=[1, 0, 2]))
            graph.output(sums, f"together.{name}", np.float32, [blocks, width, width])
        return FloatLinear().add(graph, name, value, weight, bias)


class Weight8Linear:
    """8-bit weights, activations of 16 bits with a scale for each token: nearly exact, for twice the sums.

    A whole number of 16 bits is 256 times one of 8 and another one of 8: one 8-bit product with twice the rows, whose
    sums are exact, so that no full-precision weights are made or read.
    """

    def add(self, graph: Graph, name: str, value: str, weight: Array, bias: Array | None = None) -> str:
        """Add the rounding, the product of both halves, and their sum."""

        def constant(number: float) -> str:
            return graph.constant(number, np.float32)

        step = graph.op("Mul", _token_steps(graph, value), constant(1 / 256))
        whole = graph.op("Round", graph.op("Div", value, step))
        high = graph.op("Floor", graph.op("Mul", graph.op("Add", whole, constant(128)), constant(1 / 256)))
        low = graph.op("Sub", whole, graph.op("Mul", high, constant(256)))
        halves = graph.op("Add", graph.op("Concat", high, low, axis=0), constant(_MIDDLE))
        product = _add_product8(graph, name, _plain(graph, graph.op("Cast", halves, to=_UINT8)), weight, None)
        of_high, of_low = graph.ops("Split", 2, product, axis=0, num_outputs=2)
        both = graph.op("Add", graph.op("Mul", of_high, constant(256)), of_low)
        return _with_bias(graph, name, graph.op("Mul", both, step), bias)


class Static8Linear:
    """8-bit weights and activations; one calibrated range a product, asymmetric.

    ``by_token``: products whose input takes its scales from each token instead.
    """

    tail = 0

    def __init__(self, ranges: Mapping[str, Channels], by_token: Collection[str] = ()) -> None:
        self._ranges, self._by_token = ranges, by_token

    def add(self, graph: Graph, name: str, value: str, weight: Array, bias: Array | None = None) -> str:
        """Add a QuantizeLinear and the product that scales back."""
        if name in self._by_token:
            return Token8Linear().add(graph, name, value, weight, bias)
        step, middle = self.input_range(name)
        assert step is not None
        scale, zero = graph.constant(step, np.float32), graph.constant(middle, np.uint8)
        rounded = graph.op("QuantizeLinear", value, scale, zero)
        return _add_product8(graph, name, (rounded, scale, zero), weight, bias)

    def input_range(self, name: str) -> tuple[float | None, int]:
        """Return the size of a whole number of a product's input, None by token, and the one that stands for 0."""
        if name in self._by_token:
            return Token8Linear().input_range(name)
        channels = self._ranges[name]
        return static_range(float(channels.low.min()), float(channels.high.max()))


class Tensor8Linear:
    """8-bit weights and activations; the range is taken from the whole batch: a pair depends on its neighbours."""

    def add(self, graph: Graph, name: str, value: str, weight: Array, bias: Array | None = None) -> str:
        """Add a DynamicQuantizeLinear and the product that scales back."""
        rounded, scale, zero = graph.ops("DynamicQuantizeLinear", 3, value)
        return _add_product8(graph, name, (rounded, scale, zero), weight, bias)


class Token8Linear:
    """8-bit weights and activations; a symmetric scale for each token.

    ``tail``: so many last tokens of a document are to have 16 bits, see ``TailLinear``.
    """

    def __init__(self, tail: int = 0) -> None:
        self.tail = tail

    def input_range(self, name: str) -> tuple[None, int]:
        """Return no size of a whole number of a product's input, for each token has its own, and what stands for 0."""
        return None, _MIDDLE

    def add(self, graph: Graph, name: str, value: str, weight: Array, bias: Array | None = None) -> str:
        """Add the rounding, the product, and a multiplication of its rows by their scales."""
        steps = _token_steps(graph, value)
        product = _add_product8(graph, name, _plain(graph, _round_rows(graph, value, steps)), weight, None)
        return _with_bias(graph, name, graph.op("Mul", product, steps), bias)


class TailLinear:
    """8-bit weights and activations, a scale for each token; documents' last tokens have 16 bits, all in one product.

    Their errors reach the last hidden state whole, those of other tokens only as attention weighs them. Low halves are
    rows below all tokens'; one of 128 has no byte, and becomes 127.
    """

    def __init__(self, graph: Graph, last: str, places: str, tail: int) -> None:
        """``last`` (B,) are the rows of documents' last tokens, of as many rows as ``places`` has."""
        one = graph.constant([1])
        before = graph.op("Slice", last, graph.constant([0]), graph.constant([-1]))
        first = graph.op("Add", graph.op("Concat", graph.constant([-1]), before, axis=0), one)
        first = graph.op("Unsqueeze", first, one)
        back = graph.op("Sub", graph.op("Unsqueeze", last, one), graph.constant(np.arange(tail)[None]))
        self._rows = graph.op("Reshape", graph.op("Max", back, first), graph.constant([-1]))
        self._places = graph.op("Unsqueeze", self._rows, one)
        # where a document is shorter, its first token comes more than once, and counts once
        counts = graph.op("Cast", graph.op("GreaterOrEqual", back, first), to=_FLOAT)
        self._counts = graph.op("Reshape", counts, graph.constant([-1, 1]))
        # 0, 1, 2 ..., of the shape of ``places`` by its name, so that ScatterND need not copy what it is given
        ones = graph.op("Add", graph.op("Mul", places, graph.constant(0)), graph.constant(1))
        self._all = graph.op("Sub", graph.op("CumSum", ones, graph.constant(0)), graph.constant(1))
        self._count, self._end = graph.op("Shape", places), graph.constant([np.iinfo(np.int64).max])

    def add(self, graph: Graph, name: str, value: str, weight: Array, bias: Array | None = None) -> str:
        """Add the rounding of all tokens, that of what it takes from the last ones, and the product of both."""
        steps = _token_steps(graph, value)
        rounded = _round_rows(graph, value, steps)
        tail, step, high = (graph.op("Gather", each, self._rows, axis=0) for each in (value, steps, rounded))
        step = graph.op("Mul", step, graph.constant(1 / 256, np.float32))
        high = graph.op("Sub", graph.op("Cast", high, to=_FLOAT), graph.constant(_MIDDLE, np.float32))
        high = graph.op("Mul", high, graph.constant(256, np.float32))
        low = graph.op("Sub", graph.op("Round", graph.op("Div", tail, step)), high)
        low = graph.op("QuantizeLinear", low, graph.constant(1, np.float32), graph.constant(_MIDDLE, np.uint8))
        product = _add_product8(graph, name, _plain(graph, graph.op("Concat", rounded, low, axis=0)), weight, None)
        whole = graph.op("Mul", graph.op("Gather", product, self._all, axis=0), steps)
        rest = graph.op("Slice", product, self._count, self._end)
        rest = graph.op("Mul", rest, graph.op("Mul", step, self._counts))
        return _with_bias(graph, name, graph.op("ScatterND", whole, self._places, rest, reduction="add"), bias)


Rowwise = Static8Linear | Token8Linear  # what the engine's own pass can multiply by, too


class Weight4Linear:
    """4-bit weights, a scale for each 32 of a column, exact activations."""

    def add(self, graph: Graph, name: str, value: str, weight: Array, bias: Array | None = None) -> str:
        """Add a MatMulNBits."""
        packed, scales = round4(weight)
        product = graph.op(
            "MatMulNBits",
            value,
            graph.tensor(f"{name}.int4", packed),
            graph.tensor(f"{name}.scale", scales),
            domain=MICROSOFT,
            K=weight.shape[0],
            N=weight.shape[1],
            bits=4,
            block_size=_BLOCK,
            accuracy_level=1,
        )
        return _with_bias(graph, name, product, bias)


def _blocks(channels: int) -> int:
    """Return the fewest equal parts of at most 1,024 channels."""
    return next(parts for parts in range(-(-channels // _TOGETHER), channels + 1) if channels % parts == 0)


def static_range(low: float, high: float) -> tuple[float, int]:
    """Return the size of a whole number and the one that stands for 0, where 0..255 spans a range and 0 itself."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = max((high - low) / 255, 1e-9)
    return step, min(255, max(0, round(-low / step)))


def round8(weight: Array) -> tuple[npt.NDArray[np.int8], Array]:
    """Round a weight (in, out) to -127..127 with a scale for each column."""
    scales = np.maximum(np.abs(weight).max(0), 1e-9).astype(np.float32) / np.float32(127)
    return np.clip(np.rint(weight / scales), -127, 127).astype(np.int8), scales


def round4(weight: Array) -> tuple[npt.NDArray[np.uint8], Array]:
    """Round a weight (in, out) to 0..15 around 8; return (out, blocks, 16) pairs of numbers and (out * blocks,) scales.

    The number of largest magnitude becomes -8, as in llama.cpp's Q4_0.
    """
    rows, columns = weight.shape
    blocks = -(-rows // _BLOCK)
    padded = np.zeros((columns, blocks * _BLOCK), np.float32)
    padded[:, :rows] = weight.T
    parts = padded.reshape(columns, blocks, _BLOCK)
    peak = np.take_along_axis(parts, np.abs(parts).argmax(2)[..., None], 2)
    scales = (peak / np.float32(-8)).astype(np.float32)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    whole = np.clip(np.rint(parts * inverse) + 8, 0, 15).astype(np.uint8)
    return whole[..., 0::2] | whole[..., 1::2] << 4, scales.reshape(-1)


def _token_steps(graph: Graph, value: str) -> str:
    """Return the size of a whole number of 8 bits for each token, (n, 1); of 16 bits it is a 256th of that."""
    peak = graph.op("ReduceMax", graph.op("Abs", value), graph.constant([-1]), keepdims=1)
    return graph.op("Mul", graph.op("Max", peak, graph.constant(1e-9, np.float32)), graph.constant(1 / 127, np.float32))


def _round_rows(graph: Graph, value: str, steps: str) -> str:
    """Return a value in 8 bits, (n, in), by the size of a whole number of each token, (n, 1)."""
    steps = graph.op("Squeeze", steps, graph.constant([1]))
    zeros = graph.op("Expand", graph.constant(_MIDDLE, np.uint8), graph.op("Shape", steps))
    return graph.op("QuantizeLinear", value, steps, zeros, axis=0)


def _plain(graph: Graph, rounded: str) -> tuple[str, str, str]:
    """Return a rounded value with the scale and the middle of a product whose rows are scaled behind it."""
    return rounded, graph.constant(1, np.float32), graph.constant(_MIDDLE, np.uint8)


def _add_product8(graph: Graph, name: str, value: tuple[str, str, str], weight: Array, bias: Array | None) -> str:
    rounded, scale, zero = value
    whole, scales = _add_weight8(graph, name, weight)
    inputs = [rounded, whole, scale, scales, zero]
    if bias is not None:
        inputs += ["", graph.tensor(f"{name}.bias", bias)]
    return graph.op("MatMulIntegerToFloat", *inputs, domain=MICROSOFT)


def _add_weight8(graph: Graph, name: str, weight: Array) -> tuple[str, str]:
    whole, scales = round8(weight)
    return graph.tensor(f"{name}.int8", whole), graph.tensor(f"{name}.scale", scales)


def _with_bias(graph: Graph, name: str, product: str, bias: Array | None) -> str:
    return product if bias is None else graph.op("Add", product, graph.tensor(f"{name}.bias", bias))
