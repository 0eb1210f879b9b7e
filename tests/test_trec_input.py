"""Judgments and runs joined with texts from separate files, and data sets of the ir_datasets catalogue."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from pairgrade.errors import InputError, MissingExtraError
from pairgrade.readers import Source, digest, numbered_pairs, read_pairs
from pairgrade.records import Pair, Rejection

PAIRS = [
    Pair("1", "a", "first query", "document a", "title a", 3),
    Pair("1", "b", "first query", "document b", "title b", 0),
    Pair("2", "a", "second \u00fc", "document a", "title a", -1),
    Pair("1", "c", "first query", "document c", "", 1),
]
QUERIES = {pair.query_id: pair.query for pair in PAIRS}
DOCS = {pair.doc_id: (pair.title, pair.document) for pair in PAIRS} | {"z": ("", "nobody asks for this")}


def text_file(path: Path, kind: str, identifier: str) -> str:
    """Write the queries or documents in the format of the path's suffix, with ids in the given column."""
    rows = [(key, "", text) for key, text in QUERIES.items()]
    if kind == "docs":
        rows = [(key, *texts) for key, texts in DOCS.items()]
    if path.name.startswith("p"):
        columns = {identifier: [row[0] for row in rows], "text": [row[2] for row in rows]}
        titles = {"title": [row[1] for row in rows]} if kind == "docs" else {}
        parquet.write_table(pa.table(columns | titles), path)
        return str(path)
    if ".tsv" in path.name:
        lines = ["\t".join(row if kind == "docs" else (row[0], row[2])) for row in rows]
    else:
        lines = [json.dumps({identifier: key, "title": title, "text": text}) for key, title, text in rows]
    content = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def judged(folder: Path, content: str | None = None, name: str = "qrels.txt") -> str:
    path = folder / name
    lines = content or "".join(f"{pair.query_id} 0\t{pair.doc_id}  {pair.grade}\r\n" for pair in PAIRS)
    path.write_bytes(gzip.compress(lines.encode()) if name.endswith("gz") else lines.encode())
    return str(path)


def trec(folder: Path, content: str | None = None, **options: Any) -> Source:
    queries = text_file(folder / "queries.jsonl", "queries", "query_id")
    docs = text_file(folder / "docs.jsonl", "docs", "doc_id")
    return Source(judged(folder, content), queries, docs, **options)


@pytest.mark.parametrize("name", ["t.jsonl", "t.ndjson.gz", "t.tsv", "t.tsv.gz", "p.parquet"])
@pytest.mark.parametrize("identifier", [("query_id", "doc_id"), ("_id", "_id"), ("id", "docno")])
def test_all_text_formats_give_the_same_pairs(tmp_path: Path, name: str, identifier: tuple[str, str]) -> None:
    queries = text_file(tmp_path / name, "queries", identifier[0])
    (tmp_path / "docs").mkdir()
    docs = text_file(tmp_path / "docs" / name, "docs", identifier[1])
    assert list(read_pairs(Source(judged(tmp_path), queries, docs), tmp_path)) == PAIRS
    assert list(read_pairs(Source(judged(tmp_path, name="q.gz"), queries, docs), tmp_path)) == PAIRS


