"""Every input format gives the same pairs, each row is accounted for, and what is unusable is told at once."""

import csv
import gzip
import io
import json
import os
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from pairgrade.delimited import csv_rows
from pairgrade.errors import InputError
from pairgrade.lines import Field
from pairgrade.readers import Columns, Source, digest, numbered_pairs, read_pairs
from pairgrade.records import Pair, Rejection

NAMES = ("query_id", "doc_id", "query", "document", "title", "grade")
PAIRS = [
    Pair("1", "a", "first query", "a document", "a title", 3),
    Pair("1", "b", "first query", "quoted \"words\", commas, 'apostrophes' \\ and a back\\slash", "", 0),
    Pair("2", "a", "zweite Frage \u00fc\U0001f600", "\u202eright to left\u202c \u200d\u200b joined", "\u2028", None),
    Pair("x-2", "c/3", " padded ", "controls \x01\x0b\x0c\x1c\x7f\x85\u2029 stay", "\x00", -1),
    Pair("3", "d", "q", "", "only a title", 2),
]


def value(pair: Pair, name: str) -> Any:
    return getattr(pair, name)


def write_jsonl(path: Path, pairs: list[Pair], ascii_only: bool = True) -> None:
    rows = [json.dumps({name: value(pair, name) for name in NAMES}, ensure_ascii=ascii_only) for pair in pairs]
    path.write_text("".join(row + "\n" for row in rows), "utf-8")


