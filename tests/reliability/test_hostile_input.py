"""Rows made to break a reader end as a pair or as a rejection with a reason, and the rows around them do not notice.

Every case runs in each format that can express it.
"""

import csv
import io
import json
import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from helpers import json_of
from pairgrade.errors import InputError
from pairgrade.judgments import read_judgments
from pairgrade.lines import numbered_lines
from pairgrade.ranking_set import read_groups
from pairgrade.readers import Source, digest, numbered_pairs, read_pairs
from pairgrade.records import Pair, Rejection

NAMES = ("query_id", "doc_id", "query", "document", "title")
BEFORE, AFTER = Pair("q", "before", "query", "document", ""), Pair("q", "after", "query", "document", "")


def json_row(pair: Pair) -> bytes:
    return json.dumps({name: getattr(pair, name) for name in NAMES}, ensure_ascii=False).encode()


def csv_row(pair: Pair) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="").writerow([getattr(pair, name) for name in NAMES])
    return text.getvalue().encode()


def tsv_row(pair: Pair) -> bytes:
    return "\t".join(getattr(pair, name) for name in NAMES).encode()


TEXT_FORMATS: dict[str, tuple[bytes, Callable[[Pair], bytes]]] = {
    "jsonl": (b"", json_row),
    "csv": (b",".join(name.encode() for name in NAMES) + b"\n", csv_row),
    "tsv": (b"\t".join(name.encode() for name in NAMES) + b"\n", tsv_row),
}


def between(folder: Path, form: str, row: bytes, line_end: bytes = b"\n", start: bytes = b"") -> Source:
    """Write a file of a text format with the row between two sound ones."""
    header, encode = TEXT_FORMATS[form]
    path = folder / f"hostile.{form}"
    path.write_bytes(start + header + encode(BEFORE) + line_end + row + line_end + encode(AFTER) + line_end)
    return Source(str(path))


def parquet_between(folder: Path, pair: Pair, document: Any = None) -> Source:
    pairs = [BEFORE, pair, AFTER]
    columns: dict[str, Any] = {name: pa.array([getattr(item, name) for item in pairs]) for name in NAMES}
    if document is not None:
        columns["document"] = document
    path = folder / "hostile.parquet"
    parquet.write_table(pa.table(columns), path)
    return Source(str(path))


def middle(source: Source) -> Pair | Rejection:
    """Return what became of the hostile row, having seen that its neighbours are whole."""
    before, found, after = read_pairs(source)
    assert (before, after) == (BEFORE, AFTER)
    return found


LABELLED = {
    "NUL": "a\0b\0",
    "control characters": "\x01\x08\x0b\x0c\x0e\x1a\x1b[31m\x1c\x1d\x1e\x1f\x7f\x80\x85\x9f x",
    "carriage return": "a\rb",
    "line and paragraph separator": "a\u2028b\u2029",
    "byte order mark": "\ufeffa\ufeff",
    "right to left": "\u202e\u05d0\u05d1\u202c \u2067x\u2069",
    "zero width": "\u200b\u200c\u200d\u2060\u00ad.",
    "joined emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "stacked accents": "e" + "\u0301" * 10_000,
    "not a character": "\uffff\ufffe\U0010ffff",
    "replacement character": "\ufffd",
    "quotes": '"a" \'b\' """ ,","',
    "backslashes": '\\ \\n \\u0000 \\" \\',
    "delimiters": ",;|,,",
    "markup": "<script>&amp;</script><|im_end|><s>[INST]",
    "formula": "=1+1",
    "JSON": '{"query_id": "x"}',
    "above the csv module's limit": "x" * 131_073,
    "a megabyte": "\u00e9 " * 350_000,
}


@pytest.mark.parametrize("case", LABELLED)
@pytest.mark.parametrize("form", [*TEXT_FORMATS, "parquet"])
def test_hostile_text_is_kept_as_it_is(tmp_path: Path, form: str, case: str) -> None:
    pair = Pair("q", "d", "query " + LABELLED[case], LABELLED[case], LABELLED[case])
    if form == "parquet":
        source = parquet_between(tmp_path, pair)
    else:
        row = TEXT_FORMATS[form][1](pair)
        if form == "jsonl":  # raw control characters are no JSON
            row = json.dumps({name: getattr(pair, name) for name in NAMES}).encode()
        source = between(tmp_path, form, row)
    assert middle(source) == pair


