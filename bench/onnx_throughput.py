"""Pairs a second of ONNX folders beside GGUF files of the same model: ``python -m pairgrade.bench.onnx_throughput``.

From texts to judgments in one process, the models interleaved in rounds; medians, and the medians of the per-round
ratios of the first model, and of each, to others. The last line is JSON.

- ``MODEL...``: each through ``Annotator``.
- ``--graph FOLDER``, once or more: an int8 export by ONNX Runtime alone, without pairgrade's own pass.
- ``--call GGUF``, once or more: llama-cpp-python's ``create_completion`` of one token a pair.
- ``--transformers MODEL``: transformers' ``generate`` in float32, one pair at a time; a folder, or a GGUF, dequantized.

The best of llama.cpp is the GGUF, in pairgrade or by the call, with the highest median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pairgrade import Annotator, LlamaOptions, OnnxOptions, Pair
from pairgrade.bench.ceiling import fp32_gflops
from pairgrade.bench.cell_records import CellJob
from pairgrade.bench.data import add_data_options, take_pairs
from pairgrade.bench.peers import open_peer
from pairgrade.bench.telling import telling
from pairgrade.environment import environment
from pairgrade.hardware import usable_cores

_CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to judge the pairs, its model loaded."""

    title: str
    is_llama: bool  # whether llama.cpp runs it
    judge: Callable[[Sequence[Pair]], object]


def annotator_arm(model: str, threads: int, native: bool = True) -> Arm:
    """Open a model as ``pairgrade label`` does, in this process."""
    annotator = Annotator.open(
        model,
        llama=LlamaOptions(context=_CONTEXT, threads=threads),
        onnx=OnnxOptions(context=_CONTEXT, threads=threads, native=native),
    )
    is_llama = annotator.identity()["backend.kind"] == "llama"
    return Arm(model if native else f"graph: {model}", is_llama, lambda pairs: list(annotator.label(pairs)))


def peer_arm(engine: str, model: str, threads: int) -> Arm:
    """Open a model with another library, which is given the same prompts."""
    peer = open_peer(CellJob(model, engine, "trec", threads, 1, _CONTEXT, pairs="", out=""))
    return Arm(f"{engine}: {model}", engine == "llama-cpp-python", peer.answers)


def measure(arms: Sequence[Arm], pairs: Sequence[Pair], rounds: int) -> dict[str, list[float]]:
    """Return the pairs a second of each arm by round; no arm is always the first."""
    rates: dict[str, list[float]] = {arm.title: [] for arm in arms}
    for arm in arms:
        arm.judge(pairs[:4])  # warm up
        print(f"{arm.title}: warm", flush=True)
    for round_ in range(rounds):
        turn = round_ % len(arms)
        for arm in [*arms[turn:], *arms[:turn]]:
            start = time.perf_counter()
            arm.judge(pairs)
            rates[arm.title].append(len(pairs) / (time.perf_counter() - start))
            print(f"round {round_ + 1} {arm.title}: {rates[arm.title][-1]:.2f} pairs/s", flush=True)
    return rates


def figures(arms: Sequence[Arm], rates: dict[str, list[float]]) -> tuple[str | None, dict[str, dict[str, float]]]:
    """Return the best arm of llama.cpp, if there is one, and of each arm the median, its range and ratios."""
    of_llama = [arm.title for arm in arms if arm.is_llama]
    best = max(of_llama, key=lambda title: statistics.median(rates[title]), default=None)
    first = rates[arms[0].title]
    found = {}
    for title, own in rates.items():
        row = {"median": statistics.median(own), "lowest": min(own), "highest": max(own)}
        row["first/this"] = _ratio(first, own)
        if best is not None:
            row["this/best llama.cpp"] = _ratio(own, rates[best])
        found[title] = row
    return best, found


def _ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the median of the rounds' ratios, for the two of a round see the same noise."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="ONNX folders and GGUF files; ratios are to the first")
    parser.add_argument(
        "--call", metavar="GGUF", action="append", default=[], help="by llama-cpp-python's own call, too"
    )
    parser.add_argument(
        "--graph", metavar="FOLDER", action="append", default=[], help="by ONNX Runtime's graph alone, too"
    )
    parser.add_argument("--transformers", metavar="MODEL", help="by transformers in float32, too")
    add_data_options(parser, 12, 24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cores())
    options = parser.parse_args()
    pairs, name = take_pairs(options.data, options.queries, options.documents)
    arms = [annotator_arm(model, options.threads) for model in dict.fromkeys(options.models)]
    arms += [annotator_arm(folder, options.threads, native=False) for folder in dict.fromkeys(options.graph)]
    arms += [peer_arm("llama-cpp-python", model, options.threads) for model in dict.fromkeys(options.call)]
    if options.transformers:
        arms.append(peer_arm("transformers", options.transformers, options.threads))
    best, result = figures(arms, measure(arms, pairs, options.rounds))
    for title, row in result.items():
        ratios = "  ".join(f"{name} {value:.2f}" for name, value in row.items() if "/" in name)
        print(f"{row['median']:8.2f} pairs/s ({row['lowest']:.2f} to {row['highest']:.2f})  {ratios}  {title}")
    if best is not None:
        print(f"best of llama.cpp: {best}")
    about: dict[str, Any] = {
        "bench": "onnx_throughput", "data": name, "pairs": len(pairs), "threads": options.threads,
        "rounds": options.rounds, "best_llama": best,
    }  # fmt: skip
    print(json.dumps(about | {"fp32_gflops": fp32_gflops(), "environment": environment(), "models": result}))


if __name__ == "__main__":
    with telling("onnx_throughput"):
        main()
