"""One optimizer step of `pairgrade train` against a plain peft loop: seconds and peak memory, side by side.

    python -m pairgrade.bench.train_step --base FOLDER [--pairs PAIRS --queries Q --docs D] [--rounds 5]

Both run the same batch of the same model: (a) whole prompts padded to the longest in one pass, the logits of the
last position, as the loops of many recipes do, (b) pairgrade's step. The peak memory of each is that of a process of
its own that does one step. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.bench.meters import peak_rss_bytes
from pairgrade.bench.telling import telling
from pairgrade.export.pairs import chosen_pairs
from pairgrade.hardware import cpu_model, usable_cores
from pairgrade.readers import Source
from pairgrade.rubric import Rubric
from pairgrade.train.base_model import add_lora, base_dtype, load_model
from pairgrade.train.examples import Blend, Example, examples
from pairgrade.train.options import DTYPES, TrainOptions

_RUBRIC = Rubric.load("trec")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="a transformers folder")
    parser.add_argument("--pairs", help="pairs with grades; the shipped sample if left out")
    parser.add_argument("--queries")
    parser.add_argument("--docs")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the base, as in `pairgrade train`")
    parser.add_argument("--only", choices=("plain", "pairgrade"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    steps = _steps(given)
    if given.only:
        steps[given.only]()
        print(peak_rss_bytes())
        return
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(given.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    ratio = statistics.median(a / b for a, b in zip(seconds["plain"], seconds["pairgrade"], strict=True))
    memory = {name: _peak_gigabytes(name) for name in steps}
    dtype = base_dtype(_options(given))
    print(f"{cpu_model()}, {given.threads} threads, {Path(given.base).name} in {dtype}, batch {given.batch}")
    for name, times in seconds.items():
        print(f"{name:10} {statistics.median(times):7.2f} s a step   peak {memory[name]:.1f} GB")
    print(f"pairgrade is {ratio:.2f} times as fast (median of {given.rounds} rounds)")
    print(json.dumps({"bench": "train_step", "dtype": dtype, "seconds": seconds, "ratio": ratio, "peak_gb": memory}))


def _options(given: argparse.Namespace) -> TrainOptions:
    return TrainOptions(batch=given.batch, threads=given.threads, dtype=given.dtype)


def _steps(given: argparse.Namespace) -> dict[str, Callable[[], None]]:
    import torch

    from pairgrade.train.label_model import LabelModel
    from pairgrade.train.loop import gradients
    from pairgrade.train.prompts import builder_of

    options = _options(given)
    base = Path(given.base)
    builder = builder_of(base, _RUBRIC, options)
    source = Source(given.pairs, given.queries, given.docs) if given.pairs else None
    pairs = [pair for pair in chosen_pairs(source) if pair.grade is not None]
    chosen = [pairs[place] for place in np.linspace(0, len(pairs) - 1, given.batch).astype(int)]
    batch = list(examples(chosen, Blend(_RUBRIC.values, {}), builder))
    model = add_lora(load_model(base, options), options)
    label_model = LabelModel(model, builder.label_ids)
    labels = torch.from_numpy(builder.label_ids.astype(np.int64))

    def plain() -> None:
        model.zero_grad()
        model.train()
        _plain_loss(model, batch, labels).backward()

    def pairgrade() -> None:
        model.zero_grad()
        gradients(label_model, batch, options)

    return {"plain": plain, "pairgrade": pairgrade}


def _plain_loss(model: Any, batch: list[Example], labels: Any) -> Any:
    import torch

    rows = [example.prompt.ids for example in batch]
    longest = max(map(len, rows))
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, values in enumerate(rows):  # padded on the left, so that the last position is the cue
        ids[row, longest - len(values) :] = torch.from_numpy(values.astype(np.int64))
        mask[row, longest - len(values) :] = 1
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=1, use_cache=False).logits[:, -1, labels].float()
    return torch.nn.functional.cross_entropy(logits, torch.tensor([example.target for example in batch]))


def _peak_gigabytes(name: str) -> float:
    command = [sys.executable, "-m", "pairgrade.bench.train_step", *sys.argv[1:], "--only", name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(output.split()[-1]) / 1e9


if __name__ == "__main__":
    with telling("train_step"):
        main()
