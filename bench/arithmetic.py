"""How much arithmetic a token takes, told by the files of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from pairgrade.errors import ModelError, PairgradeError
from pairgrade.gguf_header import read_header
from pairgrade.models import resolve
from pairgrade.onnx_manifest import DOCUMENTS, is_onnx_folder, read_facts

_PRODUCTS = ("MatMul", "MatMulInteger", "MatMulIntegerToFloat", "Gemm")
_TURNS = ("norm_turn", "norm_turn_outer", "down_turn", "down_turn_outer")


def model_files(reference: str) -> list[Path]:
    """Return the files of a model; none for one that has none or cannot be found."""
    path = Path(reference)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    try:
        return [] if reference.startswith("fake:") else [resolve(reference)]
    except PairgradeError:
        return []


def model_bytes(reference: str) -> int | None:
    """Return the size of a model's files together; None where there are none."""
    files = model_files(reference)
    return sum(file.stat().st_size for file in files) if files else None


@dataclass(frozen=True, slots=True)
class Operations:
    """Multiplications and additions of the layers' weight matrices.

    Attention's own products and the output head are left out: they are small here, and depend on lengths. So is what
    an int8 recipe does besides: the turns of products' inputs, and the second half of 16-bit activations.
    """

    per_token: float
    per_document: float  # what a document's last token alone goes through: the end of the last layer

    @property
    def whole(self) -> float:
        """Those of a token that goes through everything."""
        return self.per_token + self.per_document


def operations(reference: str) -> Operations | None:
    """Count a model's operations; None where unknown."""
    if reference.startswith("fake:"):
        return None
    if Path(reference).is_dir():
        return _of_onnx(Path(reference)) if is_onnx_folder(Path(reference)) else None
    try:
        header = read_header(resolve(reference))
    except ModelError:
        return None
    layers = [tensor for tensor in header.tensors if tensor.name.startswith("blk.")]
    if not layers or any(len(tensor.shape) > 2 for tensor in layers):  # experts: which of them run is not told
        return None
    last = max(int(tensor.name.split(".")[1]) for tensor in layers)
    sizes = {tensor.name: 2.0 * math.prod(tensor.shape) for tensor in layers if len(tensor.shape) == 2}
    end = sum(
        size for name, size in sizes.items() if name.startswith(f"blk.{last}.ffn_")
    )  # llama.cpp: output rows only
    return Operations(sum(sizes.values()) - end, end)


def _of_onnx(folder: Path) -> Operations | None:
    """Add up the matrices of the document graph, which goes on with the last tokens alone behind the last attention."""
    try:
        import onnx
    except ImportError:
        return None
    graph = onnx.load(str(folder / DOCUMENTS), load_external_data=False).graph
    matrices = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer if len(tensor.dims) == 2}
    sizes: dict[str, float] = {}
    for node in graph.node:
        if node.op_type == "MatMulNBits":  # stored by blocks: its attributes tell the matrix
            shape = {a.name: a.i for a in node.attribute if a.name in ("K", "N")}
            sizes[node.input[1]] = 2.0 * shape["K"] * shape["N"]
        elif node.op_type in _PRODUCTS:
            sizes |= {name: 2.0 * matrices[name] for name in node.input if name in matrices and name not in _TURNS}
    last = f"layer.{read_facts(folder).layers - 1}."
    ends = {"leave", *(f"{last}{part}" for part in ("out", "gate", "up", "down"))}
    end = sum(size for name, size in sizes.items() if name.removesuffix(".int8").removesuffix(".int4") in ends)
    return Operations(sum(sizes.values()) - end, end) if sizes else None
