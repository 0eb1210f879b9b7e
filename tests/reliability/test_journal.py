import errno
import logging
import os
import zlib
from contextlib import closing
from pathlib import Path

import pytest

from pairgrade import Judgment, ResumeError, StorageError
from pairgrade import journal as module
from pairgrade.journal import Entry, Journal, read_entries, read_entry


def entry(row: int) -> Entry:
    if row % 5 == 4:
        return Entry(row, None, "too long: \u2028 é")
    return Entry(row, Judgment(f"q{row}", "d\u2028é", 1, (0.1 + row / 1e9, 0.9 - row / 1e9), 0.9, None, True, 9, 5, 2))


def write(path: Path, rows: range, identity: str = "same") -> list[int]:
    with closing(Journal(path, identity)) as journal:
        return journal.append([entry(row) for row in rows])


def test_what_goes_in_comes_out_at_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    offsets = write(path, range(6)) + write(path, range(6, 12))
    assert list(read_entries(path)) == [(o, entry(i)) for i, o in enumerate(offsets)]
    file = os.open(path, os.O_RDONLY)
    assert [read_entry(file, o) for o in reversed(offsets)] == [entry(i) for i in reversed(range(12))]
    os.close(file)


def test_a_tail_torn_at_any_byte_loses_only_what_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    offsets = write(path, range(4))
    whole = path.read_bytes()
    for size in range(offsets[2], len(whole)):
        path.write_bytes(whole[:size])
        sound = sum(size >= end for end in [*offsets[1:], len(whole)])
        assert write(path, range(50, 51)) == [([*offsets, len(whole)])[sound]]
        assert [e.row for _, e in read_entries(path)] == [*range(sound), 50]


def test_a_header_torn_at_any_byte_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = write(path, range(1))[0]
    whole = path.read_bytes()
    for size in range(first):
        path.write_bytes(whole[:size])
        write(path, range(1))
        assert path.read_bytes() == whole


def test_a_flipped_byte_in_the_middle_is_named_and_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "journal"
    offsets = write(path, range(4))
    whole = path.read_bytes()
    for at in range(offsets[1], offsets[2]):
        for bit in (1, 0x20):
            damaged = bytearray(whole)
            damaged[at] ^= bit
            path.write_bytes(damaged)
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                rows = [e for _, e in read_entries(path)]
            gone = {1} | ({2} if at == offsets[2] - 1 else set())  # a lost line feed joins two records
            assert rows == [entry(i) for i in range(4) if i not in gone]
            assert f"byte {offsets[1]}" in caplog.text


def test_a_damaged_first_line_costs_no_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "journal"
    offsets = write(path, range(4))
    whole = path.read_bytes()
    for at in range(offsets[0] - 1):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        caplog.clear()
        with closing(Journal(path, "same")):
            assert path.read_bytes() == whole
        assert "the records are kept" in caplog.text


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b"7", b"[1, 2, 3]", b'["x", 1]', b"[" * 5000, b"\xff"])
def test_what_has_a_sound_checksum_and_is_no_record_is_not_used(
    tmp_path: Path, payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal"
    end = write(path, range(3))[-1]
    whole = path.read_bytes()
    path.write_bytes(whole[:end] + b"%08x %b\n" % (zlib.crc32(payload), payload) + whole[end:])
    assert [entry.row for _, entry in read_entries(path)] == [0, 1, 2]
    assert f"byte {end}" in caplog.text


def test_another_runs_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    write(path, range(2))
    before = path.read_bytes()
    with pytest.raises(ResumeError, match="another run"):
        Journal(path, "other")
    assert path.read_bytes() == before


@pytest.mark.parametrize("written", [0, 7])
def test_a_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    path = tmp_path / "journal"
    write(path, range(2))
    before = path.read_bytes()
    calls = iter([written, OSError(errno.ENOSPC, "No space left on device")] if written else [
        OSError(errno.ENOSPC, "No space left on device")])  # fmt: skip
    real = os.write

    def full(file: int, data: memoryview) -> int:
        step = next(calls)
        if isinstance(step, OSError):
            raise step
        return real(file, data[:step])

    with closing(Journal(path, "same")) as journal:
        monkeypatch.setattr(module.os, "write", full)
        with pytest.raises(StorageError, match=r"journal: No space left .* need \d+ bytes, [\d,]+ are free"):
            journal.append([entry(5)])
        monkeypatch.undo()
        assert path.read_bytes() == before
        journal.append([entry(6)])
    assert [e.row for _, e in read_entries(path)] == [0, 1, 6]


def test_a_first_line_that_the_disk_refuses_is_told_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "journal"
    told = rf"^{path}: No space left on device: its first line needs \d+ bytes, [\d,]+ are free; .* make room"
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", full)
        with pytest.raises(StorageError, match=told):
            Journal(path, "same")
    write(path, range(2))
    damaged = b"!" + path.read_bytes()[1:]
    path.write_bytes(damaged)
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "pwrite", full)
        with pytest.raises(StorageError, match=told):
            Journal(path, "same")
    assert path.read_bytes() == damaged
    with closing(Journal(path, "same")) as journal:
        monkeypatch.setattr(module.os, "fsync", full)
        with pytest.raises(StorageError, match=rf"^{path}: No space left on device: it holds \d+ bytes"):
            journal.sync()
    assert [e.row for _, e in read_entries(path)] == [0, 1]


def test_a_record_that_changes_under_the_run_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    offset = write(path, range(1))[0]
    path.write_bytes(path.read_bytes()[:-3])
    file = os.open(path, os.O_RDONLY)
    with pytest.raises(StorageError, match="changed under the run"):
        read_entry(file, offset)
    os.close(file)
