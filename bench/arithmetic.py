"""How much arithmetic a token takes, told by the files of a model."""

from __future__ import annotations

import math
from pathlib import Path

from pairgrade.errors import ModelError, PairgradeError
from pairgrade.gguf_header import read_header
from pairgrade.models import resolve
from pairgrade.onnx_manifest import DOCUMENTS, is_onnx_folder


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


def operations_per_token(reference: str) -> float | None:
    """Return the multiplications and additions of the layers' weight matrices for one token; None where unknown.

    Attention's own products and the output head are left out: they are small here, and depend on lengths.
    """
    if reference.startswith("fake:"):
        return None
    if Path(reference).is_dir():
        return _of_onnx(Path(reference)) if is_onnx_folder(Path(reference)) else None
    try:
        header = read_header(resolve(reference))
    except ModelError:
        return None
    shapes = [tensor.shape for tensor in header.tensors if tensor.name.startswith("blk.")]
    if any(len(shape) > 2 for shape in shapes):  # experts: which of them run is not told by the shapes
        return None
    return 2.0 * sum(math.prod(shape) for shape in shapes if len(shape) == 2)


def _of_onnx(folder: Path) -> float | None:
    """Add up the matrices of the document graph; those of 4 bits are stored by blocks, and not counted."""
    try:
        import onnx
    except ImportError:
        return None
    graph = onnx.load(str(folder / DOCUMENTS), load_external_data=False).graph
    matrices = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer if len(tensor.dims) == 2}
    kinds = {"MatMul", "MatMulInteger", "MatMulIntegerToFloat", "Gemm"}
    used = {name for node in graph.node if node.op_type in kinds for name in node.input}
    total = sum(size for name, size in matrices.items() if name in used)
    return 2.0 * total if total else None
