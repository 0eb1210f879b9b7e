"""Agreement statistics for many reweightings of a sample at once, which is what a bootstrap needs.

A resample that draws whole clusters (here: queries) is a row of counts: how often each cluster was drawn.
Nothing is copied or sorted again for it. Confusion matrices are summed with those counts as weights, and rank
statistics run once over scores sorted beforehand, each pair weighing as much as its query was drawn.

The method is the cluster bootstrap: C. A. Field and A. H. Welsh, "Bootstrapping clustered data", Journal of
the Royal Statistical Society B 69(3), 2007, pages 369-390; the intervals are the percentile intervals of
B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_BLOCK = 1 << 19  # numbers of one intermediate array: small enough to stay in the cache


def draws(clusters: int, resamples: int, seed: int) -> Iterator[Ints]:
    """Yield, for each resample, how often each cluster is drawn; the same seed gives the same draws."""
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(random.integers(clusters, size=clusters), minlength=clusters)


def interval(values: Floats, confidence: float) -> tuple[float, float] | None:
    """Return the percentile interval of those resamples in which the statistic is defined."""
    defined = values[~np.isnan(values)]
    if not defined.size:
        return None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


class Sample:
    """Graded pairs in clusters, ready to be reweighted.

    ``clusters`` numbers the cluster of each pair from 0, ``human`` and ``predicted`` are places in ``grades``
    (ascending), ``scores`` ranks the pairs, and grades from ``threshold`` on are relevant.
    """

    def __init__(
        self, clusters: Ints, human: Ints, predicted: Ints, scores: Floats, grades: Ints, threshold: int
    ) -> None:
        from scipy.sparse import csr_matrix

        self.clusters = int(clusters.max()) + 1
        self._grades = grades
        self._relevant = grades >= threshold
        distinct, level = np.unique(scores, return_inverse=True)
        self._levels = len(distinct)
        ones = np.ones(len(clusters))
        width = len(grades)
        # rows are (human, predicted), and (score, human); columns are clusters
        self._confusion = csr_matrix((ones, (human * width + predicted, clusters)), (width * width, self.clusters))
        self._ranking = csr_matrix((ones, (level * width + human, clusters)), (self._levels * width, self.clusters))

    def statistics(self, counts: npt.ArrayLike) -> dict[str, Floats]:
        """Return every statistic for each row of ``counts`` (weight of each cluster); NaN where undefined."""
        rows = np.atleast_2d(np.asarray(counts, dtype=np.float64))
        step = self._step()
        blocks = [self._block(rows[start : start + step]) for start in range(0, len(rows), step)]
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    def resampled(self, resamples: int, seed: int) -> dict[str, Floats]:
        """Return every statistic for each of so many resamples of the clusters."""
        step = self._step()
        source = draws(self.clusters, resamples, seed)
        blocks = []
        for start in range(0, resamples, step):
            rows = [next(source) for _ in range(min(step, resamples - start))]
            blocks.append(self._block(np.asarray(rows, dtype=np.float64)))
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    def _step(self) -> int:
        """Return how many rows of counts are taken at once."""
        width = len(self._grades)
        return max(1, _BLOCK // max(self.clusters, self._levels * width, width**2))

    def _block(self, rows: Floats) -> dict[str, Floats]:
        width = len(self._grades)
        confusion = (self._confusion @ rows.T).T.reshape(-1, width, width)
        ranking = (self._ranking @ rows.T).reshape(self._levels, width, -1)
        return confusion_statistics(confusion, self._grades, self._relevant) | rank_statistics(ranking, self._relevant)


def confusion_statistics(confusion: Floats, grades: Ints, relevant: npt.NDArray[np.bool_]) -> dict[str, Floats]:
    """Return what follows from confusion matrices (resample, human, predicted)."""
    human, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    total = human.sum(axis=1)
    distance = np.subtract.outer(grades, grades).astype(np.float64) ** 2
    return {
        "accuracy": _ratio(np.trace(confusion, axis1=1, axis2=2), total),
        "kappa": _kappa(confusion, human, predicted, 1 - np.eye(len(grades))),
        "quadratic_kappa": _kappa(confusion, human, predicted, distance),
        "binary_kappa": _kappa(confusion, human, predicted, np.not_equal.outer(relevant, relevant) * 1.0),
        "alpha": _ordinal_alpha(confusion, human + predicted),
        "mean_human_grade": _ratio(human @ grades, total),
        "mean_predicted_grade": _ratio(predicted @ grades, total),
    }


def _kappa(confusion: Floats, human: Floats, predicted: Floats, cost: Floats) -> Floats:
    """Return Cohen's kappa: one minus the cost of the disagreement over that expected by chance."""
    found = np.einsum("rij,ij->r", confusion, cost) * human.sum(axis=1)
    expected = np.einsum("ri,rj,ij->r", human, predicted, cost, optimize=True)
    return 1 - _ratio(found, expected)


def _ordinal_alpha(confusion: Floats, ratings: Floats) -> Floats:
    """Return Krippendorff's alpha of two raters; the distance of two grades is the ratings between them."""
    place = ratings.cumsum(axis=1) - ratings / 2
    distance = (place[:, :, None] - place[:, None, :]) ** 2
    found = 2 * (confusion * distance).sum(axis=(1, 2)) * (ratings.sum(axis=1) - 1)
    expected = np.einsum("ri,rj,rij->r", ratings, ratings, distance, optimize=True)
    return 1 - _ratio(found, expected)


def rank_statistics(ranking: Floats, relevant: npt.NDArray[np.bool_]) -> dict[str, Floats]:
    """Return what follows from weights of (score, ascending; human grade, ascending; resample)."""
    by_score, by_grade = ranking.sum(axis=1), ranking.sum(axis=0)
    total = by_grade.sum(axis=0)
    below = ranking.cumsum(axis=0) - ranking  # weight of each grade at lower scores
    lower = below.cumsum(axis=1) - below  # of these, weight of lower grades
    higher = below.sum(axis=1, keepdims=True) - below - lower
    surplus = np.einsum("sgr,sgr->r", ranking, lower - higher)  # concordant less discordant pairs of pairs
    pairs = _pairs(total)
    untied = (pairs - _pairs(by_score).sum(axis=0)) * (pairs - _pairs(by_grade).sum(axis=0))

    score_rank, grade_rank = _centred_ranks(by_score), _centred_ranks(by_grade)
    covariance = np.einsum("sgr,sr,gr->r", ranking, score_rank, grade_rank, optimize=True)
    spread = (by_score * score_rank**2).sum(axis=0) * (by_grade * grade_rank**2).sum(axis=0)

    positive, negative = ranking[:, relevant].sum(axis=1), ranking[:, ~relevant].sum(axis=1)
    beaten = negative.cumsum(axis=0) - negative / 2  # irrelevant weight at lower scores, and half of that at equal
    return {
        "tau_b": _ratio(surplus, np.sqrt(untied)),
        "spearman": _ratio(covariance, np.sqrt(spread)),
        "auc": _ratio((positive * beaten).sum(axis=0), positive.sum(axis=0) * negative.sum(axis=0)),
    }


def _pairs(weight: Floats) -> Floats:
    count: Floats = weight * (weight - 1) / 2
    return count


def _centred_ranks(weights: Floats) -> Floats:
    """Return the mid-rank of each row of weights, less the mean rank."""
    ranks: Floats = weights.cumsum(axis=0) - (weights + weights.sum(axis=0)) / 2
    return ranks


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide, with NaN where the denominator is zero."""
    result = np.full(denominator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
