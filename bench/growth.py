"""How cost grows: ``python -m pairgrade.bench.growth MODEL... --out FOLDER``.

Pairs a second against documents per query, against document length and, where several models are given, against the
arithmetic of a token, each with the law that is expected drawn beside it: a pair costs its document, its cue and its
share of the prefix, in tokens, all at one rate. The texts are made, so that lengths are exact. Points are interleaved
in rounds; medians. Writes growth.json and a PNG of each; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pairgrade import Annotator, LlamaOptions, Pair
from pairgrade.atomic import write_text
from pairgrade.bench.arithmetic import operations
from pairgrade.bench.meters import pin
from pairgrade.bench.report_plots import plain_logarithms
from pairgrade.bench.spread import Spread, spread
from pairgrade.bench.telling import telling
from pairgrade.confusion_plot import blank_figure, save_figure
from pairgrade.environment import environment
from pairgrade.hardware import usable_cores

_WORDS = ("river", "stone", "cloud", "engine", "paper", "salt", "window", "music", "forest", "copper", "lamp")


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement's place."""

    model: str
    documents: int  # per query
    length: int  # words of a document, about as many tokens


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured there."""

    point: Point
    pairs: int
    pairs_per_second: Spread
    computed_tokens_per_pair: float
    document_tokens: float  # mean


def made(point: Point, pairs: int, round_: int) -> list[Pair]:
    """Make pairs of distinct texts; other ones each round, so that no prefix is known from the last."""
    found = []
    for number in range(pairs):
        query = number // point.documents
        words = [_WORDS[(number * 7 + place * (place % 5 + round_ + 1)) % len(_WORDS)] for place in range(point.length)]
        text = " ".join([str(number), *words[1:]]) or "stone"
        found.append(Pair(f"q{query}", f"d{number}", f"what is {_WORDS[query % 11]} {round_} {query}", text))
    return found


def measure(points: Sequence[Point], pairs: int, rounds: int, threads: int, context: int) -> list[Found]:
    """Measure every point in turn, round by round; models are loaded once."""
    models = dict.fromkeys(point.model for point in points)
    options = LlamaOptions(context=context, threads=threads)
    annotators = {model: Annotator.open(model, llama=options) for model in models}
    rates: dict[Point, list[float]] = {point: [] for point in points}
    computed: dict[Point, float] = {}
    lengths: dict[Point, float] = {}
    for model, annotator in annotators.items():
        list(annotator.label(made(Point(model, 1, 16), 2, 0)))  # warm up
    for round_ in range(1, rounds + 1):
        for step in range(len(points)):
            point = points[(step + round_) % len(points)]
            annotator = annotators[point.model]
            texts = made(point, max(point.documents, pairs), round_)
            before = annotator.counters.computed
            start = time.perf_counter()
            judged = list(annotator.label(texts))
            rates[point].append(len(texts) / (time.perf_counter() - start))
            computed[point] = (annotator.counters.computed - before) / len(texts)
            lengths[point] = statistics.fmean(j.document_tokens for j in judged)
            print(f"round {round_} {point}: {rates[point][-1]:.2f} pairs/s", flush=True)
    for annotator in annotators.values():
        annotator.close()
    return [Found(p, max(p.documents, pairs), spread(rates[p]), computed[p], lengths[p]) for p in points]


def law(found: Sequence[Found], work: Sequence[float] | None = None) -> list[float]:
    """Return the pairs a second of each point if every computed token cost the same; ``work``: or every operation.

    The one free number, the rate of that work, is the geometric mean over the points.
    """
    work = work or [point.computed_tokens_per_pair for point in found]
    rates = [point.pairs_per_second.median for point in found]
    common = statistics.geometric_mean(rate * own for rate, own in zip(rates, work, strict=True))
    return [common / own for own in work]


def draw(found: Sequence[Found], places: Sequence[float], expected: Sequence[float], label: str, path: Path) -> None:
    """Draw medians with intervals, and the law."""
    figure = blank_figure(6.4, 4.0)
    axes = figure.add_axes((0, 0, 1, 1))
    rates = [point.pairs_per_second for point in found]
    ends = [[rate.median - rate.low for rate in rates], [rate.high - rate.median for rate in rates]]
    axes.plot(places, expected, "--", color="#d95f0e", label="expected: the same time for every token's work")
    axes.errorbar(places, [rate.median for rate in rates], ends, fmt="o", color="#1f5f99", capsize=3, label="measured")
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_logarithms(axes.xaxis)
    plain_logarithms(axes.yaxis)
    axes.set_xticks(places, [f"{place:,.0f}" for place in places])
    axes.set_ylim(min(rate.low for rate in rates) / 1.6, max(rate.high for rate in rates) * 1.6)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(label, fontsize=10)
    axes.set_ylabel("pairs a second", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False)
    save_figure(figure, path, "png")


def by_size(found: Sequence[Found]) -> tuple[list[Found], list[float], list[float]]:
    """Return the points whose arithmetic is known, its size, and the rates at one rate of arithmetic."""
    counted = {point: operations(point.point.model) for point in found}
    sizes = {point: each and each.whole for point, each in counted.items()}
    known = sorted((point for point in found if sizes[point]), key=lambda point: sizes[point] or 0.0)
    places = [(sizes[point] or 0.0) / 2e6 for point in known]
    if not known:
        return [], [], []
    work = [point.computed_tokens_per_pair * place for point, place in zip(known, places, strict=True)]
    return known, places, law(known, work)


def main() -> None:
    """Parse the options, measure, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="the first is used for the first two pictures")
    parser.add_argument("--documents", type=int, nargs="*", default=[1, 4, 16, 64, 256], help="per query")
    parser.add_argument("--lengths", type=int, nargs="*", default=[32, 128, 512, 2048], help="words of a document")
    parser.add_argument("--pairs", type=int, default=32, help="pairs of a point, or one query's documents if more")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    machine = environment()
    pin(options.threads)
    first, usual = options.models[0], (16, 64)
    groups: dict[str, list[Point]] = {
        "documents": [Point(first, documents, usual[1]) for documents in options.documents],
        "length": [Point(first, usual[0], length) for length in options.lengths],
        "size": [Point(model, *usual) for model in options.models] if len(options.models) > 1 else [],
    }
    points = list(dict.fromkeys(point for group in groups.values() for point in group))
    context = 512 + 2 * max([usual[1], *options.lengths])
    found = {f.point: f for f in measure(points, options.pairs, options.rounds, options.threads, context)}
    options.out.mkdir(parents=True, exist_ok=True)
    own: dict[str, list[Found]] = {name: [found[point] for point in group] for name, group in groups.items() if group}
    for name, label in (("documents", "documents per query"), ("length", "tokens of a document")):
        if name in own:
            places = [f.point.documents if name == "documents" else f.document_tokens for f in own[name]]
            draw(own[name], places, law(own[name]), label, options.out / f"growth-{name}.png")
    if "size" in own:
        known, places, expected = by_size(own["size"])
        if known:
            draw(known, places, expected, "weights of the layers' products, millions", options.out / "growth-size.png")
    result: dict[str, Any] = {"bench": "growth", "threads": options.threads, "environment": machine}
    result |= {name: [asdict(f) for f in group] for name, group in own.items()}
    write_text(options.out / "growth.json", json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    with telling("growth"):
        main()