BLANK = {"empty": "", "blanks": "  ", "Unicode blanks": "\u2003\u3000\xa0", "separators": "\u2028\x85\x1f"}


@pytest.mark.parametrize("text", BLANK.values(), ids=BLANK)
@pytest.mark.parametrize("form", [*TEXT_FORMATS, "parquet"])
def test_blank_texts_are_rejected(tmp_path: Path, form: str, text: str) -> None:
    for pair, reason in (
        (Pair("q", "d", text, "document"), "query is blank"),
        (Pair("q", "d", "query", text, text), "document and title are both blank"),
    ):
        if form == "parquet":
            source = parquet_between(tmp_path, pair)
        else:
            row = json.dumps({name: getattr(pair, name) for name in NAMES}).encode()
            source = between(tmp_path, form, row if form == "jsonl" else TEXT_FORMATS[form][1](pair))
        line = {"jsonl": 2, "parquet": 2}.get(form, 3)
        assert middle(source) == Rejection(source.pairs, line, reason, "q", "d")


NOT_UTF8 = {
    "Latin-1": b"caf\xe9!",
    "overlong": b"a\xc0\x80b",
    "encoded surrogate": b"a\xed\xa0\x80b",
    "cut character": b"a\xf0\x9f\x98",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "UTF-16": "ab".encode("utf-16"),
}


@pytest.mark.parametrize("case", NOT_UTF8)
@pytest.mark.parametrize("form", [*TEXT_FORMATS, "parquet"])
def test_bytes_that_are_not_utf8_are_rejected(tmp_path: Path, form: str, case: str) -> None:
    if form == "parquet":
        cells = [b"document", NOT_UTF8[case], b"document"]
        ends = pa.array([0, 8, 8 + len(cells[1]), 16 + len(cells[1])], pa.int32()).buffers()[1]
        column = pa.Array.from_buffers(pa.string(), 3, [None, ends, pa.py_buffer(b"".join(cells))])
        source = parquet_between(tmp_path, AFTER, column)
    else:
        row = TEXT_FORMATS[form][1](Pair("q", "d", "query", "DOCUMENT")).replace(b"DOCUMENT", NOT_UTF8[case])
        source = between(tmp_path, form, row)
    found = middle(source)
    assert isinstance(found, Rejection)
    assert "not valid UTF-8" in found.reason


def test_parquet_of_names_and_values_that_python_cannot_hold(tmp_path: Path) -> None:
    source = parquet_between(tmp_path, Pair("q", "d", "query", "document"))
    path = Path(source.pairs)
    sound = path.read_bytes()
    path.write_bytes(sound.replace(b"title", b"t\xf5tle"))
    with pytest.raises(InputError, match="not a sound Parquet file"):
        list(read_pairs(source))
    with pytest.raises(InputError, match=r"hostile\.parquet"):
        read_judgments(path)
    far = pa.array([2**62], pa.timestamp("us"))
    columns = {"query_id": ["q"], "doc_id": ["d"], "query": ["a"], "document": ["b"], "label": [1.0], "when": far}
    parquet.write_table(pa.table(columns), path)
    with pytest.raises(InputError, match="not a sound Parquet file"):
        read_groups(path)


@pytest.mark.parametrize("grade", [float("nan"), float("inf"), -1e300, 0.5])
def test_a_grade_of_parquet_that_is_no_whole_number(tmp_path: Path, grade: float) -> None:
    pairs = [BEFORE, Pair("q", "d", "query", "document"), AFTER]
    columns: dict[str, Any] = {name: [getattr(pair, name) for pair in pairs] for name in NAMES}
    parquet.write_table(pa.table(columns | {"grade": [None, grade, None]}), tmp_path / "hostile.parquet")
    found = middle(Source(str(tmp_path / "hostile.parquet")))
    assert isinstance(found, Rejection)
    assert "it must be a whole number" in found.reason


