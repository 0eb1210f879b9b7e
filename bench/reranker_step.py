"""One optimizer step of ``pairgrade train-reranker`` at several sizes of its micro-batches: seconds, side by side.

    python -m pairgrade.bench.reranker_step --data FOLDER [--micro-batch-tokens 4096 1024 512] [--rounds 5]

A step is one slate of a query's documents with LambdaLoss, as the training does it, the optimizer's part included. The
sizes take turns on the same slates. Smaller ones pad less, and larger ones use fewer calls. AdamW's own time is taken
twice, fused into one pass over the memory, as the training has it on a CPU, and not. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any

from pairgrade.bench.data import add_data_options, take_pairs
from pairgrade.bench.telling import telling
from pairgrade.environment import environment
from pairgrade.hardware import usable_cores
from pairgrade.records import Pair
from pairgrade.train.encoder import DEFAULT_ENCODER, resolve_encoder
from pairgrade.train.examples import micro_batches
from pairgrade.train.reranker_data import Slate
from pairgrade.train.reranker_model import RerankerModel, SlateLoss, load_reranker
from pairgrade.train.reranker_options import RerankerOptions


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser, 8, 16)
    parser.add_argument("--base", default=DEFAULT_ENCODER, help="the encoder (default: %(default)s)")
    parser.add_argument("--micro-batch-tokens", type=int, nargs="+", default=[4096, 1024, 512, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cores())
    given = parser.parse_args()
    pairs, name = take_pairs(given.data, given.queries, given.documents)
    slates = _slates(pairs)
    model = load_reranker(resolve_encoder(given.base), RerankerOptions(threads=given.threads))
    seconds = _measure(model, slates, given.micro_batch_tokens, given.rounds)
    first = str(given.micro_batch_tokens[0])
    print(f"{len(slates)} slates of {name}, {given.threads} threads, median of {given.rounds} rounds")
    figures: dict[str, Any] = {}
    for arm, times in seconds.items():
        is_step = arm.isdigit()
        base = seconds[first if is_step else "AdamW"]
        ratio = statistics.median(a / b for a, b in zip(base, times, strict=True))
        figures[arm] = {"seconds": statistics.median(times), "ratio": ratio}
        padding = f", padded {_padding(model, slates, int(arm)):.2f} of the tokens" if is_step else ""
        print(f"{arm:12} {figures[arm]['seconds']:7.3f} s a step, {ratio:.2f} times as fast{padding}")
    print(json.dumps({"bench": "reranker_step", "data": name, "figures": figures, "environment": environment()}))


def _slates(pairs: tuple[Pair, ...]) -> list[Slate]:
    """Make a slate of each query's documents, which stand together; what has no grade counts as 0."""
    queries = ((query, list(group)) for query, group in groupby(pairs, lambda pair: pair.query))
    return [
        Slate(query, tuple(pair.document for pair in group), tuple(float(pair.grade or 0) for pair in group))
        for query, group in queries
    ]


def _measure(model: RerankerModel, slates: list[Slate], sizes: list[int], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of a step in each round, of each size, and those of both kinds of AdamW."""
    import torch

    parameters = list(model.model.parameters())
    plain, fused = (torch.optim.AdamW(parameters, lr=0.0, fused=fused) for fused in (None, True))
    loss = SlateLoss(model.model, "lambda")

    def steps(size: int) -> None:
        model.micro_batch_tokens = size
        for slate in slates:
            fused.zero_grad()
            loss([slate]).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            fused.step()

    def updates(optimizer: Any) -> None:
        for _ in slates:
            optimizer.step()

    model.model.train()
    arms: dict[str, Callable[[], None]] = {str(size): partial(steps, size) for size in sizes}
    arms |= {"AdamW": partial(updates, plain), "AdamW fused": partial(updates, fused)}
    for arm in arms.values():
        arm()
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            start = time.perf_counter()
            arm()
            seconds[name].append((time.perf_counter() - start) / len(slates))
    return seconds


def _padding(model: RerankerModel, slates: list[Slate], size: int) -> float:
    """Return the tokens that run, padding included, by those of the texts."""
    run = real = 0
    for slate in slates:
        lengths = [len(ids) for ids, _ in model.encoder.rows([(slate.query, text) for text in slate.documents])]
        real += sum(lengths)
        run += sum(len(places) * lengths[places[0]] for places in micro_batches(lengths, size))
    return run / real


if __name__ == "__main__":
    with telling("reranker_step"):
        main()
