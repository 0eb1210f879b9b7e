"""What got faster or slower between two benchmarks, beyond the noise of both."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pairgrade.bench.results import BenchResult, CellResult, load_beside
from pairgrade.errors import InputError

_LATER = {"model_sha256", "rubric", "chat"}  # what other engines' cells of earlier results do not tell
FASTER, SLOWER, SAME, UNKNOWN = "faster", "slower", "no difference shown", "too few rounds"


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """What counts as a change."""

    tolerance: float = 0.03  # a change must be larger than this share
    level: float = 0.05  # probability that any cell at all is called changed by noise alone

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise InputError(f"tolerance is {self.tolerance}; it must be from 0 to below 1")
        if not 0 < self.level < 1:
            raise InputError(f"level is {self.level}; it must lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class CellChange:
    """One cell in both benchmarks."""

    name: str
    before: float  # pairs a second, medians
    after: float
    ratio: float  # of the geometric means, after by before
    low: float | None  # ends of its interval, corrected for the number of cells
    high: float | None
    verdict: str
    memory_ratio: float  # of the peak memory, after by before


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two benchmarks, cell by cell."""

    changes: tuple[CellChange, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    lost: tuple[str, ...]  # those of only_before that the second benchmark was to measure and could not
    warnings: tuple[str, ...]  # what else differs, so that the figures may not be comparable

    @property
    def slower(self) -> tuple[CellChange, ...]:
        """Cells that got slower beyond noise."""
        return tuple(change for change in self.changes if change.verdict == SLOWER)

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON takes it."""
        return asdict(self)


def compare(before: BenchResult, after: BenchResult, options: CompareOptions | None = None) -> Comparison:
    """Compare cells with the same settings; InputError where there are none.

    Each round's rate is one observation. The interval of the ratio is Welch's t interval on the logarithms (B. L.
    Welch, Biometrika 34, 1947), at a level divided by the number of cells (Bonferroni).
    """
    options = options or CompareOptions()
    first, second = ({_key(cell): cell for cell in result.cells} for result in (before, after))
    both = [key for key in first if key in second]
    if not both:
        raise InputError("the two results have no cell in common, so there is nothing to compare")
    level = options.level / len(both)
    gone = [cell for key, cell in first.items() if key not in second]
    return Comparison(
        tuple(_change(first[key], second[key], level, options.tolerance) for key in both),
        tuple(cell.name for cell in gone),
        tuple(cell.name for key, cell in second.items() if key not in first),
        tuple(cell.name for cell in gone if _is_asked(cell, after.settings)),
        tuple(_warnings(before, after)),
    )


def _key(cell: CellResult) -> tuple[str, str, str, int, int]:
    return cell.model, cell.engine, cell.rubric, cell.threads, cell.batch_tokens


def _is_asked(cell: CellResult, settings: dict[str, Any]) -> bool:
    """Whether a matrix, as it stands in a result, has a cell with these settings."""
    is_ours, of_peers = cell.engine == "pairgrade", settings.get("peer_models") or settings["models"]
    models = settings["models"] if is_ours else [model for model in settings["models"] if model in of_peers]
    is_in_matrix = cell.engine in settings["engines"] and _is_one_of(cell.model, models)
    reference = [settings["reference"]] if is_ours and settings["reference"] else []
    return (
        (is_in_matrix or _is_one_of(cell.model, reference))
        and cell.rubric in settings["rubrics"]
        and cell.threads in (settings["threads"] or [cell.threads])
        and cell.batch_tokens in settings["batch_tokens"]
    )


def _is_one_of(model: str, named: Sequence[str]) -> bool:
    """Whether a model is one that a matrix names, or an export in a folder of several that it names."""
    return any(model == name or model.startswith(f"{name}/") for name in named)


def _change(before: CellResult, after: CellResult, level: float, tolerance: float) -> CellChange:
    logs = [[math.log(value) for value in cell.pairs_per_second.values] for cell in (before, after)]
    difference = statistics.fmean(logs[1]) - statistics.fmean(logs[0])
    half = _half_width(logs[0], logs[1], level)
    low, high = (None, None) if half is None else (math.exp(difference - half), math.exp(difference + half))
    verdict = SAME
    if low is None or high is None:
        verdict = UNKNOWN
    elif low > 1 + tolerance:
        verdict = FASTER
    elif high < 1 - tolerance:
        verdict = SLOWER
    rates = before.pairs_per_second.median, after.pairs_per_second.median
    memory = after.peak_rss_bytes / before.peak_rss_bytes
    return CellChange(after.name, *rates, math.exp(difference), low, high, verdict, memory)


def _half_width(first: Sequence[float], second: Sequence[float], level: float) -> float | None:
    """Return half of Welch's interval of the difference of means; None where a side has fewer than 3 values."""
    from scipy.stats import t

    if min(len(first), len(second)) < 3:
        return None
    parts = [statistics.variance(side) / len(side) for side in (first, second)]
    error = sum(parts)
    if error == 0:
        return 0.0
    freedom = error**2 / sum(part**2 / (len(s) - 1) for part, s in zip(parts, (first, second), strict=True))
    return float(t.ppf(1 - level / 2, freedom)) * math.sqrt(error)


def _warnings(before: BenchResult, after: BenchResult) -> list[str]:
    found = []
    for name in ("cpu", "cores", "python"):
        own, other = before.environment.get(name), after.environment.get(name)
        if own != other:
            found.append(f"{name} was {own} before and is {other} after")
    if before.data["sha256"] != after.data["sha256"]:
        found.append("the pairs are not the same")
    if before.settings["context"] != after.settings["context"]:
        found.append("the context is not the same")
    for when, result in (("before", before), ("after", after)):
        busy = load_beside(result.cells)
        if busy is not None:
            found.append(f"other processes kept up to {busy:.1f} cores busy {when}: no measure of speed")
    earlier = {_key(cell): cell.identity for cell in before.cells}
    for cell in after.cells:
        was = earlier.get(_key(cell), cell.identity)
        names = {*was, *cell.identity} - (_LATER - was.keys())
        changed = [name for name in sorted(names) if was.get(name) != cell.identity.get(name)]
        if changed:
            found.append(f"{cell.name} is not the same in {', '.join(changed)}")
    return found
