"""Pairs a second of ONNX folders beside GGUF files of the same model: ``python -m pairgrade.bench.onnx_throughput``.

From texts to judgments through ``Annotator``, in one process, the models interleaved in rounds; medians, and the
medians of the per-round ratios to the first model. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

from pairgrade import Annotator, LlamaOptions
from pairgrade.bench.ceiling import fp32_gflops
from pairgrade.bench.data import add_data_options, take_pairs
from pairgrade.environment import environment
from pairgrade.hardware import usable_cores


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="ONNX folders and GGUF files; ratios are to the first")
    add_data_options(parser, 12, 24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cores())
    options = parser.parse_args()
    pairs, name = take_pairs(options.data, options.queries, options.documents)
    llama = LlamaOptions(context=2048, threads=options.threads)
    annotators = {model: Annotator.open(model, llama=llama) for model in options.models}
    rates: dict[str, list[float]] = {model: [] for model in annotators}
    for model, annotator in annotators.items():
        list(annotator.label(pairs[:4]))  # warm up
        print(f"{model}: warm", flush=True)
    for round_ in range(options.rounds):
        turn = round_ % len(annotators)  # no model is always the first
        for model in [*options.models[turn:], *options.models[:turn]]:
            start = time.perf_counter()
            list(annotators[model].label(pairs))
            rates[model].append(len(pairs) / (time.perf_counter() - start))
            print(f"round {round_ + 1} {model}: {rates[model][-1]:.2f} pairs/s", flush=True)
    first = rates[options.models[0]]
    result: dict[str, Any] = {
        model: {
            "median": statistics.median(found), "lowest": min(found), "highest": max(found),
            "first/this": statistics.median(a / b for a, b in zip(first, found, strict=True)),
        }
        for model, found in rates.items()
    }  # fmt: skip
    for model, row in result.items():
        print(f"{row['median']:8.2f} pairs/s ({row['lowest']:.2f} to {row['highest']:.2f})  "
              f"first/this {row['first/this']:.2f}  {model}")  # fmt: skip
    about = {"bench": "onnx_throughput", "data": name, "pairs": len(pairs), "threads": options.threads}
    print(json.dumps(about | {"fp32_gflops": fp32_gflops(), "environment": environment(), "models": result}))


if __name__ == "__main__":
    main()
