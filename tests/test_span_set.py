"""Queries made of a set's documents: where their words come from, whose cosine labels them, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")

from pairgrade import InputError
from pairgrade.ranking_set import RankingRow, grouped
from pairgrade.train.bi_encoder import cosines
from pairgrade.train.span_set import SLATE, span_sets
from tiny_encoder import WORDS, make_encoder, ranking_rows

GROUPS = grouped(ranking_rows(6))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_encoder(tmp_path_factory.mktemp("spans") / "bert"))


def test_the_words_are_the_sets_and_the_labels_the_encoders_cosine(encoder: str) -> None:
    from sentence_transformers import SentenceTransformer

    rows, held_out = span_sets(GROUPS, encoder, 15, 4, threads=1)
    texts = [row.document for group in GROUPS for row in group.rows]
    asked = {group.query for group in GROUPS}
    made = grouped(rows)
    assert len(made) == 15
    for group in made:
        assert 2 <= len(group.rows) <= SLATE
        assert len({row.document for row in group.rows}) == len(group.rows)
        assert all(any(row.document in text for text in texts) for row in group.rows)
        if group.query not in asked:
            assert any(group.query in text for text in texts)
    assert sum(group.query in asked for group in made) == 3  # one in seven
    assert not {row.query for row in held_out} & ({row.query for row in rows} | asked)
    assert len({row.query_id for row in held_out}) == 4
    assert all(min(row.label for row in group.rows) == 0 for group in grouped(held_out))
    model = SentenceTransformer(encoder, device="cpu")
    for row in rows[::7]:
        assert row.label == pytest.approx(10 * (1 + _cosine(model, row)), abs=1e-4)
    group = grouped(held_out)[0].rows
    lowest = min(_cosine(model, row) for row in group)
    assert [row.label for row in group] == pytest.approx([10 * (_cosine(model, r) - lowest) for r in group], abs=1e-4)


def _cosine(model: Any, row: RankingRow) -> float:
    query, document = (model.encode([text])[0].astype(np.float64) for text in (row.query, row.document))
    return float(query @ document / np.linalg.norm(query) / np.linalg.norm(document))


def test_queries_and_documents_have_the_prompts_of_the_encoder(encoder: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(encoder, device="cpu")
    plain.prompts = {"query": "bread ", "document": "water "}
    plain.save(str(tmp_path / "prompted"))
    row = GROUPS[0].rows[0]
    found = cosines(str(tmp_path / "prompted"), GROUPS[:1], threads=1)
    prompted = replace(row, query=f"bread {row.query}", title="", document=f"water {row.text}")
    assert found[row.query_id, row.doc_id] == pytest.approx(_cosine(plain, prompted), abs=1e-5)
    assert abs(found[row.query_id, row.doc_id] - _cosine(plain, row)) > 1e-3


def test_labels_of_the_set_are_not_looked_at(encoder: str) -> None:
    flat = grouped(replace(row, label=0.0, source="") for group in GROUPS for row in group.rows)
    assert span_sets(flat, encoder, 8, 2, threads=1) == span_sets(GROUPS, encoder, 8, 2, threads=1)
    assert span_sets(GROUPS, encoder, 8, 2, seed=1, threads=1) != span_sets(GROUPS, encoder, 8, 2, threads=1)


def test_no_span_comes_twice(encoder: str) -> None:
    asked = {group.query for group in GROUPS}
    sets = span_sets(GROUPS, encoder, 40, 30, threads=1)
    spans = [{row.query for row in rows} - asked for rows in sets]
    assert [len(part) for part in spans] == [40 - 6, 30]  # every seventh of the first set is one that was asked
    assert not spans[0] & spans[1]


def test_sentences_are_cut_out_of_long_documents(encoder: str) -> None:
    long = ". ".join(" ".join(f"{word}{number}" for word in WORDS) for number in range(9)) + "."
    rows = [RankingRow("q", f"d{number}", "what is it", f"{long} {number}") for number in range(4)]
    lengths = [len(row.document.split()) for row in span_sets(grouped(rows), encoder, 6, 0, threads=1)[0]]
    assert max(lengths) <= 45 < len(long.split())


def test_a_span_of_a_language_without_spaces_is_no_longer_than_a_query_may_be(encoder: str) -> None:
    clauses = ["".join(chr(0x4E00 + (7 * k + 131 * n) % 2000) for k in range(150)) for n in range(48)]
    rows = [RankingRow("q", f"d{n}", "what is it", chr(0x3002).join(clauses[12 * n : 12 * n + 12])) for n in range(4)]
    found = span_sets(grouped(rows), encoder, 6, 0, threads=1)[0]
    made = {row.query for row in found} - {"what is it"}
    assert made
    assert max(map(len, made)) <= 100


def test_documents_without_enough_spans_are_refused(encoder: str) -> None:
    rows = [RankingRow("q", f"d{number}", "what is it", word) for number, word in enumerate(("salt", "bread"))]
    with pytest.raises(InputError, match=r"3 different spans of 22: ask for fewer queries"):
        span_sets(grouped(rows), encoder, 20, 2, threads=1)
    with pytest.raises(InputError, match="the documents hold no text"):
        span_sets(grouped([RankingRow("q", "d", "what is it", " ")]), encoder, 2, 1, threads=1)