def write_csv(path: Path, pairs: list[Pair]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(NAMES)
        writer.writerows([value(pair, name) for name in NAMES] for pair in pairs)


def write_tsv(path: Path, pairs: list[Pair]) -> None:
    rows = ["\t".join(NAMES), *("\t".join(str(_plain(value(pair, name))) for name in NAMES) for pair in pairs)]
    path.write_text("\r\n".join(rows), "utf-8", newline="")


def _plain(item: Any) -> Any:
    return "" if item is None else item


def write_parquet(path: Path, pairs: list[Pair]) -> None:
    parquet.write_table(pa.table({name: [value(pair, name) for pair in pairs] for name in NAMES}), path)


def gzipped(write: Callable[[Path, list[Pair]], None]) -> Callable[[Path, list[Pair]], None]:
    def write_gzipped(path: Path, pairs: list[Pair]) -> None:
        write(path, pairs)
        path.write_bytes(gzip.compress(path.read_bytes()))

    return write_gzipped


WRITERS = {
    "a.jsonl": write_jsonl,
    "b.NDJSON": lambda path, pairs: write_jsonl(path, pairs, ascii_only=False),
    "c.csv": write_csv,
    "d.tsv": write_tsv,
    "e.parquet": write_parquet,
    "f.jsonl.gz": gzipped(write_jsonl),
    "g.csv.gz": gzipped(write_csv),
    "h.TSV.GZ": gzipped(write_tsv),
}


def raw(tmp_path: Path, name: str, content: str | bytes, **options: Any) -> Source:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return Source(str(path), **options)


def outcomes(source: Source) -> list[Pair | str]:
    """Pairs, and "line: reason" for rejections."""
    return [
        item if isinstance(item, Pair) else f"{item.line}: {item.reason}"
        for item in read_pairs(source)
        if isinstance(item, Pair) or item.source == source.pairs
    ]


@pytest.mark.parametrize("name", WRITERS)
def test_all_formats_give_the_same_pairs(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, PAIRS)
    assert outcomes(Source(str(tmp_path / name))) == PAIRS


@pytest.mark.parametrize("name", WRITERS)
def test_columns_have_any_name_and_others_are_ignored(tmp_path: Path, name: str) -> None:
    columns = Columns(query_id="document", doc_id="query_id", query="title", document="query", title="doc_id")
    WRITERS[name](tmp_path / name, [Pair("id1", "title", "document", "id2", "query", 3)])
    source = Source(str(tmp_path / name), columns=columns)
    assert outcomes(source) == [Pair("id2", "id1", "query", "document", "title", 3)]


@pytest.mark.parametrize("name", WRITERS)
def test_without_a_grade_column_no_grade_is_read(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, PAIRS)
    source = Source(str(tmp_path / name), columns=Columns(grade=None))
    assert any(pair.grade is not None for pair in PAIRS)
    assert outcomes(source) == [replace(pair, grade=None) for pair in PAIRS]


def test_without_a_grade_column_no_grade_of_qrels_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.qrels").write_text("q 0 d 1\nq 0 e E\nq 0 f 2.33\n")
    (tmp_path / "q.tsv").write_text("q\ta query\n")
    (tmp_path / "d.tsv").write_text("".join(f"{name}\ttext\n" for name in "def"))
    files = str(tmp_path / "a.qrels"), str(tmp_path / "q.tsv"), str(tmp_path / "d.tsv")
    found = outcomes(Source(*files, columns=Columns(grade=None)))
    assert found == [Pair("q", name, "a query", "text") for name in "def"]
    assert sum(isinstance(row, Pair) for row in outcomes(Source(*files))) == 1


def test_a_source_may_be_given_by_paths(tmp_path: Path) -> None:
    WRITERS["c.csv"](tmp_path / "c.csv", PAIRS)
    source = Source(tmp_path / "c.csv")  # type: ignore[arg-type]
    assert source == Source(str(tmp_path / "c.csv"))
    assert outcomes(source) == PAIRS


def test_the_format_can_be_given(tmp_path: Path) -> None:
    for name, form in (("a.jsonl", "jsonl"), ("c.csv", "csv"), ("d.tsv", "tsv"), ("e.parquet", "parquet")):
        WRITERS[name](tmp_path / "input.txt", PAIRS)
        assert outcomes(Source(str(tmp_path / "input.txt"), format=form)) == PAIRS
    assert outcomes(raw(tmp_path, "a.gz", gzip.compress(JSONL.encode()), format="jsonl")) == [GOOD]


GOOD = Pair("q", "d", "query", "document")
JSONL = '{"query_id": "q", "doc_id": "d", "query": "query", "document": "document"}\n'
HEADER = "query_id,doc_id,query,document\n"
ROW = "q,d,query,document\n"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pairs": "a.json"}, r"a.json: unknown format; a table of pairs ends in .jsonl, .ndjson, .csv"),
        ({"pairs": "a.txt"}, "unknown format"),
        ({"pairs": "a.parquet.gz"}, "unknown format"),
        ({"pairs": ""}, "unknown format"),
        ({"pairs": "a\0.csv"}, "NUL"),
        ({"pairs": "a.csv", "format": "xml"}, "format is 'xml'; it can be jsonl, csv, tsv, parquet, qrels or run"),
        ({"pairs": "a.csv", "format": "qrels"}, "give the texts"),
        ({"pairs": "a.txt", "queries": "q.jsonl"}, "texts of both queries and docs"),
        ({"pairs": "a.txt", "docs": "q.jsonl"}, "texts of both queries and docs"),
        ({"pairs": "a.txt", "queries": "q.jsonl", "docs": "d.txt"}, "d.txt: texts come as"),
        ({"pairs": "a.txt", "queries": "q.csv", "docs": "d.tsv"}, "q.csv: texts come as"),
        ({"pairs": "a", "queries": "q.tsv", "docs": "d.tsv", "format": "csv"}, "it is qrels or run"),
        ({"pairs": "a", "queries": "q.tsv", "docs": "d.tsv", "columns": Columns(query="x")}, "column names"),
        (
            {"pairs": "a.jsonl", "queries": "q.tsv", "docs": "d.tsv"},
            "a.jsonl is a table by its name",
        ),
        ({"pairs": "irds:x", "columns": Columns(query="x")}, "column names"),
        ({"pairs": "irds:x", "format": "csv"}, "has its own texts"),
        ({"pairs": "irds:x", "queries": "q.tsv", "docs": "d.tsv"}, "has its own texts"),
        ({"pairs": "irds:"}, "data set's id"),
        ({"pairs": "a.csv", "max_row_bytes": 0}, "max_row_bytes is 0"),
    ],
)
def test_sources_that_make_no_sense_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Source(**options)


def test_a_column_needs_a_name() -> None:
    for nothing in ("", None):
        with pytest.raises(InputError, match="the name of the query column is empty"):
            Columns(query=nothing)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the name of the grade column is empty"):
        Columns(grade="")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: (holds no rows|not a sound Parquet file)"):
        outcomes(raw(tmp_path, name, ""))


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", "\n \n"), ("a.csv", HEADER), ("a.tsv", "\n\r\n")])
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(InputError, match="holds no rows"):
        outcomes(raw(tmp_path, name, content))


def test_a_parquet_file_without_rows_is_refused(tmp_path: Path) -> None:
    columns: dict[str, Any] = {name: pa.array([], pa.string()) for name in NAMES}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="holds no rows"):
        outcomes(Source(str(tmp_path / "a.parquet")))


