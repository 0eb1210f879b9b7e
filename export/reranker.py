"""A trained re-ranker as ONNX, in full precision and, where it ranks alike, with int8 products."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.advisories import refuse_known_bad
from pairgrade.errors import ModelError
from pairgrade.export.first_token import read_first_token_only
from pairgrade.export.onnx_constants import transpose_constants
from pairgrade.export.reranker_int8 import write_int8
from pairgrade.extras import unusable
from pairgrade.pair_encoder import Row
from pairgrade.reranker import Reranker, Scores, open_graph
from pairgrade.reranker_manifest import MODELS
from pairgrade.train.ranking_metrics import Values, mean_ndcg, rank_correlations
from pairgrade.train.reranker_data import DevQuery
from pairgrade.train.reranker_model import RerankerModel

# int8 must rank a query's documents like fp32: docs/decisions/reranker-int8.md
LEAST_RHO = 0.98  # Spearman's rho of a query's scores, the mean over the queries
MOST_NDCG = 0.005  # by which the dev nDCG@10 of int8 may differ from that of fp32
_MOST_ERROR = 1e-3  # by which a score of the fp32 graph may differ from torch's
_OPSETS = (23, 22)  # the first with an Attention operator, and what goes without
_NOT_RUN = "RotaryEmbedding"  # whose angles torch's exporter gives once, and ONNX Runtime 1.32 wants for each text


def export_reranker(
    model: RerankerModel, dev: Sequence[DevQuery], examples: Sequence[Row], folder: Path, threads: int
) -> dict[str, Any]:
    """Write model.onnx and, if it ranks the dev queries alike, model-int8.onnx; return how each ranks.

    ``examples``: encoded pairs, not of the dev queries, that the ranges of int8 are calibrated on.
    ModelError where the graph does not compute what torch does.
    """
    path = folder / MODELS["fp32"]
    _write_graph(model, path)
    labels = [query.labels for query in dev]
    by_torch = [model.score(query.query, query.documents) for query in dev]
    fp32 = _scores(model, path, "fp32", dev, threads)
    error = max(float(np.abs(a - b).max()) for a, b in zip(by_torch, fp32, strict=True))
    if not error <= _MOST_ERROR:
        raise ModelError(f"{path.name}: a score differs by {error:.2g} from torch's; this encoder cannot be exported")
    full = {"ndcg": mean_ndcg(labels, fp32), "largest_difference_from_torch": error}
    int8 = path.with_name(MODELS["int8"])
    rows = [model.encoder.padded([row]) for row in examples]
    with _quiet():
        write_int8(path, int8, rows, threads)
    found = ranks_alike(labels, fp32, _scores(model, int8, "int8", dev, threads))
    if not found["kept"]:
        int8.unlink()
    return {"fp32": full, "int8": found}


def ranks_alike(labels: Sequence[Values], fp32: Sequence[Values], int8: Sequence[Values]) -> dict[str, Any]:
    """Return how int8 ranks each query's documents, and whether that is near enough to fp32 to be kept."""
    rho = rank_correlations(fp32, int8)
    found = {"ndcg": mean_ndcg(labels, int8), "rho": float(np.mean(rho)), "lowest_rho": min(rho)}
    moved = abs(found["ndcg"] - mean_ndcg(labels, fp32))
    return found | {"kept": found["rho"] >= LEAST_RHO and moved <= MOST_NDCG}


def _write_graph(model: RerankerModel, path: Path) -> None:
    torch = _exporter()
    import onnx

    for opset in _OPSETS:
        exported = _exported(torch, model, opset)
        if all(node.op_type != _NOT_RUN for node in exported.graph.node):
            break
    transpose_constants(exported)
    read_first_token_only(exported)
    onnx.save(exported, str(path))


def _exported(torch: Any, model: RerankerModel, opset: int) -> Any:
    """Return encoder and head as an ONNX model, as torch's exporter makes it."""
    names = model.inputs
    rows = model.encoder.rows([("a query", "a document"), ("another", "and one of some more words"), ("x", "y")])
    arrays = model.encoder.padded(rows)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    transformer = model.model[0].model.eval()
    with _quiet(), torch.inference_mode():
        program = torch.onnx.export(
            _scorer(transformer, names),
            tuple(torch.from_numpy(arrays[name]).to(model.model.device) for name in names),
            dynamo=True,
            dynamic_shapes=(tuple(axes for _ in names),),
            input_names=names,
            output_names=["score"],
            opset_version=opset,
            verbose=False,
        )
    return program.model_proto


def _scorer(transformer: Any, names: Sequence[str]) -> Any:
    """Wrap a model so that it takes its inputs by position and returns one score a row."""
    import torch

    class Scorer(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.transformer = transformer

        def forward(self, *inputs: Any) -> Any:
            return self.transformer(**dict(zip(names, inputs, strict=True))).logits[:, 0]

    return Scorer()


def _scores(model: RerankerModel, path: Path, quant: str, dev: Sequence[DevQuery], threads: int) -> list[Scores]:
    with Reranker(open_graph(path, quant, threads), model.encoder, quant) as reranker:
        return [reranker.score(query.query, query.documents) for query in dev]


def _exporter() -> Any:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise unusable(error, "exporting a re-ranker", package, extra="rerank") from None
    refuse_known_bad("onnx", "torch")
    import torch

    return torch


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's and the quantizer's advice to their own developers off the terminal."""
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir"))]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