JSON_ROW = '{"query_id": "q", "doc_id": "d", "query": "query", "document": "document", "x": %s}'
JSON_CASES = {
    "NaN": (JSON_ROW % "NaN", "NaN is not JSON"),
    "Infinity": (JSON_ROW % "[-Infinity]", "-Infinity is not JSON"),
    "deep array": (JSON_ROW % ("[" * 10**5 + "]" * 10**5), "JSON nested too deeply"),
    "deep object": (JSON_ROW % ('{"a":' * 10**5 + "1" + "}" * 10**5), "JSON nested too deeply"),
    "deep and cut off": ("[" * 10**5, "JSON nested too deeply"),
    "duplicate key": ('{"query_id": "1", ' + (JSON_ROW % "1")[1:], "the key 'query_id' appears twice"),
    "duplicate escaped key": ('{"\\u0071uery_id": "1", ' + (JSON_ROW % "1")[1:], "the key 'query_id' appears twice"),
    "duplicate nested key": (JSON_ROW % '{"a": 1, "a": 1}', "the key 'a' appears twice"),
    "million digits": (JSON_ROW % ("9" * 10**6), "an integer of 1,000,000 digits"),
    "two objects": ((JSON_ROW % "1") * 2, "Extra data"),
    "raw NUL": ((JSON_ROW % "1").replace("document", "docu\0ment"), "Invalid control character"),
    "raw tab": ((JSON_ROW % "1").replace("document", "docu\tment"), "Invalid control character"),
    "cut off": ((JSON_ROW % "1")[:-9], "not valid JSON at column"),
    "array": ("[" + JSON_ROW % "1" + "]", "expected a JSON object, got an array"),
    "lone high surrogate": ((JSON_ROW % "1").replace('"query"}', "").replace('"document",', '"\\ud800",'), "U+D800"),
    "lone low surrogate": ((JSON_ROW % "1").replace('"document",', '"a\\uDC00b",'), "U+DC00) at character 2"),
    "surrogates in the wrong order": ((JSON_ROW % "1").replace('"document",', '"\\udc00\\ud800",'), "U+DC00"),
}


@pytest.mark.parametrize("case", JSON_CASES)
def test_json_that_is_rejected(tmp_path: Path, case: str) -> None:
    row, reason = JSON_CASES[case]
    start = time.perf_counter()
    found = middle(between(tmp_path, "jsonl", row.encode()))
    assert time.perf_counter() - start < 2
    assert isinstance(found, Rejection)
    assert found.line == 2
    assert reason in found.reason
    assert len(found.reason) < 200


@pytest.mark.parametrize("extra", ["1e999", "1" * 10**6 + ".5", "1" + "0" * 999, '"\\ud800"', "{}", "[[[null]]]"])
def test_json_that_only_looks_dangerous(tmp_path: Path, extra: str) -> None:
    start = time.perf_counter()
    assert isinstance(middle(between(tmp_path, "jsonl", (JSON_ROW % extra).encode())), Pair)
    assert time.perf_counter() - start < 2


def test_escaped_surrogate_pairs_are_one_character(tmp_path: Path) -> None:
    row = (JSON_ROW % "1").replace('"document",', '"\\ud83d\\ude00",')
    found = middle(between(tmp_path, "jsonl", row.encode()))
    assert isinstance(found, Pair)
    assert found.document == "\U0001f600"


DELIMITED = {
    "unclosed quote": ('q,d,query,"document,title', "text follows the closing quote of field"),
    "unclosed first field": ('"q,d,query,document,title', "text follows the closing quote of field"),
    "text before a quoted field's end": ('q,d,"query"x,document,', "text follows the closing quote of field 3"),
    "one field": ("x", "1 field, the header has 5"),
    "too few": ("q,d,query,document", "4 fields, the header has 5"),
    "too many": ("q,d,query,document,,", "more than 5 fields"),
    "a million fields": ("," * 10**6, "more than 5 fields"),
    "a million quotes": ("q,d,query,document," + '"' * (10**6 + 1), "is not closed"),
    "nothing": ("", "a blank line"),
}


