"""The pictures of a result: the frontier, throughput, where the time goes, memory, the share of the ceiling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pairgrade.bench.cell_figures import HOUR, MILLION
from pairgrade.bench.judged import MEASURES
from pairgrade.bench.results import ApiCost, BenchResult, CellResult
from pairgrade.confusion_plot import blank_figure, save_figure

PICTURES = ("frontier", "throughput", "time", "memory", "ceiling")  # names of their files
_WIDTH = 8.0  # inches
_NAME_INCHES = 0.3  # between the lines of hosted models, so that their slanted names are not over each other
_INK, _BLUE, _ORANGE, _GREY = "#1a1a1a", "#1f5f99", "#d95f0e", "#b5b5b5"
_PARTS = {
    "read_seconds": ("read", "#c6dbef"),
    "tokenize_seconds": ("tokenize", "#6baed6"),
    "prefix_seconds": ("prefix", "#fdae6b"),
    "documents_seconds": ("documents", "#e6550d"),
    "write_seconds": ("write", "#74c476"),
    "other_seconds": ("other", "#bdbdbd"),
}


def draw_report(result: BenchResult, folder: Path, suffix: str = "png") -> list[tuple[str, Path]]:
    """Draw every picture for which there are figures into the folder; return title and path of each."""
    known: tuple[tuple[str, Callable[[BenchResult], Any] | None], ...] = (
        ("Cost and agreement", _frontier if _points(result) else None),
        ("Pairs a second", _throughput),
        ("Where the time goes", _time if any(_parts(cell) for cell in result.cells) else None),
        ("Memory", _memory),
        ("Share of the ceiling", _ceiling if any(c.share_of_fp32 for c in result.cells) else None),
    )
    found = []
    for name, (title, draw) in zip(PICTURES, known, strict=True):
        if draw is not None:
            path = folder / f"{name}.{suffix}"
            save_figure(draw(result), path, suffix)
            found.append((title, path))
    return found


def _points(result: BenchResult) -> list[tuple[CellResult, float]]:
    """Return the cells whose agreement is known, with it."""
    found = []
    for cell in result.cells:
        value = cell.agreement.get(result.measure)
        if value is not None and value.value is not None:
            found.append((cell, value.value))
    return found


def _cost(result: BenchResult, pairs_per_second: float) -> float:
    """Return dollars a million pairs, or hours where no price is known."""
    hours = MILLION / pairs_per_second / HOUR
    return hours * result.usd_per_hour if result.usd_per_hour else hours


def _frontier(result: BenchResult) -> Any:
    figure = blank_figure(_WIDTH, 4.6)
    axes = figure.add_axes((0, 0, 1, 1))
    points = _points(result)
    for number, (cell, value) in enumerate(points, start=1):
        _point(result, axes, number, cell, value)
    best = sorted((_cost(result, cell.pairs_per_second.median), v) for cell, v in points if not cell.dominated)
    axes.plot([x for x, _ in best], [y for _, y in best], color=_BLUE, linewidth=1, alpha=0.5, zorder=1)
    costs = [_cost(result, cell.pairs_per_second.median) for cell, _ in points]
    unit = "hours per million pairs"
    apis = result.apis if result.usd_per_hour else ()
    costs += [api.usd_per_million_pairs for api in apis]
    if result.usd_per_hour:
        unit = "US dollars per million pairs"
    left, right = min(costs) / 1.6, max(costs) * 1.6
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    _api_lines(apis, axes, (right / left) ** (_NAME_INCHES / _WIDTH))
    plain_logarithms(axes.xaxis)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"{unit} (cheaper to the left; grey: another cell is as good and as cheap)", fontsize=10)
    axes.set_ylabel(f"{MEASURES[result.measure]} with human grades", fontsize=10)
    _plain(axes)
    return figure


def _point(result: BenchResult, axes: Any, number: int, cell: CellResult, value: float) -> None:
    """Draw one cell with its intervals and its number, and its name in the list beside the axes."""
    rate, statistic = cell.pairs_per_second, cell.agreement[result.measure]
    x = _cost(result, rate.median)
    colour = _GREY if cell.dominated else _BLUE
    low = statistic.low if statistic.low is not None else value
    high = statistic.high if statistic.high is not None else value
    height = [[max(0.0, value - low)], [max(0.0, high - value)]]
    width = [[x - _cost(result, rate.high)], [_cost(result, rate.low) - x]]
    layer = 3 if cell.dominated else 4
    axes.errorbar(
        [x], [value], height, width, fmt="o", color=colour, elinewidth=1, capsize=2, markersize=14, zorder=layer
    )
    middle = {"ha": "center", "va": "center_baseline", "color": "white", "fontsize": 8, "fontweight": "bold"}
    axes.text(x, value, str(number), zorder=layer + 0.5, **middle)
    place = 1 - 0.06 * (number - 1)
    beside = {"transform": axes.transAxes, "clip_on": False}
    axes.plot([1.04], [place], "o", color=colour, markersize=12, **beside)
    axes.text(1.04, place, str(number), transform=axes.transAxes, **middle)
    ink = "#7a7a7a" if cell.dominated else _INK
    axes.text(1.065, place, cell.name, fontsize=9, color=ink, va="center", transform=axes.transAxes)


def _api_lines(apis: Sequence[ApiCost], axes: Any, apart: float) -> None:
    """Draw what hosted models cost; how well they agree was not measured, so they are lines.

    Those whose prices differ by less than the factor ``apart`` share a line at the lowest.
    """
    costs: dict[float, list[str]] = {}
    for api in sorted(apis, key=lambda api: api.usd_per_million_pairs):
        cost = api.usd_per_million_pairs
        near = next((known for known in costs if cost < apart * known), cost)
        costs.setdefault(near, []).append(api.price.model)
    for cost, models in costs.items():
        axes.axvline(cost, color=_ORANGE, linewidth=1, linestyle="--", zorder=0)
        axes.text(
            cost, 1.01, ", ".join(models), rotation=25, fontsize=8, color=_ORANGE, ha="left", va="bottom",
            rotation_mode="anchor", transform=axes.get_xaxis_transform(),
        )  # fmt: skip


def _throughput(result: BenchResult) -> Any:
    figure, axes = _bars(result)
    for place, cell in enumerate(result.cells):
        rate = cell.pairs_per_second
        ends = [[rate.median - rate.low], [rate.high - rate.median]]
        axes.barh(place, rate.median, xerr=ends, color=_BLUE, height=0.6, error_kw={"elinewidth": 1, "capsize": 3})
        axes.text(rate.high, place, f"  {rate.median:,.2f}", va="center", fontsize=9, color=_INK)
    axes.set_xlim(0, max(cell.pairs_per_second.high for cell in result.cells) * 1.15)
    axes.set_xlabel("pairs a second, from text to judgments; the line is the interval of the median", fontsize=10)
    return figure


def _parts(cell: CellResult) -> dict[str, float]:
    """Return the shares of the total, where the split is known."""
    values = {name: getattr(cell, name) for name in _PARTS}
    if any(value is None for value in values.values()):
        return {}
    return {name: value / cell.total_seconds for name, value in values.items()}


def _time(result: BenchResult) -> Any:
    figure, axes = _bars(result)
    for place, cell in enumerate(result.cells):
        start = 0.0
        for name, share in _parts(cell).items():
            axes.barh(place, share, left=start, color=_PARTS[name][1], height=0.6)
            if share > 0.06:
                axes.text(start + share / 2, place, f"{share:.0%}", ha="center", va="center", fontsize=8, color=_INK)
            start += share
        if not start:
            axes.text(0.01, place, "not split by this engine", va="center", fontsize=9, color="#7a7a7a")
    for label, colour in _PARTS.values():
        axes.barh(0, 0, color=colour, label=label)
    axes.legend(ncols=len(_PARTS), loc="lower left", bbox_to_anchor=(0, 1), fontsize=9, frameon=False,
                handlelength=1, columnspacing=1.2)  # fmt: skip
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_xlabel("share of the time from text to judgments", fontsize=10)
    return figure


def _memory(result: BenchResult) -> Any:
    figure, axes = _bars(result)
    mib = 2**20
    for place, cell in enumerate(result.cells):
        axes.barh(place, cell.peak_rss_bytes / mib, color=_BLUE, height=0.6)
        axes.text(cell.peak_rss_bytes / mib, place, f"  {cell.peak_rss_bytes / mib:,.0f}", va="center", fontsize=9)
        if cell.model_bytes:
            axes.plot([cell.model_bytes / mib] * 2, [place - 0.3, place + 0.3], color=_ORANGE, linewidth=2)
    axes.set_xlim(0, max(cell.peak_rss_bytes for cell in result.cells) / mib * 1.15)
    axes.set_xlabel("most memory resident at a time, MiB; orange: the model's files", fontsize=10)
    return figure


def _ceiling(result: BenchResult) -> Any:
    figure, axes = _bars(result)
    largest = 0.0
    for place, cell in enumerate(result.cells):
        shares = ((cell.share_of_int8, _BLUE, -0.16), (cell.share_of_fp32, _GREY, 0.16))
        for share, colour, shift in shares:
            if share:
                axes.barh(place + shift, share, color=colour, height=0.3)
                axes.text(share, place + shift, f"  {share:.0%}", va="center", fontsize=8, color=_INK)
                largest = max(largest, share)
        if not cell.share_of_fp32:
            axes.text(0.005, place, "not known", va="center", fontsize=9, color="#7a7a7a")
    axes.barh(0, 0, color=_BLUE, label="of the int8 product's rate")
    axes.barh(0, 0, color=_GREY, label="of the fp32 product's rate")
    axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), fontsize=9, frameon=False, handlelength=1)
    axes.set_xlim(0, largest * 1.15)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_xlabel("rate of the weights' products inside the model, as a share of the machine's ceiling", fontsize=10)
    return figure


def _bars(result: BenchResult) -> tuple[Any, Any]:
    """Return a figure with a row for each cell, the first above."""
    count = len(result.cells)
    figure = blank_figure(_WIDTH, 0.7 + 0.45 * count)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_yticks(range(count), [cell.name for cell in result.cells], fontsize=10)
    axes.set_ylim(count - 0.5, -0.5)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    _plain(axes)
    return figure, axes


def plain_logarithms(axis: Any) -> None:
    """Mark a logarithmic axis at 1, 2, 5, 10, 20, 50 and so on."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _plain(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
