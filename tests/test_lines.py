"""Lines of bounded length out of any bytes, plain or gzipped, and JSON lines as rows."""

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import json_of
from pairgrade.errors import InputError
from pairgrade.lines import file_blocks, numbered_lines, text_lines
from pairgrade.records import Rejection

BOM = b"\xef\xbb\xbf"


def lines_of(folder: Path, content: bytes, max_bytes: int = 100, name: str = "a.txt") -> list[bytes | None]:
    path = folder / name
    path.write_bytes(content)
    numbered = list(numbered_lines(str(path), max_bytes))
    assert [number for number, _ in numbered] == list(range(1, len(numbered) + 1))
    return [line for _, line in numbered]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\n\nb", [b"a", b"", b"b"]),
        (b"a\r\nb\r", [b"a\r", b"b\r"]),
        (b"a\x0bb\x0cc\x1cd\x85e\rf\xe2\x80\xa8g\n", [b"a\x0bb\x0cc\x1cd\x85e\rf\xe2\x80\xa8g"]),
        (BOM + b"a\n" + BOM + b"b", [b"a", BOM + b"b"]),
        (BOM + b"\na", [b"", b"a"]),
        (BOM, [b""]),
        (b"\n", [b""]),
    ],
)
def test_only_a_line_feed_ends_a_line(tmp_path: Path, content: bytes, expected: list[bytes]) -> None:
    assert lines_of(tmp_path, content) == expected
    assert lines_of(tmp_path, gzip.compress(content), name="a.gz") == expected


@pytest.mark.parametrize("start", [b"", BOM])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_at_the_limit_passes_and_one_byte_more_does_not(tmp_path: Path, start: bytes, end: bytes) -> None:
    content = start + b"x" * 10 + end + b"y" * 11 + end + b"z" * 5000 + end + b"w" + end
    tail = end.removesuffix(b"\n")
    assert lines_of(tmp_path, content, max_bytes=10) == [b"x" * 10 + tail, None, None, b"w" + tail]
    assert lines_of(tmp_path, start + b"y" * 11 + end + b"w", max_bytes=10) == [None, b"w"]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([b"\n", b"\r", b"a", b"bcd", BOM, b"\xc3\xa9", b"e" * 9, b'"'])).map(b"".join),
    st.integers(1, 12),
)
def test_lines_are_what_splitting_the_whole_file_gives(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, max_bytes: int
) -> None:
    parts = content.removeprefix(BOM).split(b"\n")
    if not parts[-1] and content != BOM:
        parts.pop()
    expected = [part if len(part.removesuffix(b"\r")) <= max_bytes else None for part in parts]
    folder = tmp_path_factory.getbasetemp()
    assert lines_of(folder, content, max_bytes, "split.txt") == expected
    assert lines_of(folder, gzip.compress(content, 1), max_bytes, "split.gz") == expected


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-be"])
def test_wide_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(InputError, match="UTF-16 or UTF-32; convert"):
        lines_of(tmp_path, "\ufeff{}\n".encode(encoding))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def refused(name: str, match: str) -> None:
        for read in (lambda path: list(numbered_lines(path, 9)), lambda path: list(file_blocks(path))):
            with pytest.raises(InputError, match=match) as caught:
                read(str(tmp_path / name))
            assert str(tmp_path / name) in str(caught.value)

    refused("missing", "no such file")
    (tmp_path / "folder").mkdir()
    refused("folder", "is a directory")
    os.mkfifo(tmp_path / "pipe")
    refused("pipe", "not a regular file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused("loop", "cannot be read")


def test_a_cut_off_gzip_gives_the_lines_before_the_cut(tmp_path: Path) -> None:
    content = b"".join(b"%d %s\n" % (k, os.urandom(50).hex().encode()) for k in range(5000))
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(content)[:-5000])
    lines = []
    with pytest.raises(InputError, match="cut off"):  # noqa: PT012
        for _, line in numbered_lines(str(path), 1000):
            lines.append(line)
    assert len(lines) > 3000
    assert content.startswith(b"\n".join(line or b"" for line in lines) + b"\n")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"plain text\n", "not a sound gzip file"),
        (gzip.compress(b"a\n", mtime=0)[:-8] + b"\0" * 8, "not a sound gzip"),
        (gzip.compress(b"a\n", mtime=0) + b"more", "not a sound gzip"),
        (gzip.compress(b"a\n", mtime=0)[:10] + b"\xff" * 50, "the gzip file is damaged: "),
    ],
)
def test_damaged_gzip(tmp_path: Path, content: bytes, match: str) -> None:
    with pytest.raises(InputError, match=match):
        lines_of(tmp_path, content, name="a.gz")


def test_bytes_that_are_no_text_cost_their_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\nb\xff\n" + b"c" * 30 + b"\nd\xed\xa0\x80\n\xc3\xa9")
    first, bad, long, surrogate, last = text_lines(str(path), 20)
    assert first == (1, "a")
    assert bad == Rejection(str(path), 2, "not valid UTF-8: byte 0xff at offset 1 of the line")
    assert long == Rejection(str(path), 3, "the line is longer than 20 bytes")
    assert isinstance(surrogate, Rejection)
    assert last == (5, "\xe9")


def test_json_rows_hold_the_wanted_fields(tmp_path: Path) -> None:
    rows = json_of(
        tmp_path,
        '{"id": 1, "text": "a", "more": [{}]}',
        "",
        " \t\r",
        '{"title": "t", "text": null, "id": "2"}\r',
        '{"id": "3"}',
    )
    missing = "no column 'text' (columns found: 'id'); rename the one to take"
    assert rows == [(1, [1, "a", None]), (4, ["2", None, "t"]), missing]


def test_the_first_object_decides_between_the_names_of_a_field(tmp_path: Path) -> None:
    rows = json_of(tmp_path, "?", '{"_id": "1", "text": "a"}', '{"_id": "2", "id": "x", "text": "b"}')
    assert rows[1:] == [(2, ["1", "a", None]), (3, ["2", "b", None])]
    with pytest.raises(InputError, match=r"line 1: no column 'id' or '_id' \(columns found: 'text'\); .* --id"):
        json_of(tmp_path, '{"text": "a"}')


def test_many_keys_with_a_late_duplicate_are_found_in_no_time(tmp_path: Path) -> None:
    keys = ", ".join(f'"k{k}": 1' for k in range(40_000))
    line = f'{{{keys}, "k39999": 2}}'
    assert json_of(tmp_path, line) == ["the key 'k39999' appears twice in one JSON object"]


def test_a_name_in_a_message_is_short_and_printable(tmp_path: Path) -> None:
    row = json.dumps({"x" * 1000: 1, "\ud800\n": 2, **{str(k): k for k in range(40)}})
    (reason,) = json_of(tmp_path, '{"id": "1", "text": "a"}', row)[1:]
    assert isinstance(reason, str)
    assert reason.isprintable()
    assert len(reason) < 400
