"""Where the time of an ONNX export goes: ``python -m pairgrade.bench.onnx_profile FOLDER``.

Pairs are labelled with ONNX Runtime's profiler on, which costs a few percent, and the time of its operators is summed
for the two graphs. Where pairgrade's own pass computes documents they are labelled with it, too, and the time of its
stages is told, of all threads together. Beside both the rate of the documents, counted as the products of the weights
only, against the rate of a large product. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pairgrade.annotator import Annotator
from pairgrade.backend import Counters
from pairgrade.bench.arithmetic import operations
from pairgrade.bench.ceiling import measure_ceiling
from pairgrade.bench.data import add_data_options, take_pairs
from pairgrade.bench.telling import telling
from pairgrade.environment import environment
from pairgrade.hardware import usable_cores
from pairgrade.native_library import native_kind
from pairgrade.onnx_backend import OnnxBackend, OnnxOptions
from pairgrade.onnx_manifest import DOCUMENTS, PREFIX
from pairgrade.records import Pair
from pairgrade.rubric import Rubric

_LEAST = 0.005  # share of a graph's time; operators below it are one row


def sum_operators(profile: Path) -> dict[str, float]:
    """Return the seconds of each kind of operator in a file of ONNX Runtime's profiler, the greatest first."""
    seconds: Counter[str] = Counter()
    for event in json.loads(profile.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            seconds[event["args"]["op_name"]] += event["dur"] / 1e6
    return dict(seconds.most_common())


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `pairgrade export --to onnx` wrote")
    add_data_options(parser, 4, 24)
    parser.add_argument("--threads", type=int, default=usable_cores())
    options = parser.parse_args()
    pairs, name = take_pairs(options.data, options.queries, options.documents)
    ceiling = measure_ceiling(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        by_graph = _label(OnnxBackend(options.folder, OnnxOptions(threads=options.threads, profile=folder)), pairs)
        graphs = {
            graph: sum_operators(next(Path(folder).glob(f"{Path(graph).stem}_*.json"))) for graph in (DOCUMENTS, PREFIX)
        }
    for graph, seconds in graphs.items():
        _print(f"{graph}, operators", seconds)
    rates = {"documents": _rates(options.folder, by_graph, len(pairs))}
    backend = OnnxBackend(options.folder, OnnxOptions(threads=options.threads))
    if backend.native_seconds:
        rates["own_pass"] = _rates(options.folder, _label(backend, pairs), len(pairs))
        _print("pairgrade's own pass, stages", backend.native_seconds)
    else:
        backend.close()
    for what, (tokens, gops) in rates.items():
        title = what.replace("_", " ")
        print(f"{title}: {tokens:,.0f} tokens a second, {gops or 0:,.0f} GOP/s in products of the weights")
    print(f"ceiling: fp32 {ceiling.fp32_gflops:,.0f} GFLOP/s, int8 {ceiling.int8_gops or 0:,.0f} GOP/s")
    about: dict[str, Any] = {"bench": "onnx_profile", "data": name, "pairs": len(pairs), "threads": options.threads}
    found = {"document_tokens_per_second": rates["documents"][0], "document_gops": rates["documents"][1],
             "ceiling_fp32": ceiling.fp32_gflops, "ceiling_int8": ceiling.int8_gops, "graphs": graphs,
             "environment": environment()}  # fmt: skip
    if backend.native_seconds:
        own = dict(zip(("tokens_per_second", "gops"), rates["own_pass"], strict=True))
        found["own_pass"] = own | {"kind": native_kind(), "stages": backend.native_seconds}
    print(json.dumps(about | found))


def _label(backend: OnnxBackend, pairs: Sequence[Pair]) -> Counters:
    """Label with a backend, close it, and return its counters."""
    with Annotator(backend, Rubric.load("trec")) as annotator:
        list(annotator.label(pairs))
        return backend.counters


def _rates(folder: Path, counters: Counters, pairs: int) -> tuple[float, float | None]:
    """Return the documents' tokens a second, and the GOP/s of their products; None where a model's are not known."""
    seconds = counters.seconds - counters.prefix_seconds
    tokens = (counters.computed - counters.prefix_computed) / seconds
    each = operations(str(folder))
    return tokens, None if each is None else (tokens * each.per_token + pairs / seconds * each.per_document) / 1e9


def _print(title: str, seconds: dict[str, float]) -> None:
    total = sum(seconds.values())
    print(f"{title}: {total:.2f} s")
    rest = 0.0
    for kind, spent in seconds.items():
        if spent < _LEAST * total:
            rest += spent
        else:
            print(f"  {spent:8.3f} s {spent / total:6.1%}  {kind}")
    print(f"  {rest:8.3f} s {rest / total:6.1%}  others")


if __name__ == "__main__":
    with telling("onnx_profile"):
        main()
