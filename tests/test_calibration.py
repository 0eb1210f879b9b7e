"""Calibrations: what they make of probabilities, their files, and the annotator that grades by one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from helpers import make_pairs
from pairgrade import Annotator, AnnotatorOptions, Calibration, InputError, Rubric
from pairgrade.calibration import Cuts, Fitted, Scaling
from pairgrade.fake import FakeBackend

TREC = Rubric.load("trec")
GRADES = (0, 1, 2, 3)
FITTED = Fitted(258, 43, 5, "queries", 0, 0.04, None, "0123456789abcdef" * 4)
CUTS = Calibration(GRADES, Cuts((0.7, 1.5, 2.25)), FITTED)
SCALING = Calibration(GRADES, Scaling(1.7, (0.5, -0.25, 0.0, -1.0)))

logits = st.lists(st.floats(-30, 30), min_size=4, max_size=4)


@settings(max_examples=40, deadline=None)
@given(logits, logits, st.floats(0.05, 20))
def test_scaling_is_the_softmax_of_the_scaled_logits(raw: list[float], biases: list[float], temperature: float) -> None:
    calibration = Calibration(GRADES, Scaling(temperature, tuple(biases)))
    grade, probabilities, expected = calibration.apply(tuple(softmax(raw).tolist()), GRADES)
    wanted = softmax(np.array(raw) / temperature + biases)  # logits and their log softmax differ by a constant
    assert probabilities == pytest.approx(wanted, rel=1e-6, abs=1e-12)
    assert probabilities[grade] == max(probabilities)
    assert expected == pytest.approx(float(wanted @ GRADES), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(logits, st.lists(st.floats(-1, 4), min_size=3, max_size=3))
def test_cuts_count_those_at_or_below_the_expected_grade(raw: list[float], points: list[float]) -> None:
    grades = (-1, 0, 2, 5)
    given_by_model = tuple(softmax(raw).tolist())
    calibration = Calibration(grades, Cuts(tuple(sorted(points))))
    grade, probabilities, expected = calibration.apply(given_by_model, grades)
    assert probabilities == given_by_model
    assert expected == pytest.approx(float(np.dot(given_by_model, grades)), abs=1e-9)
    assert grade == grades[int((np.array(points) <= expected).sum())]


def test_a_cut_point_belongs_to_the_grade_above_and_equal_ones_leave_grades_out() -> None:
    assert Calibration((0, 1), Cuts((0.5,))).apply((0.5, 0.5), (0, 1))[0] == 1
    assert Calibration((0, 1), Cuts((0.51,))).apply((0.5, 0.5), (0, 1))[0] == 0
    skipping = Calibration((0, 1, 2), Cuts((1.0, 1.0)))
    assert {skipping.apply((1 - p, 0.0, p), (0, 1, 2))[0] for p in (0.0, 0.3, 0.5, 0.8, 1.0)} == {0, 2}


@pytest.mark.parametrize("grades", [list(GRADES), np.array(GRADES), tuple(map(np.int8, GRADES))])
def test_grades_are_whole_numbers_of_any_sequence(grades: Any, tmp_path: Path) -> None:
    calibration = replace(CUTS, grades=grades)
    assert calibration == CUTS
    calibration.require(GRADES)
    calibration.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == CUTS
    assert type(calibration.apply((0.1, 0.2, 0.3, 0.4), tuple(grades))[0]) is int


@pytest.mark.parametrize("grades", [(0, 1, 2, 3.0), (0, 1, 2, None), "0123", 4])
def test_grades_that_are_no_integers_are_refused(grades: Any) -> None:
    with pytest.raises(InputError, match=r"the grades are .*; they must be integers"):
        replace(CUTS, grades=grades)


@pytest.mark.parametrize("calibration", [CUTS, SCALING])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_probabilities_are_finite(calibration: Calibration, bad: float) -> None:
    with pytest.raises(InputError, match=r"the probabilities are \[0\.5, .*, 0\.0, 0\.5\]; they must be finite"):
        calibration.apply((0.5, bad, 0.0, 0.5), GRADES)


def test_ties_go_to_the_lower_grade() -> None:
    assert Calibration((0, 1), Scaling(3.0, (1.0, 1.0))).apply((0.5, 0.5), (0, 1)) == (0, (0.5, 0.5), 0.5)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1.0, 1e300])
@pytest.mark.parametrize("biases", [(0.0,) * 4, (-1e308, 1e308, 0.0, 0.0)])
@pytest.mark.parametrize("probabilities", [(0.0, 0.0, 1.0, 0.0), (0.25,) * 4, (1e-320, 0.5, 0.5, 0.0)])
def test_extremes_still_give_a_distribution(
    probabilities: tuple[float, ...], biases: tuple[float, ...], temperature: float
) -> None:
    grade, scaled, expected = Calibration(GRADES, Scaling(temperature, biases)).apply(probabilities, GRADES)
    assert grade in GRADES
    assert math.fsum(scaled) == pytest.approx(1)
    assert 0 <= expected <= 3


def test_without_effect_scaling_keeps_what_the_model_said() -> None:
    none = Calibration(GRADES, Scaling(1.0, (0.0,) * 4))
    said = tuple(softmax([0.3, -2.0, 1.0, 0.9]).tolist())
    grade, probabilities, _ = none.apply(said, GRADES)
    assert grade == 2
    assert probabilities == pytest.approx(said, rel=1e-14)
    assert log_softmax(np.log(said)) == pytest.approx(np.log(probabilities))


@pytest.mark.parametrize("calibration", [CUTS, SCALING, replace(SCALING, fitted=FITTED)])
def test_what_is_saved_is_loaded(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text("an older file")
    calibration.save(path)
    loaded = Calibration.load(path, GRADES)
    assert loaded == calibration
    assert loaded.digest == calibration.digest
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]


def test_integers_in_a_file_are_the_numbers_they_say(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"calibration": 1, "grades": [0, 1, 2], "method": "cuts", "points": [1, 2]}')
    loaded = Calibration.load(tmp_path / "c.json")
    assert loaded == Calibration((0, 1, 2), Cuts((1.0, 2.0)))
    assert loaded.digest == Calibration((0, 1, 2), Cuts((1, 2))).digest


def test_the_digest_is_of_what_decides_a_grade() -> None:
    assert replace(CUTS, fitted=None).digest == CUTS.digest
    different = [
        CUTS,
        SCALING,
        replace(CUTS, grades=(0, 1, 2, 4)),
        replace(CUTS, method=Cuts((0.7, 1.5, 2.2500000000000004))),
        replace(SCALING, method=Scaling(1.8, (0.5, -0.25, 0.0, -1.0))),
        replace(SCALING, method=Scaling(1.7, (0.5, -0.25, 0.0, -1.1))),
    ]
    assert len({c.digest for c in different}) == len(different)


def test_other_grades_are_refused_and_both_named(tmp_path: Path) -> None:
    CUTS.save(tmp_path / "c.json")
    said = r"c\.json: .*fitted for the grades 0, 1, 2, 3, and the rubric has 0, 1;"
    with pytest.raises(InputError, match=said):
        Calibration.load(tmp_path / "c.json", (0, 1))
    with pytest.raises(InputError, match="fitted for the grades 0, 1, 2, 3, and the rubric has 0, 1;"):
        CUTS.apply((0.5, 0.5), (0, 1))
    with pytest.raises(InputError, match="fitted for the grades 0, 1, 2, 3, and the rubric has 0, 1;"):
        Annotator(FakeBackend(), Rubric.load("binary"), AnnotatorOptions(calibration=CUTS))


def _set(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda table: table | changes


def _without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda table: {key: value for key, value in table.items() if key != name}


@pytest.mark.parametrize(
    ("base", "change", "said"),
    [
        (CUTS, _set(colour=1), r"unknown key 'cuts\.colour'"),
        (CUTS, _set(temperature=1.0), r"unknown key 'cuts\.temperature'"),
        (CUTS, lambda t: t | {"fitted": t["fitted"] | {"mood": 1}}, r"unknown key 'cuts\.fitted\.mood'"),
        (CUTS, lambda t: t | {"fitted": t["fitted"] | {"split": "words"}}, r"cuts\.fitted\.split"),
        (CUTS, lambda t: t | {"fitted": t["fitted"] | {"judgments_sha256": "12"}}, r"cuts\.fitted\.judgments_sha256"),
        (CUTS, _without("points"), r"cuts\.points: field required"),
        (CUTS, _without("method"), "method"),
        (CUTS, _set(method="magic"), "'cuts', 'scaling'"),
        (CUTS, _set(calibration=2), r"cuts\.calibration"),
        (CUTS, _set(points=[0.5, 1.5]), "cuts are for 3 grades, and there are 4"),
        (CUTS, _set(points=[1.5, 0.5, 2.0]), "finite and ascending"),
        (CUTS, _set(points=["0.5", 1.5, 2.0]), r"cuts\.points\.0"),
        (CUTS, _set(points=[0.5, 1.5, True]), r"cuts\.points\.2"),
        (CUTS, _set(grades=[0, 1, 2, 2]), "distinct and ascending"),
        (CUTS, _set(grades=[0, 1, 2, 3.5]), r"cuts\.grades\.3"),
        (CUTS, _set(grades=[2], points=[]), "at least 2 are needed"),
        (SCALING, _set(temperature=0), "above 0 and finite"),
        (SCALING, _set(temperature=-1.5), "above 0 and finite"),
        (SCALING, _set(biases=[0.0]), "scaling are for 1 grades, and there are 4"),
        (SCALING, lambda t: [t], "not a calibration"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    base: Calibration, change: Callable[[dict[str, Any]], Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(change(base.to_dict())))
    with pytest.raises(InputError, match=rf"^{path}: .*{said}"):
        Calibration.load(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"calibration": 1,', "not valid JSON"),
        (b'{"method": "cuts", "method": "scaling"}', "'method' appears twice"),
        (b'{"calibration": 1, "grades": [0, 1], "method": "cuts", "points": [NaN]}', "points.0"),
        (b'{"calibration": 1, "grades": [0, 1], "method": "cuts", "points": [1e999]}', "points.0"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "digits"),
        (b"\xff\xfe{", "not UTF-8"),
        (b" " * (2**20 + 1), "larger than 1,048,576 bytes"),
    ],
)
def test_what_is_no_calibration_at_all_is_said(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"^{path}: .*{said}"):
        Calibration.load(path)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        Calibration.load(tmp_path / "no.json")
    with pytest.raises(InputError, match="is a directory"):
        Calibration.load(tmp_path)


@pytest.mark.parametrize("calibration", [CUTS, SCALING])
def test_an_annotator_applies_it_to_what_it_says_without(calibration: Calibration) -> None:
    pairs = make_pairs(4, 6)
    plain = list(Annotator(FakeBackend(), TREC).label(pairs))
    found = list(Annotator(FakeBackend(), TREC, AnnotatorOptions(calibration=calibration)).label(pairs))
    wanted = []
    for judgment in plain:
        grade, probabilities, expected = calibration.apply(judgment.probabilities, GRADES)
        wanted.append(replace(judgment, grade=grade, probabilities=probabilities, expected_grade=expected))
    assert found == wanted
    assert [j.grade for j in found] != [j.grade for j in plain]
    assert [j.label_mass for j in found] == [j.label_mass for j in plain]


def test_an_annotators_identity_names_it() -> None:
    plain = Annotator(FakeBackend(), TREC).identity()
    calibrated = Annotator(FakeBackend(), TREC, AnnotatorOptions(calibration=CUTS)).identity()
    assert plain["calibration"] == "none"
    assert plain | {"calibration": CUTS.digest} == calibrated
