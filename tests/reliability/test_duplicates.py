"""Duplicate ids are found before a model loads, and told with their lines."""

from contextlib import closing
from pathlib import Path

import pytest

from helpers import make_pairs
from pairgrade import InputError
from pairgrade.spool import Selection, Spool, build

PAIRS = make_pairs(7, 5)


def test_duplicates_are_named_with_their_lines(tmp_path: Path) -> None:
    rows = enumerate([*PAIRS, PAIRS[3], PAIRS[3], PAIRS[9]], 1)
    with pytest.raises(InputError, match=r"2 pair\(s\).*'d0-3'\) on lines 4, 36, 37; \('q1', 'd1-4'\) on lines 10, 38"):
        build(tmp_path / "spool.sqlite", rows, Selection(), "pairs.jsonl")
    assert not (tmp_path / "spool.sqlite").exists()


def test_at_most_five_duplicates_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        build(tmp_path / "s.sqlite", enumerate([*PAIRS, *PAIRS], 1), Selection(), "x")
    assert str(caught.value).count("on lines") == 5
    assert "35 pair(s)" in str(caught.value)


def test_the_first_of_duplicates_can_be_taken(tmp_path: Path) -> None:
    rows = enumerate([*PAIRS, PAIRS[3]], 1)
    build(tmp_path / "spool.sqlite", rows, Selection(duplicates="first"), "pairs.jsonl")
    with closing(Spool(tmp_path / "spool.sqlite")) as opened:
        assert len(opened) == 35
        (rejection,) = opened.rejections()
        assert (rejection.line, rejection.doc_id) == (36, "d0-3")
        assert opened.rejected() == 1