def test_a_missing_column_is_told_with_the_option_that_names_it(tmp_path: Path) -> None:
    options = ["--query-id-column", "--doc-id-column", "--query-column", "--document-column"]
    for missing, option in zip(NAMES, options, strict=False):
        left = [name for name in NAMES if name != missing]
        write_parquet(tmp_path / "whole.parquet", PAIRS)
        parquet.write_table(parquet.read_table(tmp_path / "whole.parquet", columns=left), tmp_path / "a.parquet")
        sources = [
            raw(tmp_path, "a.csv", ",".join(left) + "\n" + "x,x,x,x,x\n"),
            raw(tmp_path, "a.tsv", "\t".join(left) + "\n" + "x\tx\tx\tx\tx\n"),
            raw(tmp_path, "a.jsonl", json.dumps(dict.fromkeys(left, "x"))),
            Source(str(tmp_path / "a.parquet")),
        ]
        for source in sources:
            with pytest.raises(InputError) as caught:
                outcomes(source)
            found = ", ".join(repr(name) for name in left)
            end = f"no column '{missing}' (columns found: {found}); name the one to take with {option}"
            assert str(caught.value).endswith(end)
            assert str(caught.value).startswith(source.pairs)


def test_a_column_that_the_user_names_must_be_in_the_header(tmp_path: Path) -> None:
    source = raw(tmp_path, "a.csv", HEADER + ROW, columns=Columns(grade="label"))
    with pytest.raises(InputError, match=r"no column 'label' .* --grade-column"):
        outcomes(source)
    with pytest.raises(InputError, match=r"a\.jsonl: no column 'label' \(columns found: .*--title-column"):
        outcomes(raw(tmp_path, "a.jsonl", JSONL * 2, columns=Columns(title="label")))
    with_it = JSONL.rstrip().removesuffix("}") + ', "label": null}\n'  # one row that has it is enough
    assert len(outcomes(raw(tmp_path, "a.jsonl", JSONL + with_it + JSONL, columns=Columns(title="label")))) == 3


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet"])
def test_a_header_that_names_a_column_twice_is_refused(tmp_path: Path, name: str) -> None:
    names = [*NAMES, "query"]
    separator = "," if name == "a.csv" else "\t"
    source = raw(tmp_path, name, separator.join(names) + "\n")
    if name == "a.parquet":
        parquet.write_table(pa.Table.from_arrays([pa.array(["x"])] * 7, names=names), tmp_path / name)
    with pytest.raises(InputError, match="2 columns are named 'query'"):
        outcomes(source)


VALUES = [
    ({"query_id": 17}, Pair("17", "d", "query", "document")),
    ({"doc_id": -(10**30)}, Pair("q", str(-(10**30)), "query", "document")),
    ({"query_id": 1.0}, "query_id is the number '1.0'; an id is a string or an integer: write it in quotes"),
    ({"query_id": True}, "query_id is true; an id is a string or an integer: write it in quotes"),
    ({"doc_id": None}, "doc_id is null; an id is a string or an integer: write it in quotes"),
    ({"doc_id": ["d"]}, "doc_id is an array; an id is a string or an integer: write it in quotes"),
    ({"doc_id": ""}, "doc_id is empty"),
    ({"doc_id": "d" * 1000}, Pair("q", "d" * 1000, "query", "document")),
    ({"doc_id": "d" * 1001}, "doc_id has 1,001 characters; at most 1,000 are allowed"),
    *(
        (
            {"doc_id": bad},
            f"doc_id {bad!r} holds white space, a control character, a byte order mark or a lone surrogate; "
            "a TREC qrels file cannot carry it",
        )
        for bad in (
            "a b",
            "a\t",
            "\na",
            "\0a",
            "\x7f",
            "\x80",
            "a\x85",
            "\x9f",
            "\u2028",
            "\xa0",
            "\u3000",
            "\ufeffa",
            "\ud800",
        )
    ),
    ({"query_id": "\u200b\u00e9\U0001f600"}, Pair("\u200b\u00e9\U0001f600", "d", "query", "document")),
    ({"query": None}, "query is null; it must be a string"),
    ({"query": 5}, "query is the number '5'; it must be a string"),
    ({"query": ""}, "query is blank"),
    ({"query": " \t\n\u2003"}, "query is blank"),
    ({"document": {}}, "document is an object; it must be a string"),
    ({"document": "ab\ud83dc"}, "document holds a lone surrogate (U+D83D) at character 3"),
    ({"query": "\udc00"}, "query holds a lone surrogate (U+DC00) at character 1"),
    ({"title": "\udfff"}, "title holds a lone surrogate (U+DFFF) at character 1"),
    ({"document": "\U0001f600"}, Pair("q", "d", "query", "\U0001f600")),
    ({"document": " "}, "document and title are both blank"),
    ({"document": "", "title": "\n"}, "document and title are both blank"),
    ({"document": "", "title": "t"}, Pair("q", "d", "query", "", "t")),
    ({"title": None}, GOOD),
    ({"title": 3}, "title is the number '3'; it must be a string"),
    *(({"grade": grade}, Pair("q", "d", "query", "document", "", 2)) for grade in (2, 2.0, "2", " 2.0 ", "+2")),
    *(({"grade": grade}, GOOD) for grade in (None, "", "  ")),
    ({"grade": -2}, Pair("q", "d", "query", "document", "", -2)),
    ({"grade": 2.5}, "grade is the number '2.5'; it must be a whole number of at most 9 digits"),
    ({"grade": False}, "grade is false; it must be a whole number of at most 9 digits"),
    ({"grade": 10**9}, "grade is the number '1000000000'; it must be a whole number of at most 9 digits"),
    ({"grade": 1e300}, "grade is the number '1e+300'; it must be a whole number of at most 9 digits"),
    *(
        ({"grade": grade}, f"grade is {grade!r}; it must be a whole number of at most 9 digits")
        for grade in ("two", "1_0", "\u0662", "2.5", "0x2", "1e1", "9" * 10, "nan")
    ),
]


