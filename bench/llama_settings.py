"""Which llama.cpp settings are fast and which are exact: ``python -m pairgrade.bench.llama_settings``.

One process, the settings interleaved in rounds over the same grouped pairs, medians; beside each the largest
difference of a label logit from one document at a time with nothing reused. The last line is JSON.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from pairgrade import LlamaOptions, Rubric
from pairgrade.bench.data import option_parser, take_pairs
from pairgrade.bench.telling import telling
from pairgrade.environment import environment
from pairgrade.llama import LlamaBackend
from pairgrade.models import resolve
from pairgrade.plan import Batch, PlanOptions, plan
from pairgrade.prompt import PromptBuilder, detect_chat_format

_CONTEXT = 1024
_SETTINGS = {
    "one document": LlamaOptions(context=_CONTEXT),
    "one document, no reuse": LlamaOptions(context=_CONTEXT, reuse=False),
    "one document, flash attention": LlamaOptions(context=_CONTEXT, flash_attention=True),
    "one document, micro-batch 64": LlamaOptions(context=_CONTEXT, micro_batch=64),
    "8 documents, own KV": LlamaOptions(context=_CONTEXT, sequences=8, kv_unified=False),
    "8 documents, own KV, flash attention": LlamaOptions(
        context=_CONTEXT, sequences=8, kv_unified=False, flash_attention=True
    ),
    "8 documents, unified KV": LlamaOptions(context=_CONTEXT, sequences=8, kv_unified=True),
    "16 documents, own KV": LlamaOptions(context=_CONTEXT, sequences=16, kv_unified=False),
    "16 documents, unified KV": LlamaOptions(context=_CONTEXT, sequences=16, kv_unified=True),
    "16 documents, unified KV, micro-batch 2048": LlamaOptions(
        context=_CONTEXT, sequences=16, kv_unified=True, micro_batch=2048
    ),
    "8 documents, unified KV, flash attention": LlamaOptions(
        context=_CONTEXT, sequences=8, kv_unified=True, flash_attention=True
    ),
}


def _score(backend: LlamaBackend, batches: list[Batch], labels: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    return np.concatenate([backend.score(batch.prefix, batch.suffixes, labels).logits for batch in batches])


def main() -> None:
    """Parse the options, measure, print; exit with what is wrong."""
    with telling("llama_settings"):
        _measure()


def _measure() -> None:
    parser = option_parser(__doc__, queries=2, documents=8)
    parser.add_argument("--gpu-layers", type=int, default=0, help="-1 for all (default: 0)")
    options = parser.parse_args()
    pairs, name = take_pairs(options.data, options.queries, options.documents)
    path = resolve(options.model)
    settings = {title: replace(setting, gpu_layers=options.gpu_layers) for title, setting in _SETTINGS.items()}
    backends = {title: LlamaBackend(path, setting) for title, setting in settings.items()}
    first = next(iter(backends.values()))
    chat = detect_chat_format(first.tokenizer, first.is_chat_model)
    builder = PromptBuilder(Rubric.load("trec"), first.tokenizer, _CONTEXT, chat)
    prompts = [builder.build(pair) for _, group in groupby(pairs, lambda pair: pair.query_id) for pair in group]
    batches = list(plan(prompts, PlanOptions()))
    exact = _score(backends["one document, no reuse"], batches, builder.label_ids)
    rates: dict[str, list[float]] = {title: [] for title in backends}
    differences: dict[str, float] = {}
    for round_ in range(options.rounds + 1):  # the first is the warm-up
        for title, backend in backends.items():
            start = time.perf_counter()
            logits = _score(backend, batches, builder.label_ids)
            seconds = time.perf_counter() - start
            if round_:
                rates[title].append(len(prompts) / seconds)
            differences[title] = float(np.abs(logits - exact).max())
    print(f"{len(prompts)} pairs of {name}, {options.model}, {first.threads} threads, {options.rounds} rounds")
    result = {}
    for title, values in rates.items():
        relative = statistics.median(a / b for a, b in zip(values, rates["one document"], strict=True))
        result[title] = {"median": statistics.median(values), "relative": relative, "off_by": differences[title]}
        print(
            f"  {title:42} {statistics.median(values):6.2f} pairs/s  x{relative:.2f}  off by {differences[title]:.4f}"
        )
    about = {"bench": "llama_settings", "model": options.model, "data": name, "pairs": len(prompts)}
    print(json.dumps(about | {"rounds": options.rounds, "environment": environment(), "settings": result}))


if __name__ == "__main__":
    main()
