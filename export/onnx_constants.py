"""Lists of an ONNX graph, put right: constants that its exporter left to be computed or that nothing reads any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def transpose_constants(model: Any) -> None:
    """Put transposed constants into the place of their transpositions.

    torch's exporter does so but for large ones that several products share, as ALBERT's layers and DeBERTa's keys do.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        tensor = constants.get(node.input[0]) if node.op_type == "Transpose" else None
        if tensor is None:
            kept.append(node)
            continue
        order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)
        array = np.ascontiguousarray(np.transpose(numpy_helper.to_array(tensor), order))
        graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    put(graph.node, kept)
    drop_unused(graph)


def drop_unused(graph: Any) -> None:
    """Drop constants that no node reads, and what is said of values that no node makes."""
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    made = {name for node in graph.node for name in node.output}
    for entries, names in ((graph.initializer, read), (graph.value_info, made)):
        put(entries, [entry for entry in entries if entry.name in names])


def put(entries: Any, new: Sequence[Any]) -> None:
    """Put new entries into the place of all that a graph's list (nodes, constants, values) has."""
    del entries[:]
    entries.extend(new)