@pytest.mark.parametrize(("change", "expected"), VALUES)
def test_values_are_checked(tmp_path: Path, change: dict[str, Any], expected: Pair | str) -> None:
    row = {"query_id": "q", "doc_id": "d", "query": "query", "document": "document"} | change
    source = raw(tmp_path, "a.jsonl", JSONL + json.dumps(row) + "\n" + JSONL)
    assert outcomes(source) == [GOOD, expected if isinstance(expected, Pair) else f"2: {expected}", GOOD]


def test_a_rejection_carries_the_ids_that_are_sound(tmp_path: Path) -> None:
    rows = [JSONL, JSONL.replace('"query"}', "1").replace('"query": "query"', '"query": ""')]
    source = raw(tmp_path, "a.jsonl", "".join(rows) + JSONL.replace('"d"', '""'))
    _, blank, no_doc = read_pairs(source)
    assert blank == Rejection(source.pairs, 2, "query is blank", "q", "d")
    assert no_doc == Rejection(source.pairs, 3, "doc_id is empty", "q", None)


def test_numbered_pairs_give_the_line_of_each_record(tmp_path: Path) -> None:
    source = raw(tmp_path, "a.csv", HEADER + 'q,d,query,"two\nlines"\n' + ROW + "q\n" + ROW)
    assert [line for line, _ in numbered_pairs(source)] == [2, 4, 5, 6]


CSV_CASES: dict[str, tuple[str | bytes, list[Pair | str]]] = {
    "crlf": (ROW.replace("\n", "\r\n"), [GOOD]),
    "no final newline": (ROW.strip(), [GOOD]),
    "quoted": ('"q","d","query","document"\r\n', [GOOD]),
    "line ends inside quotes stay": ('q,d,query,"a\r\nb\rc\n"\r\n', [Pair("q", "d", "query", "a\r\nb\rc\n")]),
    "doubled quotes": ('q,d,query,"""a"" ""b"""\n', [Pair("q", "d", "query", '"a" "b"')]),
    "a quote in an unquoted field": ('q,d,7" pipe,a"b"\n', [Pair("q", "d", '7" pipe', 'a"b"')]),
    "a carriage return in an unquoted field": ("q,d,a\rb,c\n", [Pair("q", "d", "a\rb", "c")]),
    "too few": ("q,d,query\n", ["2: 3 fields, the header has 4"]),
    "too many": ("q,d,query,document,\n", ["2: more than 4 fields, the header has 4"]),
    "blank line": ("\n", ["2: a blank line, the header has 4"]),
    "text after a quote": ('q,d,"query"x,document\n', ["2: text follows the closing quote of field 3"]),
    "unclosed at the end": ('q,d,query,"document\n', ["2: the quote that opens field 4 is not closed within the file"]),
    "not UTF-8": (b"q,d,query,doc\xff\n", ["2: not valid UTF-8: byte 0xff at offset 13 of the line"]),
    "not UTF-8 in a later line of a record": (
        b'q,d,query,"doc\n\xff\nument"\n',
        ["2: on line 3: not valid UTF-8: byte 0xff at offset 0 of the line"],
    ),
    "a record with a field too few": (
        'q,d,"que\nry"\n',
        ["2: 3 fields, the header has 4", "3: 1 field, the header has 4"],
    ),
}


