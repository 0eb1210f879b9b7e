"""The picture of the experiment: nDCG@10 of each ranking, a panel a collection, the seeds as points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pairgrade.bench.experiment_options import ANNOTATORS, ARMS
from pairgrade.confusion_plot import blank_figure, save_figure

_MEASURE = "nDCG@10"
_SHORT = (
    {"bm25": "BM25", "cosine": "encoder,\ncosine", "pretrained": "pretrained\nonly"}
    | {"a": "(a) BM25's\nlabels", "b": "(b) zero-shot\nlabels", "c": "(c) tuned\nlabels", "d": "(d) people's\nlabels"}
    | {name: f"{name}\nitself" for name in ANNOTATORS.values()}
)
_COLOURS = dict(zip(ARMS, ("#d95f0e", "#6baed6", "#1f5f99", "#1a1a1a"), strict=True))
_GREY = "#8a8a8a"  # what was not trained here
_PANEL = (5.4, 3.2)  # inches
_BETWEEN = (0.6, 1.2)  # to the right and below, for names


def draw_experiment(result: dict[str, Any], path: Path) -> None:
    """Draw the picture; the same result gives the same bytes."""
    ways = result["ways"]
    columns, rows = max(len(way["tested"]) for way in ways), len(ways)
    width, height = (columns * (_PANEL[0] + _BETWEEN[0]), rows * (_PANEL[1] + _BETWEEN[1]))
    figure = blank_figure(width, height)
    for row, way in enumerate(ways):
        for column, ranked in enumerate(way["tested"]):
            left, bottom = column * (_PANEL[0] + _BETWEEN[0]), (rows - 1 - row) * (_PANEL[1] + _BETWEEN[1])
            place = (left / width, bottom / height, _PANEL[0] / width, _PANEL[1] / height)
            _draw(figure.add_axes(place), way["train"], ranked)
    save_figure(figure, path, "png")


def _draw(axes: Any, train: str, ranked: dict[str, Any]) -> None:
    found = [quality for quality in ranked["qualities"] if quality["measure"] == _MEASURE]
    for place, quality in enumerate(found):
        colour = _COLOURS.get(quality["name"], _GREY)
        axes.plot([place - 0.28, place + 0.28], [quality["mean"]] * 2, color=colour, linewidth=2)
        if len(quality["values"]) > 1:
            axes.scatter([place] * len(quality["values"]), quality["values"], color=colour, s=18, alpha=0.6, zorder=3)
        axes.annotate(f"{quality['mean']:.3f}", (place, max(quality["values"])), (0, 6), textcoords="offset points",
                      ha="center", fontsize=9, color=colour)  # fmt: skip
    axes.set_xticks(range(len(found)), [_SHORT[quality["name"]] for quality in found], fontsize=8, rotation=30)
    axes.set_xlim(-0.6, len(found) - 0.4)
    axes.margins(y=0.15)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel(f"{_MEASURE}, mean of {ranked['queries']:,} queries", fontsize=9)
    axes.set_title(f"{ranked['collection']}, re-rankers trained on {train}", fontsize=10)