def test_the_same_pairs_as_from_a_table(tmp_path: Path) -> None:
    rows = [{name: getattr(pair, name) for name in Pair.__slots__} for pair in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert list(read_pairs(Source(str(tmp_path / "pairs.jsonl")))) == list(read_pairs(trec(tmp_path)))


def test_a_run_has_no_grades(tmp_path: Path) -> None:
    run = "".join(f"{pair.query_id} Q0 {pair.doc_id} 1 0.5 tag\n" for pair in PAIRS)
    ids = [(pair.query_id, pair.doc_id, None) for pair in PAIRS]
    for form in (None, "run"):
        found = list(read_pairs(trec(tmp_path, run, format=form)))
        assert [(item.query_id, item.doc_id, item.grade) for item in found if isinstance(item, Pair)] == ids
    rejected = list(read_pairs(trec(tmp_path, run, format="qrels")))
    assert {item.reason for item in rejected if isinstance(item, Rejection)} == {
        "6 columns; a qrels line has: query 0 document grade"
    }
    assert len(rejected) == len(PAIRS)


def test_judged_lines_are_checked_one_by_one(tmp_path: Path) -> None:
    content = "\n \n1 0 a 3\n1 0 a\n1 0 a b 3\n9 0 a 1\n1 0 y 1\n1 0 b x\n1 0 b 0\n"
    source = trec(tmp_path, content)
    queries, docs = source.queries, source.docs
    expected: list[Any] = [
        (3, PAIRS[0]),
        (4, "3 columns; a qrels line has: query 0 document grade", None, None),
        (5, "5 columns; a qrels line has: query 0 document grade", None, None),
        (6, f"no usable query '9' in {queries}", "9", "a"),
        (7, f"no usable document 'y' in {docs}", "1", "y"),
        (8, "grade is 'x'; it must be a whole number of at most 9 digits", "1", "b"),
        (9, PAIRS[1]),
    ]
    rows = [pair if isinstance(pair[1], Pair) else (pair[0], Rejection(source.pairs, *pair)) for pair in expected]
    assert list(numbered_pairs(source)) == rows


def test_qrels_of_beir_are_qrels(tmp_path: Path) -> None:
    beir = "query-id\tcorpus-id\tscore\n1\ta\t3\n1\tb\t0\n1 0 a 3\n"
    expected = list(numbered_pairs(trec(tmp_path, "\n1 0 a 3\n1 0 b 0\n")))
    for form in (None, "qrels"):
        *rows, bad = numbered_pairs(trec(tmp_path, beir, format=form))
        assert rows == expected
        assert isinstance(bad[1], Rejection)
        assert bad[1].reason == "4 columns; a qrels line has: query-id corpus-id score"
    assert list(read_pairs(trec(tmp_path, "1 0 a 3\n" + beir)))[1:] == [
        Rejection(str(tmp_path / "qrels.txt"), line, "3 columns; a qrels line has: query 0 document grade")
        for line in (2, 3, 4)
    ] + [PAIRS[0]]


@pytest.mark.parametrize("line", ["query-id\tcorpus-id\trank", "1 0 a 3 x", "{}"])
def test_a_file_that_is_neither_qrels_nor_run_is_refused(tmp_path: Path, line: str) -> None:
    match = r"line 2 has \d columns, not 4 \(qrels: query 0 document grade\) or 6 \(run: query Q0 .*give the format"
    with pytest.raises(InputError, match=match):
        list(read_pairs(trec(tmp_path, "\n" + line + "\n" + "1 0 a 3\n")))
    found = list(read_pairs(trec(tmp_path, line + "\n1 0 a 3\n", format="qrels")))
    assert [type(item) for item in found] == [Rejection, Pair]


def test_bytes_that_are_no_text_do_not_decide_the_kind(tmp_path: Path) -> None:
    source = trec(tmp_path)
    Path(source.pairs).write_bytes(b"\xff 1 2\n1 0 a 3\n" + b"1 0 " + b"x" * 200 + b" 1\n1 0 b\x00 1\n")
    found = list(read_pairs(Source(source.pairs, source.queries, source.docs, max_row_bytes=150)))
    assert [item.line if isinstance(item, Rejection) else item for item in found] == [1, PAIRS[0], 3, 4]


def test_malformed_texts_are_rejections_of_their_file(tmp_path: Path) -> None:
    source = trec(tmp_path)
    assert source.queries is not None
    assert source.docs is not None
    Path(source.queries).write_text('{"query_id": "1", "text": "first query"}\n{"query_id": "2", "text": 5}\n')
    Path(source.docs).write_text(
        '{"doc_id": "a", "text": "document a", "title": "title a"}\n?\n{"doc_id": "b c", "text": "x"}\n'
        '{"doc_id": 1.5, "text": "x"}\n{"doc_id": "b"}\n{"doc_id": "a", "text": "other"}\n'
        '{"doc_id": "c", "text": " "}\n{"doc_id": "b", "text": "\\ud800"}\n'
        '{"doc_id": "y", "text": "once"}\n{"doc_id": "y", "text": "twice"}\n{"doc_id": "z", "text": "\\ud800"}\n'
    )
    found = list(read_pairs(source))
    rejected = [(Path(item.source).name, item.line, item.reason) for item in found if isinstance(item, Rejection)]
    assert rejected == [
        ("queries.jsonl", 2, "text is the number '5'; it must be a string"),
        ("docs.jsonl", 2, "not valid JSON at column 1: Expecting value"),
        (
            "docs.jsonl",
            3,
            "the id 'b c' holds white space, a control character, a byte order mark or a lone surrogate; "
            "a TREC qrels file cannot carry it",
        ),
        ("docs.jsonl", 4, "the id is the number '1.5'; an id is a string or an integer: write it in quotes"),
        ("docs.jsonl", 5, "no column 'text' (columns found: 'doc_id'); rename the one to take"),
        ("docs.jsonl", 6, "the id 'a' is on line 1 already"),
        ("docs.jsonl", 8, "text holds a lone surrogate (U+D800) at character 1"),
        ("qrels.txt", 2, f"no usable document 'b' in {source.docs}"),
        ("qrels.txt", 3, f"no usable query '2' in {source.queries}"),
        ("qrels.txt", 4, "document and title are both blank"),
    ]
    assert [item for item in found if isinstance(item, Pair)] == PAIRS[:1]


def test_a_tsv_keeps_to_the_width_of_its_first_line(tmp_path: Path) -> None:
    source = trec(tmp_path)
    docs = tmp_path / "docs.tsv"
    docs.write_text("x\n\na\tdocument a\r\nb\ttitle\tdocument b\nc\t\n")
    queries = tmp_path / "queries.tsv"
    queries.write_text("1\ttitle\tfirst query\n1\tfirst query\n")
    found = list(read_pairs(Source(source.pairs, str(queries), str(docs))))
    assert [(Path(item.source).name, item.line, item.reason) for item in found[:3] if isinstance(item, Rejection)] == [
        ("queries.tsv", 1, "3 tab-separated fields; the file's lines have 2"),
        ("docs.tsv", 1, "1 tab-separated fields; the file's lines have 2 or 3"),
        ("docs.tsv", 4, "3 tab-separated fields; the file's lines have 2"),
    ]
    assert found[3] == Pair("1", "a", "first query", "document a", "", 3)


@pytest.mark.parametrize("name", ["qrels.txt", "queries.jsonl", "docs.jsonl"])
def test_files_without_rows_are_refused(tmp_path: Path, name: str) -> None:
    source = trec(tmp_path)
    (tmp_path / name).write_text("\n")
    with pytest.raises(InputError, match=f"{name}: holds no rows"):
        list(read_pairs(source))
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name}: there is no such file"):
        list(read_pairs(source))


