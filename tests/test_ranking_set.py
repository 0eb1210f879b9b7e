"""Ranking sets: written and read back, read as pairs, and in the columns of sentence-transformers."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairgrade.errors import InputError
from pairgrade.ranking_columns import as_listwise, as_pairs, as_triplets, write_columns
from pairgrade.ranking_set import (
    RankingRow,
    grouped,
    open_ranking_set,
    read_groups,
    read_ranking_set,
    write_ranking_set,
)
from pairgrade.readers import Source, read_pairs
from pairgrade.records import Pair

ROWS = [
    RankingRow("q1", "a", "which moon", "Titan is a moon.", "Titan", 1.0, "bm25", 1, 2.5),
    RankingRow("q1", "b", "which moon", "Cheese.", "", 0.0, "bm25", 2, 0.5),
    RankingRow("q2", "a", "what cheese", "Titan is a moon.", "Titan", 0.0, "triples"),
]

identifiers = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Z", "Cc", "Cf"]), min_size=1, max_size=5)
texts = st.text(st.characters(codec="utf-8"), max_size=8).map(lambda text: "x" + text)
numbers = st.floats(allow_nan=False, allow_infinity=False)
made_rows = st.builds(
    RankingRow,
    query_id=identifiers,
    doc_id=identifiers,
    query=texts,
    document=texts,
    title=st.just("") | texts,
    label=st.floats(0, 3),
    source=st.just("") | texts,
    rank=st.none() | st.integers(1, 10**6),
    score=st.none() | numbers,
    judged=st.booleans(),
    original_label=st.none() | st.floats(0, 3),
    judged_grade=st.none() | st.integers(0, 3),
    expected_grade=st.none() | st.floats(0, 3),
    probabilities=st.none() | st.just((0.25, 0.75)),
)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_what_is_written_is_read_back(suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("sets")

    @settings(deadline=None, max_examples=60)
    @given(st.lists(made_rows, min_size=1, max_size=4))
    def check(items: list[RankingRow]) -> None:
        path = folder / f"set.{suffix}"
        assert write_ranking_set(path, items, relabelled=True) == len(items)
        assert list(read_ranking_set(path)) == items
        assert read_ranking_set(path).relabelled

    check()


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_set_that_was_not_relabelled_is_read_as_pairs(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"set.{suffix}"
    write_ranking_set(path, ROWS)
    assert list(read_ranking_set(path)) == ROWS
    assert not read_ranking_set(path).relabelled
    pairs = [Pair(row.query_id, row.doc_id, row.query, row.document, row.title) for row in ROWS]
    assert list(read_pairs(Source(str(path)))) == pairs


def test_a_relabelled_set_holds_no_grades_of_people(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    write_ranking_set(path, [replace(ROWS[0], judged=True, judged_grade=3)], relabelled=True)
    assert [item.grade for item in read_pairs(Source(str(path))) if isinstance(item, Pair)] == [None]


def test_gzip_is_read_and_other_columns_are_told(tmp_path: Path) -> None:
    row = {"query_id": 7, "doc_id": "d", "query": "q", "document": "x", "label": True, "note": "n"}
    path = tmp_path / "set.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(row | {"label": 1}).encode()))
    found = read_ranking_set(path)
    assert found.other_columns == ("note",)
    assert list(found) == [RankingRow("7", "d", "q", "x", label=1.0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "label is null"),
        ({"label": -1}, r"label is -1\.0; it must be 0 or more"),
        ({"label": True}, "label is 'True'; it must be a finite number"),
        ({"query": " "}, "query is blank"),
        ({"document": ""}, "document and title are both blank"),
        ({"doc_id": "a b"}, "doc_id 'a b' holds white space"),
        ({"score": 10**400}, r"score is '1000.*'; it must be a finite number"),
        ({"rank": 1.5}, r"rank is 1\.5; it must be a whole number"),
        ({"judged": "yes"}, "judged is 'yes'"),
        ({"probabilities": [0.5, 0.6]}, r"probabilities is \[0\.5, 0\.6\]"),
        ({"probabilities": "0.5"}, "probabilities is no list"),
    ],
)
def test_an_unsound_row_is_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    row = {"query_id": "q", "doc_id": "d", "query": "x", "document": "y", "label": 1} | change
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(InputError, match=r"set\.jsonl, line 1: " + message):
        list(read_ranking_set(path))


def test_what_cannot_be_a_set_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"query_id": "q", "doc_id": "d", "query": "x", "document": "y"}', encoding="utf-8")
    with pytest.raises(InputError, match=r"no column label .*`pairgrade mine` makes one"):
        read_ranking_set(path)
    with pytest.raises(InputError, match=r"set\.csv: ranking sets end in"):
        read_ranking_set(tmp_path / "set.csv")
    with pytest.raises(InputError, match="compressed sets are read, not written"):
        open_ranking_set(tmp_path / "set.jsonl.gz")


def test_a_row_that_does_not_fit_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write row 2: label is 'nan'"):
        write_ranking_set(tmp_path / "set.jsonl", [ROWS[0], replace(ROWS[1], label=float("nan"))])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": 5}, "query is the number '5'; it must be a string"),
        ({"title": "a\ud800"}, r"title holds a lone surrogate \(U\+D800\) at character 2"),
        ({"source": b"x"}, "source is not valid UTF-8"),
        ({"label": True}, "label is 'True'; it must be a finite number"),
        ({"label": None}, "label is null"),
        ({"label": np.float32("nan")}, "label is 'nan'"),
        ({"score": float("inf")}, "score is 'inf'"),
        ({"score": 10**400}, r"score is '1000.*'; it must be a finite number"),
        ({"rank": "first"}, "rank is 'first'; it must be a finite number"),
        ({"rank": 1.5}, r"rank is 1\.5; it must be a whole number"),
        ({"judged": "yes"}, "judged is 'yes'"),
        ({"judged_grade": 2**60}, "judged_grade is .*; it must be a whole number"),
        ({"probabilities": (0.5, float("nan"))}, "probabilities is 'nan'"),
        ({"probabilities": 0.5}, "probabilities is no list"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_what_would_not_be_read_is_not_written(
    suffix: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"set\.{suffix}: cannot write row 2: {message}"):
        write_ranking_set(tmp_path / f"set.{suffix}", [ROWS[0], replace(ROWS[1], **change)], relabelled=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_numbers_of_numpy_are_written_as_numbers(suffix: str, tmp_path: Path) -> None:
    numbers: dict[str, Any] = {
        "label": np.float32(0.5), "rank": np.int64(3), "score": np.float64(2.5), "judged": np.True_,
        "original_label": np.int8(1), "judged_grade": np.uint8(2), "expected_grade": np.float16(1.5),
        "probabilities": (np.float32(0.25), np.float32(0.75)),
    }  # fmt: skip
    path = tmp_path / f"set.{suffix}"
    write_ranking_set(path, [replace(ROWS[0], **numbers)], relabelled=True)
    assert list(read_ranking_set(path)) == [replace(ROWS[0], **numbers)]


def test_rows_are_gathered_by_query(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    write_ranking_set(path, [ROWS[0], ROWS[2], ROWS[1]])
    groups = read_groups(path)
    assert [(group.query_id, group.query, group.rows) for group in groups] == [
        ("q1", "which moon", (ROWS[0], ROWS[1])),
        ("q2", "what cheese", (ROWS[2],)),
    ]
    with pytest.raises(InputError, match="'q1' 'a' is in the set twice"):
        grouped([ROWS[0], ROWS[0]])
    with pytest.raises(InputError, match="the query 'q1' has two texts"):
        grouped([ROWS[0], replace(ROWS[1], query="other")])


def test_the_columns_of_sentence_transformers() -> None:
    assert next(iter(as_pairs(ROWS))) == {"query": "which moon", "document": "Titan\nTitan is a moon.", "label": 1.0}
    assert list(as_listwise(ROWS)) == [
        {"query": "which moon", "documents": ["Titan\nTitan is a moon.", "Cheese."], "labels": [1.0, 0.0]},
        {"query": "what cheese", "documents": ["Titan\nTitan is a moon."], "labels": [0.0]},
    ]


def test_triplets_use_every_document_and_none_of_the_larger_side_twice() -> None:
    labels = {"a": 3.0, "b": 2.0, "c": 1.0, "d": 1.4, "e": 0.0}
    items = [RankingRow("q", name, "x", name, label=label) for name, label in labels.items()]
    triplets = [(row["positive"], row["negative"]) for row in as_triplets(items)]
    assert triplets == [("a", "c"), ("b", "d"), ("a", "e")]
    assert list(as_triplets([replace(item, label=0.0) for item in items])) == []


@pytest.mark.parametrize("form", ["pairs", "listwise", "triplet"])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_columns_in_files(form: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"train.{suffix}"
    expected = list({"pairs": as_pairs, "listwise": as_listwise, "triplet": as_triplets}[form](ROWS))
    assert write_columns(path, ROWS, form) == len(expected)
    if suffix == "parquet":
        from pyarrow import parquet

        found = parquet.read_table(path).to_pylist()
    else:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert found == expected


def test_no_file_comes_of_no_triplet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows come of the set as triplet"):
        write_columns(tmp_path / "train.jsonl", ROWS[1:], "triplet")
    assert not list(tmp_path.iterdir())
