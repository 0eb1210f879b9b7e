"""Judgments files: what is written is read back exactly, and what cannot be used is refused with its place."""

from __future__ import annotations

import csv
import json
import os
import sys
import tempfile
import tracemalloc
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairgrade import row_encoders
from pairgrade.errors import InputError
from pairgrade.judgments import JudgmentWriter, columns, open_writer, read_judgments, suffix_format
from pairgrade.records import Judgment
from pairgrade.table_rows import FORMATS

GRADES = (0, 1, 2)
FIRST = Judgment("q1", "d1", 1, (0.1, 0.7, 0.2), 1.1, 0.98, False, 120, 80, 0)
SECOND = Judgment("q1", "d,2", 0, (1.0, 0.0, 0.0), 0.0, None, True, 512, 470, 33)

COLUMNS = [
    *("query_id", "doc_id", "grade", "p_0", "p_1", "p_2", "expected_grade", "label_mass", "truncated"),
    *("prompt_tokens", "document_tokens", "cut_tokens"),
]


def write(path: Path, judgments: Iterable[Judgment], grades: Sequence[int] = GRADES) -> JudgmentWriter:
    with open_writer(path, grades) as writer:
        for judgment in judgments:
            writer.write(judgment)
    return writer


unit = st.floats(0, 1)
counts = st.integers(0, 2**62)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
if sys.version_info < (3, 11):  # whose csv module cannot read NUL
    texts = texts.filter(lambda text: "\0" not in text)


