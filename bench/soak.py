"""Hours of labelling with the worker killed again and again: nothing lost, nothing changed, memory flat.

Run it with ``python -m pairgrade.bench.soak --minutes 60``. The pairs of the data are repeated under new ids with a
number in their text, as many as fill the time; one run has a worker process that is sent SIGKILL at a random moment
of every period, the other runs in one process and calmly. Both outputs must be equal byte for byte. The memory of
the parent is sampled every second, its slope taken over the second half of the time. The last line is JSON.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade import Annotator, LlamaOptions, Pair
from pairgrade.bench.data import option_parser, take_pairs
from pairgrade.environment import environment
from pairgrade.job import LabelJob
from pairgrade.judgments import read_judgments
from pairgrade.readers import Source
from pairgrade.run import label


@dataclass
class Disturbance:
    """What was done to the run, and how much memory its parent had meanwhile."""

    kills: int
    samples: list[tuple[float, float]]  # (seconds, MB of the parent)

    def slope(self) -> float | None:
        """Return the growth in MB an hour, by least squares over the second half of the samples."""
        half = self.samples[len(self.samples) // 2 :]
        if len(half) < 10:
            return None
        seconds, megabytes = np.array(half).T
        return float(np.polyfit(seconds, megabytes, 1)[0] * 3600)


def disturb(ended: threading.Event, period: float, seed: int, found: Disturbance) -> None:
    """Until ``ended``: kill this process's children at one random moment of every period, and sample the memory."""
    import psutil

    random_moment = random.Random(seed).uniform
    own = psutil.Process()
    start = time.monotonic()
    next_kill = random_moment(0, period)
    number = 1
    while not ended.wait(min(1.0, max(0.0, next_kill - (time.monotonic() - start)))):
        now = time.monotonic() - start
        found.samples.append((now, own.memory_info().rss / 1e6))
        if now >= next_kill:
            for child in own.children():
                child.kill()
                found.kills += 1
            next_kill = number * period + random_moment(0, period)
            number += 1


def repeated(pairs: tuple[Pair, ...], count: int) -> list[Pair]:
    """Return so many distinct pairs, made of these again and again."""
    made = []
    for number in range(count):
        turn, place = divmod(number, len(pairs))
        pair = pairs[place]
        made.append(replace(pair, doc_id=f"{pair.doc_id}-{turn}", document=f"{turn}. {pair.document}"))
    return made


def soak(
    folder: Path, pairs: list[Pair], model: str, threads: tuple[int, int], period: float, seed: int
) -> dict[str, Any]:
    """Run the pairs disturbed and calmly, with so many threads each, and compare."""
    path = folder / "pairs.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for p in pairs:
            row = {"query_id": p.query_id, "doc_id": p.doc_id, "query": p.query, "document": p.document}
            file.write(json.dumps(row) + "\n")
    found, ended = Disturbance(0, []), threading.Event()
    thread = threading.Thread(target=disturb, args=(ended, period, seed, found))
    jobs = [LabelJob(Source(str(path)), folder / f"{name}.jsonl") for name in ("disturbed", "calm")]
    thread.start()
    try:
        disturbed = label(jobs[0], partial(Annotator.open, model, llama=LlamaOptions(threads=threads[0]), isolate=True))
    finally:
        ended.set()
        thread.join()
    print(f"{found.kills} kills; now the calm run", file=sys.stderr, flush=True)
    calm = label(jobs[1], partial(Annotator.open, model, llama=LlamaOptions(threads=threads[1])))
    ids = [(j.query_id, j.doc_id) for j in read_judgments(jobs[0].out)]
    return {
        "pairs": len(pairs),
        "kills": found.kills,
        "each_pair_once_in_order": ids == [(p.query_id, p.doc_id) for p in pairs],
        "equal_to_the_calm_run": jobs[0].out.read_bytes() == jobs[1].out.read_bytes(),
        "without_judgment": disturbed.tally.unfit + disturbed.tally.rejected,
        "seconds_disturbed": round(disturbed.effort.seconds, 1),
        "seconds_calm": round(calm.effort.seconds, 1),
        "parent_mb": round(found.samples[-1][1], 1) if found.samples else None,
        "parent_mb_per_hour": found.slope(),
    }


def main() -> int:
    """Measure how many pairs fill the time, and soak."""
    parser = option_parser(__doc__, queries=27, documents=10)
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the disturbed run")
    parser.add_argument("--period", type=float, default=60.0, help="seconds with one kill in them")
    parser.add_argument("--threads", type=int, default=1, help="of the disturbed run")
    parser.add_argument("--calm-threads", type=int, help="of the calm run: judgments do not depend on it")
    parser.add_argument("--seed", type=int, default=0)
    values = parser.parse_args()
    pairs, data = take_pairs(values.data, values.queries, values.documents)
    with Annotator.open(values.model, llama=LlamaOptions(threads=values.threads)) as annotator:
        start = time.perf_counter()
        trial = len(list(annotator.label(pairs[:40])))
        rate = trial / (time.perf_counter() - start)
    count = max(trial, round(rate * 60 * values.minutes))
    print(f"{rate:.1f} pairs/s: {count} pairs for {values.minutes:g} minutes", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        threads = (values.threads, values.calm_threads or values.threads)
        result = soak(Path(folder), repeated(pairs, count), values.model, threads, values.period, values.seed)
    print(json.dumps({"bench": "soak", "data": data, "model": values.model} | result | {"environment": environment()}))
    return 0 if result["each_pair_once_in_order"] and result["equal_to_the_calm_run"] else 1


if __name__ == "__main__":
    sys.exit(main())
