"""Which pairs train and which validate: balanced over the grades, of disjoint queries."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pairgrade.errors import InputError


@dataclass(frozen=True, slots=True)
class Row:
    """One graded pair of the input: its place, query and grade."""

    place: int
    query_id: str
    grade: int
    doc_id: str = ""
    by_people: bool = True  # whether the grade is theirs, not the most probable one of a soft target
    same_as: str = ""  # the first query id of the input with this query's text; "" where that is query_id

    @property
    def text_id(self) -> str:
        """The id that stands for the query's text, which may come under several."""
        return self.same_as or self.query_id


class SameTexts:
    """Finds for each query the first id that its text came under."""

    def __init__(self) -> None:
        self._by_text: dict[str, str] = {}
        self._by_id: dict[str, str] = {}

    def first_id(self, query_id: str, text: str) -> str:
        """Return the id that stands for a query; an id that came with two texts belongs to the first."""
        return self._by_id.setdefault(query_id, self._by_text.setdefault(text, query_id))


@dataclass(frozen=True, slots=True)
class Split:
    """Places in the input, in the order in which they were drawn."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    train_queries: int  # of the pairs that were drawn
    validation_queries: int
    held_out: tuple[int, ...]  # every pair of the validation queries
    train_grades: dict[int, int]  # pairs of each grade
    validation_grades: dict[int, int]

    @property
    def uneven(self) -> bool:
        """Whether a grade has less than half as many training pairs as another."""
        return 2 * min(self.train_grades.values()) < max(self.train_grades.values())


def split(rows: Sequence[Row], train: int, validation: int, seed: int = 0) -> Split:
    """Draw training and validation pairs as arXiv 2504.09816 does: as many of each grade, from disjoint queries.

    Queries are dealt at random to the two sides in the proportion of ``train`` to ``validation`` (at least one
    each), those of one text together; ``train`` 0 means all pairs of its side, unbalanced, with a fifth of the queries
    for validation. A grade that is too rare gives all it has and the others fill up. Within a grade the draw goes round
    the queries, so that no query dominates. InputError where the input has fewer than two queries or grades.
    """
    queries = sorted({row.text_id for row in rows})
    grades = sorted({row.grade for row in rows})
    if len(queries) < 2 or len(grades) < 2:
        raise InputError(
            f"the graded pairs have {len(queries)} different queries and {len(grades)} grades; training needs at "
            "least 2 of each, for the validation pairs are taken from queries that do not train"
        )
    dice = random.Random(seed)
    dice.shuffle(queries)
    share = validation / (train + validation) if train else 0.2
    held = set(queries[: min(max(1, round(share * len(queries))), len(queries) - 1)])
    sides = [row for row in rows if row.text_id not in held], [row for row in rows if row.text_id in held]
    chosen = _balanced(sides[0], train, dice) if train else dice.sample(sides[0], len(sides[0]))
    held_back = _balanced(sides[1], validation, dice)
    return Split(
        train=tuple(row.place for row in chosen),
        validation=tuple(row.place for row in held_back),
        train_queries=len({row.query_id for row in chosen}),
        validation_queries=len({row.query_id for row in held_back}),
        held_out=tuple(row.place for row in sides[1]),
        train_grades=_by_grade(chosen, grades),
        validation_grades=_by_grade(held_back, grades),
    )


def _by_grade(rows: Sequence[Row], grades: Sequence[int]) -> dict[int, int]:
    counts = Counter(row.grade for row in rows)
    return {grade: counts[grade] for grade in grades}


def _balanced(rows: Sequence[Row], wanted: int, dice: random.Random) -> list[Row]:
    by_grade: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_grade[row.grade].append(row)
    queues = [_round_the_queries(by_grade[grade], dice) for grade in sorted(by_grade, key=lambda g: len(by_grade[g]))]
    chosen: list[Row] = []
    for index, queue in enumerate(queues):  # the rarest grade first; what it lacks the others share
        share = -(-(wanted - len(chosen)) // (len(queues) - index))
        chosen += queue[:share]
    dice.shuffle(chosen)
    return chosen


def _round_the_queries(rows: Sequence[Row], dice: random.Random) -> list[Row]:
    by_query: dict[str, list[Row]] = defaultdict(list)
    for row in dice.sample(list(rows), len(rows)):
        by_query[row.query_id].append(row)
    rounds = [(depth, row) for bucket in by_query.values() for depth, row in enumerate(bucket)]
    return [row for _, row in sorted(rounds, key=lambda item: item[0])]