@st.composite
def files(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Judgment]]:
    grades = tuple(sorted(draw(st.sets(st.integers(-1000, 1000), min_size=1, max_size=5))))
    judgments = []
    for _ in range(draw(st.integers(1, 5))):
        weights = draw(st.lists(st.floats(1e-300, 1), min_size=len(grades), max_size=len(grades)))
        judgments.append(
            Judgment(
                *(draw(texts), draw(texts), draw(st.sampled_from(grades))),
                tuple(weight / sum(weights) for weight in weights),
                draw(st.floats(allow_nan=False, allow_infinity=False)),
                draw(st.none() | unit),
                draw(st.booleans()),
                *(draw(counts), draw(counts), draw(counts)),
            )
        )
    return grades, judgments


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=40, deadline=None)
@given(file=files())
def test_what_is_written_is_read_back_bit_for_bit(suffix: str, file: tuple[tuple[int, ...], list[Judgment]]) -> None:
    grades, judgments = file
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"out.{suffix}"
        write(path, judgments, grades)
        found = read_judgments(path)
        assert found.grades == grades
        assert repr(list(found)) == repr(judgments)  # repr tells -0.0 from 0.0 and 1 from 1.0
        assert os.listdir(folder) == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_same_judgments_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    many = [replace(FIRST, doc_id=f"d{number}") for number in range(100)]
    write(tmp_path / f"a.{suffix}", many)
    write(tmp_path / f"b.{suffix}", many)
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_lines_as_other_programs_see_them(tmp_path: Path) -> None:
    for suffix in FORMATS:
        write(tmp_path / f"out.{suffix}", [FIRST, SECOND])
    assert list(columns(GRADES)) == COLUMNS
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        ",".join(COLUMNS),
        "q1,d1,1,0.1,0.7,0.2,1.1,0.98,false,120,80,0",
        'q1,"d,2",0,1.0,0.0,0.0,0.0,,true,512,470,33',
    ]
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert list(rows[0]) == COLUMNS
    assert list(rows[0].values()) == ["q1", "d1", 1, 0.1, 0.7, 0.2, 1.1, 0.98, False, 120, 80, 0]
    assert rows[1]["label_mass"] is None
    with open(tmp_path / "out.tsv", newline="") as file:
        assert [row["doc_id"] for row in csv.DictReader(file, dialect="excel-tab")] == ["d1", "d,2"]
    from pyarrow import parquet

    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.column_names == COLUMNS
    assert table.to_pylist() == rows
    assert [str(kind) for kind in table.schema.types] == [
        *("string", "string", "int64", "double", "double", "double", "double", "double", "bool"),
        *("int64", "int64", "int64"),
    ]
    assert parquet.read_metadata(tmp_path / "out.parquet").metadata is None


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_without_judgments(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    write(path, [])
    found = read_judgments(path)
    assert list(found) == []
    assert found.grades == (() if suffix == "jsonl" else GRADES)


def test_parquet_comes_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import parquet

    monkeypatch.setattr(row_encoders, "_GROUP_ROWS", 10)
    many = [replace(FIRST, doc_id=f"d{number}") for number in range(35)]
    assert write(tmp_path / "out.parquet", many).rows == 35
    metadata = parquet.read_metadata(tmp_path / "out.parquet")
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [10, 10, 10, 5]
    assert list(read_judgments(tmp_path / "out.parquet")) == many


def test_memory_stays_flat(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    tracemalloc.start()
    try:
        write(path, (replace(FIRST, doc_id=f"{number:0800}") for number in range(8_000)))
        assert sum(1 for _ in read_judgments(path)) == 8_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 6_000_000
    assert peak < 4_500_000


def test_the_suffix_names_the_format_unless_it_is_given(tmp_path: Path) -> None:
    assert suffix_format("a/b.JSONL") == "jsonl"
    assert suffix_format("a/b.qrels") is None
    with open_writer(tmp_path / "out.dat", GRADES, "csv") as writer:
        writer.write(FIRST)
    assert list(read_judgments(tmp_path / "out.dat", "csv")) == [FIRST]
    with pytest.raises(InputError, match=r"suffix '\.dat' names no format; .*\.jsonl, \.parquet, \.csv or \.tsv"):
        read_judgments(tmp_path / "out.dat")
    with pytest.raises(InputError, match="no suffix"):
        open_writer(tmp_path / "out", GRADES)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"query_id": ""}, "query_id is empty"),
        ({"query_id": 5}, "query_id is int; it must be a str"),
        ({"doc_id": b"d"}, "doc_id is bytes; it must be a str"),
        ({"doc_id": "a\ud800"}, "half of a surrogate pair"),
        ({"grade": 3}, "grade is 3; allowed are 0, 1, 2"),
        ({"probabilities": (0.5, 0.5)}, "2 probabilities for 3 grades"),
        ({"probabilities": (0.5, 0.25, 0.125)}, r"sum to 0\.875"),
        ({"probabilities": (float("nan"), 0.5, 0.5)}, "p_0 is nan"),
        ({"probabilities": (-0.5, 1.0, 0.5)}, r"p_0 is -0\.5"),
        ({"expected_grade": float("inf")}, "expected_grade is inf"),
        ({"label_mass": float("nan")}, "label_mass is nan"),
        ({"cut_tokens": -1}, "cut_tokens is -1"),
        ({"cut_tokens": 2**63}, "63 bits"),
        ({"cut_tokens": 1.5}, "cannot be interpreted as an integer"),
        ({"probabilities": None}, "NoneType"),
        ({"expected_grade": 10**400}, "too large"),
    ],
)
def test_a_judgment_that_does_not_fit_is_never_written(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(InputError, match=rf"out\.jsonl: cannot write judgment 2: .*{reason}"):
        write(path, [FIRST, replace(FIRST, **change)])
    assert os.listdir(tmp_path) == []


def edited(tmp_path: Path, suffix: str, old: str, new: str) -> Path:
    path = tmp_path / f"out.{suffix}"
    write(path, [SECOND, FIRST])
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new), errors="surrogateescape")
    return path


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"grade": 1', '"grade": 1.0', r"line 2: grade is '1\.0'; it must be an integer"),
        ('"grade": 1', '"grade": true', r"line 2: grade is 'True'; it must be an integer"),
        ('"grade": 1', '"grade": 7', r"line 2: grade is 7; allowed are 0, 1, 2"),
        ('"d1"', "5", r"line 2: doc_id is '5'; it must be text"),
        ('"d1"', '""', "line 2: the doc_id is empty"),
        ("0.7", '"0.7"', r"line 2: p_1 is '0\.7'; it must be a number"),
        ("0.7", "1" + "0" * 400, "line 2: p_1 is '1000.*'; it must be a number"),
        ("0.7", "NaN", "line 2: p_1 is nan; it must be from 0 to 1"),
        ("0.7", "null", "line 2: p_1 is null; it must be a number"),
        ("0.7", "0.4", "line 2: the probabilities sum to"),
        ("0.98", '"x"', "line 2: label_mass is 'x'; it must be a number or null"),
        ('"truncated": false', '"truncated": 0', "line 2: truncated is '0'; it must be true or false"),
        ('"prompt_tokens": 120', '"prompt_tokens": -1', "line 2: prompt_tokens is -1"),
        ('"p_1": 0.7, ', "", "line 2: no column 'p_1'; a judgments file has query_id"),
        (
            '"p_1": 0.7',
            '"p_1": 0.7, "p_9": 0',
            "line 2: unknown column 'p_9'; a judgments file",
        ),
        ('"p_1": 0.7', '"p_1": 0.7, "p_1": 0.7', "line 2: .*the key .p_1. appears twice"),
        ('"d1"', '"\udcff"', "line 2: not valid UTF-8"),
        ('{"query_id": "q1", "doc_id": "d1"', '["q1"', "line 2: not sound JSON"),
        ('"d1"', "[" * 100_000, "line 2: not sound JSON"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, old: str, new: str, reason: str) -> None:
    found = read_judgments(edited(tmp_path, "jsonl", old, new))
    rows = iter(found)
    assert next(rows) == SECOND
    with pytest.raises(InputError, match=rf"out\.jsonl, {reason}"):
        next(rows)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (",1,0.1", ",1.0,0.1", r"line 3: grade is '1\.0'; it must be an integer"),
        (",1,0.1", ",,0.1", "line 3: grade is null; it must be an integer"),
        (",0.7", ",zero", "line 3: p_1 is 'zero'; it must be a number"),
        (",0.7", ",inf", "line 3: p_1 is inf; it must be from 0 to 1"),
        (",false", ",no", "line 3: truncated is 'no'; it must be true or false"),
        (",80,0", ",80", "line 3: 11 fields, but the header has 12"),
        ("d1,", '"d1,', "line 3: not sound CSV"),
    ],
)
def test_a_delimited_line_that_cannot_be_used_is_named(tmp_path: Path, old: str, new: str, reason: str) -> None:
    rows = iter(read_judgments(edited(tmp_path, "csv", old, new)))
    assert next(rows) == SECOND
    with pytest.raises(InputError, match=rf"out\.csv, {reason}"):
        next(rows)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (",p_2", ",p_02", "unknown column 'p_02'; a judgments file, as pairgrade label writes it, has query_id"),
        ("doc_id,", "", "no column 'doc_id'"),
        ("cut_tokens", "p_1", "the column 'p_1' is there twice"),
    ],
)
def test_a_header_that_is_not_of_a_judgments_file(tmp_path: Path, old: str, new: str, reason: str) -> None:
    with pytest.raises(InputError, match=rf"out\.csv: {reason}"):
        read_judgments(edited(tmp_path, "csv", old, new))


