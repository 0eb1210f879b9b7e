"""An encoder's last layer for the one token that is read: where the head of a re-ranker sees the first one only.

The choice of that token is moved up through what works on each token by itself, which behind the last attention is
nearly all: products, sums and norms. What the other tokens are needed for stays as it is.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from pairgrade.export.onnx_constants import put

_SINGLE = frozenset({"Gelu", "Erf", "Tanh", "Relu", "Sigmoid", "Identity"})
_BROADCAST = frozenset({"Add", "Sub", "Mul", "Div"})


def read_first_token_only(model: Any) -> None:
    """Move the choice of the first of (batch, tokens, width) up as far as it goes, in the graph of an ONNX model."""
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    zeros = {tensor.name for tensor in graph.initializer if not tensor.dims and not numpy_helper.to_array(tensor)}
    described = (*graph.input, *graph.value_info, *graph.output)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in described}
    for choice in [node for node in graph.node if _is_choice(node, constants, zeros)]:
        moved = _behind(graph, choice, constants, ranks)
        if moved:
            _move(graph, choice, moved, constants)


def _is_choice(node: Any, constants: dict[str, int], zeros: set[str]) -> bool:
    """Whether a node takes the first token of each text."""
    if node.op_type != "Gather" or node.input[0] in constants or node.input[1] not in zeros:
        return False
    return any(attribute.name == "axis" and attribute.i == 1 for attribute in node.attribute)


def _behind(graph: Any, choice: Any, constants: dict[str, int], ranks: dict[str, int]) -> list[Any]:
    """Return the nodes of which nothing but the chosen token is read, the last one first."""
    readers: dict[str, list[str]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node.output[0])
    for output in graph.output:
        readers[output.name].append("")
    found: list[Any] = []
    names = {choice.output[0]}
    for node in reversed(graph.node):
        reading = [reader for output in node.output for reader in readers[output]]
        if reading and names.issuperset(reading) and _is_by_token(node, constants, ranks):
            found.append(node)
            names.update(node.output)
        elif choice.input[0] in node.output:
            return []
    return found


def _is_by_token(node: Any, constants: dict[str, int], ranks: dict[str, int]) -> bool:
    """Whether each token's result needs no other token, and what it is computed with is the same for all."""
    if any(ranks.get(name) != 3 for name in (*node.input, *node.output) if name not in constants):
        return False
    fixed = [constants[name] for name in node.input if name in constants]
    if node.op_type == "LayerNormalization":
        axis = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
        return axis in ([], [-1]) and len(fixed) == len(node.input) - 1
    if node.op_type == "MatMul":
        return node.input[0] not in constants and fixed == [2]
    return node.op_type in _SINGLE or (node.op_type in _BROADCAST and all(rank < 2 for rank in fixed))


def _move(graph: Any, choice: Any, moved: list[Any], constants: dict[str, int]) -> None:
    """Choose the token of what the moved nodes read from others; the last of them makes what the choice made."""
    from onnx import helper

    end, output = choice.input[0], choice.output[0]
    made = {name for node in moved for name in node.output}
    chosen: dict[str, str] = {}
    before: dict[str, list[Any]] = defaultdict(list)  # by a node's output
    for node in reversed(moved):
        for place, name in enumerate(node.input):
            if name in made or name in constants:
                continue
            if name not in chosen:
                chosen[name] = f"{output}.{name}"
                before[node.output[0]].append(
                    helper.make_node("Gather", [name, choice.input[1]], [chosen[name]], axis=1)
                )
            node.input[place] = chosen[name]
    kept = [one for node in graph.node if node != choice for one in (*before[node.output[0]], node)]
    described = [value for value in graph.value_info if value.name not in made]  # as three dimensions
    put(graph.node, kept)
    put(graph.value_info, described)
    last = next(node for node in graph.node if end in node.output)
    last.output[list(last.output).index(end)] = output
