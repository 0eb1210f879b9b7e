"""Mining by BM25, of files of ids and of rows that people have, with the command."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from pairgrade.bm25 import Bm25, Bm25Options
from pairgrade.cli.mine import command
from pairgrade.errors import InputError
from pairgrade.mining import MiningOptions, labels_of_ranking
from pairgrade.ranking_set import RankingRow, read_ranking_set, write_ranking_set
from pairgrade.run_files import read_ranking

pytest.importorskip("bm25s")

DOCUMENTS = {
    "d1": ("", "the river carries stone and salt to the sea"),
    "d2": ("Stone", "a stone wall beside a river with a river gate"),
    "d3": ("", "copper lamp in the window"),
    "d4": ("", "salt and copper trade along the river"),
    "d5": ("", "music of the forest"),
}
QUERIES = {"q1": "river stone", "q2": "copper lamp", "q3": "zebra"}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    queries, docs = tmp_path / "queries.jsonl", tmp_path / "docs.jsonl"
    lines = [json.dumps({"query_id": q, "text": text}) for q, text in QUERIES.items()]
    queries.write_text("\n".join(lines), encoding="utf-8")
    lines = [json.dumps({"doc_id": d, "title": title, "text": text}) for d, (title, text) in DOCUMENTS.items()]
    docs.write_text("\n".join(lines), encoding="utf-8")
    return queries, docs


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], env={"COLUMNS": "80"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def mined(tmp_path: Path, *arguments: object) -> tuple[list[RankingRow], dict[str, Any]]:
    out = tmp_path / "set.jsonl"
    result = run(*arguments, "--out", out, "--json", "--force")
    return list(read_ranking_set(out)), json.loads(result.stdout)


def labels(rows: list[RankingRow]) -> dict[tuple[str, str], float]:
    return {(row.query_id, row.doc_id): row.label for row in rows}


def test_ranks_beyond_the_usual_depth_are_looked_at(tmp_path: Path) -> None:
    queries, docs = tmp_path / "queries.jsonl", tmp_path / "docs.jsonl"
    queries.write_text(json.dumps({"query_id": "q", "text": "river"}))
    texts = [f"river {'stone ' * (1 + place)}" for place in range(150)]
    docs.write_text("\n".join(json.dumps({"doc_id": f"d{n:03}", "text": text}) for n, text in enumerate(texts)))
    rows, _ = mined(tmp_path, queries, docs, "--negative-ranks", "120-130")
    assert [row.rank for row in rows if not row.label] == list(range(120, 131))
    rows, _ = mined(tmp_path, queries, docs, "--positives", 110)
    assert sum(row.label for row in rows) == len(rows) == 110
    assert len(mined(tmp_path, queries, docs)[0]) == 100
    for needed, asked in ((120, ("--negative-ranks", "120-130")), (101, ("--positives", "101"))):
        result = CliRunner().invoke(command, [str(queries), str(docs), "-o", "x.jsonl", "--depth", "100", *asked])
        assert isinstance(result.exception, InputError)
        assert f"rank {needed} is to be labelled, and only 100 are looked at" in str(result.exception)


def test_scores_are_those_of_the_formula() -> None:
    texts = {doc_id: "\n".join(text) for doc_id, text in DOCUMENTS.items()}
    words = {doc_id: [w for w in text.lower().split() if len(w) > 1] for doc_id, text in texts.items()}
    mean = sum(map(len, words.values())) / len(words)
    k1, b = 1.1, 0.6

    def score(doc_id: str, query: str) -> float:
        total = 0.0
        for word in query.split():
            holding = sum(word in document for document in words.values())
            idf = math.log(1 + (len(words) - holding + 0.5) / (holding + 0.5))
            count = words[doc_id].count(word)
            total += idf * count / (count + k1 * (1 - b + b * len(words[doc_id]) / mean))
        return total

    index = Bm25(texts, Bm25Options(k1, b, "none"))
    for query in ("river stone", "salt copper river"):
        expected = {doc_id: score(doc_id, query) for doc_id in texts}
        assert dict(index.rank_only(query, texts)) == pytest.approx(expected, rel=1e-5)
        ranked = index.rank(query, 10)
        assert [doc_id for doc_id, _ in ranked] == sorted(
            (doc_id for doc_id in texts if expected[doc_id] > 0), key=lambda doc_id: -expected[doc_id]
        )
        assert index.rank(query, 2) == ranked[:2]


def test_ties_are_broken_by_id_and_unknown_words_rank_nothing() -> None:
    index = Bm25({"a": "stone", "c": "stone", "b": "stone", "d": "salt"})
    assert [doc_id for doc_id, _ in index.rank("stone", 2)] == ["c", "b"]
    assert index.rank("zebra", 5) == []
    assert index.rank_only("zebra", ["a", "gone", "d", "a"]) == [("d", 0.0), ("a", 0.0)]
    with pytest.raises(InputError, match="no document holds a word"):
        Bm25({"a": "", "b": "the"})


def test_first_ranks_are_positive_and_the_rest_negative(files: tuple[Path, Path], tmp_path: Path) -> None:
    rows, report = mined(tmp_path, *files, "--positives", 1, "--run", tmp_path / "bm25.run")
    assert labels(rows) == {("q1", "d2"): 1, ("q1", "d1"): 0, ("q1", "d4"): 0, ("q2", "d3"): 1, ("q2", "d4"): 0}
    assert [(row.rank, row.source) for row in rows[:3]] == [(1, "bm25"), (2, "bm25"), (3, "bm25")]
    assert (rows[0].title, rows[0].document, rows[0].query) == (*DOCUMENTS["d2"], QUERIES["q1"])
    assert report["queries_without_rows"] == 1  # q3, whose word no document has
    assert (report["queries"], report["rows"], report["positives"], report["sources"]) == (2, 5, 2, {"bm25": 5})
    scores: dict[str, dict[str, float | None]] = {}
    for row in rows:
        scores.setdefault(row.query_id, {})[row.doc_id] = row.score
    assert read_ranking(tmp_path / "bm25.run") == scores


def test_candidates_restrict_the_ranking(files: tuple[Path, Path], tmp_path: Path) -> None:
    qrels = tmp_path / "judged.qrels"
    qrels.write_text("q1 0 d5 0\nq1 0 d1 2\nq3 0 d3 1\nq9 0 d1 1\nq1 0 gone 1\n", encoding="utf-8")
    rows, report = mined(tmp_path, *files, "--candidates", qrels)
    assert [(row.query_id, row.doc_id, row.label, row.rank) for row in rows] == [
        ("q1", "d1", 1.0, 1),
        ("q1", "d5", 0.0, 2),
        ("q3", "d3", 1.0, 1),
    ]
    assert (report["queries_without_text"], report["documents_without_text"]) == (1, 1)
    done = CliRunner().invoke(
        command, [*map(str, files), "--candidates", str(qrels), "--out", str(tmp_path / "a.jsonl")]
    )
    assert done.exit_code == 3
    assert "pairs without text" in done.stdout


def test_qrels_of_beir_are_qrels(files: tuple[Path, Path], tmp_path: Path) -> None:
    beir = tmp_path / "qrels.tsv"
    beir.write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td3\t1\n", encoding="utf-8")
    rows, report = mined(tmp_path, *files, "--from", beir)
    assert labels(rows) == {("q1", "d1"): 2.0, ("q1", "d2"): 0.0, ("q2", "d3"): 1.0}
    assert (report["sources"], report["queries_without_text"]) == ({"qrels": 3}, 0)
    for line, told in (("q1\td1\t2.5", "the grade is '2.5'"), ("q1\td1\t1\nq1\td1\t0", "has two grades")):
        beir.write_text(f"query-id\tcorpus-id\tscore\n{line}\n", encoding="utf-8")
        with pytest.raises(InputError, match=told):
            mined(tmp_path, *files, "--from", beir)


def test_a_header_of_texts_is_no_text(files: tuple[Path, Path], tmp_path: Path) -> None:
    expected, _ = mined(tmp_path, *files)
    queries, docs = tmp_path / "q.tsv", tmp_path / "d.tsv"
    lines = [f"{d}\t{title}\t{text}\n" for d, (title, text) in DOCUMENTS.items()]
    docs.write_text("doc_id\ttitle\ttext\n" + "".join(lines))
    for name in ("text", "title"):
        queries.write_text(f"query_id\t{name}\n" + "".join(f"{q}\t{text}\n" for q, text in QUERIES.items()))
        assert mined(tmp_path, queries, docs)[0] == expected
    queries.write_text("query_id\tthe river of a query whose id is that\n")  # no header
    assert {row.query_id for row in mined(tmp_path, queries, docs)[0]} == {"query_id"}
    docs.write_text("doc_id\ttext\ttitle\n" + "".join(lines))
    with pytest.raises(InputError, match="the columns are in another order; a line is an id, the title and the text"):
        mined(tmp_path, queries, docs)


def test_one_id_of_two_queries_is_told(tmp_path: Path) -> None:
    rows = [
        {"query_id": "q1", "query": query, "positive": f"{query} yes", "negative": "no"} for query in ("boil", "fry")
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    result = run("--from", tmp_path / "rows.jsonl", "--out", tmp_path / "set.jsonl")
    assert result.exit_code == 3
    assert "the query 'q1' has two texts; rows with the second are left out" in " ".join(result.stdout.split())
    assert {row.query for row in read_ranking_set(tmp_path / "set.jsonl")} == {"boil"}
    assert run("--from", tmp_path / "set.jsonl", "--as", "listwise", "--out", tmp_path / "list.jsonl").exit_code == 0


def test_what_would_do_nothing_or_lie_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    clicks, out = tmp_path / "clicks.tsv", tmp_path / "set.jsonl"
    clicks.write_text("q1 d1\n", encoding="utf-8")
    with pytest.raises(InputError, match="holds clicks, which have no grades; leave --known-from out"):
        run(*files, "--known", clicks, "--known-from", 3, "--out", out)
    with pytest.raises(InputError, match="--known tells the positives, so that --positives would do nothing"):
        run(*files, "--known", clicks, "--positives", 3, "--out", out)
    with pytest.raises(InputError, match="--seed is of the draw of --negatives"):
        run(*files, "--seed", 5, "--out", out)
    with pytest.raises(InputError, match=r"bm25\.tsv: a TREC run by that suffix is taken for judgments; .* bm25\.run"):
        run(*files, "--run", tmp_path / "bm25.tsv", "--out", out)
    with pytest.raises(InputError):  # no row for a triplet
        run(*files, "--positives", 0, "--as", "triplet", "--run", tmp_path / "bm25.run", "--out", out)
    assert not (tmp_path / "bm25.run").exists()


def test_known_positives_get_hard_negatives(files: tuple[Path, Path], tmp_path: Path) -> None:
    clicks = tmp_path / "clicks.tsv"
    clicks.write_text("query_id\tdoc_id\nq1\td4\nq2\td5\n", encoding="utf-8")
    rows, report = mined(tmp_path, *files, "--known", clicks, "--negative-ranks", "1-1")
    assert [(row.query_id, row.doc_id, row.label, row.source, row.rank) for row in rows] == [
        ("q1", "d4", 1.0, "clicks", 3),
        ("q1", "d2", 0.0, "bm25", 1),
        ("q2", "d5", 1.0, "clicks", None),
        ("q2", "d3", 0.0, "bm25", 1),
    ]
    assert report["queries_without_rows"] == 1
    gone = tmp_path / "gone.qrels"
    gone.write_text("q1 0 d4 1\nq1 0 gone 1\n", encoding="utf-8")
    _, report = mined(tmp_path, *files, "--known", gone, "--candidates", gone)
    assert report["documents_without_text"] == 1  # counted once
    qrels = tmp_path / "human.qrels"
    qrels.write_text("q1 0 d4 1\nq1 0 d1 2\nq2 0 d5 0\n", encoding="utf-8")  # no positive of q2
    rows, _ = mined(tmp_path, *files, "--known", qrels, "--known-from", 2, "--negatives", 0)
    assert labels(rows) == {("q1", "d4"): 0, ("q1", "d1"): 1}


def test_known_positives_go_with_the_ranks_of_a_run(files: tuple[Path, Path], tmp_path: Path) -> None:
    ranked, qrels = tmp_path / "own.run", tmp_path / "human.qrels"
    lines = ["q1 Q0 d5 1 9 x", "q1 Q0 d1 2 8 x", "q1 Q0 d3 3 7 x", "q1 Q0 d2 4 6 x", "q2 Q0 d3 1 9 x"]
    ranked.write_text("\n".join(lines) + "\n", encoding="utf-8")
    qrels.write_text("q1 0 d1 2\nq1 0 d4 1\nq2 0 d3 0\n", encoding="utf-8")  # no positive of q2
    known = ("--known", qrels, "--known-from", 2)
    rows, _ = mined(tmp_path, *files, "--from", ranked, *known, "--depth", 3)
    assert [(row.query_id, row.doc_id, row.label, row.source, row.rank) for row in rows] == [
        ("q1", "d1", 1.0, "qrels", 2),
        ("q1", "d4", 0.0, "qrels", None),
        ("q1", "d5", 0.0, "run", 1),
        ("q1", "d3", 0.0, "run", 3),
    ]
    out = tmp_path / "other.jsonl"
    with pytest.raises(InputError, match="is a run, whose scores are no labels; --known takes qrels, triples"):
        run(*files, "--known", ranked, "--out", out)
    with pytest.raises(InputError, match="holds qrels, whose labels stand as they are; --known goes with a run's"):
        run(*files, "--from", qrels, "--known", qrels, "--out", out)
    (tmp_path / "more.qrels").write_text("q1 0 d1 2\nq1 0 nowhere 1\n", encoding="utf-8")
    assert run(*files, "--from", qrels, "--out", tmp_path / "all.jsonl").exit_code == 0
    assert run(*files, "--from", tmp_path / "more.qrels", "--out", tmp_path / "some.jsonl").exit_code == 3
    with pytest.raises(InputError, match=r"holds qrels, whose labels stand as they are, not by rank: leave out"):
        run(*files, "--from", qrels, "--depth", 3, "--out", out)
    with pytest.raises(InputError, match="--known is of ids: give the files of both queries and docs"):
        run("--from", files[0], "--known", qrels, "--out", out)


def test_a_ranking_is_not_written_over_what_is_there(files: tuple[Path, Path], tmp_path: Path) -> None:
    ranking = tmp_path / "bm25.run"
    ranking.write_text("made by hand")
    with pytest.raises(InputError, match=r"bm25\.run exists; choose another name or give --force"):
        run(*files, "--out", tmp_path / "set.jsonl", "--run", ranking)
    assert ranking.read_text() == "made by hand"


@given(
    st.lists(st.text("abcdefgh", min_size=1, max_size=2), unique=True, max_size=12),
    st.integers(0, 4),
    st.none() | st.integers(0, 5),
    st.tuples(st.integers(1, 6), st.integers(1, 6)).map(lambda ranks: (min(ranks), max(ranks))),
    st.none() | st.dictionaries(st.text("abcdefgh", min_size=1, max_size=2), st.sampled_from([0.0, 1.0]), max_size=3),
)
def test_labels_of_any_ranking(
    ids: list[str], positives: int, negatives: int | None, ranks: tuple[int, int], known: dict[str, float] | None
) -> None:
    ranking = [(doc_id, -float(place)) for place, doc_id in enumerate(ids)]
    options = MiningOptions(positives, ranks, negatives)
    rows = labels_of_ranking("q", ranking, "bm25", options, known)
    assert rows == labels_of_ranking("q", ranking, "bm25", options, known)
    assert len({row.doc_id for row in rows}) == len(rows)
    chosen = {row.doc_id: row.label for row in rows if row.source == "known"}
    assert chosen == (known or {})
    made = [row for row in rows if row.source == "bm25"]
    for row in rows:
        assert (row.rank is None) == (row.doc_id not in ids)
        assert row.rank is None or ranking[row.rank - 1] == (row.doc_id, row.score)
    positive = [row for row in made if row.label == 1.0]
    assert len(positive) == (0 if known is not None else min(positives, len(ids)))
    hard = [row.rank for row in made if row.label == 0.0]
    possible = [rank for rank in range(ranks[0], min(ranks[1], len(ids)) + 1)
                if ids[rank - 1] not in chosen and (known is not None or rank > positives)]  # fmt: skip
    assert len(hard) == min(len(possible), len(possible) if negatives is None else negatives)
    assert set(hard) <= set(possible)


def test_the_draw_depends_on_the_seed_and_the_query() -> None:
    ranking = [(f"d{k}", -float(k)) for k in range(50)]

    def drawn(query_id: str, seed: int) -> list[str]:
        rows = labels_of_ranking(query_id, ranking, "bm25", MiningOptions(1, None, 5, None, seed))
        return [row.doc_id for row in rows[1:]]

    assert drawn("q", 0) == drawn("q", 0)
    assert len({tuple(drawn(*case)) for case in (("q", 0), ("q", 1), ("r", 0))}) == 3


def test_labels_of_qrels_triples_and_runs_by_id(files: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("q1 0 d1 3\nq1 0 d5 0\nq2 0 d3 2\nq2 0 gone 1\n", encoding="utf-8")
    rows, report = mined(tmp_path, *files, "--from", path)
    assert labels(rows) == {("q1", "d1"): 3, ("q1", "d5"): 0, ("q2", "d3"): 2}
    assert {row.source for row in rows} == {"qrels"}
    assert report["documents_without_text"] == 1
    path.write_text("q1\td1\td5\nq1\td5\td3\nq1\td5\td1\n", encoding="utf-8")  # d1 and d5: positive once
    rows, _ = mined(tmp_path, *files, "--from", path)
    assert labels(rows) == {("q1", "d1"): 1, ("q1", "d5"): 1, ("q1", "d3"): 0}
    path.write_text("q1 Q0 d5 1 0.5 x\nq1 Q0 d1 2 0.75 x\nq1 Q0 d3 3 0.1 x\n", encoding="utf-8")
    rows, _ = mined(tmp_path, *files, "--from", path, "--depth", 2)
    assert [(row.doc_id, row.label, row.rank, row.score) for row in rows] == [("d1", 1, 1, 0.75), ("d5", 0, 2, 0.5)]
    path.write_text("q1 d5 x y z\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 1 has 5 columns"):
        run(*files, "--from", path, "--out", tmp_path / "x.jsonl")


SHAPES: dict[str, list[dict[str, object]]] = {
    "triples": [
        {"query": "moon", "positive": "titan", "negative": "cheese"},
        {"query": "moon", "positive": "io", "negative": "cheese"},
    ],
    "numbered": [{"anchor": "moon", "positive": "titan", "positive_2": "io", "negative_1": "cheese"}],
    "flagembedding": [{"query": "moon", "pos": ["titan", "io"], "neg": ["cheese"]}],
    "tevatron": [
        {
            "query_id": "q",
            "query": "moon",
            "positive_passages": [{"docid": "1", "title": "", "text": "titan"}, {"docid": "2", "text": "io"}],
            "negative_passages": [{"docid": "3", "text": "cheese"}],
        }
    ],
    "labelled": [
        {"query": "moon", "passage": text, "label": label} for text, label in (("titan", 1), ("io", 1), ("cheese", 0))
    ],
    "labelled-pairs-of-mined-negatives": [
        {"anchor": "moon", "positive": text, "label": label} for text, label in (("titan", 1), ("io", 1), ("cheese", 0))
    ],
    "labelled-list-of-mined-negatives": [
        {"query": "moon", "positive": ["titan", "io", "cheese"], "labels": [1, 1, 0]},
    ],
    "one-label-of-a-list": [
        {"query": "moon", "positive": ["titan", "io"], "label": 1},
        {"query": "moon", "positive": ["cheese"], "label": 0},
    ],
    "scored-list": [{"query": "moon", "docs": ["titan", "io", "cheese"], "scores": [1.0, 1.0, 0.0]}],
    "listwise": [{"query": "moon", "docs": ["titan", "io", "cheese"], "labels": [1, 1, 0]}],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_that_people_have(shape: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, SHAPES[shape])), encoding="utf-8")
    else:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(SHAPES[shape]), path)
    rows, report = mined(tmp_path, "--from", path)
    assert {row.document: row.label for row in rows} == {"titan": 1.0, "io": 1.0, "cheese": 0.0}
    assert len({row.query_id for row in rows}) == 1
    assert report["repeated"] == (shape == "triples")
    if shape == "tevatron":
        assert {(row.query_id, row.doc_id) for row in rows} == {("q", "1"), ("q", "2"), ("q", "3")}


def test_a_score_beside_a_positive_is_asked_about(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    scored = [
        {"query": "moon", "positive": "titan", "score": 0.2},
        {"query": "moon", "positive": ["io"], "scores": [1]},
    ]
    sound = {"query": "moon", "positive": "io", "negative": "cheese", "score": 3.5}  # a margin, not a label
    path.write_text("\n".join(map(json.dumps, [*scored, sound])), encoding="utf-8")
    rows, report = mined(tmp_path, "--from", path)
    assert {row.document: row.label for row in rows} == {"io": 1.0, "cheese": 0.0}
    assert report["rejected"] == 2
    assert "positive stands beside score and no negatives; call score label(s)" in report["reasons"][0]


def test_plain_tsv_triples_and_a_header(tmp_path: Path) -> None:
    path = tmp_path / "triples.tsv"
    path.write_text("moon\ttitan\tcheese\nmoon\tio\tcheese\n", encoding="utf-8")
    plain, _ = mined(tmp_path, "--from", path)
    path.write_text("query\tpositive\tnegative\nmoon\ttitan\tcheese\nmoon\tio\tcheese\n", encoding="utf-8")
    assert mined(tmp_path, "--from", path)[0] == plain
    assert {row.document: row.label for row in plain} == {"titan": 1.0, "io": 1.0, "cheese": 0.0}


def test_tables_of_examples_with_long_texts_quotes_and_empty_cells(tmp_path: Path) -> None:
    long = "titan " * 30_000
    cases = {
        "long.csv": (f"query,document,label\nmoon,{long},1\nmoon,cheese,0\n", {long: 1.0, "cheese": 0.0}),
        "ragged.csv": (
            'query,positive,negative_1,negative_2\nmoon,titan,"cheese, old",sun\nmoon,io,sun,\n',
            {"titan": 1.0, "io": 1.0, "cheese, old": 0.0, "sun": 0.0},
        ),
        "quote.tsv": (
            'query\tpositive\tnegative\nmoon\t"Titan" it was\tcheese\n', {'"Titan" it was': 1.0, "cheese": 0.0}
        ),
    }  # fmt: skip
    for name, (text, expected) in cases.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        rows, report = mined(tmp_path, "--from", tmp_path / name)
        assert {row.document: row.label for row in rows} == expected, name
        assert report["rejected"] == 0


def test_a_line_of_a_table_that_is_not_sound_costs_that_line(tmp_path: Path) -> None:
    for name, text in (
        ("a.csv", 'query,positive,negative\nmoon,titan\nmoon,"io" x,y\nmoon,io,cheese\n'),
        ("a.tsv", "query\tpositive\tnegative\nmoon\ttitan\nmoon\tio\tcheese\textra\nmoon\tio\tcheese\n"),
        ("a.jsonl", '{bad\n[1]\n{"query": "moon", "positive": "io", "negative": "cheese"}\n'),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        result = run("--from", tmp_path / name, "--out", tmp_path / "set.jsonl", "--force")
        assert result.exit_code == 3
        told = "'[1]' is no JSON object" if name == "a.jsonl" else "2 fields, the header has 3"
        assert f"line 2: {told}" in " ".join(result.stdout.split())
        assert {row.document for row in read_ranking_set(tmp_path / "set.jsonl")} == {"io", "cheese"}
    (tmp_path / "twice.tsv").write_text("query\tquery\tpositive\tnegative\nmoon\tmoon\tio\tcheese\n")
    with pytest.raises(InputError, match="two columns have the same name"):
        run("--from", tmp_path / "twice.tsv", "--out", tmp_path / "x.jsonl")


def test_conflicts_are_counted_and_rejected_rows_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows: list[dict[str, object]] = [
        {"query": "moon", "positive": "titan", "negative": "cheese"},
        {"query": "moon", "positive": "cheese", "negative": "io"},
        {"query": "", "positive": "x", "negative": "y"},
        {"query": "moon", "positive": 3, "negative": "y"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    result = run("--from", path, "--out", tmp_path / "set.jsonl")
    assert result.exit_code == 3
    assert "line 3: query is blank" in " ".join(result.stdout.split())
    found = {row.document: row.label for row in read_ranking_set(tmp_path / "set.jsonl")}
    assert found == {"titan": 1.0, "cheese": 1.0, "io": 0.0}
    report = json.loads(run("--from", path, "--out", tmp_path / "set.jsonl", "--json", "--force").stdout)
    assert (report["repeated"], report["conflicting"], report["rejected"]) == (1, 1, 2)


def test_a_set_becomes_training_columns(files: tuple[Path, Path], tmp_path: Path) -> None:
    mined(tmp_path, *files)
    out = tmp_path / "train.jsonl"
    run("--from", tmp_path / "set.jsonl", "--out", out, "--as", "listwise")
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["labels"] for row in rows] == [[1.0, 0.0, 0.0], [1.0, 0.0]]
    assert rows[0]["documents"][0] == "\n".join(DOCUMENTS["d2"])


def test_a_set_keeps_its_columns(tmp_path: Path) -> None:
    items = [RankingRow("q", "d", "moon", "titan", "T", 2.0, "mine", 4, 0.5, True, 1.0, 2, 1.5, (0.5, 0.5))]
    write_ranking_set(tmp_path / "in.parquet", items, relabelled=True)
    rows, _ = mined(tmp_path, "--from", tmp_path / "in.parquet")
    assert rows == items


def test_what_cannot_be_mined_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "set.jsonl"
    with pytest.raises(InputError, match="nothing to mine"):
        run("--out", out)
    with pytest.raises(InputError, match="both queries and docs"):
        run(files[0], "--out", out)
    with pytest.raises(InputError, match="leave out --candidates"):
        run(*files, "--from", files[0], "--candidates", files[0], "--out", out)
    with pytest.raises(InputError, match="as in 2-50"):
        run(*files, "--negative-ranks", "5", "--out", out)
    with pytest.raises(InputError, match=r"set\.csv: ranking sets end in"):
        run(*files, "--out", tmp_path / "set.csv")
    out.write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="exists; choose another name or give --force"):
        run(*files, "--out", out)
    other = tmp_path / "other.jsonl"
    other.write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(InputError, match="the columns are 'a'; a row needs a query"):
        run("--from", other, "--out", out, "--force")
    assert out.read_text(encoding="utf-8") == ""


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys\nfrom pairgrade.cli.mine import command\nfrom pairgrade.cli.relabel import command as relabel\n"
        "from pairgrade.cli.evaluate import command as evaluate\n"
        "heavy = {'bm25s', 'pyarrow', 'scipy', 'ir_measures', 'matplotlib', 'torch'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
