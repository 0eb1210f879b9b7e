"""The table of annotators: its draw, its baselines' probabilities, its figures, and a whole run."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bm25s")

from helpers import make_pairs
from pairgrade import Pair
from pairgrade.bench import annotator_table
from pairgrade.bench.annotator_table import Scored, Sides, as_probabilities, draw, figures

GRADES = (0, 1, 2, 3)


def collection(folder: Path, pairs: list[Pair]) -> Path:
    folder.mkdir()
    rows = {p.query_id: {"query_id": p.query_id, "text": p.query} for p in pairs}
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    documents = [{"doc_id": p.doc_id, "title": "", "text": p.document} for p in pairs]
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    (folder / "qrels.txt").write_text("".join(f"{p.query_id} 0 {p.doc_id} {p.grade}\n" for p in pairs))
    return folder


def test_the_draw_goes_over_all_queries_and_the_seed_decides() -> None:
    pairs = make_pairs(6, 20)
    drawn = draw(pairs, 5, None, 3)
    assert [sum(p.query_id == f"q{q}" for p in drawn) for q in range(6)] == [5] * 6
    assert drawn == draw(pairs, 5, None, 3)
    assert drawn != draw(pairs, 5, None, 4)
    assert drawn == [pair for pair in pairs if pair in drawn]
    assert len(draw(pairs, None, 17, 0)) == 17
    assert draw(pairs, None, None, 0) == pairs


def test_scores_become_probabilities_of_the_same_order() -> None:
    found = as_probabilities([-2.0, 0.0, 5.0, 99.0], [-1.0, 5.0], GRADES)
    assert found.sum(axis=1) == pytest.approx(1.0)
    expected = (found @ np.array(GRADES)).tolist()
    assert expected == sorted(expected)  # those beyond the range, too
    assert len(set(expected)) == 4
    assert expected[2] == pytest.approx(2.25)  # the top of the range
    assert (as_probabilities([1.0, 1.0], [1.0, 1.0], GRADES) == [0.5, 0, 0, 0.5]).all()


def test_a_model_that_knows_the_grades_is_found_out() -> None:
    pairs = make_pairs(8, 12)
    sides = Sides(pairs[:48], pairs[48:])
    know = [np.eye(4)[[p.grade for p in side]] for side in (sides.held_out, sides.test)]
    found = figures(Scored(*know), sides, GRADES)
    assert found["plain"]["quadratic_kappa"][0] == found["calibrated"]["auc"][0] == 1
    hesitant = [0.6 * np.eye(4)[0] + 0.4 * one for one in know]  # always grade 0, but in the right order
    found = figures(Scored(*hesitant), sides, GRADES)
    assert found["plain"]["quadratic_kappa"][0] == 0
    assert found["calibrated"]["quadratic_kappa"][0] == 1


def test_a_run_makes_the_table_and_another_labels_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held, test = (collection(tmp_path / name, make_pairs(5, 12)) for name in ("held", "test"))
    arguments = ["x", "a=fake:", "b=fake:0", "--test", str(test), "--held-out", str(held), "--per-query", "4"]
    arguments += ["--held-out-pairs", "30", "--reference", "a", "--encoder", "", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", arguments)
    annotator_table.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["test_pairs"], result["held_out_pairs"]) == (20, 30)
    assert result["rows"]["a"]["plain"] == result["rows"]["b"]["plain"]
    assert result["rows"]["b"]["fidelity"]["agreement"] == 1
    table = (tmp_path / "out" / "annotators.md").read_text()
    assert table.count("\n| ") == 4  # header, ruler, two models
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("?-*.jsonl")}
    assert len(before) == 4
    annotator_table.main()
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("?-*.jsonl")}


def test_what_no_table_can_come_of_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = make_pairs(2, 4)
    folders = [str(collection(tmp_path / name, pairs)) for name in ("test", "held")]
    common = ["annotator_table", "--test", folders[0], "--held-out", folders[1], "--encoder", "", "--out"]
    for given, told in ((["a=fake:", "--reference", "A"], "the reference A is no row; there are a"),
                        (["fake:"], "fake: has no name; give NAME=MODEL")):  # fmt: skip
        monkeypatch.setattr(sys, "argv", [*common, str(tmp_path / "out"), *given])
        with pytest.raises(SystemExit, match=told):
            annotator_table.main()
        assert not (tmp_path / "out").exists()
    long = [replace(pair, query="word " * 3000) if pair.query_id == "q1" else pair for pair in pairs]
    monkeypatch.setattr(sys, "argv", [
        "annotator_table", "--test", str(collection(tmp_path / "long", long)), "--held-out", folders[1], "--encoder",
        "", "--out", str(tmp_path / "out"), "a=fake:",
    ])  # fmt: skip
    with pytest.raises(SystemExit, match=r"fake: has no grade for the pair \(q1, .*a longer --context may help"):
        annotator_table.main()