def test_line_numbers_count_lines_inside_quotes(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write(path, [replace(FIRST, doc_id="a\nb\nc"), replace(FIRST, query_id="last")])
    path.write_text(path.read_text().replace("last,d1,1", "last,d1,9"))
    with pytest.raises(InputError, match=r"out\.csv, line 5: grade is 9"):
        list(read_judgments(path))


def test_files_that_other_programs_wrote(tmp_path: Path) -> None:
    header = ",".join(reversed(COLUMNS))
    row = '0,80,120,False,0.98,1.1,0.2,0.7,0.1,1,"d1","q1"'
    (tmp_path / "a.csv").write_bytes(f"\ufeff{header}\r\n{row}\r\n\r\n".encode())  # mark, CR LF, other order, quotes
    assert list(read_judgments(tmp_path / "a.csv")) == [FIRST]
    cells = dict(zip(COLUMNS, ["q1", "d1", 1, 0, 1, 0, 1, None, False, 1, 1, 0], strict=True))
    (tmp_path / "a.jsonl").write_text("\n" + json.dumps(cells) + "\n")  # integers for numbers
    expected = Judgment("q1", "d1", 1, (0.0, 1.0, 0.0), 1.0, None, False, 1, 1, 0)
    assert repr(list(read_judgments(tmp_path / "a.jsonl"))) == repr([expected])


def test_parquet_that_cannot_be_used(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "out.parquet"
    write(path, [SECOND, FIRST])
    table = parquet.read_table(path)
    grade = table.schema.get_field_index("grade")
    parquet.write_table(table.set_column(grade, "grade", pa.array([0, None], pa.int64())), path)
    with pytest.raises(InputError, match=r"out\.parquet, row 2: grade is null; it must be an integer"):
        list(read_judgments(path))
    parquet.write_table(table.drop_columns("doc_id"), path)
    with pytest.raises(InputError, match=r"out\.parquet: no column 'doc_id'"):
        read_judgments(path)
    path.write_bytes(b"PAR1 is how it starts")
    with pytest.raises(InputError, match="not a sound Parquet file"):
        read_judgments(path)


def test_a_parquet_file_damaged_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    write(path, [replace(FIRST, doc_id=f"d{number}") for number in range(500)])
    data = bytearray(path.read_bytes())
    data[20:400] = bytes(380)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"out\.parquet, after row 0: not a sound Parquet file"):
        list(read_judgments(path))


def test_a_file_that_is_missing_or_empty(tmp_path: Path) -> None:
    for suffix in FORMATS:
        with pytest.raises(InputError, match=f"none.{suffix}"):
            read_judgments(tmp_path / f"none.{suffix}")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(InputError, match="is empty; a CSV file starts with a line of column names"):
        read_judgments(tmp_path / "empty.csv")


def test_grades_out_of_order_are_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ascending"):
        open_writer(tmp_path / "out.csv", (1, 0))
