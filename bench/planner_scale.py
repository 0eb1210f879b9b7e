"""Prompts and plans of millions of pairs without a model: ``python -m pairgrade.bench.planner_scale``.

Every pair is made, tokenized (a byte a token), built into a prompt and planned, a window at a time as in a run. The
memory must not grow with the pairs. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

from pairgrade import AnnotatorOptions, Pair, PlanOptions, Rubric
from pairgrade.bench.meters import peak_rss_bytes
from pairgrade.bench.telling import telling
from pairgrade.environment import environment
from pairgrade.fake import FakeTokenizer
from pairgrade.plan import plan
from pairgrade.prompt import PromptBuilder
from pairgrade.windows import windows


def made(pairs: int, per_query: int, length: int) -> Iterator[Pair]:
    """Yield pairs grouped by query, each document another text of so many characters."""
    filler = "a passage of no meaning at all, " * (length // 32 + 1)
    for number in range(pairs):
        query = number // per_query
        yield Pair(f"q{query}", f"d{number}", f"query number {query}", f"{number} {filler}"[:length])


def main() -> None:
    """Parse the options, plan, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--per-query", type=int, default=100)
    parser.add_argument("--length", type=int, default=64, help="characters of a document (default: %(default)s)")
    options = parser.parse_args()
    builder = PromptBuilder(Rubric.load("trec"), FakeTokenizer(), 4096)
    start = time.perf_counter()
    planning = 0.0
    done = batches = 0
    marks: list[dict[str, float]] = []
    step = max(1, options.pairs // 10)
    for window in windows(made(options.pairs, options.per_query, options.length), AnnotatorOptions().window):
        prompts = [builder.build(pair) for pair in window]
        began = time.perf_counter()
        batches += sum(1 for _ in plan(prompts, PlanOptions()))
        planning += time.perf_counter() - began
        done += len(window)
        if done // step > len(marks):
            seconds, memory = time.perf_counter() - start, peak_rss_bytes() / 2**20
            marks.append({"pairs": done, "seconds": seconds, "peak_mib": memory})
            print(f"{done:12,} pairs {seconds:8.1f} s, most memory {memory:6.1f} MiB", flush=True)
    about = {"bench": "planner_scale", "pairs": done, "batches": batches, "planning_seconds": planning}
    print(json.dumps(about | {"seconds": time.perf_counter() - start, "marks": marks, "environment": environment()}))


if __name__ == "__main__":
    with telling("planner_scale"):
        main()
