"""The choice of one token moves up through what works on each token by itself, and through nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from pairgrade.export.first_token import read_first_token_only

WIDTH, TOKENS = 8, 5
RANDOM = np.random.default_rng(0)
TABLES = {
    "w": RANDOM.standard_normal((WIDTH, WIDTH)),
    "gain": RANDOM.standard_normal(WIDTH),
    "bias": RANDOM.standard_normal(WIDTH),
    "positions": RANDOM.standard_normal((TOKENS, WIDTH)),
    "slopes": RANDOM.standard_normal((TOKENS, 1)),
}


def graph(*nodes: tuple[str, str, str], also: str | None = None, token: int = 0) -> Any:
    """Make a model of nodes (operator, inputs, output), of whose last output a token is chosen.

    ``also``: another value that is read as a whole.
    """
    made = []
    for operator, inputs, output in nodes:
        domain = {"axis": -1} if operator == "LayerNormalization" else {}
        made.append(helper.make_node(operator, inputs.split(), [output], **domain))
    made.append(helper.make_node("Gather", [nodes[-1][2], "token"], ["y"], axis=1))
    outputs = ["y"] + ([also] if also else [])
    tables = [numpy_helper.from_array(table.astype(np.float32), name) for name, table in TABLES.items()]
    tables.append(numpy_helper.from_array(np.int64(token), "token"))
    model = helper.make_model(
        helper.make_graph(
            made,
            "graph",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", TOKENS, WIDTH]) for name in ("x", "r")],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])
                for name, shape in zip(outputs, ([WIDTH], [TOKENS, WIDTH]), strict=False)
            ],
            tables,
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    described: Any = onnx.shape_inference.infer_shapes(model)  # as torch's exporter does
    return described


def run(model: Any) -> list[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(1)
    feeds = {name: random.standard_normal((3, TOKENS, WIDTH)).astype(np.float32) for name in ("x", "r")}
    found: list[Any] = session.run(None, feeds)
    return found


def moved_above(model: Any) -> tuple[list[str], list[str]]:
    """Move the choice; return the operators before the first choice and behind it. The result must be the same."""
    expected = run(model)
    read_first_token_only(model)
    onnx.checker.check_model(model)
    for one, other in zip(run(model), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    operators = [node.op_type for node in model.graph.node]
    first = operators.index("Gather")
    return operators[:first], [operator for operator in operators[first:] if operator != "Gather"]


def test_it_moves_through_products_sums_and_norms_with_both_ends_of_a_bypass() -> None:
    model = graph(
        ("MatMul", "x w", "a"),
        ("Add", "a bias", "b"),
        ("Gelu", "b", "c"),
        ("MatMul", "c w", "d"),
        ("Add", "d r", "e"),
        ("LayerNormalization", "e gain bias", "f"),
        ("Add", "f a", "g"),
    )
    assert moved_above(model) == ([], ["MatMul", "Add", "Gelu", "MatMul", "Add", "LayerNormalization", "Add"])
    assert [node.output[0] for node in model.graph.node if node.op_type == "Gather"] == ["y.x", "y.r"]


@pytest.mark.parametrize(
    ("nodes", "above"),
    [
        ([("Add", "x positions", "a"), ("Mul", "a gain", "b")], ["Add"]),
        ([("Mul", "x slopes", "a"), ("Add", "a bias", "b")], ["Mul"]),
        ([("Softmax", "x", "a"), ("MatMul", "a w", "b")], ["Softmax"]),
        ([("MatMul", "positions w", "p"), ("Add", "x p", "a"), ("MatMul", "a w", "b")], ["MatMul", "Add"]),
    ],
    ids=["a row for each token", "a number for each token", "unknown operator", "computed rows of two dimensions"],
)
def test_it_stops_where_tokens_differ(nodes: list[tuple[str, str, str]], above: list[str]) -> None:
    assert moved_above(graph(*nodes))[0] == above


def test_it_stops_where_other_tokens_are_read() -> None:
    nodes = ("MatMul", "x w", "a"), ("Add", "a bias", "b"), ("Mul", "b gain", "c")
    assert moved_above(graph(*nodes, also="b"))[0] == ["MatMul", "Add"]
    mixed = ("MatMul", "x w", "a"), ("Softmax", "a", "s"), ("Add", "s a", "b"), ("Add", "b bias", "c")
    assert moved_above(graph(*mixed))[0] == ["MatMul", "Softmax"]
    assert moved_above(graph(*nodes, also="c")) == (["MatMul", "Add", "Mul"], [])
    assert moved_above(graph(*nodes, token=2)) == (["MatMul", "Add", "Mul"], [])