@pytest.mark.parametrize("case", DELIMITED)
def test_csv_records_that_are_rejected(tmp_path: Path, case: str) -> None:
    row, reason = DELIMITED[case]
    for line_end in (b"\n", b"\r\n"):
        source = between(tmp_path, "csv", row.encode(), line_end)
        quoted = Path(source.pairs).read_bytes().replace(b"q,after", b'"q",after')
        if "unclosed" in case:  # the next row's quotes must not be taken for the end of this one
            Path(source.pairs).write_bytes(quoted)
        start = time.perf_counter()
        found = middle(source)
        assert time.perf_counter() - start < 2
        assert isinstance(found, Rejection)
        assert found.line == 3
        assert reason in found.reason


@pytest.mark.parametrize("row", ["x", "q\td\tquery\tdocument", "q\td\tquery\tdocument\t\t", "\t" * 10**6])
def test_tsv_lines_that_are_rejected(tmp_path: Path, row: str) -> None:
    found = middle(between(tmp_path, "tsv", row.encode()))
    assert isinstance(found, Rejection)
    assert found.reason.endswith("the header has 5")


def test_a_quote_in_a_tsv_opens_nothing(tmp_path: Path) -> None:
    assert middle(between(tmp_path, "tsv", b'"q\td\tquery\t"document\t')) == Pair('"q', "d", "query", '"document')


@pytest.mark.parametrize("form", TEXT_FORMATS)
def test_a_byte_order_mark_starts_the_file_or_is_text(tmp_path: Path, form: str) -> None:
    pair = Pair("q", "d", "query", "document")
    row = TEXT_FORMATS[form][1](pair)
    assert middle(between(tmp_path, form, row, start=b"\xef\xbb\xbf")) == pair
    marked = middle(between(tmp_path, form, b"\xef\xbb\xbf" + row))
    assert isinstance(marked, Rejection)
    assert form == "jsonl" or "holds white space, a control character, a byte order mark" in marked.reason


@pytest.mark.parametrize("form", TEXT_FORMATS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_utf16_files_are_refused(tmp_path: Path, form: str, encoding: str) -> None:
    source = between(tmp_path, form, b"x")
    Path(source.pairs).write_text("text\n", encoding)
    with pytest.raises(InputError, match=r"UTF-16 or UTF-32; convert it"):
        list(read_pairs(source))


@pytest.mark.parametrize("form", TEXT_FORMATS)
def test_a_line_of_100_megabytes_is_one_rejection(tmp_path: Path, form: str) -> None:
    header, encode = TEXT_FORMATS[form]
    path = tmp_path / f"a.{form}"
    start, end = encode(Pair("q", "d", "query", "DOCUMENT")).split(b"DOCUMENT")
    with path.open("wb") as stream:
        stream.write(header + encode(BEFORE) + b"\n" + start)
        for _ in range(100):
            stream.write(b"x" * 10**6)
        stream.write(end + b"\n" + encode(AFTER))
    tracemalloc.start()
    try:
        found = middle(Source(str(path)))
        assert tracemalloc.get_traced_memory()[1] < 70 * 2**20  # of 16 MiB lines
    finally:
        tracemalloc.stop()
    line = 2 if form == "jsonl" else 3
    assert found == Rejection(str(path), line, "the line is longer than 16,777,216 bytes")


@pytest.mark.parametrize("form", [*TEXT_FORMATS, "parquet"])
def test_the_limit_is_the_source_s(tmp_path: Path, form: str) -> None:
    pair = Pair("q", "d", "query", "x" * 300)
    if form == "parquet":
        source = parquet_between(tmp_path, pair)
    else:
        source = between(tmp_path, form, TEXT_FORMATS[form][1](pair))
    assert middle(source) == pair
    found = middle(Source(source.pairs, max_row_bytes=250))
    assert isinstance(found, Rejection)
    assert found.reason.endswith("longer than 250 bytes")


def test_a_csv_record_of_many_lines_keeps_to_the_limit(tmp_path: Path) -> None:
    lines = b"\n".join([b"x" * 100] * 5)
    source = between(tmp_path, "csv", b'q,d,query,"' + lines + b'",title')
    assert middle(source) == Pair("q", "d", "query", lines.decode(), "title")
    before, opened, *others, after = read_pairs(Source(source.pairs, max_row_bytes=250))
    assert (before, after) == (BEFORE, AFTER)
    assert isinstance(opened, Rejection)
    assert opened.reason == "the quote that opens field 4 is not closed within 250 bytes"
    assert [item.line for item in others if isinstance(item, Rejection)] == [4, 5, 6, 7]


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"\x89PNG\r\n" + bytes(range(256)) * 20, b"%PDF-1.7\n", b"{"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.csv.gz"])
def test_files_of_another_kind_never_crash(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    source = Source(str(tmp_path / name))
    assert len(digest(source)) == 64
    if name == "a.jsonl" and content:
        found = list(read_pairs(source))
        assert found
        assert all(isinstance(item, Rejection) for item in found)
    else:
        with pytest.raises(InputError, match=name):
            list(read_pairs(source))


@pytest.mark.parametrize("form", [*TEXT_FORMATS, "parquet"])
def test_random_damage_never_crashes(tmp_path: Path, form: str) -> None:
    rng = random.Random(form)
    pairs = [Pair(f"q{k}", f"d{k}", "query", f'a "document" {k}, \u00e9\nx'.replace("\n", " "), "") for k in range(20)]
    path = tmp_path / f"a.{form}"
    if form == "parquet":
        parquet.write_table(pa.table({name: [getattr(pair, name) for pair in pairs] for name in NAMES}), path)
    else:
        header, encode = TEXT_FORMATS[form]
        path.write_bytes(header + b"\n".join(map(encode, pairs)))
    content = path.read_bytes()
    ends: set[type] = set()
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 3, 20])):
            damaged[rng.randrange(len(damaged))] = rng.choice(b'\n\r\t",\\{}[]\0\xff a0')
        path.write_bytes(bytes(damaged))
        try:
            for item in read_pairs(Source(str(path))):
                ends.add(type(item))
        except InputError:
            ends.add(InputError)
    assert ends >= ({Pair, InputError} if form == "parquet" else {Pair, Rejection, InputError})