@pytest.mark.parametrize("case", CSV_CASES)
def test_csv_rows_by_case_with_sound_ones_around(tmp_path: Path, case: str) -> None:
    content, expected = CSV_CASES[case]
    content = content if isinstance(content, bytes) else content.encode()
    assert outcomes(raw(tmp_path, "a.csv", HEADER.encode() + content)) == expected
    line_end = b"" if content.endswith(b"\n") else b"\n"
    whole = HEADER.encode() + content + line_end + ROW.encode()
    assert outcomes(raw(tmp_path, "a.csv", whole)) == [*expected, GOOD]
    assert outcomes(raw(tmp_path, "a.csv", whole.replace(b"\n", b"\n" + ROW.encode(), 1)))[0] == GOOD


def test_an_unclosed_quote_costs_one_row_wherever_the_next_quote_is(tmp_path: Path) -> None:
    opened = 'q,d,query,"never closed\n'
    quoted = 'q,d,"query","document"\n'
    assert outcomes(raw(tmp_path, "a.csv", HEADER + ROW + opened + ROW * 3 + quoted + ROW)) == [
        GOOD,
        "3: text follows the closing quote of field 4",
        *[GOOD] * 5,
    ]
    far = outcomes(raw(tmp_path, "a.csv", HEADER + opened + ROW * 10_050))
    assert far[0] == "2: the quote that opens field 4 is not closed within 10,000 lines"
    assert far[1:] == [GOOD] * 10_050
    long = raw(tmp_path, "a.csv", HEADER + ROW + opened + ROW * 100 + "x" * 2000 + "\n" + ROW, max_row_bytes=500)
    assert outcomes(long) == [
        GOOD,
        "3: the quote that opens field 4 is not closed within 500 bytes",
        *[GOOD] * 100,
        "104: the line is longer than 500 bytes",
        GOOD,
    ]


def test_a_record_that_grows_above_the_limit_is_given_up(tmp_path: Path) -> None:
    rows = 'q,d,query,"never closed\n' + ROW * 50
    source = raw(tmp_path, "a.csv", HEADER + rows, max_row_bytes=500)
    assert outcomes(source) == ["2: the quote that opens field 4 is not closed within 500 bytes", *[GOOD] * 50]


def test_lines_read_ahead_twice_keep_their_order(tmp_path: Path) -> None:
    # the record of line 2 fails at line 6, the one of line 3 at line 5 already; that of line 4 ends at line 6
    source = raw(tmp_path, "a.csv", HEADER + '"a\np,q","c\nd","e\nf","g\nh",\n' + ROW)
    assert [line for line, _ in numbered_pairs(source)] == [2, 3, 4, 7]


def test_a_record_may_have_10000_lines(tmp_path: Path) -> None:
    for lines, expected in ((9_999, Pair("q", "d", "query", "x\n" * 9_999)), (10_000, None)):
        found = outcomes(raw(tmp_path, "a.csv", HEADER + 'q,d,query,"' + "x\n" * lines + '"\n' + ROW))
        assert found[-1] == GOOD
        assert (found[0] == expected) == (lines == 9_999)
        assert len(found) == (2 if expected else 10_002)


def test_quotes_that_look_open_from_every_line_take_no_quadratic_time(tmp_path: Path) -> None:
    source = raw(tmp_path, "a.csv", HEADER + 'a",b,"c\n' * 30_000 + 'q,d,"' + '""' * 10**6 + "\n" + ROW)
    start = time.process_time()
    found = outcomes(source)
    assert time.process_time() - start < 10  # about 1 s; 10,000 lines read ahead for each would take minutes
    assert len(found) == 30_002
    assert found[-1] == GOOD


@pytest.mark.parametrize(
    ("name", "header"), [("a.csv", "query_id;doc_id;query;document"), ("a.csv", "q\td"), ("a.tsv", "query_id,doc_id")]
)
def test_a_table_that_is_parted_otherwise_is_told(tmp_path: Path, name: str, header: str) -> None:
    told = "that is one column, so its fields are parted by something else; read are commas"
    with pytest.raises(InputError, match=told):
        list(read_pairs(raw(tmp_path, name, f"{header}\nq;d;query;document\n")))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.tsv"])
