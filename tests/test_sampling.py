from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from pairgrade import InputError
from pairgrade.train.sampling import Row, split


def rows(queries: int, each: dict[int, int]) -> list[Row]:
    found = [(f"q{q}", grade) for q in range(queries) for grade, count in each.items() for _ in range(count)]
    return [Row(place, query, grade) for place, (query, grade) in enumerate(found)]


def test_sides_are_balanced_and_of_disjoint_queries() -> None:
    table = rows(40, {0: 30, 1: 10, 2: 5, 3: 2})
    found = split(table, 40, 12, seed=3)
    grades = [Counter(table[place].grade for place in side) for side in (found.train, found.validation)]
    assert grades == [Counter({0: 10, 1: 10, 2: 10, 3: 10}), Counter({0: 3, 1: 3, 2: 3, 3: 3})]
    assert (found.train_grades, found.validation_grades) == tuple(map(dict, grades))
    assert not found.uneven
    train, validation = ({table[place].query_id for place in side} for side in (found.train, found.validation))
    assert not train & validation
    assert (found.train_queries, found.validation_queries) == (len(train), len(validation))
    assert len(train | validation) < 40  # fewer pairs were drawn than there are
    held = {table[place].query_id for place in found.held_out}
    assert validation <= held
    assert not train & held
    assert set(found.held_out) == {row.place for row in table if row.query_id in held}


def test_a_rare_grade_gives_all_it_has_and_the_others_fill_up() -> None:
    table = [*rows(10, {0: 20, 1: 20}), Row(400, "q0", 2), Row(401, "q1", 2)]
    found = split(table, 30, 10, seed=0)
    by_place = {row.place: row for row in table}
    assert len(found.train) == 30
    assert len(found.validation) == 10
    assert found.train_grades[2] + found.validation_grades[2] == 2
    assert found.uneven
    drawn = [*found.train, *found.validation]
    assert sum(by_place[place].grade == 2 for place in drawn) == 2


def test_no_query_dominates_a_grade() -> None:
    table = rows(8, {0: 4, 1: 4})
    table += [Row(1000 + i, "q0", 0) for i in range(500)]
    by_place = {row.place: row for row in table}
    found = split(table, 12, 4, seed=1)
    most = Counter(by_place[place].query_id for place in found.train).most_common(1)[0][1]
    assert most <= 3


def test_the_seed_decides_and_nothing_else() -> None:
    table = rows(12, {0: 5, 1: 5})
    assert split(table, 20, 8, seed=5) == split(table, 20, 8, seed=5)
    assert split(table, 20, 8, seed=5) != split(table, 20, 8, seed=6)


def test_ids_of_one_text_are_on_one_side() -> None:
    alone = rows(24, {0: 3, 1: 3})
    table = [replace(row, same_as=f"q{int(row.query_id[1:]) % 12}") for row in alone]  # q12 asks what q0 does
    for seed in range(4):
        sides = split(table, 30, 10, seed)
        held = {table[place].text_id for place in sides.held_out}
        assert not held & {table[place].text_id for place in sides.train}
        assert len({table[place].query_id for place in sides.held_out}) == 2 * len(held)
    assert split([replace(row, same_as=row.query_id) for row in alone], 30, 10) == split(alone, 30, 10)
    with pytest.raises(InputError, match="1 different queries"):
        split([replace(row, same_as="q0") for row in alone], 30, 10)


def test_zero_means_all_pairs_of_the_training_queries() -> None:
    table = rows(10, {0: 7, 1: 1})
    found = split(table, 0, 6, seed=0)
    assert found.validation_queries == 2
    assert len(found.train) == 8 * 8


@pytest.mark.parametrize("table", [rows(1, {0: 3, 1: 3}), rows(4, {2: 3})])
def test_one_query_or_one_grade_is_refused(table: list[Row]) -> None:
    with pytest.raises(InputError, match="at least 2"):
        split(table, 2, 2)
