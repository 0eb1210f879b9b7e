"""Pictures of a training run: loss and agreement over the steps, and the confusion before and after."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.atomic import write_bytes
from pairgrade.train.metrics import Evaluation

_SMOOTH = 0.9  # of the running mean drawn over the noisy loss of single steps


def draw_curves(losses: Sequence[float], evaluations: Sequence[Evaluation], path: Path) -> None:
    """Draw the loss of steps and validation, and the validation's kappa and tau, into a PNG."""
    figure, (left, right) = new_figure(2, (9.0, 3.6))
    steps = np.arange(1, len(losses) + 1)
    left.plot(steps, losses, color="0.8", linewidth=0.8, label="step")
    left.plot(steps, running_mean(losses), color="tab:blue", label="step, running mean")
    at = [e.step for e in evaluations]
    left.plot(at, [e.loss for e in evaluations], color="tab:orange", marker="o", label="validation")
    left.set_ylabel("loss")
    for name, label, color in (("kappa", "quadratic kappa", "tab:green"), ("tau", "Kendall tau-b", "tab:purple")):
        values = [np.nan if getattr(e, name) is None else getattr(e, name) for e in evaluations]
        right.plot(at, values, color=color, marker="o", label=label)
    right.axhline(0, color="0.8", linewidth=0.8)
    right.set_ylabel("agreement on the validation pairs")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def draw_confusions(before: Evaluation, after: Evaluation, grades: Sequence[int], path: Path) -> None:
    """Draw the validation pairs' confusion matrix before training and of the best step into a PNG."""
    figure, panels = new_figure(2, (8.0, 3.9))
    for axes, found, title in zip(panels, (before, after), ("before", f"step {after.step}"), strict=True):
        table = np.array(found.confusion)
        shares = table / np.maximum(table.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(table):
            dark = shares[row, column] > 0.6
            axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")
        axes.set_xticks(range(len(grades)), [str(g) for g in grades])
        axes.set_yticks(range(len(grades)), [str(g) for g in grades])
        axes.set_xlabel("predicted grade")
        axes.set_ylabel("true grade")
        kappa = "undefined" if found.kappa is None else f"{found.kappa:.2f}"
        axes.set_title(f"{title}: quadratic kappa {kappa}", fontsize=10)
    save_figure(figure, path)


def new_figure(panels: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """Make a figure of so many panels side by side; return it and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(1, panels)


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, the same bytes for the same picture."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def running_mean(values: Sequence[float]) -> list[float]:
    """Return the exponential mean of the values so far, at each of them."""
    means: list[float] = []
    for count, value in enumerate(values, 1):
        keep = min(_SMOOTH, 1 - 1 / count)
        means.append(value if not means else keep * means[-1] + (1 - keep) * value)
    return means