def test_a_compressed_file_without_its_suffix_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"query_id,doc_id,query,document\nq,d,a,b\n"))
    with pytest.raises(InputError, match=r"is compressed by gzip; let its name end in \.gz"):
        list(read_pairs(Source(str(tmp_path / name))))


def test_a_header_that_is_no_record_is_refused(tmp_path: Path) -> None:
    for content in ('query_id,"doc_id\n' + ROW, b"\xff,b\n", '"a"b,c\n'):
        with pytest.raises(InputError, match=r"a.csv: the header cannot be read: "):
            outcomes(raw(tmp_path, "a.csv", content))
    with pytest.raises(InputError, match=r"a.tsv: the header cannot be read: "):
        outcomes(raw(tmp_path, "a.tsv", b"\xff\tb\n"))


def test_a_header_may_be_quoted_and_hold_line_ends(tmp_path: Path) -> None:
    header = '"query_id","doc_id","the\nquery",document,"a,b"\n'
    source = raw(tmp_path, "a.csv", "\ufeff" + header + "q,d,query,document,x\n", columns=Columns(query="the\nquery"))
    assert list(numbered_pairs(source)) == [(3, GOOD)]


def test_rows_before_a_cut_in_a_gzip_come_first_even_below_an_open_quote(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [f"q,d{k},query,{rng.getrandbits(400)}\n" for k in range(3000)]
    rows[1500] = 'q,d,query,"open\n'
    source = raw(tmp_path, "a.csv.gz", gzip.compress((HEADER + "".join(rows)).encode())[:-3000])
    found: list[Pair | Rejection] = []
    with pytest.raises(InputError, match="cut off"):  # noqa: PT012
        for item in read_pairs(source):
            found.append(item)
    assert len(found) > 2500
    assert [k for k, item in enumerate(found) if isinstance(item, Rejection)] == [1500]


def test_tsv_takes_quotes_literally_and_counts_fields(tmp_path: Path) -> None:
    header = HEADER.replace(",", "\t")
    rows = ['q\td\t"query"\t"doc\n', "   \n", "q\td\tquery\n", "q\td\tquery\tdocument\tx\r\n", "\t\t\t\n", "\r\n"]
    found = outcomes(raw(tmp_path, "a.tsv", "\n" + header + "".join(rows) + "q\td\tquery\tdocument\r\n"))
    assert found == [
        Pair("q", "d", '"query"', '"doc'),
        "5: 3 fields, the header has 4",
        "6: 5 fields, the header has 4",
        "7: query_id is empty",
        GOOD,
    ]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text('",\r\n\t a\x85\u2028', max_size=12)
IDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8)
FILLED = TEXT.filter(lambda text: text.strip() != "")
ANY_PAIR = st.builds(Pair, IDS, IDS, FILLED, FILLED, TEXT, st.none() | st.integers(-9, 9))


@settings(max_examples=200, deadline=None)
@given(st.lists(ANY_PAIR, min_size=1, max_size=4), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_the_csv_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair], line_end: str, everything_quoted: bool
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=line_end, quoting=csv.QUOTE_MINIMAL)
    if everything_quoted or line_end == "\n":
        writer = csv.writer(text, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerow(NAMES)
    writer.writerows([value(pair, name) for name in NAMES] for pair in pairs)
    assert outcomes(raw(tmp_path_factory.getbasetemp(), "round.csv", text.getvalue())) == pairs


@settings(max_examples=200, deadline=None)
@given(st.lists(ANY_PAIR, min_size=1, max_size=4), st.booleans())
def test_what_the_json_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair], ascii_only: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    rows = [json.dumps({name: value(pair, name) for name in NAMES}, ensure_ascii=ascii_only) for pair in pairs]
    path.write_bytes("\n".join(rows).encode())
    assert outcomes(Source(str(path))) == pairs


@settings(max_examples=100, deadline=None)
@given(st.lists(ANY_PAIR, min_size=1, max_size=4))
def test_what_pyarrow_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.parquet"
    write_parquet(path, pairs)
    assert outcomes(Source(str(path))) == pairs


