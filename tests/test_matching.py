"""Predictions and human grades of the same pairs."""

from __future__ import annotations

import pytest

from pairgrade.errors import InputError
from pairgrade.matching import match
from pairgrade.records import Judgment, Qrel


def judgment(query_id: str, doc_id: str, grade: int, expected: float = 1.0) -> Judgment:
    return Judgment(query_id, doc_id, grade, (0.25, 0.75), expected, None, False, 1, 1, 0)


HUMAN = [Qrel("q1", "a", 0), Qrel("q1", "b", 1), Qrel("q2", "a", 1), Qrel("q3", "a", 0)]


def test_pairs_are_matched_by_both_ids_in_the_order_of_the_predictions() -> None:
    predictions = [judgment("q2", "a", 0, 0.25), judgment("q1", "x", 1), judgment("q1", "b", 1, 0.75)]
    found = match(predictions, HUMAN)
    assert found.query_ids == ("q2", "q1")
    assert found.human.tolist() == [1, 1]
    assert found.predicted.tolist() == [0, 1]
    assert found.scores.tolist() == [0.25, 0.75]
    assert found.probabilities.tolist() == [[0.25, 0.75]] * 2
    assert (found.unjudged, found.unpredicted) == (1, 2)


def test_grades_alone_have_no_scores() -> None:
    found = match([Qrel("q1", "a", 1)], iter(HUMAN))
    assert found.predicted.tolist() == [1]
    assert found.scores is None
    assert found.probabilities is None


def test_nothing_in_common_shows_ids_of_both_sides() -> None:
    with pytest.raises(InputError, match=r"nothing to compare.*predictions: 'Q1' 'a'; of the human grades: 'q1' 'a', "):
        match([Qrel("Q1", "a", 1)], HUMAN)
    with pytest.raises(InputError, match=r"predictions: none; .*'q1' 'a', 'q1' 'b', 'q2' 'a'$"):
        match([], HUMAN)


def test_a_pair_twice_is_refused_unless_the_line_is_the_same() -> None:
    assert match([*HUMAN, HUMAN[0]], [*HUMAN, HUMAN[1]]).human.tolist() == [0, 1, 1, 0]
    with pytest.raises(InputError, match="the human grades hold the pair 'q1' 'a' twice, with grades 0 and 1"):
        match(HUMAN, [*HUMAN, Qrel("q1", "a", 1)])
    with pytest.raises(InputError, match="the predictions hold the pair 'q1' 'a' twice, with grades 1 and 1"):
        match([judgment("q1", "a", 1), judgment("q1", "a", 1, 0.5)], HUMAN)
