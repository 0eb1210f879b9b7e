"""Hours of labelling with the worker killed again and again: nothing lost, nothing changed, memory flat.

Run it with ``python -m pairgrade.bench.soak --minutes 60``. Job after job labels pairs of the data under new ids with a
number in their text, until the time is over; their worker process is sent SIGKILL at a random moment of every period.
Then the same jobs run in one process and calmly. Both outputs must be equal byte for byte. The memory of the parent is
sampled every second, its slope taken over the second half of the time. The last line is JSON.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from pairgrade import Annotator, LlamaOptions, Pair
from pairgrade.bench.data import option_parser, take_pairs
from pairgrade.bench.telling import telling
from pairgrade.environment import environment
from pairgrade.job import LabelJob
from pairgrade.judgments import read_judgments
from pairgrade.readers import Source
from pairgrade.run import label
from pairgrade.summary import Summary


@dataclass
class Disturbance:
    """What is done to the run, and how much memory its parent has meanwhile."""

    period: float  # seconds with one kill in them
    seed: int
    kills: int = 0
    samples: list[tuple[float, float]] = field(default_factory=list)  # (seconds, MB of the parent)

    def slope(self) -> float | None:
        """Return the growth in MB an hour, by least squares over the second half of the samples."""
        half = self.samples[len(self.samples) // 2 :]
        if len(half) < 10:
            return None
        seconds, megabytes = np.array(half).T
        return float(np.polyfit(seconds, megabytes, 1)[0] * 3600)


def disturb(ended: threading.Event, found: Disturbance) -> None:
    """Until ``ended``: kill this process's children at one random moment of every period, and sample the memory."""
    import psutil

    random_moment = random.Random(found.seed).uniform
    own = psutil.Process()
    start = time.monotonic()
    next_kill = random_moment(0, found.period)
    number = 1
    while not ended.wait(min(1.0, max(0.0, next_kill - (time.monotonic() - start)))):
        now = time.monotonic() - start
        found.samples.append((now, own.memory_info().rss / 1e6))
        if now >= next_kill:
            for child in own.children():
                child.kill()
                found.kills += 1
            next_kill = number * found.period + random_moment(0, found.period)
            number += 1


def slice_file(folder: Path, pairs: tuple[Pair, ...], turn: int) -> Path:
    """Write the pairs of one job: these, made distinct from other turns'."""
    path = folder / f"pairs-{turn}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for pair in pairs:
            p = replace(pair, doc_id=f"{pair.doc_id}-{turn}", document=f"{turn}. {pair.document}")
            row = {"query_id": p.query_id, "doc_id": p.doc_id, "query": p.query, "document": p.document}
            file.write(json.dumps(row) + "\n")
    return path


def run_job(path: Path, out: Path, model: str, threads: int, isolate: bool) -> Summary:
    """Label one job's pairs."""
    opened = partial(Annotator.open, model, llama=LlamaOptions(threads=threads), isolate=isolate)
    return label(LabelJob(Source(str(path)), out), opened)


def disturbed(
    folder: Path, pairs: tuple[Pair, ...], model: str, threads: int, seconds: float, disturbance: Disturbance
) -> list[Summary]:
    """Run job after job until the time is over."""
    ended = threading.Event()
    thread = threading.Thread(target=disturb, args=(ended, disturbance))
    start = time.monotonic()
    summaries: list[Summary] = []
    thread.start()
    try:
        while time.monotonic() - start < seconds:
            turn = len(summaries)
            path = slice_file(folder, pairs, turn)
            summaries.append(run_job(path, folder / f"disturbed-{turn}.jsonl", model, threads, True))
            minutes = (time.monotonic() - start) / 60
            print(f"{minutes:.0f} min: {turn + 1} jobs, {disturbance.kills} kills", file=sys.stderr, flush=True)
    finally:
        ended.set()
        thread.join()
    return summaries


def compare(folder: Path, turns: int, model: str, threads: int) -> tuple[bool, bool, float]:
    """Run the same jobs calmly: whether each pair is there once and in order, whether bytes are equal, seconds."""
    whole = equal = True
    seconds = 0.0
    for turn in range(turns):
        path, found, calm = (folder / f"{name}-{turn}.jsonl" for name in ("pairs", "disturbed", "calm"))
        seconds += run_job(path, calm, model, threads, False).effort.seconds
        ids = [(j.query_id, j.doc_id) for j in read_judgments(found)]
        rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        whole &= ids == [(row["query_id"], row["doc_id"]) for row in rows]
        equal &= found.read_bytes() == calm.read_bytes()
    return whole, equal, seconds


def main() -> int:
    """Soak, then compare."""
    parser = option_parser(__doc__, queries=27, documents=10)
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the disturbed run")
    parser.add_argument("--period", type=float, default=60.0, help="seconds with one kill in them")
    parser.add_argument("--threads", type=int, default=1, help="of the disturbed run")
    parser.add_argument("--calm-threads", type=int, help="of the calm run: judgments do not depend on it")
    parser.add_argument("--seed", type=int, default=0)
    values = parser.parse_args()
    pairs, data = take_pairs(values.data, values.queries, values.documents)
    disturbance = Disturbance(values.period, values.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = disturbed(folder, pairs, values.model, values.threads, 60 * values.minutes, disturbance)
        whole, equal, calm = compare(folder, len(runs), values.model, values.calm_threads or values.threads)
    result = {
        "pairs": len(pairs) * len(runs),
        "jobs": len(runs),
        "kills": disturbance.kills,
        "each_pair_once_in_order": whole,
        "equal_to_the_calm_run": equal,
        "without_judgment": sum(run.tally.unfit + run.tally.rejected for run in runs),
        "seconds_disturbed": round(sum(run.effort.seconds for run in runs), 1),
        "seconds_calm": round(calm, 1),
        "parent_mb": round(disturbance.samples[-1][1], 1) if disturbance.samples else None,
        "parent_mb_per_hour": disturbance.slope(),
    }
    print(json.dumps({"bench": "soak", "data": data, "model": values.model} | result | {"environment": environment()}))
    return 0 if whole and equal else 1


if __name__ == "__main__":
    with telling("soak"):
        sys.exit(main())