def sound(number: int) -> Pair:
    """Return a pair whose document needs quotes now and then."""
    text = "plain" if number % 3 else 'with "quotes", commas'
    return Pair(f"q{number // 10}", f"d{number}", "a query", text, "title")


DAMAGE: dict[str, list[Callable[[bytes], bytes]]] = {
    "jsonl": [
        lambda row: row[:-4],
        lambda row: row.replace(b'"a query"', b"\xff"),
        lambda row: row.replace(b'"query"', b'"other"'),
        lambda row: row.replace(b'"a query"', b"null"),
        lambda row: b"[" + row + b"]",
        lambda row: row + b"x" * 5000,
    ],
    "csv": [
        lambda row: row.replace(b"a query", b'"a query'),
        lambda row: row.replace(b"a query", b'"a query"x'),
        lambda row: row.replace(b"a query", b"a,query"),
        lambda row: row.replace(b"a query", b"\xff"),
        lambda row: row.replace(b"a query", b""),
        lambda row: row + b"x" * 5000,
        lambda row: b"",
    ],
    "tsv": [
        lambda row: row.replace(b"a query", b"a\tquery"),
        lambda row: row.replace(b"\ta query", b""),
        lambda row: row.replace(b"a query", b"\xff"),
        lambda row: row.replace(b"q", b" ", 1),
        lambda row: row + b"x" * 5000,
    ],
}


@pytest.mark.parametrize("form", DAMAGE)
def test_nothing_is_lost_and_nothing_invented(tmp_path: Path, form: str) -> None:
    rng = random.Random(3)
    header, encode = TEXT_FORMATS[form]
    damaged = sorted(rng.sample(range(1, 10_000), 100))
    rows = [encode(sound(number)) for number in range(10_000)]
    for place, number in enumerate(damaged):
        rows[number] = DAMAGE[form][place % len(DAMAGE[form])](rows[number])
    path = tmp_path / f"a.{form}"
    path.write_bytes(header + b"\n".join(rows) + b"\n")
    found = list(numbered_pairs(Source(str(path), max_row_bytes=4000)))
    assert len(found) == 10_000
    first = 2 if header else 1
    assert [line for line, _ in found] == list(range(first, 10_000 + first))
    rejected = [item for _, item in found if isinstance(item, Rejection)]
    assert [item.line for item in rejected] == [number + first for number in damaged]
    assert all(item.source == str(path) and item.reason for item in rejected)
    bad = set(damaged)
    assert [item for _, item in found if isinstance(item, Pair)] == [sound(k) for k in range(10_000) if k not in bad]


