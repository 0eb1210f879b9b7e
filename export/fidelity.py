"""How far one model's labels are from another's: plain numbers over their label logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pairgrade.agreement import AgreementOptions, agreement
from pairgrade.errors import InputError
from pairgrade.records import Pair

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Model B against model A. Divergences are KL(A || B) in nats, over the label tokens alone."""

    pairs: int
    mean_kl: float
    p99_kl: float
    agreement: float  # share of the pairs to which both give the same most probable grade
    expected_grade_difference: float  # mean absolute
    logit_difference: float  # mean absolute
    max_logit_difference: float
    relative_logit_distance: float  # of all logits as one vector, to A's length
    human: int  # pairs with a human grade
    quadratic_kappa: tuple[float | None, float | None]  # of A and of B with the human grades
    auc: tuple[float | None, float | None]


def fidelity(a: npt.ArrayLike, b: npt.ArrayLike, grades: Sequence[int], pairs: Sequence[Pair]) -> Fidelity:
    """Compare label logits, shape (pairs, grades) each; rows that are NaN in both are left out.

    InputError where no row is left, or where a pair was run by one of the models only.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    ran, other = ~np.isnan(first).any(axis=1), ~np.isnan(second).any(axis=1)
    alone = int(np.sum(ran != other))
    if alone:
        raise InputError(f"{alone} pairs were run by one of the two models only")
    if not ran.any():
        raise InputError("none of the pairs fits the context of the models; give a larger one or shorter queries")
    kept = [pairs[place] for place in np.flatnonzero(ran).tolist()]
    first, second = first[ran], second[ran]
    logs = _log_softmax(first), _log_softmax(second)
    divergence = np.maximum((np.exp(logs[0]) * (logs[0] - logs[1])).sum(1), 0)
    expected = [np.exp(log) @ np.asarray(grades, np.float64) for log in logs]
    chosen = [np.asarray(grades)[log.argmax(1)] for log in logs]
    difference = np.abs(first - second)
    people = [_against_people(kept, *model, grades) for model in zip(chosen, expected, strict=True)]
    return Fidelity(
        pairs=len(kept),
        mean_kl=float(divergence.mean()),
        p99_kl=float(np.quantile(divergence, 0.99)),
        agreement=float((chosen[0] == chosen[1]).mean()),
        expected_grade_difference=float(np.abs(expected[0] - expected[1]).mean()),
        logit_difference=float(difference.mean()),
        max_logit_difference=float(difference.max()),
        relative_logit_distance=float(np.linalg.norm(first - second) / np.linalg.norm(first)),
        human=sum(pair.grade is not None for pair in kept),
        quadratic_kappa=(people[0][0], people[1][0]),
        auc=(people[0][1], people[1][1]),
    )


def _against_people(
    pairs: Sequence[Pair], chosen: npt.NDArray[np.int64], expected: Floats, grades: Sequence[int]
) -> tuple[float | None, float | None]:
    """Return the quadratic kappa and the AUC with the human grades, where there are any."""
    known = [place for place, pair in enumerate(pairs) if pair.grade is not None]
    if not known:
        return None, None
    queries, human = zip(*((pairs[place].query_id, pairs[place].grade) for place in known), strict=True)
    options = AgreementOptions(resamples=0)
    report = agreement(queries, human, chosen[known], expected[known], grades=grades, options=options)
    return report.statistics["quadratic_kappa"].value, report.statistics["auc"].value


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result
