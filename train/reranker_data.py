"""What a re-ranker learns from: the documents of a query in slates, and queries kept apart to judge it by."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pairgrade.errors import InputError
from pairgrade.ranking_set import RankingGroup, RankingRow
from pairgrade.train.reranker_options import RerankerOptions
from pairgrade.train.seeds import part_seed

_ROUNDING = 1e-3  # of the probabilities and the expected grade of a row
_OF_ORDER = ("lambda", "ranknet")  # losses that learn nothing of documents with equal labels
_MOST_GAIN = 30  # of a label in LambdaLoss, where a float32 ends at 2^128 and its sums before


@dataclass(frozen=True, slots=True)
class Slate:
    """Some documents of one query, with what their scores should become."""

    query: str
    documents: tuple[str, ...]
    targets: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DevQuery:
    """A query that the re-ranker is judged by."""

    query_id: str
    query: str
    documents: tuple[str, ...]
    labels: npt.NDArray[np.float64]


def split_groups(groups: Sequence[RankingGroup], share: float, seed: int) -> tuple[list[RankingGroup], list[DevQuery]]:
    """Take a share of the queries whose documents differ in their labels, at least one, away for the dev set."""
    usable = [place for place, group in enumerate(groups) if len({row.label for row in group.rows}) > 1]
    if len(usable) < 2:
        raise InputError(
            f"{len(usable)} of {len(groups)} queries have documents of different labels; training needs 2 or more: one "
            "to learn from and one to judge by"
        )
    count = min(len(usable) - 1, max(1, round(share * len(usable))))
    chosen = set(random.Random(seed).sample(usable, count))
    texts = {groups[place].query for place in chosen}  # a query may come twice, under two ids
    train = [group for group in groups if group.query not in texts]
    if not any(len({row.label for row in group.rows}) > 1 for group in train):
        raise InputError("all queries with documents of different labels are one text; there is none to learn from")
    return train, dev_queries([group for group in groups if group.query in texts])


def sample_pairs(groups: Sequence[RankingGroup], most: int) -> list[tuple[str, str]]:
    """Return at most so many pairs of query and document, at random, always the same."""
    total = sum(len(group.rows) for group in groups)
    chosen = set(random.Random(0).sample(range(total), min(most, total)))
    rows = ((group.query, row) for group in groups for row in group.rows)
    return [(query, row.text) for place, (query, row) in enumerate(rows) if place in chosen]


def dev_queries(groups: Sequence[RankingGroup]) -> list[DevQuery]:
    """Return the queries whose documents differ in their labels; InputError where there is none."""
    found = [
        DevQuery(
            group.query_id, group.query, tuple(r.text for r in group.rows), np.array([r.label for r in group.rows])
        )
        for group in groups
        if len({row.label for row in group.rows}) > 1
    ]
    if not found:
        raise InputError("no dev query has documents of different labels, so nothing can be told of a ranking")
    return found


class Slates:
    """The slates of each epoch: a function of the seed and the epoch alone."""

    def __init__(self, groups: Sequence[RankingGroup], options: RerankerOptions) -> None:
        self._groups, self._options = groups, options
        if options.target == "expected":
            groups = _from_zero(groups)
            _refuse_two_scales(groups)
        scale = _highest(groups, options) if options.loss == "bce" else 1.0
        if not scale:
            raise InputError("every label of the training queries is 0; there is nothing to learn")
        self._targets = [[_target(row, options) / scale for row in group.rows] for group in groups]
        highest = max((target for targets in self._targets for target in targets), default=0.0)
        if options.loss == "lambda" and highest > _MOST_GAIN:
            raise InputError(
                f"the highest label of the training queries is {highest:g}, and the loss lambda counts 2 to the power "
                f"of a label: bring the labels to {_MOST_GAIN} or less, or take --loss ranknet or listnet"
            )
        # one document alone tells how relevant it is, but there is nothing to compare it with
        self._least = 1 if options.loss == "bce" else 2
        if all(len(targets) < self._least for targets in self._targets):
            raise InputError("no training query has 2 documents to compare; take the loss bce or give more documents")
        if options.loss != "bce" and all(len(set(targets)) < 2 for targets in self._targets):
            raise InputError(
                "no training query has documents of different labels, so there is nothing to compare; take the loss "
                "bce or other labels"
            )
        self.count = sum(_parts(len(targets), options.slate) for targets in self._targets if self._teaches(targets))

    def epoch(self, number: int) -> list[Slate]:
        """Deal each query's documents into slates of equal mixture, and shuffle the slates of all queries.

        Where a label is too rare to come into every slate, a loss of the order alone gets a document of another label
        into each slate that would have one label.
        """
        deal = random.Random(part_seed(self._options.seed, number))
        slates = []
        for group, targets in zip(self._groups, self._targets, strict=True):
            if not self._teaches(targets):
                continue
            places = sorted(range(len(targets)), key=lambda i: (-targets[i], deal.random()))
            parts = _parts(len(targets), self._options.slate)
            for part in range(parts):
                mine = places[part::parts]
                if self._options.loss in _OF_ORDER and len({targets[i] for i in mine}) < 2:
                    other = deal.choice([i for i in places if targets[i] != targets[mine[0]]])
                    mine = [*(mine[:-1] if len(mine) >= self._options.slate else mine), other]
                deal.shuffle(mine)
                documents = tuple(group.rows[i].text for i in mine)
                slates.append(Slate(group.query, documents, tuple(targets[i] for i in mine)))
        deal.shuffle(slates)
        return slates

    def _teaches(self, targets: Sequence[float]) -> bool:
        """Whether the loss can learn of a query with these targets."""
        return len(targets) >= self._least and (self._options.loss not in _OF_ORDER or len(set(targets)) > 1)


def _parts(documents: int, slate: int) -> int:
    """Return into how many slates documents go: of ``slate`` or some fewer, and at least 2 if there are 2.

    Where ``slate`` is 2 and the documents are odd, one slate has 3.
    """
    return max(1, min(-(-documents // slate), documents // 2))


def _target(row: RankingRow, options: RerankerOptions) -> float:
    if options.target == "expected" and row.expected_grade is not None:
        return row.expected_grade
    return row.label


def _from_zero(groups: Sequence[RankingGroup]) -> list[RankingGroup]:
    """Return the groups with expected grades that count from the annotator's lowest grade, as labels count from 0.

    A set does not tell the grades; ``_ends_of_scale`` does.
    """
    lowest, _ = _ends_of_scale([row for group in groups for row in group.rows])
    if not lowest:
        return list(groups)

    def moved(row: RankingRow) -> RankingRow:
        return row if row.expected_grade is None else replace(row, expected_grade=row.expected_grade - lowest)

    return [replace(group, rows=tuple(map(moved, group.rows))) for group in groups]


def _ends_of_scale(rows: Sequence[RankingRow]) -> tuple[float, float]:
    """Return the annotator's lowest and highest grade, which a set does not tell; 0 and 0 where no row was judged.

    An expected grade is the sum of the grades times their probabilities, so that the grades are the solution of rows
    enough that differ. Where these do not settle it, the grades are taken to have no gaps, and the lowest one is found
    by what each row's expected grade is above that of grades that count from 0.
    """
    judged = [row for row in rows if row.expected_grade is not None and row.probabilities]
    if not judged:
        return 0.0, 0.0
    expected = np.array([row.expected_grade for row in judged], np.float64)
    if len({len(row.probabilities or ()) for row in judged}) == 1:
        table = np.array([row.probabilities for row in judged], np.float64)
        solution = np.linalg.lstsq(table, expected)[0]
        grades, error = np.rint(solution), _solution_error(table)
        if error < 0.1 and np.abs(solution - grades).max() < 0.2 and (np.diff(grades) > 0).all():
            return float(grades[0]), float(grades[-1])
    from_zero = [sum(i * p for i, p in enumerate(row.probabilities or ())) for row in judged]
    lowest = math.floor(float((expected - from_zero).min()) + _ROUNDING)
    return float(lowest), lowest + max(len(row.probabilities or ()) for row in judged) - 1.0


def _solution_error(table: npt.NDArray[np.float64]) -> float:
    """Return how far the least-squares solution of a table may be off, where its right side is off by rounding."""
    _, values, directions = np.linalg.svd(table, full_matrices=False)
    if len(values) < table.shape[1] or values[-1] <= np.finfo(np.float64).eps * values[0] * max(table.shape):
        return math.inf
    return float(np.sqrt(((directions / values[:, None]) ** 2).sum(axis=0)).max()) * _ROUNDING / 10


def _highest(groups: Sequence[RankingGroup], options: RerankerOptions) -> float:
    """Return the highest grade: of the annotator's scale where its grades are learnt, else the highest label."""
    rows = [row for group in groups for row in group.rows]
    highest = max((row.label for row in rows), default=0.0)
    return max(highest, _highest_expected(rows)) if options.target == "expected" else highest


def _highest_expected(rows: Sequence[RankingRow]) -> float:
    _, highest = _ends_of_scale(rows)
    return max([0.0, highest, *(row.expected_grade for row in rows if row.expected_grade is not None)])


def _refuse_two_scales(groups: Sequence[RankingGroup]) -> None:
    """Raise InputError where labels would stand for all expected grades, or, to 1, among those of a wider scale."""
    rows = [row for group in groups for row in group.rows]
    unjudged = sum(row.expected_grade is None for row in rows)
    if unjudged == len(rows):
        raise InputError(
            "no row of the training queries has an expected grade: give a set that `pairgrade relabel` wrote, or learn "
            "labels (--target label)"
        )
    if 0 < unjudged < len(rows) and max(row.label for row in rows) <= 1 < _highest_expected(rows):
        raise InputError(
            f"{unjudged:,} of {len(rows):,} rows have no expected grade, and labels go to 1, expected grades to "
            f"{_highest_expected(rows):g}: judge them, relabel with --scale grades, or learn labels (--target label)"
        )
