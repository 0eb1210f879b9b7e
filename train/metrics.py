"""How good an annotator is on its validation pairs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pairgrade.train.examples import Example


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of one look at the validation pairs; None where a figure is not defined (one grade only)."""

    step: int
    loss: float  # the training loss's formula, mean over the pairs
    kappa: float | None  # Cohen's, quadratic weights, of the most probable grade
    tau: float | None  # Kendall's tau-b of the expected grade
    accuracy: float
    confusion: tuple[tuple[int, ...], ...]  # rows: the true grade, columns: the predicted

    @property
    def summary(self) -> str:
        """The figures to watch, in a few words."""
        figures = {"kappa": self.kappa, "tau-b": self.tau}
        told = "".join(f", {name} {value:.2f}" for name, value in figures.items() if value is not None)
        return f"validation {self.loss:.3f}{told}"


def evaluation(
    step: int,
    logits: npt.NDArray[np.float32],
    examples: Sequence[Example],
    grades: tuple[int, ...],
    ordinal_weight: float = 0.0,
) -> Evaluation:
    """Compare label logits, shape (n, k), with the examples' targets and grades."""
    import torch
    from scipy.stats import kendalltau
    from sklearn.metrics import cohen_kappa_score, confusion_matrix

    from pairgrade.train.losses import label_loss

    targets = torch.tensor([example.target for example in examples])
    loss = label_loss(torch.from_numpy(logits), targets, ordinal_weight).mean()
    truth = np.array([example.grade for example in examples])
    predicted = np.array(grades)[logits.argmax(1)]
    expected = torch.softmax(torch.from_numpy(logits).double(), 1).numpy() @ np.array(grades, float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one grade only: the figures are NaN, which becomes None
        scale = np.arange(grades[0], grades[-1] + 1)  # distances are those of the grades, not of their places
        kappa = float(cohen_kappa_score(truth, predicted, weights="quadratic", labels=scale))
        tau = float(kendalltau(expected, truth).statistic)
    table = confusion_matrix(truth, predicted, labels=list(grades))
    return Evaluation(
        step=step,
        loss=float(loss),
        kappa=None if np.isnan(kappa) else kappa,
        tau=None if np.isnan(tau) else tau,
        accuracy=float(np.mean(truth == predicted)),
        confusion=tuple(tuple(int(n) for n in row) for row in table),
    )


def is_better(one: Evaluation, other: Evaluation, by: str) -> bool:
    """Whether an evaluation beats another by its loss (lower), kappa or tau (higher)."""
    if by == "loss":
        return one.loss < other.loss
    values = [getattr(found, by) for found in (one, other)]
    mine, theirs = (-2.0 if value is None else float(value) for value in values)
    return mine > theirs
