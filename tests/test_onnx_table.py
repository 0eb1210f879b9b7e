"""Tables of rows a token: read right, and not all of a large one kept as memory."""

import re
from pathlib import Path

import numpy as np
import pytest

from pairgrade import ModelError
from pairgrade.onnx_table import TokenTable, read_vector, save_table

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


def test_a_vector_is_read_as_it_was_written(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(8).astype(np.float32)
    np.save(tmp_path / "vector.npy", values)
    np.testing.assert_array_equal(read_vector(tmp_path / "vector.npy", 8), values)


@pytest.mark.parametrize(
    "table",
    [
        np.zeros(7, np.float32),
        np.zeros((1, 8), np.float32),
        np.zeros(8),
        np.full(8, np.inf, np.float32),
        np.zeros(0, np.float32),
        np.zeros((), np.float32),
    ],
    ids=["too short", "a matrix", "float64", "infinite", "empty", "a number"],
)
def test_a_vector_of_another_kind_is_refused(table: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "vector.npy", table)
    with pytest.raises(ModelError, match=r"vector\.npy: .*8 finite numbers in float32.*export the model again"):
        read_vector(tmp_path / "vector.npy", 8)


def _of_a_size(shape: str) -> bytes:
    """A file whose header tells of so many numbers, and none behind it."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "content",
    [b"", b"no numbers", np.array([object()]).dumps(), _of_a_size("(8,)"), _of_a_size(f"({10**13},)")],
    ids=["empty", "text", "a pickle", "cut", "of a size that no memory has"],
)
def test_a_file_that_is_no_vector_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "vector.npy").write_bytes(content)
    with pytest.raises(ModelError, match="not a table of numbers"):
        read_vector(tmp_path / "vector.npy", 8)
