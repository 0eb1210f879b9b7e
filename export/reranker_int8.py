"""8-bit products for an exported encoder: weights by channel, activations by ranges that were calibrated before.

A range taken from the batch, as ONNX Runtime's dynamic quantization has it, would let a score move with the documents
beside it. What is rounded are products by constants, which the linear layers of an exported encoder are, and tables.
The activations' outlier channels are scaled away first, into the weights, where that brings the scores nearer to those
in full precision, after SmoothQuant (Xiao et al., https://arxiv.org/abs/2211.10438).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.errors import ModelError
from pairgrade.export.onnx_constants import drop_unused, put
from pairgrade.export.onnx_linear import Channels, round8, static_range
from pairgrade.export.onnx_smooth import smoothing
from pairgrade.export.onnx_writer import MICROSOFT
from pairgrade.reranker import open_graph

Inputs = Mapping[str, Any]  # of a graph, by name
Ranges = dict[str, Channels]  # of the inputs of products, by name
_STRENGTHS = (None, 0.7, 0.85)  # of the smoothing that are tried: docs/decisions/reranker-int8.md
_COMPARED = 64  # examples on which they are


@dataclass(frozen=True, slots=True)
class Product:
    """A product by a constant, with the sum that follows it if that adds a constant to each column."""

    node: Any
    weight: Any  # the constant
    bias: str | None
    sum: Any | None


def write_int8(full: Path, path: Path, examples: Sequence[Inputs], threads: int) -> None:
    """Write the graph of ``full`` with 8-bit products and tables, its ranges calibrated on the examples.

    An example has the arrays that the graph takes. Padding in it would count as text does, so give one row each.
    ModelError where the graph computes numbers that are not finite.
    """
    import onnx

    model = onnx.load(str(full))
    work = path.with_name(f"{path.name}.work")
    try:
        ranges = _calibrate(model, work, examples, threads)
        compared, least = examples[:_COMPARED], float("inf")
        expected = np.concatenate(_run(open_graph(full, "fp32", threads), compared)[0])
        for strength in _STRENGTHS:
            onnx.save(_rounded(model, ranges, strength), str(work))
            found = np.concatenate(_run(open_graph(work, "int8", threads), compared)[0])
            error = float(np.square(found - expected).sum())
            if error < least:
                least = error
                work.replace(path)
    finally:
        work.unlink(missing_ok=True)


def _run(session: Any, examples: Sequence[Inputs], outputs: Sequence[str] | None = None) -> list[tuple[Any, ...]]:
    """Return the arrays of each output, or of each one named, an array an example."""
    names = [node.name for node in session.get_inputs()]
    runs = (session.run(outputs, {name: example[name] for name in names}) for example in examples)
    return list(zip(*runs, strict=True))


def _rounded(model: Any, ranges: Ranges, strength: float | None) -> Any:
    """Return the model with its products and tables in 8 bits, smoothed before or not."""
    import onnx
    from onnx import helper

    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    _round_products(rounded.graph, ranges, strength)
    _round_tables(rounded.graph)
    drop_unused(rounded.graph)
    if MICROSOFT not in {opset.domain for opset in rounded.opset_import}:
        rounded.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return rounded


def _calibrate(model: Any, work: Path, examples: Sequence[Inputs], threads: int) -> Ranges:
    """Run the graph over the examples and return the range of each channel of each product's input."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    graph = observed.graph
    names = list(dict.fromkeys(product.node.input[0] for product in _products(model.graph)))
    if not names:
        return {}
    graph.initializer.append(numpy_helper.from_array(np.array([0]), "rows"))
    outputs = [f"{kind}.{name}" for name in names for kind in ("ReduceMin", "ReduceMax")]
    for name in names:
        graph.node.append(helper.make_node("Flatten", [name], [f"flat.{name}"], axis=-1))
    for output in outputs:
        kind, _, name = output.partition(".")
        graph.node.append(helper.make_node(kind, [f"flat.{name}", "rows"], [output], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [None]))
    onnx.save(observed, str(work))
    found = [np.stack(arrays) for arrays in _run(open_graph(work, "fp32", threads), examples, outputs)]
    if not all(np.isfinite(array).all() for array in found):
        raise ModelError("the encoder computes numbers that are not finite; there is no range for them in 8 bits")
    pairs = zip(found[::2], found[1::2], strict=True)
    return {name: Channels(low.min(0), high.max(0)) for name, (low, high) in zip(names, pairs, strict=True)}