CSV_PIECES = ['"', '""', ",", "\n", "\r\n", "a", "\0", "a,b\n", '"a,b"', ',"\n"', '"\r",']


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(CSV_PIECES), max_size=12).map("".join))
@example('a"b",c\n')
@example('"a""b\n",c')
@example('a,"b"\r\n"c",d\r\n')
def test_records_are_those_of_the_strict_csv_module(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    try:
        records = list(csv.reader(io.StringIO("x,y\n" + text, newline="\n"), strict=True))[1:]
    except csv.Error:
        records = []  # the module gives up where one row is unsound
    source = raw(tmp_path_factory.getbasetemp(), "oracle.csv", "x,y\n" + text)
    rows = list(csv_rows(source.pairs, [Field(("x",)), Field(("y",))], 1000))
    if records and all(len(record) == 2 for record in records):
        assert [row[1] for row in rows if not isinstance(row, Rejection)] == records
        assert len(rows) == len(records)
    lines = text.count("\n") + (not text.endswith("\n") and text != "")
    numbers = [row.line if isinstance(row, Rejection) else row[0] for row in rows]
    assert numbers == sorted(set(numbers))
    assert all(2 <= number < 2 + lines for number in numbers)
    if all(isinstance(row, Rejection) for row in rows):
        assert len(rows) == lines  # no line is passed over in silence


def parquet_of(tmp_path: Path, **columns: Any) -> Source:
    rows = max(len(column) for column in columns.values())
    names = ("query_id", "doc_id", "query", "document")
    table = {name: pa.array([str(name)[0] if "id" in name else name] * rows) for name in names} | columns
    parquet.write_table(pa.table(table), tmp_path / "a.parquet")
    return Source(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["1", "2"]),
        pa.array(["1", "2"], pa.large_string()),
        pa.array(["1", "2"]).dictionary_encode(),
        pa.array([1, 2]).dictionary_encode(),
        pa.array([1, 2], pa.int8()),
        pa.array([1, 2], pa.uint64()),
    ],
    ids=str,
)
def test_parquet_ids_may_be_strings_or_integers(tmp_path: Path, column: Any) -> None:
    for name in ("query_id", "doc_id"):
        found = outcomes(parquet_of(tmp_path, **{name: column}))
        assert [getattr(item, name) for item in found] == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "column", "match"),
    [
        ("query_id", pa.array([1.0]), "'query_id' is double; it must hold strings or integers"),
        ("doc_id", pa.array([True]), "'doc_id' is bool; it must hold strings or integers"),
        ("query", pa.array([1]), "'query' is int64; it must hold strings"),
        ("document", pa.array([b"a"]), "'document' is binary; it must hold strings"),
        ("title", pa.array([["a"]]), "'title' is list<.*>; it must hold strings"),
        ("grade", pa.array([False]), "'grade' is bool; it must hold strings or integers"),
    ],
)
def test_parquet_columns_of_no_use_are_refused(tmp_path: Path, name: str, column: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        outcomes(parquet_of(tmp_path, **{name: column}))


def test_parquet_values_are_checked_row_by_row(tmp_path: Path) -> None:
    query = pa.array(["query", None, "query", "query"])
    ends = pa.array([0, 1, 2, 3, 4], pa.int32()).buffers()[1]
    document = pa.Array.from_buffers(pa.string(), 4, [None, ends, pa.py_buffer(b"ab\xffd")])
    grade = pa.array([1.0, 2.0, None, 0.5])
    assert outcomes(parquet_of(tmp_path, query=query, document=document, grade=grade, title=pa.nulls(4))) == [
        Pair("q", "d", "query", "a", "", 1),
        "2: query is null; it must be a string",
        "3: document is not valid UTF-8; it must be a string",
        "4: grade is the number '0.5'; it must be a whole number of at most 9 digits",
    ]


def test_parquet_dictionaries_are_checked_too(tmp_path: Path) -> None:
    document = pa.array(["a", None, "b", "a"]).dictionary_encode()
    a, null, b, again = outcomes(parquet_of(tmp_path, document=document))
    assert a == again == Pair("q", "d", "query", "a")
    assert b == Pair("q", "d", "query", "b")
    assert null == "2: document is null; it must be a string"
    ends = pa.array([0, 1, 2], pa.int32()).buffers()[1]
    texts = pa.Array.from_buffers(pa.string(), 2, [None, ends, pa.py_buffer(b"a\xff")])
    broken = parquet_of(tmp_path, document=pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), texts))
    with pytest.raises(InputError, match=r"not a sound Parquet file: .*UTF8"):  # pyarrow reads none of it
        outcomes(broken)


