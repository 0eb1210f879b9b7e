"""TREC files, as pairgrade and as ir_measures read them."""

from __future__ import annotations

import gzip
import os
import tempfile
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairgrade.errors import InputError
from pairgrade.qrels import read_qrels, write_qrels, write_run
from pairgrade.records import Qrel

ROWS = [("q1", "d1", 0), ("q1", "d2", 3), ("zwölf", "é-7", -1)]

ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff"), min_size=1).filter(
    lambda text: len(text.split()) == 1 and text.split()[0] == text
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(ids, ids, st.integers(-5, 100))))
def test_what_is_written_is_read_back(rows: list[tuple[str, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.qrels"
        assert write_qrels(path, rows) == len(rows)
        assert [(q.query_id, q.doc_id, q.grade) for q in read_qrels(path)] == rows


def test_ir_measures_reads_the_same(tmp_path: Path) -> None:
    write_qrels(tmp_path / "out.qrels", ROWS)
    assert (tmp_path / "out.qrels").read_text().splitlines()[1] == "q1 0 d2 3"
    found = ir_measures.read_trec_qrels(str(tmp_path / "out.qrels"))
    assert [(q.query_id, q.doc_id, q.relevance) for q in found] == ROWS


def test_foreign_files(tmp_path: Path) -> None:
    text = (
        "\ufeffq1\t0\td1\t+1\r\n\n  q1   Q0  d\u00a02   2 \n"  # mark, tabs, CR LF, blank lines; a hard space in an id
    )
    (tmp_path / "a.qrels").write_text(text, newline="")
    with gzip.open(tmp_path / "a.qrels.gz", "wt", newline="") as file:
        file.write(text)
    expected = [Qrel("q1", "d1", 1), Qrel("q1", "d\u00a02", 2)]
    assert list(read_qrels(tmp_path / "a.qrels")) == expected
    assert list(read_qrels(tmp_path / "a.qrels.gz")) == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"q1 0 d1", r"'q1 0 d1' has 3 of the 4 fields of qrels: query_id 0 doc_id grade"),
        (b"q1 Q0 d1 1 0.5 run", "has 6 fields, not the 4 fields of qrels"),
        (b"q1 0 d1 1.5", "the grade is '1.5'; it must be an integer"),
        (b"q1 0 d1 1_0", "the grade is '1_0'"),
        (b"q1 0 d\xff 1", "not valid UTF-8"),
    ],
)
def test_a_line_that_is_no_qrel_is_named(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "a.qrels"
    path.write_bytes(b"q1 0 d0 1\n" + line + b"\n")
    rows = read_qrels(path)
    assert next(rows) == Qrel("q1", "d0", 1)
    with pytest.raises(InputError, match=rf"a\.qrels:2: .*{reason}"):
        next(rows)


def test_qrels_of_beir(tmp_path: Path) -> None:
    path = tmp_path / "test.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\n\nq2\td2\t0\n")
    assert list(read_qrels(path)) == [Qrel("q1", "d1", 2), Qrel("q2", "d2", 0)]
    path.write_text("query-id\tcorpus-id\tscore\nq1 0 d1 2\n")
    with pytest.raises(InputError, match="has 4 fields, not the 3 fields of qrels: query-id corpus-id score"):
        list(read_qrels(path))


def test_a_file_that_is_missing_or_no_gzip(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none"):
        list(read_qrels(tmp_path / "none.qrels"))
    (tmp_path / "a.gz").write_text("q1 0 d1 1\n")
    with pytest.raises(InputError, match="gzip"):
        list(read_qrels(tmp_path / "a.gz"))


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        *((bad, "rename it") for bad in ("", "a b", " a", "a\n", "a\tb", "a\u2003b", "\ufeffa", "a\udcff")),
        *((bad, r"is (NoneType|int|bytes); it must be a str") for bad in (None, 5, b"d")),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_an_id_that_a_line_cannot_hold_is_refused_and_nothing_written(
    tmp_path: Path, bad: Any, match: str, place: int
) -> None:
    pair = ["q", "d"]
    pair[place] = bad
    for write in (write_qrels, write_run):
        with pytest.raises(InputError, match=f"the id .* {match}"):
            write(tmp_path / "out", [("q", "d", 1), (*pair, 1)])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("grade", [1.0, np.float64(1), float("nan"), None, "1"])
def test_a_grade_that_is_no_integer_is_refused_and_nothing_written(tmp_path: Path, grade: Any) -> None:
    with pytest.raises(InputError, match=r"out\.qrels: the grade of the pair 'q' 'b' is '.*'; it must be an integer"):
        write_qrels(tmp_path / "out.qrels", [("q", "a", 1), ("q", "b", grade)])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("score", [float("nan"), float("inf"), np.float32("nan"), None, "high", 10**400])
def test_a_score_that_is_not_finite_is_refused_and_nothing_written(tmp_path: Path, score: Any) -> None:
    with pytest.raises(InputError, match=r"out\.run: the score of the pair 'q' 'b' is .*; it must be a finite number"):
        write_run(tmp_path / "out.run", [("q", "a", 1.0), ("q", "b", score)])
    assert os.listdir(tmp_path) == []


def test_a_pair_that_comes_twice_in_a_run_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"out\.run: the pair 'q' 'a' comes twice; keep one"):
        write_run(tmp_path / "out.run", [("q", "a", 1.0), ("r", "a", 1.0), ("q", "a", 1.0)])
    assert os.listdir(tmp_path) == []


def test_numbers_of_numpy_are_written_as_numbers(tmp_path: Path) -> None:
    scores: list[Any] = [np.float32(0.5), np.int64(2), np.float64(0.1), 1, "0.25"]
    write_run(tmp_path / "out.run", [("q", f"d{k}", score) for k, score in enumerate(scores)])
    written = [line.split()[4] for line in (tmp_path / "out.run").read_text().splitlines()]
    assert written == ["2.0", "1.0", "0.5", "0.25", "0.1"]
    grades: list[Any] = [np.int8(2), np.uint64(0), True]
    write_qrels(tmp_path / "out.qrels", [("q", f"d{k}", grade) for k, grade in enumerate(grades)])
    assert [qrel.grade for qrel in read_qrels(tmp_path / "out.qrels")] == [2, 0, 1]


def test_a_run_is_ranked_within_each_query(tmp_path: Path) -> None:
    rows = [("q2", "a", 0.25), ("q1", "a", 1.5), ("q2", "c", 2.75), ("q2", "b", 0.25), ("q1", "b", -0.5)]
    assert write_run(tmp_path / "out.run", iter(rows)) == 5
    assert (tmp_path / "out.run").read_text().splitlines() == [
        "q2 Q0 c 1 2.75 pairgrade",
        "q2 Q0 b 2 0.25 pairgrade",
        "q2 Q0 a 3 0.25 pairgrade",
        "q1 Q0 a 1 1.5 pairgrade",
        "q1 Q0 b 2 -0.5 pairgrade",
    ]
    found = ir_measures.read_trec_run(str(tmp_path / "out.run"))
    assert sorted((d.query_id, d.doc_id, d.score) for d in found) == sorted(rows)
