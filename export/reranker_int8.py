"""8-bit products for an exported encoder: weights by channel, activations by ranges that were calibrated before.

A range taken from the batch, as ONNX Runtime's dynamic quantization has it, would let a score move with the documents
beside it. What is rounded are products by constants, which the linear layers of an exported encoder are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.errors import ModelError
from pairgrade.export.onnx_constants import drop_unused
from pairgrade.export.onnx_linear import round8, static_range
from pairgrade.export.onnx_writer import MICROSOFT
from pairgrade.onnx_session import open_session

Inputs = Mapping[str, Any]  # of a graph, by name
Ranges = dict[str, tuple[float, float]]  # the least and the greatest number of a product's input, by its name


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
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(full))
    work = path.with_name(f"{path.name}.work")
    try:
        _round_products(model, _calibrate(model, work, examples, threads))
        onnx.save(model, str(work))
        quantize_dynamic(str(work), str(path), op_types_to_quantize=["Gather"], weight_type=QuantType.QInt8)
    finally:
        work.unlink(missing_ok=True)


def _calibrate(model: Any, path: Path, examples: Sequence[Inputs], threads: int) -> Ranges:
    """Run the graph over the examples and return the range of each product's input."""
    import onnx
    from onnx import TensorProto, helper

    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    names = list(dict.fromkeys(product.node.input[0] for product in _products(model)))
    if not names:
        return {}
    for name in names:
        for operator, kind in (("ReduceMin", "low"), ("ReduceMax", "high")):
            output = f"{kind}.{name}"
            observed.graph.node.append(helper.make_node(operator, [name], [output], keepdims=0))
            observed.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, []))
    outputs = [f"{kind}.{name}" for name in names for kind in ("low", "high")]
    onnx.save(observed, str(path))
    session = open_session(path, threads, "CPUExecutionProvider")
    inputs = [node.name for node in session.get_inputs()]
    rows = [session.run(outputs, {name: example[name] for name in inputs}) for example in examples]
    found = np.array(rows, np.float64).reshape(-1, len(names), 2)
    if not np.isfinite(found).all():
        raise ModelError("the encoder computes numbers that are not finite; there is no range for them in 8 bits")
    lows, highs = found[..., 0].min(0).tolist(), found[..., 1].max(0).tolist()
    return dict(zip(names, zip(lows, highs, strict=True), strict=True))


def _products(model: Any) -> Iterator[Product]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    readers = {name: node for node in model.graph.node for name in node.input}
    outputs = {output.name for output in model.graph.output}
    for node in model.graph.node:
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or len(weight.dims) != 2 or node.input[0] in constants:
            continue
        result, bias, sum_ = node.output[0], None, None
        if uses[result] == 1 and result not in outputs and readers[result].op_type == "Add":
            (other,) = (name for name in readers[result].input if name != result)
            if other in constants and list(constants[other].dims) == [weight.dims[1]]:
                bias, sum_ = other, readers[result]
        yield Product(node, weight, bias, sum_)


def _round_products(model: Any, ranges: Ranges) -> None:
    """Put each product's 8-bit form, with the rounding of its input before the first one, into its place."""
    from onnx import helper, numpy_helper

    graph = model.graph
    new: dict[str, list[Any]] = {}  # by the output of the node that they stand for
    known: set[str] = set()  # values and weights that are rounded already

    def constant(array: Any, name: str) -> None:
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))

    for product in list(_products(model)):
        value, weight = product.node.input
        nodes = new[product.node.output[0]] = []
        if value not in known:
            step, middle = static_range(*ranges[value])
            constant(np.float32(step), f"{value}.scale")
            constant(np.uint8(middle), f"{value}.zero")
            rounding = [value, f"{value}.scale", f"{value}.zero"]
            nodes.append(helper.make_node("QuantizeLinear", rounding, [f"{value}.int8"]))
        if weight not in known:
            whole, scales = round8(numpy_helper.to_array(product.weight))
            constant(whole, f"{weight}.int8")
            constant(scales, f"{weight}.scale")
        known |= {value, weight}
        inputs = [f"{value}.int8", f"{weight}.int8", f"{value}.scale", f"{weight}.scale", f"{value}.zero"]
        inputs += ["", product.bias] if product.bias else []
        result = product.node.output[0]
        if product.sum is not None:
            result = product.sum.output[0]
            new[result] = []
        nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [result], domain=MICROSOFT))
    kept = [one for node in graph.node for one in new.get(node.output[0], [node])]
    del graph.node[:]
    graph.node.extend(kept)
    drop_unused(graph)
    if MICROSOFT not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
