"""Rankings read from TREC runs and judgments."""

from __future__ import annotations

from pathlib import Path

import pytest

from pairgrade.errors import InputError
from pairgrade.judgments import open_writer
from pairgrade.qrels import write_run
from pairgrade.records import Judgment
from pairgrade.run_files import Scored, ordered, read_ranking, read_run


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    rows = [("q1", "a", 0.1), ("q1", "b", 1 / 3), ("q2", "a", -2.0)]
    write_run(tmp_path / "x.run", rows)
    assert sorted(read_run(tmp_path / "x.run")) == sorted(Scored(*row) for row in rows)
    assert read_ranking(tmp_path / "x.run") == {"q1": {"a": 0.1, "b": 1 / 3}, "q2": {"a": -2.0}}


def test_equal_scores_are_written_in_trec_evals_order(tmp_path: Path) -> None:
    write_run(tmp_path / "x.run", [("q", doc_id, score) for doc_id, score in (("a", 1.0), ("c", 1.0), ("b", 2.0))])
    written = [line.split()[2] for line in (tmp_path / "x.run").read_text().splitlines()]
    assert written == [doc_id for doc_id, _ in ordered(read_ranking(tmp_path / "x.run")["q"])] == ["b", "c", "a"]


def test_judgments_rank_by_expected_grade(tmp_path: Path) -> None:
    with open_writer(tmp_path / "j.jsonl", (0, 1)) as writer:
        writer.write(Judgment("q", "a", 1, (0.25, 0.75), 0.75, None, False, 9, 5, 0))
    assert read_ranking(tmp_path / "j.jsonl") == {"q": {"a": 0.75}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 a 1 x tag", "the score is 'x'; it must be a finite number"),
        ("q Q0 a 1 nan tag", "the score is 'nan'"),
        ("q 0 a 1", "has 4 of the 6 fields of a run"),
        ("q Q0 a 1 1 t\nq Q0 a 2 0 t", "the pair 'q' 'a' is there twice"),
        ("\n", "holds no lines"),
    ],
)
def test_what_is_no_run_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.run"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_ranking(path)


def test_equal_scores_are_ordered_as_trec_eval_does() -> None:
    ir_measures = pytest.importorskip("ir_measures")
    documents = {"a": 1.0, "c": 1.0, "b": 1.0, "d": 2.0}
    assert [doc_id for doc_id, _ in ordered(documents)] == ["d", "c", "b", "a"]
    for place, (doc_id, _) in enumerate(ordered(documents), start=1):
        found = ir_measures.calc_aggregate([ir_measures.RR], {"q": {doc_id: 1}}, {"q": documents})
        assert found[ir_measures.RR] == pytest.approx(1 / place)