def test_nothing_is_lost_in_parquet_and_trec_files(tmp_path: Path) -> None:
    damaged = set(random.Random(4).sample(range(1, 10_000), 100))
    pairs = [sound(number) for number in range(10_000)]
    columns = {name: [getattr(pair, name) for pair in pairs] for name in NAMES}
    columns["query"] = [None if number in damaged else pair.query for number, pair in enumerate(pairs)]
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    rows = [f"{pair.query_id} 0 {pair.doc_id} {'x' if k in damaged else 1}" for k, pair in enumerate(pairs)]
    (tmp_path / "qrels").write_text("\n".join(rows))
    queries = dict.fromkeys(pair.query_id for pair in pairs)
    (tmp_path / "q.jsonl").write_text("\n".join(f'{{"id": "{key}", "text": "a query"}}' for key in queries))
    (tmp_path / "d.tsv").write_text("\n".join(f"{pair.doc_id}\t{pair.title}\t{pair.document}" for pair in pairs))
    for source in (
        Source(str(tmp_path / "a.parquet")),
        Source(str(tmp_path / "qrels"), str(tmp_path / "q.jsonl"), str(tmp_path / "d.tsv")),
    ):
        found = list(read_pairs(source))
        assert len(found) == 10_000
        assert {item.line - 1 for item in found if isinstance(item, Rejection)} == damaged
        labelled = [(item.query_id, item.doc_id, item.document) for item in found if isinstance(item, Pair)]
        assert labelled == [(p.query_id, p.doc_id, p.document) for k, p in enumerate(pairs) if k not in damaged]


def test_a_line_of_100_megabytes_is_never_held(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with path.open("wb") as stream:
        stream.write(b"first\n")
        for _ in range(100):
            stream.write(b"x" * 10**6)
        stream.write(b"\nlast\n")
    tracemalloc.start()
    try:
        assert list(numbered_lines(str(path), 2**20)) == [(1, b"first"), (2, None), (3, b"last")]
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "expected a JSON object, got an array; each line must be one JSON object, without a list around them"),
        ('"a"', "expected a JSON object, got a string"),
        ("null", "expected a JSON object, got null"),
        ("1.5", "expected a JSON object, got a number"),
        ("true", "expected a JSON object, got true or false"),
        ('{"id": "1"', "not valid JSON at column 11: Expecting ',' delimiter"),
        ('{"id": "1"} {}', "not valid JSON at column 13: Extra data"),
        ("{'id': 1}", "not valid JSON at column 2: Expecting property name enclosed in double quotes"),
        ('{"id": NaN}', "NaN is not JSON"),
        ('{"a": [-Infinity]}', "-Infinity is not JSON"),
        ('{"id": 1, "b": {"x": 1, "x": 2}}', "the key 'x' appears twice in one JSON object"),
        ('{"id": ' + "9" * 5000 + "}", "an integer of 5,000 digits; at most 1,000 are read"),
        ('{"id": ' + "[" * 10**5 + "]" * 10**5 + "}", "JSON nested too deeply"),
        ('{"a":' * 10**5 + "1" + "}" * 10**5, "JSON nested too deeply"),
        ('{"id": "a\x00b"}', "not valid JSON at column 10: Invalid control character"),
    ],
)
def test_what_is_no_json_object_is_rejected_by_reason(tmp_path: Path, line: str, reason: str) -> None:
    good = '{"id": "1", "text": "a"}'
    assert json_of(tmp_path, good, line, good) == [(1, ["1", "a", None]), reason, (3, ["1", "a", None])]
