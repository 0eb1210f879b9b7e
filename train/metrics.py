"""How good an annotator is on its validation pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pairgrade.agreement import AgreementOptions, agreement
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

    from pairgrade.train.losses import label_loss

    targets = torch.tensor([example.target for example in examples])
    loss = label_loss(torch.from_numpy(logits), targets, ordinal_weight).mean()
    truth = np.array([example.grade for example in examples])
    predicted = np.array(grades)[logits.argmax(1)]
    expected = torch.softmax(torch.from_numpy(logits).double(), 1).numpy() @ np.array(grades, float)
    queries, options = [example.query_id for example in examples], AgreementOptions(resamples=0, per_query=False)
    report = agreement(queries, truth, predicted, expected, grades=grades, options=options)
    return Evaluation(
        step=step,
        loss=float(loss),
        kappa=report.statistics["quadratic_kappa"].value,
        tau=report.statistics["tau_b"].value,
        accuracy=float(np.mean(truth == predicted)),
        confusion=report.confusion,
    )


def is_better(one: Evaluation, other: Evaluation, by: str) -> bool:
    """Whether an evaluation beats another by its loss (lower), kappa or tau (higher)."""
    if by == "loss":
        return one.loss < other.loss
    values = [getattr(found, by) for found in (one, other)]
    mine, theirs = (-2.0 if value is None else float(value) for value in values)
    return mine > theirs
