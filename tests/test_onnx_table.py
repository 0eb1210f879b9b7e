"""Tables of rows a token: read right, and not all of a large one kept as memory."""

import re
from pathlib import Path

import numpy as np
import pytest

from pairgrade.onnx_table import TokenTable, save_table

_STATUS = Path("/proc/self/status")


def _mapped_mib() -> float:
    found = re.search(r"RssFile:\s+(\d+)", _STATUS.read_text())
    assert found
    return int(found[1]) / 1024


@pytest.mark.skipif(not _STATUS.exists(), reason="the system does not tell how much of files is mapped")
def test_reading_all_of_a_large_table_keeps_a_part_of_it(tmp_path: Path) -> None:
    vocabulary, hidden = 100_000, 1024  # 390 MiB of a file that takes no room
    path = tmp_path / "embedding.npy"
    np.lib.format.open_memmap(path, "w+", np.float32, (vocabulary, hidden)).flush()
    table = TokenTable(path, vocabulary, hidden)
    before, most = _mapped_mib(), 0.0
    for start in range(0, vocabulary, 500):
        assert not table.rows(np.arange(start, start + 500)).any()
        most = max(most, _mapped_mib())
    assert most - before < 200


def test_rows_are_those_that_were_saved(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    halved = (whole.view(np.uint32) & 0xFFFF0000).view(np.float32)
    ids = np.array([7, 299, 7, 0])
    for name, values in (("whole", whole), ("halved", halved)):
        save_table(tmp_path / f"{name}.npy", values)
        np.testing.assert_array_equal(TokenTable(tmp_path / f"{name}.npy", 300, 8).rows(ids), values[ids])
    assert (tmp_path / "halved.npy").stat().st_size < (tmp_path / "whole.npy").stat().st_size
