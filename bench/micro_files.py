"""Micro-benchmarks of the readers and the journal; see ``pairgrade.bench.micro``."""

from __future__ import annotations

import csv
import json
from contextlib import closing
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pairgrade.bench.planner_scale import made
from pairgrade.journal import Entry, Journal
from pairgrade.readers import Source, read_pairs
from pairgrade.records import Judgment

_PAIRS = 2000


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_reading(benchmark: Any, tmp_path: Path, suffix: str) -> None:
    """Read a file of pairs."""
    path = tmp_path / f"pairs.{suffix}"
    rows = [asdict(pair) | {"grade": 1} for pair in made(_PAIRS, 16, 300)]
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if suffix == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    assert sum(1 for _ in benchmark(lambda: list(read_pairs(Source(str(path)))))) == _PAIRS


def test_journal_of_batches(benchmark: Any, tmp_path: Path) -> None:
    """Append batches of 16 outcomes."""
    judgment = Judgment("q", "d", 1, (0.1, 0.6, 0.2, 0.1), 1.3, 0.9, False, 300, 120, 0)
    numbers = count()

    def write() -> int:
        path = tmp_path / f"journal-{next(numbers)}"
        with closing(Journal(path, "0" * 64)) as journal:
            for start in range(0, _PAIRS, 16):
                journal.append([Entry(row, judgment) for row in range(start, start + 16)])
        return path.stat().st_size

    assert benchmark(write) > 0
