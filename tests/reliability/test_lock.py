import errno
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from pairgrade import InputError, LockedError, StorageError
from pairgrade.lock import exclusive


def _hold(path: str, ready, forever) -> None:  # type: ignore[no-untyped-def]
    with exclusive(Path(path)):
        ready.set()
        forever.wait()


def test_a_second_holder_is_told_who_has_it_and_a_dead_ones_lock_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    context = multiprocessing.get_context("spawn")
    ready, forever = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(path), ready, forever))
    other.start()
    try:
        assert ready.wait(30)
        with pytest.raises(LockedError, match=f"process {other.pid}"), exclusive(path):
            pass
    finally:
        assert other.pid is not None
        os.kill(other.pid, signal.SIGKILL)
        other.join()
    with exclusive(path):
        assert path.read_text().split()[0] == str(os.getpid())


def test_a_lock_is_free_again_after_its_block(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive(path):
        path.unlink()  # as at the end of a run
    with exclusive(path), pytest.raises(LockedError), exclusive(path):
        pass


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "out.run").write_text("q1 Q0 d1 1 2.0 x\n")
    told = r"out\.run: a file is there, and the run needs a folder of that name; move it away"
    with pytest.raises(InputError, match=told), exclusive(tmp_path / "out.run" / "lock"):
        pass
    assert (tmp_path / "out.run").read_text().startswith("q1")


def test_a_full_disk_is_told_with_the_locks_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "lock"
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        told = rf"^{path}: No space left on device: it needs \d+ bytes, [\d,]+ are free; make room"
        with pytest.raises(StorageError, match=told), exclusive(path):
            pass
    with exclusive(path):
        assert path.read_text().split()[0] == str(os.getpid())
