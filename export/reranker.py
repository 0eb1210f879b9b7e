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
from pairgrade.errors import MissingExtraError, ModelError
from pairgrade.onnx_session import open_session
from pairgrade.reranker import Reranker, Scores
from pairgrade.reranker_manifest import MODELS
from pairgrade.train.ranking_metrics import Values, mean_ndcg, rank_correlations
from pairgrade.train.reranker_data import DevQuery
from pairgrade.train.reranker_model import RerankerModel

# int8 must rank a query's documents like fp32: docs/decisions/reranker-int8.md
LEAST_RHO = 0.98  # Spearman's rho of a query's scores, the mean over the queries
MOST_NDCG = 0.005  # by which the dev nDCG@10 of int8 may differ from that of fp32
_MOST_ERROR = 1e-3  # by which a score of the fp32 graph may differ from torch's
_OPSET = 23  # the first with an Attention operator


def export_reranker(model: RerankerModel, dev: Sequence[DevQuery], folder: Path, threads: int) -> dict[str, Any]:
    """Write model.onnx and, if it ranks the dev queries alike, model-int8.onnx; return how each ranks.

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
    return {"fp32": full, "int8": _int8(model, path, dev, fp32, threads)}


def _int8(
    model: RerankerModel, full: Path, dev: Sequence[DevQuery], fp32: Sequence[Scores], threads: int
) -> dict[str, Any]:
    path = full.with_name(MODELS["int8"])
    _quantize(full, path)
    found = ranks_alike([query.labels for query in dev], fp32, _scores(model, path, "int8", dev, threads))
    if not found["kept"]:
        path.unlink()
    return found


def ranks_alike(labels: Sequence[Values], fp32: Sequence[Values], int8: Sequence[Values]) -> dict[str, Any]:
    """Return how int8 ranks each query's documents, and whether that is near enough to fp32 to be kept."""
    rho = rank_correlations(fp32, int8)
    found = {"ndcg": mean_ndcg(labels, int8), "rho": float(np.mean(rho)), "lowest_rho": min(rho)}
    moved = abs(found["ndcg"] - mean_ndcg(labels, fp32))
    return found | {"kept": found["rho"] >= LEAST_RHO and moved <= MOST_NDCG}


def _write_graph(model: RerankerModel, path: Path) -> None:
    torch = _exporter()
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
            opset_version=_OPSET,
            verbose=False,
        )
        program.save(str(path), external_data=False)


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


def _quantize(full: Path, path: Path) -> None:
    """Give the linear layers int8 weights by channel and, as they run, 8-bit activations by tensor."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            str(full),
            str(path),
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


def _scores(model: RerankerModel, path: Path, quant: str, dev: Sequence[DevQuery], threads: int) -> list[Scores]:
    session = open_session(path, threads, "CPUExecutionProvider", shares_weights=False)
    with Reranker(session, model.encoder, quant) as reranker:
        return [reranker.score(query.query, query.documents) for query in dev]


def _exporter() -> Any:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError:
            raise MissingExtraError("exporting a re-ranker", package, "rerank") from None
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
