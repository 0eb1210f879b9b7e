"""How well scores rank: nDCG@10 by query and its mean, and how alike two rankings are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64] | npt.NDArray[np.float32]
CUTOFF = 10


@dataclass(frozen=True, slots=True)
class RankingEvaluation:
    """One look at the dev queries."""

    step: int
    ndcg: float  # mean nDCG@10 over the queries

    @property
    def summary(self) -> str:
        """The figure to watch, in a few words."""
        return f"dev nDCG@10 {self.ndcg:.3f}"


def mean_ndcg(labels: Sequence[Values], scores: Sequence[Values]) -> float:
    """Return the mean over queries of nDCG@10, the gain of a document being its label as in trec_eval.

    Documents with equal scores share the mean of their places. A query without any relevant document counts 0.
    """
    from sklearn.metrics import ndcg_score

    each = [float(ndcg_score([own], [given], k=CUTOFF)) for own, given in zip(labels, scores, strict=True)]
    return float(np.mean(each))


def rank_correlations(one: Sequence[Values], other: Sequence[Values]) -> list[float]:
    """Return Spearman's rho of each query's scores by two models; 1 where both tie all, 0 where only one does."""
    from scipy.stats import spearmanr

    found = []
    for first, second in zip(one, other, strict=True):
        constant = [bool(np.ptp(scores) == 0) for scores in (first, second)]
        if any(constant):
            found.append(float(all(constant)))
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(float(spearmanr(first, second).statistic))
    return found
