"""The operations of tiny models, against counts by hand, and the shares of the ceiling that follow."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onnx_helpers import export
from pairgrade import onnx_session
from pairgrade.bench.arithmetic import Operations, operations
from pairgrade.bench.ceiling import Ceiling, int8_gops
from pairgrade.bench.cell_figures import cell_figures
from pairgrade.bench.cell_records import CellRun
from pairgrade.bench.matrix import Cell
from pairgrade.export.onnx_recipe import Recipe

pytest.importorskip("torch")
pytest.importorskip("gguf")
pytest.importorskip("onnxruntime")

# the tiny llama: hidden 64, 4 heads and 2 key-value heads of 32, intermediate 96, 2 layers
QKV, OUT, GATE = 64 * (4 + 2 + 2) * 32, 4 * 32 * 64, 64 * 96  # up and down are as large as gate
LAYER = QKV + OUT + 3 * GATE
TURNED = Recipe(8, "static", "weights", rotate="all", down_block=512)  # turned on its way in, and back on its way out


@pytest.mark.parametrize(
    ("quant", "recipe", "enter"),
    [("fp32", None, 0), ("int4", None, 0), ("int8", None, 0), ("int8", TURNED, 64 * 64)],
)
def test_an_onnx_folder(
    quant: str, recipe: Recipe | None, enter: int, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = export(tiny_folder("llama"), tmp_path / quant, quant, recipe)
    found = operations(str(folder))
    assert found == Operations(2.0 * (LAYER + QKV + enter), 2.0 * (OUT + 3 * GATE + enter))  # it leaves as it enters
    assert found.whole == 2.0 * (2 * LAYER + 2 * enter)


def test_a_gguf(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    from pairgrade.export.gguf_writer import write_gguf

    write_gguf(tiny_folder("llama"), tmp_path / "model.gguf")
    found = operations(str(tmp_path / "model.gguf"))
    assert found == Operations(2.0 * (LAYER + QKV + OUT), 2.0 * 3 * GATE)
    run = CellRun(
        pairs=10, total_seconds=3.0, load_seconds=1.0, first_seconds=1.0, peak_rss_bytes=1, prefix_seconds=0.5,
        documents_seconds=1.5, prefix_tokens=100, document_tokens=400,
    )  # fmt: skip
    gops = (500 * found.per_token + 10 * found.per_document) / 2.0 / 1e9
    cell = cell_figures(Cell(str(tmp_path / "model.gguf")), "a", [run], Ceiling(1, 2 * gops, 8 * gops, 1.0), None)
    assert (cell.gops, cell.share_of_fp32, cell.share_of_int8) == pytest.approx((gops, 0.5, 0.125))
    for elsewhere in ({"backend.gpu_layers": "-1"}, {"backend.provider": "CUDAExecutionProvider"}):
        on_gpu = [replace(run, identity=elsewhere)]
        cell = cell_figures(Cell(str(tmp_path / "model.gguf")), "a", on_gpu, Ceiling(1, 2 * gops, 8 * gops, 1.0), None)
        assert (cell.gops, cell.share_of_fp32, cell.share_of_int8) == (pytest.approx(gops), None, None)


def test_what_has_no_weights_has_no_share(tmp_path: Path) -> None:
    assert operations("fake:") is None
    assert operations(str(tmp_path)) is None
    assert operations(str(tmp_path / "gone.gguf")) is None


def test_the_int8_ceiling_is_that_of_the_product_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = []

    def open_session(path: Path, threads: int, provider: str, *, product: str) -> Any:
        kinds.append(product)
        return onnx_session.open_session(path, threads, provider, product=product)

    for kind in ("u8s8", "u8u8"):
        with monkeypatch.context() as patch:
            copy = SimpleNamespace(product_kind=lambda kind=kind: kind, open_session=open_session)
            patch.setitem(sys.modules, "pairgrade.onnx_session", copy)
            rate = int8_gops(1)
        assert rate is not None
        assert rate > 1
    assert kinds == ["u8s8", "u8u8"]
