"""What the worker process costs: the same batches in this process and through a worker, in turns.

Run it with ``python -m pairgrade.bench.worker_overhead``, with ``--model fake:0.005`` for the cost without a model.
Each round labels every query's pairs in both ways, the order swapped from one to the next; the ratio is that of the
rounds' totals, the median reported. Processor time is that of both processes. The last line is JSON.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from pairgrade import Annotator, LlamaOptions, Pair
from pairgrade.bench.data import option_parser, take_pairs
from pairgrade.bench.telling import telling
from pairgrade.environment import environment


class Arm:
    """One way to label, with what it took so far in this round."""

    def __init__(self, model: str, options: LlamaOptions, isolate: bool) -> None:
        import psutil

        self._own = psutil.Process()
        before = set(self._own.children())
        self.annotator = Annotator.open(model, llama=options, isolate=isolate)
        self._processes = [self._own, *(set(self._own.children()) - before)]
        self.wall = self.processor = 0.0

    def label(self, pairs: list[Pair]) -> list[Any]:
        """Label one query's pairs and add up the time."""
        processor, wall = self._processor(), time.perf_counter()
        judged = list(self.annotator.label(pairs))
        self.wall += time.perf_counter() - wall
        self.processor += self._processor() - processor
        return judged

    def _processor(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._processes)


def main() -> None:
    """Measure in rounds and print the ratios."""
    parser = option_parser(__doc__, queries=6, documents=10)
    parser.add_argument("--threads", type=int, default=1)
    values = parser.parse_args()
    pairs, data = take_pairs(values.data, values.queries, values.documents)
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.query_id, []).append(pair)
    options = LlamaOptions(threads=values.threads)
    arms = [Arm(values.model, options, isolate) for isolate in (False, True)]
    for arm in arms:
        arm.label(next(iter(groups.values())))
    walls, processors, equal = [], [], True
    for number in range(values.rounds):
        for arm in arms:
            arm.wall = arm.processor = 0.0
        for place, group in enumerate(groups.values()):
            turns = arms if (place + number) % 2 else arms[::-1]
            results = [arm.label(group) for arm in turns]
            equal = equal and results[0] == results[1]
        walls.append(arms[1].wall / arms[0].wall)
        if arms[0].processor:  # the clock is coarse
            processors.append(arms[1].processor / arms[0].processor)
        print(f"round {number}: {arms[0].wall:.2f} s here, {arms[1].wall:.2f} s in a worker: {walls[-1]:.4f}")
    for arm in arms:
        arm.annotator.close()
    result = {
        "bench": "worker_overhead",
        "model": values.model,
        "data": data,
        "pairs": len(pairs),
        "wall_ratio": statistics.median(walls),
        "processor_ratio": statistics.median(processors) if processors else None,
        "equal": equal,
    }
    print(json.dumps(result | {"environment": environment()}))


if __name__ == "__main__":
    with telling("worker_overhead"):
        main()
