"""Documents a second of a trained re-ranker: CrossEncoder.predict in torch fp32 against pairgrade's ONNX fp32 and int8.

Run it with ``python -m pairgrade.bench.reranker_throughput RERANKER``. Where fastembed is installed, its session and
tokenizer run the same fp32 graph, too. One process, the arms interleaved in rounds, medians. Every arm gets the same
lists of one query and its documents, with tokenizing, the same longest input and the same threads; each sorts by length
as it does for its users (fastembed does not). The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade import Reranker
from pairgrade.bench.ceiling import fp32_gflops
from pairgrade.bench.data import add_data_options, take_pairs
from pairgrade.bench.telling import telling
from pairgrade.environment import environment
from pairgrade.reranker_manifest import MODELS, read_reranker_manifest
from pairgrade.train.encoder import resolve_encoder
from pairgrade.train.ranking_metrics import rank_correlations

Lists = Sequence[tuple[str, list[str]]]
Arm = Callable[[str, list[str]], Any]


def measure(folder: Path, lists: Lists, threads: int, rounds: int, batch_size: int) -> dict[str, Any]:
    """Return the median documents/s of each arm, the spread, the ratios, and how alike the arms rank."""
    arms = _arms(folder, threads, batch_size)
    documents = sum(len(texts) for _, texts in lists)
    rates: dict[str, list[float]] = {name: [] for name in arms}
    scores = {name: [np.asarray(arm(*lists[0]))] for name, arm in arms.items()}  # and warm up
    for round_ in range(rounds):
        first = round_ % len(arms)  # no arm is always the first
        names = [*arms][first:] + [*arms][:first]
        for name in names:
            start = time.perf_counter()
            for query, texts in lists:
                arms[name](query, texts)
            rates[name].append(documents / (time.perf_counter() - start))
            print(f"round {round_ + 1} {name:15} {rates[name][-1]:8.1f} documents/s", flush=True)
    return {
        "documents_per_second": {
            name: {"median": statistics.median(v), "lowest": min(v), "highest": max(v)} for name, v in rates.items()
        },
        "ratios": {
            f"{name}/cross_encoder": statistics.median(a / b for a, b in zip(v, rates["cross_encoder"], strict=True))
            for name, v in rates.items()
            if name != "cross_encoder"
        },
        "rho": {name: rank_correlations(scores["cross_encoder"], own)[0] for name, own in scores.items()},
        "rounds": rounds,
    }


def _arms(folder: Path, threads: int, batch_size: int) -> dict[str, Arm]:
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(threads)
    model = CrossEncoder(str(resolve_encoder(str(folder))), device="cpu", local_files_only=True)

    def cross_encoder(query: str, texts: list[str]) -> Any:
        return model.predict([(query, text) for text in texts], batch_size=batch_size, show_progress_bar=False)

    arms: dict[str, Arm] = {"cross_encoder": cross_encoder}
    for quant, name in MODELS.items():
        if name in read_reranker_manifest(folder).files:
            arms[f"pairgrade_{quant}"] = partial(Reranker.open(folder, quant, threads).score, batch_size=batch_size)
    fastembed = _fastembed(folder, threads, batch_size)
    if fastembed is None:
        print("fastembed is not installed, so its arm is left out: pip install fastembed")
    else:
        arms["fastembed_fp32"] = fastembed
    return arms


def _fastembed(folder: Path, threads: int, batch_size: int) -> Arm | None:
    """Return the fp32 graph run as fastembed's TextCrossEncoder runs one, or None where fastembed is not installed."""
    try:
        from fastembed.common.onnx_model import OnnxOutputContext  # type: ignore[import-not-found, unused-ignore]
        from fastembed.rerank.cross_encoder.onnx_text_model import (  # type: ignore[import-not-found, unused-ignore]
            OnnxCrossEncoderModel,
        )
    except ImportError:
        return None

    class Model(OnnxCrossEncoderModel):  # type: ignore[misc, unused-ignore]
        def onnx_embed_pairs(self, pairs: list[tuple[str, str]], **_: Any) -> Any:
            inputs = self._build_onnx_input(self.tokenize(pairs))
            return OnnxOutputContext(self.model.run(None, inputs)[0])  # our graph's scores have no second axis

        def _post_process_onnx_output(self, output: Any, **_: Any) -> Any:
            return output.model_output

    model = Model()
    model._model_dir = folder
    model._load_onnx_model(folder, MODELS["fp32"], threads, cuda=False)
    model.tokenizer.enable_truncation(read_reranker_manifest(folder).max_length)
    return lambda query, texts: list(model._rerank_documents(query, texts, batch_size))


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reranker", type=Path, help="a folder that `pairgrade train-reranker` wrote")
    add_data_options(parser, 4, 100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, help="default: the physical cores this process may use")
    options = parser.parse_args()
    machine = environment()
    threads = options.threads or machine["cores"]
    pairs, name = take_pairs(options.data, options.queries, options.documents)
    lists: dict[str, list[str]] = {}
    for pair in pairs:
        lists.setdefault(pair.query, []).append(pair.document)
    print(f"{machine['cpu']}, {threads} threads; {len(pairs)} documents of {len(lists)} queries of {name}")
    ceiling = fp32_gflops()
    print(f"ceiling: {ceiling:.0f} GFLOP/s fp32")
    result = measure(options.reranker, list(lists.items()), threads, options.rounds, options.batch_size)
    print(f"\nmedian of {options.rounds} rounds, documents/s:")
    for arm, spread in result["documents_per_second"].items():
        print(f"  {arm:15} {spread['median']:8.1f} ({spread['lowest']:.1f} to {spread['highest']:.1f})")
    print("  " + ", ".join(f"{key} {value:.2f}" for key, value in result["ratios"].items()))
    about = {"bench": "reranker_throughput", "data": name, "documents": len(pairs), "batch_size": options.batch_size}
    print(json.dumps(about | {"threads": threads, "environment": machine, "fp32_gflops": ceiling} | result))


if __name__ == "__main__":
    with telling("reranker_throughput"):
        main()
