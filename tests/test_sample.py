"""The sample data set that ships with the package keeps the properties its users count on."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from importlib.resources import files
from typing import Any

import pytest

KEYS = ["query_id", "doc_id", "query", "document", "grade", "domain"]
PREFIXES = {"web": "w", "shopping": "s", "tech": "t"}
GRADES = {0, 1, 2, 3}

Rows = list[dict[str, Any]]


def normal(text: str) -> str:
    """The words of a text alone, so that case, spaces and punctuation make no difference."""
    return " ".join(re.findall(r"\w+", text.lower()))


@pytest.fixture(scope="module")
def raw() -> bytes:
    return (files("pairgrade") / "sample" / "pairs.jsonl").read_bytes()


@pytest.fixture(scope="module")
def rows(raw: bytes) -> Rows:
    return [json.loads(line) for line in raw.decode("utf-8").splitlines()]


@pytest.fixture(scope="module")
def by_query(rows: Rows) -> dict[str, Rows]:
    groups: defaultdict[str, Rows] = defaultdict(list)
    for row in rows:
        groups[row["query_id"]].append(row)
    return dict(groups)


def test_every_line_is_one_object_in_plain_utf8(raw: bytes, rows: Rows) -> None:
    assert raw.endswith(b"\n")
    assert b"\r" not in raw
    assert not raw.startswith(b"\xef\xbb\xbf")
    assert raw.count(b"\n") == len(rows)


def test_every_row_has_the_six_keys_in_order_with_their_types(rows: Rows) -> None:
    for row in rows:
        assert list(row) == KEYS
        assert type(row["grade"]) is int
        for key in KEYS:
            if key != "grade":
                assert isinstance(row[key], str)
                assert row[key]
                assert row[key] == row[key].strip()


def test_there_are_nine_queries_in_each_domain(rows: Rows, by_query: dict[str, Rows]) -> None:
    assert 205 <= len(rows) <= 225
    expected = {f"{prefix}{n:02}": domain for domain, prefix in PREFIXES.items() for n in range(1, 10)}
    assert {query_id: group[0]["domain"] for query_id, group in by_query.items()} == expected
    for group in by_query.values():
        assert len({(row["query"], row["domain"]) for row in group}) == 1
    assert len({normal(group[0]["query"]) for group in by_query.values()}) == len(expected)


def test_document_ids_are_the_query_id_with_a_letter(rows: Rows, by_query: dict[str, Rows]) -> None:
    assert len({row["doc_id"] for row in rows}) == len(rows)
    for query_id, group in by_query.items():
        letters = "abcdefghij"[: len(group)]
        assert [row["doc_id"] for row in group] == [f"{query_id}-{letter}" for letter in letters]


def test_the_rows_of_a_query_stand_together(rows: Rows, by_query: dict[str, Rows]) -> None:
    assert [row["doc_id"] for row in rows] == [row["doc_id"] for group in by_query.values() for row in group]


def test_every_query_has_six_to_ten_documents_with_all_grades_in_no_order(by_query: dict[str, Rows]) -> None:
    for query_id, group in by_query.items():
        grades = [row["grade"] for row in group]
        assert 6 <= len(grades) <= 10, query_id
        assert set(grades) == GRADES, query_id
        assert grades != sorted(grades), query_id
        assert grades != sorted(grades, reverse=True), query_id
    assert len({len(group) for group in by_query.values()}) >= 4


def test_the_grades_are_balanced(rows: Rows) -> None:
    counts = Counter(row["grade"] for row in rows)
    assert set(counts) == GRADES
    for grade, count in counts.items():
        assert 0.18 <= count / len(rows) <= 0.32, grade


def test_documents_vary_in_length(rows: Rows) -> None:
    lengths = [len(row["document"].split()) for row in rows]
    assert 55 <= sum(lengths) / len(lengths) <= 70
    assert max(lengths) <= 260
    very_short = sum(length < 15 for length in lengths)
    long = sum(length >= 200 for length in lengths)
    assert 3 <= very_short <= 8
    assert 5 <= long <= 15
    assert sum(15 <= length <= 130 for length in lengths) == len(lengths) - very_short - long


def test_no_document_occurs_twice(rows: Rows) -> None:
    texts = Counter(normal(row["document"]) for row in rows)
    assert [text for text, count in texts.items() if count > 1] == []


def test_no_document_is_nearly_another(rows: Rows) -> None:
    shingles = []
    for row in rows:
        words = normal(row["document"]).split()
        shingles.append({tuple(words[i : i + 3]) for i in range(len(words) - 2)})
    for i, left in enumerate(shingles):
        for j in range(i):
            right = shingles[j]
            assert len(left & right) <= 0.1 * len(left | right), (rows[j]["doc_id"], rows[i]["doc_id"])


def test_the_text_is_more_than_plain_ascii_and_names_no_site(rows: Rows) -> None:
    text = "\n".join(row["query"] + "\n" + row["document"] for row in rows)
    for sample in ("é", "°C", "µ", '"', "<div", "\n\n"):
        assert sample in text
    assert not re.search(r"https?://|\bwww\.", text)
    assert not re.search(r"\S@\S+\.\w", text)
