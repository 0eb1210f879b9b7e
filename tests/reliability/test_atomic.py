"""Files appear whole or not at all, whatever the disk does."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pairgrade import atomic
from pairgrade.atomic import AtomicFile, write_bytes, write_text
from pairgrade.errors import InputError, StorageError
from pairgrade.judgments import open_writer, read_judgments
from pairgrade.records import Judgment
from pairgrade.table_rows import FORMATS

GRADES = (0, 1, 2)
FIRST = Judgment("q1", "d1", 1, (0.1, 0.7, 0.2), 1.1, 0.98, False, 120, 80, 0)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


class FailingDisk:
    """Counts the calls that reach the disk, and lets one of them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int = 0, error: int = errno.ENOSPC) -> None:
        self.calls: list[str] = []
        self.fail_at = fail_at
        self.error = error
        for name in ("write", "fsync", "replace"):
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            is_folder = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            self.calls.append(f"{name} folder" if is_folder else name)
            if len(self.calls) == self.fail_at:
                raise OSError(self.error, os.strerror(self.error))
            return real(*arguments)

        return call


def write_in_pieces(path: Path) -> None:
    with AtomicFile(path) as file:
        for _ in range(20):
            file.write(b"x" * 60)


def test_the_target_keeps_its_old_content_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with AtomicFile(path) as file:
        assert file.write(b"new, and longer") == 15
        file.flush()
        assert path.read_text() == "old"
        assert names(tmp_path) == [f".out.txt.{os.getpid()}.tmp", "out.txt"]
        assert file.tell() == 15
    assert path.read_text() == "new, and longer"
    assert names(tmp_path) == ["out.txt"]


def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FailingDisk(monkeypatch)
    write_text(tmp_path / "out.txt", "text")
    assert disk.calls == ["write", "fsync", "replace", "fsync folder"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_any_failing_call_leaves_the_target_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    monkeypatch.setattr(atomic, "_BUFFER", 100)
    path = tmp_path / "out.txt"
    for fail_at in range(1, 14):
        path.write_text("old")
        with monkeypatch.context() as patch:
            disk = FailingDisk(patch, fail_at, error)
            with pytest.raises(StorageError) as failure:
                write_in_pieces(path)
        assert failure.value.errno == error
        assert f"{path}" in str(failure.value)
        assert os.strerror(error) in str(failure.value)
        was_replaced = disk.calls[-1] == "fsync folder"
        assert path.read_text() == ("x" * 1200 if was_replaced else "old")
        assert names(tmp_path) == ["out.txt"]
    assert disk.calls == ["write"] * 10 + ["fsync", "replace", "fsync folder"]


def test_a_full_disk_is_told_with_the_bytes_that_did_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_BUFFER", 100)
    FailingDisk(monkeypatch, fail_at=2)
    expected = r"out\.txt: No space left on device, with 240 bytes.*120 were written; make room"
    with pytest.raises(StorageError, match=expected):
        write_in_pieces(tmp_path / "out.txt")


def test_a_write_that_the_system_really_refuses(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StorageError, match="with 10,000 bytes to store of which 4,096 were written") as caught:
            write_bytes(path, b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out.bin"]


def test_a_system_that_takes_a_few_bytes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data)[:7]))
    write_bytes(tmp_path / "out.bin", bytes(range(256)))
    monkeypatch.undo()
    assert (tmp_path / "out.bin").read_bytes() == bytes(range(256))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_exception_in_the_block_passes_and_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "out.txt"

    def fail() -> None:
        with AtomicFile(path) as file:
            file.write(b"x")
            raise error

    with pytest.raises(error) as caught:
        fail()
    assert type(caught.value) is error
    assert names(tmp_path) == []


def test_commit_inside_the_block_is_final(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with AtomicFile(path) as file:
        file.write(b"whole")
        file.commit()
        assert path.read_text() == "whole"
        with pytest.raises(ValueError, match="not open"):
            file.write(b"more")
        file.abort()
    assert path.read_text() == "whole"


def test_a_file_outside_a_block_is_not_open(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / "out.txt")
    with pytest.raises(ValueError, match="with block"):
        file.write(b"x")
    assert file.closed
    assert names(tmp_path) == []


def test_a_left_over_temporary_file_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / f".out.txt.{os.getpid()}.tmp").write_text("of a killed process, longer than what follows")
    write_text(tmp_path / "out.txt", "new")
    assert names(tmp_path) == ["out.txt"]
    assert (tmp_path / "out.txt").read_text() == "new"


def test_a_temporary_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f".out.txt.{os.getpid()}.tmp").symlink_to(victim)
    with pytest.raises(StorageError):
        write_text(tmp_path / "out.txt", "new")
    assert victim.read_text() == "precious"


def test_a_link_goes_on_pointing_to_the_file_that_was_replaced(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "real.txt"
    real.parent.mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(real)
    write_text(link, "through the link")
    assert link.is_symlink()
    assert real.read_text() == "through the link"
    assert names(real.parent) == ["real.txt"]


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").touch()
    write_text(tmp_path / "out.txt", "new")
    assert (tmp_path / "out.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_permissions_of_the_replaced_file_are_kept(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    path.chmod(mode)
    umask = os.umask(0o022)
    try:
        write_text(path, "new")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize(("path", "what"), [("/dev/null", "no regular file"), ("", "a folder"), ("/", "a folder")])
def test_what_is_no_file_is_not_replaced(path: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        write_text(path, "x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"missing does not exist"):
        write_text(tmp_path / "missing" / "out.txt", "x")


def test_text_is_written_as_utf8_with_its_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "out.txt", "é\r\n\n")
    assert (tmp_path / "out.txt").read_bytes() == b"\xc3\xa9\r\n\n"


def judged(path: Path, judgment: Judgment) -> Path:
    with open_writer(path, GRADES) as writer:
        writer.write(judgment)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_nothing_appears_before_the_end_or_after_an_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"

    def fail() -> None:
        with open_writer(path, GRADES) as writer:
            writer.write(FIRST)
            assert not path.exists()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert os.listdir(tmp_path) == []
    with open_writer(path, GRADES) as writer:
        writer.write(FIRST)
        writer.commit()
        assert list(read_judgments(path)) == [FIRST]
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    judged(path, FIRST)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="No space left"):
        judged(path, replace(FIRST, doc_id="d2"))
    monkeypatch.undo()
    assert list(read_judgments(path)) == [FIRST]
    assert os.listdir(tmp_path) == [path.name]