def test_parquet_rows_above_the_limit_are_rejected(tmp_path: Path) -> None:
    document = pa.array(["a", "\xe9" * 300, "b"])
    parquet_of(tmp_path, document=document)
    found = outcomes(Source(str(tmp_path / "a.parquet"), max_row_bytes=500))
    assert found[1] == "2: the row is longer than 500 bytes"
    assert [item.document for item in found if isinstance(item, Pair)] == ["a", "b"]


def test_parquet_rows_are_numbered_through_batches_and_row_groups(tmp_path: Path) -> None:
    ids = pa.array([str(k) for k in range(5000)])
    source = parquet_of(tmp_path, doc_id=ids)
    parquet.write_table(parquet.read_table(source.pairs), source.pairs, row_group_size=1500)
    assert [(line, item.doc_id) for line, item in numbered_pairs(source)] == [(k + 1, str(k)) for k in range(5000)]


def test_a_parquet_file_that_does_not_parse_is_refused(tmp_path: Path) -> None:
    source = parquet_of(tmp_path, doc_id=pa.array([str(k) for k in range(50_000)]))
    content = Path(source.pairs).read_bytes()
    middle = len(content) // 2
    for damaged in (b"x", b"PAR1" * 9, content[:-9], content[:middle], content[:99] + b"\xff" * 99 + content[198:]):
        with pytest.raises(InputError, match=r"a.parquet: not a sound Parquet file"):
            outcomes(raw(tmp_path, "a.parquet", damaged))


def test_the_digest_tells_inputs_apart_by_content_and_reading(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(HEADER + ROW)
    (tmp_path / "c.csv").write_text(HEADER + ROW + ROW)
    first = digest(Source(str(tmp_path / "a.csv")))
    assert len(bytes.fromhex(first)) == 32
    assert digest(Source(str(tmp_path / "b.csv"))) == first  # the name is no part of it
    assert digest(Source(str(tmp_path / "a.csv"), format="csv")) == first
    (tmp_path / "d.jsonl").write_text("x")
    a, c, d = (str(tmp_path / name) for name in ("a.csv", "c.csv", "d.jsonl"))
    others = [
        Source(c),
        Source(a, format="tsv"),
        Source(a, columns=Columns(title="x")),
        Source(a, max_row_bytes=99),
        Source(a, queries=d, docs=d, format="qrels"),
        Source(a, queries=d, docs=d, format="run"),
        Source(d, queries=d, docs=d, format="run"),
    ]
    assert len({first, *map(digest, others)}) == 1 + len(others)
    tail = "x" * 3 * 2**20
    assert digest(raw(tmp_path, "e.csv", "1" + tail)) != digest(raw(tmp_path, "e.csv", "2" + tail))
    with pytest.raises(InputError, match="no such file"):
        digest(Source(str(tmp_path / "none.csv")))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        if name[0] in "acdf":
            write(tmp_path / name, [Pair("q", str(k), "query", "text " * 200, "", 1) for k in range(6000)])
            tracemalloc.start()
            try:
                assert sum(isinstance(item, Pair) for item in read_pairs(Source(str(tmp_path / name)))) == 6000
                assert tracemalloc.get_traced_memory()[1] < 1.5 * 2**20, name
            finally:
                tracemalloc.stop()


GROWTH = """
import re, sys
from pairgrade.readers import Source, read_pairs
peaks = []
for name in sys.argv[1:]:
    assert sum(1 for _ in read_pairs(Source(name))) > 0
    peaks.append(int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]))
print((peaks[1] - peaks[0]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_parquet_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def table(start: int, rows: int) -> pa.Table:
        ids = [str(k) for k in range(start, start + rows)]
        texts = [f"{k} " * 150 for k in ids]
        return pa.table({"query_id": ids, "doc_id": ids, "query": texts, "document": texts})

    for name, groups in (("small.parquet", 2), ("large.parquet", 40)):
        with parquet.ParquetWriter(tmp_path / name, table(0, 1).schema, compression="none") as writer:
            for group in range(groups):
                writer.write_table(table(group * 2000, 2000))
    assert (tmp_path / "large.parquet").stat().st_size > 100 * 2**20
    arguments = [str(tmp_path / "small.parquet"), str(tmp_path / "large.parquet")]
    done = subprocess.run([sys.executable, "-c", GROWTH, *arguments], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40  # MiB


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_files_are_closed_when_the_iterator_is(tmp_path: Path) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    for name, write in WRITERS.items():
        write(tmp_path / name, PAIRS)
        before = open_files()
        rows = read_pairs(Source(str(tmp_path / name)))
        next(rows)
        assert open_files() == before + 1
        rows.close()
        assert open_files() == before
