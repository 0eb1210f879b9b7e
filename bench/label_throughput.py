"""Pairs a second: llama-cpp-python's high-level call, a decode of each whole prompt, and pairgrade.

Run it with ``python -m pairgrade.bench.label_throughput``. One process, the arms interleaved in rounds, medians.

- ``high_level``: ``Llama.create_completion`` of one token a pair; its own prefix cache is on.
- ``whole_prompt``: one ``llama_decode`` of each whole prompt, nothing reused.
- ``pairgrade``: from a file of texts to a judgments file on disk, with journal and manifest, the model loaded before.
- ``pairgrade_onnx``, with ``--onnx FOLDER``: the same with an ONNX export of that model.

With the pairs in the file's order and, since people's files are, shuffled. All arms get the same prompts, context and
threads. The last line is JSON.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade import Annotator, LlamaOptions, Pair
from pairgrade.bench.ceiling import copy_gigabytes, fp32_gflops
from pairgrade.bench.data import option_parser, take_pairs
from pairgrade.bench.telling import telling
from pairgrade.environment import environment
from pairgrade.job import LabelJob
from pairgrade.llama import LlamaBackend
from pairgrade.models import resolve
from pairgrade.prompt import PromptBuilder, detect_chat_format
from pairgrade.readers import Source
from pairgrade.rubric import Rubric
from pairgrade.run import label

_CONTEXT = 2048
_ARMS: dict[str, tuple[str, ...]] = {
    "file_order": ("high_level", "whole_prompt", "pairgrade"),
    "shuffled": ("high_level", "pairgrade"),  # a whole prompt costs the same in any order
}
_ONNX = "pairgrade_onnx"


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured."""

    model: str
    pairs: tuple[Pair, ...]
    data: str
    threads: int
    rounds: int
    minutes: float  # no round begins after so many
    onnx: str | None = None  # a folder: one more arm

    def arms(self, order: str) -> tuple[str, ...]:
        """Return the arms that are measured in an order."""
        return (*_ARMS[order], _ONNX) if self.onnx else _ARMS[order]


