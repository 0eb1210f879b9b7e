"""The 8-bit graph of a re-ranker: its ranges are calibrated, so that no document moves another one's score."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pairgrade.errors import InputError, ModelError
from pairgrade.pair_encoder import PairEncoder
from pairgrade.reranker import Reranker, open_graph

pytest.importorskip("sentence_transformers")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

import onnx
from onnx import TensorProto, helper, numpy_helper

from pairgrade.export import reranker_int8
from pairgrade.export.onnx_constants import transpose_constants
from pairgrade.export.reranker import export_reranker, ranks_alike
from pairgrade.export.reranker_int8 import write_int8
from pairgrade.onnx_session import open_session, product_kind
from pairgrade.ranking_set import write_ranking_set
from pairgrade.train import reranker_model
from pairgrade.train.fitting import TrainProgress
from pairgrade.train.reranker_data import DevQuery
from pairgrade.train.reranker_model import load_reranker
from pairgrade.train.reranker_options import RerankerOptions
from pairgrade.train.reranker_run import RerankerJob, train_reranker
from tiny_encoder import WORDS, make_encoder, make_reranker, ranking_rows

PAIRS = [("what is salt?", " ".join(WORDS[(i * j) % len(WORDS)] for j in range(1 + 7 * i % 23))) for i in range(40)]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reranker(tmp_path_factory.mktemp("reranker"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> PairEncoder:
    return PairEncoder((folder / "tokenizer.json").read_text(), 32, 0)


@pytest.fixture(scope="module")
def int8(folder: Path, encoder: PairEncoder) -> Path:
    path = folder.parent / "int8.onnx"
    write_int8(folder / "model.onnx", path, examples(encoder), 1)
    return path


def examples(encoder: PairEncoder) -> list[dict[str, Any]]:
    return [encoder.padded([row]) for row in encoder.rows(PAIRS[::2])]


def scores(session: Any, encoder: PairEncoder, rows: int = 32) -> np.ndarray[Any, Any]:
    return Reranker(session, encoder, "int8").predict(PAIRS, rows)


def test_it_ranks_as_full_precision_does(folder: Path, int8: Path, encoder: PairEncoder) -> None:
    full = scores(open_graph(folder / "model.onnx", "fp32", 1), encoder)
    rounded = scores(open_graph(int8, "int8", 1), encoder)
    assert 0 < np.abs(rounded - full).max() < 0.2 * full.std()
    assert ranks_alike([np.arange(len(PAIRS))], [full], [rounded])["rho"] > 0.98
    assert list(int8.parent.glob("int8*")) == [int8]  # nothing else is left


def test_every_linear_layer_is_8_bit_and_an_input_is_rounded_once(folder: Path, int8: Path) -> None:
    counts = [Counter(n.op_type for n in onnx.load(p).graph.node) for p in (folder / "model.onnx", int8)]
    model = onnx.load(int8)
    constants = {tensor.name for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(products) == counts[0]["MatMul"] > 6
    assert counts[1]["MatMul"] + counts[1]["Gemm"] == counts[0]["Gemm"]  # of one row only: the pooler's and the head's
    assert all(len(node.input) == 7 for node in products)  # each has taken its bias along
    assert counts[1]["QuantizeLinear"] == len({node.input[0] for node in products}) < len(products)
    assert constants == {name for node in model.graph.node for name in node.input} & constants  # none is for nothing
    full = onnx.load(folder / "model.onnx").graph.initializer
    sizes = [sum(numpy_helper.to_array(t).nbytes for t in tensors) for tensors in (full, model.graph.initializer)]
    assert sizes[1] < 0.4 * sizes[0]  # the tables of tokens are 8-bit, too


def test_no_score_moves_with_its_neighbours(folder: Path, int8: Path, encoder: PairEncoder, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    def moved(path: Path) -> float:
        session = open_graph(path, "int8", 1)
        together = scores(session, encoder)
        return max(float(np.abs(scores(session, encoder, rows) - together).max()) for rows in (1, 3))

    quantize_dynamic(folder / "model.onnx", tmp_path / "dynamic.onnx", ["MatMul"])
    assert moved(int8) <= 1e-5
    assert moved(tmp_path / "dynamic.onnx") > 1e-3  # the inverse: a range of the batch


def test_both_products_give_the_same_bits_where_both_are_exact(int8: Path, encoder: PairEncoder) -> None:
    if product_kind() != "u8s8":
        pytest.skip("u8s8 saturates on this processor")
    sessions = (open_session(int8, 1, "CPUExecutionProvider", product=kind) for kind in ("u8s8", "u8u8"))
    first, second = (scores(session, encoder) for session in sessions)
    np.testing.assert_array_equal(first, second)


def test_numbers_that_are_not_finite_are_refused(folder: Path, encoder: PairEncoder, tmp_path: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    place = next(i for i, t in enumerate(model.graph.initializer) if t.name.endswith("LayerNorm.bias"))
    bad = np.full(model.graph.initializer[place].dims, np.inf, np.float32)
    model.graph.initializer[place].CopyFrom(numpy_helper.from_array(bad, model.graph.initializer[place].name))
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(ModelError, match="not finite"):
        write_int8(tmp_path / "bad.onnx", tmp_path / "int8.onnx", examples(encoder), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.onnx"]


def toy(*nodes: Any, **tables: Any) -> Any:
    """Make a model of x (rows, 4) to y (rows, 4)."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    constants = [numpy_helper.from_array(table.astype(np.float32), name) for name, table in tables.items()]
    made = helper.make_graph(nodes, "toy", values[:1], values[1:], constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_weights_that_are_shared_transposed_or_chained(tmp_path: Path) -> None:
    w = np.random.default_rng(0).standard_normal((4, 4))
    model = toy(
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["a"]),
        helper.make_node("MatMul", ["a", "t"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["y"]),
        w=w, v=w + 1,
    )  # fmt: skip
    transpose_constants(model)
    onnx.checker.check_model(model, full_check=True)
    assert [tensor.name for tensor in model.graph.initializer] == ["v", "t"]
    x = np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32)
    onnx.save(model, tmp_path / "full.onnx")
    write_int8(tmp_path / "full.onnx", tmp_path / "int8.onnx", [{"x": x}], 1)
    found = open_graph(tmp_path / "int8.onnx", "int8", 1).run(None, {"x": x})[0]
    expected = x @ w.T @ w.T @ (w + 1)
    assert 0 < np.abs(found - expected).max() < 0.05 * expected.std()
    without_vnni = open_session(tmp_path / "int8.onnx", 1, "CPUExecutionProvider", product="u8u8")
    assert (without_vnni.run(None, {"x": x})[0] == found).all()
    types = Counter(tensor.data_type for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer)
    assert types[TensorProto.INT8] == 2  # one of them is used twice