def _products(graph: Any) -> Iterator[Product]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    readers = {name: node for node in graph.node for name in node.input}
    outputs = {output.name for output in graph.output}
    for node in graph.node:
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or len(weight.dims) != 2 or node.input[0] in constants:
            continue
        result, bias, sum_ = node.output[0], None, None
        if uses[result] == 1 and result not in outputs and readers[result].op_type == "Add":
            (other,) = (name for name in readers[result].input if name != result)
            if other in constants and list(constants[other].dims) == [weight.dims[1]]:
                bias, sum_ = other, readers[result]
        yield Product(node, weight, bias, sum_)


def _round_products(graph: Any, ranges: Ranges, strength: float | None) -> None:
    """Put each product's 8-bit form into its place; the first one of an input brings the rounding of it along."""
    from onnx import helper, numpy_helper

    products: dict[str, list[Product]] = defaultdict(list)  # by their input
    for product in _products(graph):
        products[product.node.input[0]].append(product)
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)  # inputs by what multiplies them: layers may share it
    for value, own in products.items():
        alike[tuple(product.node.input[1] for product in own)].append(value)
    new: dict[str, list[Any]] = {}  # by the output of the node that they stand for

    def constant(array: Any, name: str) -> None:
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))

    constant(np.zeros(2, np.int64), "same_shape")  # dropped where nothing is shared
    for weights, values in alike.items():
        name = values[0]
        arrays = [numpy_helper.to_array(product.weight) for product in products[name]]
        low, high = (np.stack([getattr(ranges[value], end) for value in values]) for end in ("low", "high"))
        divisor = np.ones(len(arrays[0]), np.float32)
        if strength is not None:
            divisor = smoothing(Channels(low.min(0), high.max(0)), np.concatenate(arrays, 1), strength)
            constant(1 / divisor, f"{name}.factor")
        step, middle = static_range(float((low / divisor).min()), float((high / divisor).max()))
        constant(np.float32(step), f"{name}.scale")
        constant(np.uint8(middle), f"{name}.zero")
        for weight, array in zip(weights, arrays, strict=True):
            whole, scales = round8(array * divisor[:, None])
            constant(whole, f"{name}.{weight}.int8")
            constant(scales, f"{name}.{weight}.scale")
        for value in values:
            smooth = value
            rounding = []
            if strength is not None:
                smooth = f"{value}.smooth"
                rounding = [helper.make_node("Mul", [value, f"{name}.factor"], [smooth])]
            parts = [smooth, f"{name}.scale", f"{name}.zero"]
            rounding.append(helper.make_node("QuantizeLinear", parts, [f"{value}.int8"]))
            for product in products[value]:
                weight = f"{name}.{product.node.input[1]}"
                rounded = f"{weight}.int8"
                if value != name:  # ONNX Runtime turns the weights of one product each into u8, where there is no VNNI
                    rounding.append(helper.make_node("Reshape", [rounded, "same_shape"], [f"{value}.{rounded}"]))
                    rounded = f"{value}.{rounded}"
                inputs = [f"{value}.int8", rounded, f"{name}.scale", f"{weight}.scale", f"{name}.zero"]
                inputs += ["", product.bias] if product.bias else []
                result = product.node.output[0]
                if product.sum is not None:
                    result = product.sum.output[0]
                    new[result] = []
                one = helper.make_node("MatMulIntegerToFloat", inputs, [result], domain=MICROSOFT)
                new[product.node.output[0]] = [*rounding, one]
                rounding = []
    _replace(graph, new)


def _round_tables(graph: Any) -> None:
    """Keep tables that rows are taken from in 8 bits, with a scale for each row."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    new: dict[str, list[Any]] = {}
    known: set[str] = set()
    for node in graph.node:
        table = constants.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or len(table.dims) != 2 or any(a.name == "axis" and a.i for a in node.attribute):
            continue
        name, output = table.name, node.output[0]
        if name not in known:
            known.add(name)
            whole, scales = round8(numpy_helper.to_array(table).T)
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(whole.T), f"{name}.int8"))
            graph.initializer.append(numpy_helper.from_array(scales[:, None], f"{name}.scale"))
        new[output] = [
            helper.make_node("Gather", [f"{name}.int8", node.input[1]], [f"{output}.int8"]),
            helper.make_node("Gather", [f"{name}.scale", node.input[1]], [f"{output}.scale"]),
            helper.make_node("Cast", [f"{output}.int8"], [f"{output}.whole"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{output}.whole", f"{output}.scale"], [output]),
        ]
    _replace(graph, new)


def _replace(graph: Any, new: Mapping[str, Sequence[Any]]) -> None:
    """Put nodes into the places of those that make the named outputs."""
    put(graph.node, [one for node in graph.node for one in new.get(node.output[0], [node])])
