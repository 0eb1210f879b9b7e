"""A picture of a relabelling: the set's labels against the annotator's grades, and what became of each source."""

from __future__ import annotations

import os
from typing import Any

from pairgrade.confusion_plot import blank_figure, draw_matrix, picture_format, save_figure
from pairgrade.errors import InputError
from pairgrade.label_changes import OUTCOMES, Counts, LabelChanges

_WIDEST = 20  # grades that still give a legible picture
_MOST_SOURCES = 12  # bars; the smaller sources are put together
_COLOURS = dict(zip(OUTCOMES, ("#9ecae1", "#2ca25f", "#de2d26", "#636363", "#fdd49e", "#eeeeee"), strict=True))


def draw_label_changes(changes: LabelChanges, path: str | os.PathLike[str]) -> None:
    """Draw the matrix and the bars into a PNG, SVG or PDF file; equal reports give equal bytes."""
    suffix = picture_format(path)
    if len(changes.grades) > _WIDEST:
        raise InputError(f"{len(changes.grades)} grades do not fit into a picture; {_WIDEST} do")
    sources = merged_sources(changes)
    matrix = (max(2.6, 0.95 * len(changes.grades)), max(1.3, 0.95 * len(changes.labels)))  # inches
    bars = (3.6, max(0.7, 0.45 * len(sources)))
    width, height = matrix[0] + 1.5 + bars[0], max(matrix[1], bars[1])
    figure = blank_figure(width, height)
    left = (0, 1 - matrix[1] / height, matrix[0] / width, matrix[1] / height)
    right = (1 - bars[0] / width, 1 - bars[1] / height, bars[0] / width, bars[1] / height)
    _draw_matrix(figure.add_axes(left), changes)
    _draw_sources(figure.add_axes(right), sources)
    save_figure(figure, path, suffix)


def merged_sources(changes: LabelChanges) -> dict[str, Counts]:
    """Return the counts of the largest sources, and of the others together."""
    by_size = sorted(changes.sources.items(), key=lambda item: (-item[1].rows, item[0]))
    if len(by_size) <= _MOST_SOURCES:
        return {name or "(no source)": counts for name, counts in by_size}
    kept, others = by_size[: _MOST_SOURCES - 1], by_size[_MOST_SOURCES - 1 :]
    rest = Counts(rows=sum(counts.rows for _, counts in others))
    for outcome in OUTCOMES:
        setattr(rest, outcome, sum(getattr(counts, outcome) for _, counts in others))
    return {name or "(no source)": counts for name, counts in kept} | {f"{len(others)} others": rest}


def _draw_matrix(axes: Any, changes: LabelChanges) -> None:
    grades = [str(grade) for grade in changes.grades]
    draw_matrix(axes, changes.matrix, changes.labels, grades, "share of this label")
    axes.set_xlabel("annotator's grade", fontsize=12)
    axes.set_ylabel("label in the set", fontsize=12)
    total = changes.total
    axes.set_title(
        f"n = {total.rows:,} rows, {total.rows - total.unjudged:,} judged; relevant from grade {changes.threshold}\n"
        f"false positives {total.false_positives:,} of {total.positives:,}, "
        f"false negatives {total.false_negatives:,} of {total.negatives:,}",
        fontsize=10,
    )


def _draw_sources(axes: Any, sources: dict[str, Counts]) -> None:
    places = range(len(sources))
    start = [0.0 for _ in places]
    for outcome in OUTCOMES:
        shares = [getattr(counts, outcome) / counts.rows for counts in sources.values()]
        if any(shares):
            axes.barh(places, shares, left=start, color=_COLOURS[outcome], label=outcome, height=0.7)
        start = [before + share for before, share in zip(start, shares, strict=True)]
    axes.set_yticks(places, [f"{name} ({counts.rows:,})" for name, counts in sources.items()], fontsize=9)
    axes.yaxis.tick_right()
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.tick_params(length=2, labelsize=9)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.set_title("labels by source", fontsize=10)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.35 / len(sources)), ncols=3, fontsize=8, frameon=False)