def test_a_graph_without_products_stays_as_it_is(tmp_path: Path) -> None:
    onnx.save(toy(helper.make_node("Relu", ["x"], ["y"])), tmp_path / "full.onnx")
    x = np.full((1, 4), -1, np.float32)
    write_int8(tmp_path / "full.onnx", tmp_path / "int8.onnx", [{"x": x}], 1)
    assert not open_graph(tmp_path / "int8.onnx", "int8", 1).run(None, {"x": x})[0].any()


def test_a_query_of_no_use_is_told_before_the_training(tmp_path: Path) -> None:
    rows = ranking_rows(4)
    rows += [replace(rows[0], query_id="long", query="salt " * 40, doc_id=f"x{i}") for i in range(3)]
    write_ranking_set(tmp_path / "set.jsonl", rows)
    phases: list[str] = []

    class Told(TrainProgress):
        def phase(self, name: str) -> None:
            phases.append(name)

    job = RerankerJob(tmp_path / "set.jsonl", tmp_path / "out", str(make_encoder(tmp_path / "bert")))
    with pytest.raises(InputError, match="a query may have 28"):
        train_reranker(job, RerankerOptions(epochs=1, max_length=32, threads=1), Told())
    assert phases == ["reading", "loading"]


@pytest.mark.parametrize(
    ("family", "products", "settings"),
    [
        ("Albert", 13, {"embedding_size": 16}),  # both layers have the same weights
        ("ModernBert", 8, {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}),
    ],
)
def test_other_encoders_are_exported_and_rounded(
    family: str, products: int, settings: dict[str, Any], tmp_path: Path
) -> None:
    base = make_encoder(tmp_path / "base", family=family, **settings)
    model = load_reranker(base, RerankerOptions(max_length=32, threads=1))
    dev = [DevQuery("q", PAIRS[0][0], tuple(document for _, document in PAIRS), np.arange(len(PAIRS)) / 10)]
    found = export_reranker(model, dev, model.encoder.rows(PAIRS[::2]), tmp_path, 1)
    assert found["fp32"]["largest_difference_from_torch"] < 1e-4
    assert found["int8"]["rho"] > 0.9  # of random weights, whose scores lie close together
    write_int8(tmp_path / "model.onnx", tmp_path / "int8.onnx", examples(model.encoder), 1)
    counts = Counter(node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node)
    assert counts["MatMulIntegerToFloat"] == products


def test_an_outlier_channel_is_scaled_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    w = random.standard_normal((4, 4)) * np.array([[0.02], [1], [1], [1]])
    onnx.save(toy(helper.make_node("MatMul", ["x", "w"], ["y"]), w=w), tmp_path / "full.onnx")
    x = (random.standard_normal((200, 4)) * np.array([50, 1, 1, 1])).astype(np.float32)

    def error(name: str) -> float:
        write_int8(tmp_path / "full.onnx", tmp_path / name, [{"x": x}], 1)
        return float(np.abs(open_graph(tmp_path / name, "int8", 1).run(None, {"x": x})[0] - x @ w).max())

    best = error("best.onnx")
    assert "Mul" in {node.op_type for node in onnx.load(tmp_path / "best.onnx").graph.node}
    monkeypatch.setattr(reranker_int8, "_STRENGTHS", (None,))
    assert best < 0.3 * error("plain.onnx")


def test_an_encoder_too_large_to_export_is_told_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_encoder(tmp_path / "base")
    monkeypatch.setattr(reranker_model, "_MOST_BYTES", 50_000)
    with pytest.raises(ModelError, match="take a smaller encoder"):
        load_reranker(base, RerankerOptions(max_length=32, threads=1))
