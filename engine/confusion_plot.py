"""A picture of the confusion matrix, for reports."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pairgrade.agreement_report import Report
from pairgrade.atomic import write_bytes
from pairgrade.errors import InputError

FORMATS = ("png", "svg", "pdf")

_WIDEST = 20  # grades that still give a legible picture


def draw_confusion(report: Report, path: str | os.PathLike[str]) -> None:
    """Draw the confusion matrix into a PNG, SVG or PDF file; equal reports give equal bytes."""
    suffix = picture_format(path)
    if len(report.grades) > _WIDEST:
        raise InputError(f"{len(report.grades)} grades do not fit into a picture; {_WIDEST} do")
    size = max(2.6, 0.95 * len(report.grades))  # inches of the matrix; what stands around it is added when saved
    figure = blank_figure(size, size)
    _draw(figure.add_axes((0, 0, 1, 1)), report)
    save_figure(figure, path, suffix)


def blank_figure(width: float, height: float) -> Any:
    """Return a figure of so many inches that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | os.PathLike[str], suffix: str) -> None:
    """Write a figure whole or not at all; the same figure gives the same bytes. A ``$`` in its texts is a dollar."""
    import matplotlib as mpl
    from matplotlib.text import Text

    for text in figure.findobj(Text):  # names of files and rubrics are no TeX
        text.set_parse_math(False)
    data = io.BytesIO()
    dates = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with mpl.rc_context({"svg.hashsalt": "pairgrade", "pdf.fonttype": 42, "text.parse_math": False}):
        figure.savefig(data, format=suffix, dpi=200, metadata=dates[suffix], bbox_inches="tight", pad_inches=0.12)
    write_bytes(path, data.getvalue())


def picture_format(path: str | os.PathLike[str]) -> str:
    """Return the format that a picture's suffix names; InputError for one that is not drawn."""
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise InputError(f"{path}: pictures end in .png, .svg or .pdf")
    return suffix


def _draw(axes: Any, report: Report) -> None:
    grades = [str(grade) for grade in report.grades]
    draw_matrix(axes, report.confusion, grades, grades, "share of the pairs with this human grade")
    axes.set_xlabel("predicted grade", fontsize=12)
    axes.set_ylabel("human grade", fontsize=12)
    axes.set_title(_title(report), fontsize=10)


def draw_matrix(
    axes: Any, rows: Sequence[Sequence[int]], row_names: Sequence[str], column_names: Sequence[str], meaning: str
) -> None:
    """Draw counts with their shares of the row, which are the colours, and what the colours mean on a bar beside."""
    totals = [sum(row) for row in rows]
    shares = [[count / max(1, total) for count in row] for row, total in zip(rows, totals, strict=True)]
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for y, row in enumerate(rows):
        for x, count in enumerate(row):
            ink = "white" if shares[y][x] > 0.7 else "#1a1a1a"  # the better contrast
            axes.text(x, y - 0.1, f"{count:,}", ha="center", va="center", color=ink, fontsize=12)
            share = f"{shares[y][x]:.1%}" if totals[y] else "-"
            axes.text(x, y + 0.19, share, ha="center", va="center", color=ink, fontsize=9)
    axes.set_xticks(range(len(column_names)), column_names, fontsize=12)
    axes.set_yticks(range(len(row_names)), row_names, fontsize=12)
    axes.set_xticks([place + 0.5 for place in range(len(column_names) - 1)], minor=True)
    axes.set_yticks([place + 0.5 for place in range(len(row_names) - 1)], minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    inches = axes.figure.get_figwidth() * axes.get_position().width
    bar = axes.figure.colorbar(image, cax=axes.inset_axes((1 + 0.12 / inches, 0, 0.17 / inches, 1)))
    bar.set_label(meaning, fontsize=9)
    bar.ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    bar.ax.tick_params(labelsize=9, length=2)
    bar.outline.set_visible(False)


def _title(report: Report) -> str:
    names = {
        "kappa": "kappa",
        "quadratic_kappa": "quadratic kappa",
        "binary_kappa": f"binary kappa (grade ≥ {report.threshold})",
    }
    values = {label: report.statistics[name].value for name, label in names.items()}
    plain, quadratic, binary = (
        f"{label} {'undefined' if value is None else f'{value:.3f}'}" for label, value in values.items()
    )
    queries = "1 query" if report.queries == 1 else f"{report.queries:,} queries"
    return f"n = {report.pairs:,} pairs, {queries}\n{plain}, {quadratic}\n{binary}"
