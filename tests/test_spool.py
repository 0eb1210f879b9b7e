import random
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from helpers import make_pairs
from pairgrade import InputError, Pair, Rejection
from pairgrade.spool import Selection, Spool, build

PAIRS = make_pairs(7, 5)


def spool(folder: Path, rows: list[tuple[int, Pair | Rejection]], selection: Selection | None = None) -> Spool:
    path = folder / "spool.sqlite"
    build(path, rows, selection or Selection(), "pairs.jsonl")
    return Spool(path)


def numbered(pairs: list[Pair]) -> list[tuple[int, Pair | Rejection]]:
    return list(enumerate(pairs, 1))


def test_shuffled_rows_come_out_by_query_with_their_row_numbers(tmp_path: Path) -> None:
    shuffled = random.Random(1).sample(PAIRS, len(PAIRS))
    with closing(spool(tmp_path, numbered(shuffled))) as opened:
        out = list(opened.pairs(lambda row: True))
    assert sorted(out, key=lambda item: item[0]) == numbered(shuffled)
    queries = [pair.query for _, pair in out]
    assert sum(a != b for a, b in pairwise(queries)) == 6
    assert list(dict.fromkeys(queries)) == list(dict.fromkeys(p.query for p in shuffled))


def test_equal_documents_of_a_query_come_side_by_side(tmp_path: Path) -> None:
    pairs = [Pair("q", f"d{i}", "query", f"text {i % 3}") for i in range(30)]
    with closing(spool(tmp_path, numbered(pairs))) as opened:
        texts = [pair.document for _, pair in opened.pairs(lambda row: True)]
    assert sum(a != b for a, b in pairwise(texts)) == 2


def test_only_wanted_rows_are_read(tmp_path: Path) -> None:
    with closing(spool(tmp_path, numbered(PAIRS))) as opened:
        assert sorted(row for row, _ in opened.pairs(lambda row: row % 2 == 0)) == list(range(2, 36, 2))


def test_rejections_keep_their_place_and_do_not_count_as_pairs(tmp_path: Path) -> None:
    bad = Rejection("pairs.jsonl", 2, "why", "q", None)
    with closing(spool(tmp_path, [(1, PAIRS[0]), (2, bad), (3, PAIRS[1])])) as opened:
        assert list(opened.rejections()) == [bad]
        assert sorted(row for row, _ in opened.pairs(lambda row: True)) == [1, 2]
        assert opened.pair(2) == (PAIRS[1], 3)
        assert opened.name == "pairs.jsonl"


def test_limit_and_sample(tmp_path: Path) -> None:
    with closing(spool(tmp_path, numbered(PAIRS), Selection(limit=10))) as opened:
        assert {p for _, p in opened.pairs(lambda row: True)} == set(PAIRS[:10])
    drawn = []
    for seed, pairs in ((0, PAIRS), (0, PAIRS[::-1]), (1, PAIRS)):
        (tmp_path / "spool.sqlite").unlink()
        with closing(spool(tmp_path, numbered(pairs), Selection(sample=12, seed=seed))) as opened:
            drawn.append({p for _, p in opened.pairs(lambda row: True)})
    assert len(drawn[0]) == 12
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_failed_build_leaves_no_spool(tmp_path: Path) -> None:
    def rows():  # type: ignore[no-untyped-def]
        yield 1, PAIRS[0]
        raise InputError("cut off")

    with pytest.raises(InputError, match="cut off"):
        build(tmp_path / "spool.sqlite", rows(), Selection(), "x")
    assert not (tmp_path / "spool.sqlite").exists()


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"sample": -1}, {"duplicates": "last"}])
def test_selections_are_checked(wrong: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError, match=next(iter(wrong))):
        Selection(**wrong)