def test_texts_without_their_columns_are_refused(tmp_path: Path) -> None:
    source = trec(tmp_path)
    (tmp_path / "docs.jsonl").write_text('{"doc": "a", "text": "b"}')
    with pytest.raises(InputError, match=r"no column 'doc_id' or '_id' or 'docno' \(columns found: 'doc', 'text'\)"):
        list(read_pairs(source))


def test_scratch_is_empty_after_the_end_an_error_and_a_close(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    source = trec(tmp_path)
    rows = read_pairs(source, scratch)
    assert next(rows) == PAIRS[0]
    assert len(list(scratch.iterdir())) == 1
    rows.close()
    assert not list(scratch.iterdir())
    assert len(list(read_pairs(source, scratch))) == len(PAIRS)
    assert not list(scratch.iterdir())
    rows = read_pairs(source, scratch)
    next(rows)
    del rows
    assert not list(scratch.iterdir())
    (tmp_path / "docs.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="UTF-16"):
        list(read_pairs(source, scratch))
    assert not list(scratch.iterdir())


GROWTH = """
import re, sys
from pairgrade.readers import Source, read_pairs
peaks = []
for folder in sys.argv[1:]:
    source = Source(f"{folder}/qrels.txt", f"{folder}/queries.jsonl", f"{folder}/docs.jsonl")
    assert sum(1 for _ in read_pairs(source)) == sum(1 for _ in open(source.pairs))
    peaks.append(int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]))
print((peaks[1] - peaks[0]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    for name, rows in (("small", 6_000), ("large", 30_000)):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "docs.jsonl").open("w") as docs, (tmp_path / name / "qrels.txt").open("w") as qrels:
            for k in range(rows):
                docs.write(json.dumps({"doc_id": str(k), "text": f"{k} " * 600}) + "\n")
                qrels.write(f"1 0 {k} 1\n")
        (tmp_path / name / "queries.jsonl").write_text('{"query_id": "1", "text": "q"}')
    arguments = [str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run([sys.executable, "-c", GROWTH, *arguments], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20  # MiB, for 80 MB more of text


@pytest.fixture
def catalogue(tmp_path: Path) -> Any:
    ir_datasets = pytest.importorskip("ir_datasets")
    queries = text_file(tmp_path / "q.tsv", "queries", "")
    docs = tmp_path / "d.tsv"
    docs.write_text("".join(f"{key}\t{title}|{text}\n" for key, (title, text) in DOCS.items()))
    qrels = tmp_path / "qrels"
    qrels.write_text("".join(f"{pair.query_id} 0 {pair.doc_id} {pair.grade}\n" for pair in PAIRS) + "9 0 a 1\n")
    registry = ir_datasets.registry
    names = (f"pairgrade-{tmp_path.name}", f"pairgrade-{tmp_path.name}/parts")
    registry.register(names[0], ir_datasets.create_dataset(str(docs), queries, str(qrels)))
    registry.register(names[1], ir_datasets.create_dataset(str(docs), queries, None))
    yield names
    for name in names:
        del registry._registered[name]


def test_a_catalogued_data_set_gives_its_judged_pairs(tmp_path: Path, catalogue: tuple[str, str]) -> None:
    source = Source(f"irds:{catalogue[0]}")
    found = list(read_pairs(source, tmp_path))
    whole = [Pair(p.query_id, p.doc_id, p.query, f"{p.title}|{p.document}", "", p.grade) for p in PAIRS]
    assert found == [*whole, Rejection(source.pairs, 5, f"no usable query '9' in {source.pairs}", "9", "a")]
    assert digest(source) == digest(Source(f"irds:{catalogue[0]}")) != digest(Source("irds:other"))


def test_titles_of_catalogued_documents_are_kept_apart(
    tmp_path: Path, catalogue: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ir_datasets
    from ir_datasets.formats.trec import TitleUrlTextDoc, TrecDoc

    dataset = ir_datasets.load(catalogue[0])
    documents = [TitleUrlTextDoc("a", "title a", "url", "document a"), TrecDoc("b", "document b", "<B>")]
    monkeypatch.setattr(dataset, "docs_iter", lambda: iter(documents), raising=False)
    found = [item for item in read_pairs(Source(f"irds:{catalogue[0]}"), tmp_path) if isinstance(item, Pair)]
    assert [(item.title, item.document) for item in found[:2]] == [("title a", "document a"), ("", "document b")]


def test_catalogue_errors_name_the_data_set(
    tmp_path: Path, catalogue: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="irds:no-such-set: no such data set"):
        list(read_pairs(Source("irds:no-such-set")))
    with pytest.raises(InputError, match="has no qrels; try a more specific id"):
        list(read_pairs(Source(f"irds:{catalogue[1]}")))
    (tmp_path / "d.tsv").write_text("a\tb\tc\td\n")
    with pytest.raises(InputError, match="ir_datasets cannot read it: expected 2 fields, got 4"):
        list(read_pairs(Source(f"irds:{catalogue[0]}")))
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingExtraError, match="irds:x needs the package ir-datasets"):
        list(read_pairs(Source("irds:x")))