class Bench:
    """The arms over one loaded model file, and perhaps an ONNX folder."""

    def __init__(self, setting: Setting) -> None:
        import llama_cpp

        self._setting = setting
        path = resolve(setting.model)
        rubric = Rubric.load("trec")
        options = LlamaOptions(context=_CONTEXT, threads=setting.threads)
        self._annotator = Annotator.open(path, rubric, llama=options)
        self._onnx = Annotator.open(setting.onnx, rubric, llama=options) if setting.onnx else None
        self._backend = LlamaBackend(path, options)
        tokenizer = self._backend.tokenizer
        chat = detect_chat_format(tokenizer, self._backend.is_chat_model)
        self._builder = PromptBuilder(rubric, tokenizer, _CONTEXT, chat)
        self._llama = llama_cpp.Llama(
            str(path), n_ctx=_CONTEXT, n_threads=setting.threads, n_threads_batch=setting.threads, verbose=False
        )
        self.shares: list[float] = []  # of pairgrade's time, inside the model

    def high_level(self, pairs: Sequence[Pair]) -> None:
        """Complete each prompt by one token, given as ids, which spares it the tokenizing."""
        for pair in pairs:
            self._llama.create_completion(self._ids(pair), max_tokens=1, temperature=0.0)

    def whole_prompt(self, pairs: Sequence[Pair]) -> None:
        """Decode each prompt from its first token."""
        labels = self._builder.label_ids
        for pair in pairs:
            self._backend.score([], [np.array(self._ids(pair), np.int32)], labels)

    def pairgrade(self, pairs: Sequence[Pair]) -> None:
        """Label a file."""
        self.shares.append(self._label(self._annotator, pairs))

    def pairgrade_onnx(self, pairs: Sequence[Pair]) -> None:
        """Label a file with the ONNX folder."""
        assert self._onnx is not None  # by the setting's arms
        self._label(self._onnx, pairs)

    def _label(self, annotator: Annotator, pairs: Sequence[Pair]) -> float:
        """Label a file and return the share of the time that was spent inside the model."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "pairs.jsonl"
            source.write_text("".join(json.dumps(asdict(pair)) + "\n" for pair in pairs))
            start = time.perf_counter()
            before = annotator.counters.seconds
            job = LabelJob(Source(str(source)), Path(folder) / "out.jsonl")
            label(job, lambda: nullcontext(annotator))
            return (annotator.counters.seconds - before) / (time.perf_counter() - start)

    def _ids(self, pair: Pair) -> list[int]:
        ids: list[int] = self._builder.build(pair).ids.tolist()
        return ids


def measure(setting: Setting) -> dict[str, Any]:
    """Return the median pairs/s of each arm in both orders, the spread, and the ratios."""
    bench = Bench(setting)
    shuffled = random.Random(11).sample(setting.pairs, len(setting.pairs))
    orders = {"file_order": list(setting.pairs), "shuffled": shuffled}
    rates: dict[str, dict[str, list[float]]] = {o: {a: [] for a in setting.arms(o)} for o in orders}
    for arm in setting.arms("file_order"):
        getattr(bench, arm)(setting.pairs[:3])  # warm up
    bench.shares.clear()
    end = time.monotonic() + 60 * setting.minutes
    for round_ in range(setting.rounds):
        if time.monotonic() > end:
            break
        for name, pairs in orders.items():
            own = setting.arms(name)
            first = round_ % len(own)  # no arm is always the first
            arms = own[first:] + own[:first]
            for arm in arms:
                seconds = _timed(getattr(bench, arm), pairs)
                rates[name][arm].append(len(pairs) / seconds)
                print(f"round {round_ + 1} {name:10} {arm:14} {len(pairs) / seconds:7.2f} pairs/s", flush=True)
    return {
        "pairs_per_second": {o: {a: _spread(v) for a, v in arms.items()} for o, arms in rates.items()},
        "ratios": {o: _ratios(arms) for o, arms in rates.items()},
        "rounds": len(rates["shuffled"]["pairgrade"]),
        "share_in_model": statistics.median(bench.shares),
    }


def _timed(arm: Callable[[Sequence[Pair]], None], pairs: Sequence[Pair]) -> float:
    start = time.perf_counter()
    arm(pairs)
    return time.perf_counter() - start


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def _ratios(arms: dict[str, list[float]]) -> dict[str, float]:
    """Return medians of the per-round ratios, for rounds see the same noise."""
    return {
        f"{ours}/{other}": statistics.median(a / b for a, b in zip(arms[ours], arms[other], strict=True))
        for ours in ("pairgrade", _ONNX)
        for other in arms
        if ours in arms and other not in ("pairgrade", _ONNX)
    }


def main() -> None:
    """Parse the options, measure, print."""
    parser = option_parser(__doc__, queries=12, documents=24)
    parser.add_argument(
        "--minutes", type=float, default=600.0, help="begin no round after so many (default: %(default)s)"
    )
    parser.add_argument("--onnx", metavar="FOLDER", help="an ONNX export of the model, measured as one more arm")
    parser.add_argument("--threads", type=int, help="default: the physical cores this process may use")
    options = parser.parse_args()
    machine = environment()
    pairs, name = take_pairs(options.data, options.queries, options.documents)
    if not pairs:
        sys.exit(f"no query of {name} has {options.documents} documents; lower --documents")
    threads = options.threads or machine["cores"]
    setting = Setting(options.model, pairs, name, threads, options.rounds, options.minutes, options.onnx)
    ceiling = {"fp32_gflops": fp32_gflops(), "copy_gb_per_second": copy_gigabytes()}
    print(f"{machine['cpu']}, {setting.threads} threads; {len(pairs)} pairs of {name}; {setting.model}")
    print(f"ceiling: {ceiling['fp32_gflops']:.0f} GFLOP/s fp32, {ceiling['copy_gb_per_second']:.1f} GB/s copied")
    result = measure(setting)
    print(f"\nmedian of {result['rounds']} rounds, pairs/s:")
    for order, arms in result["pairs_per_second"].items():
        for arm, spread in arms.items():
            print(f"  {order:10} {arm:14} {spread['median']:7.2f} ({spread['lowest']:.2f} to {spread['highest']:.2f})")
        print("  " + ", ".join(f"{key} {value:.2f}" for key, value in result["ratios"][order].items()))
    print(f"  share of pairgrade's time inside llama_decode: {result['share_in_model']:.1%}")
    about = {"bench": "label_throughput", "model": setting.model, "data": name, "pairs": len(pairs)}
    print(json.dumps(about | {"environment": machine, "ceiling": ceiling} | result))


if __name__ == "__main__":
    with telling("label_throughput"):
        main()
