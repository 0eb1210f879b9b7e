"""The states of a run, each of a real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import make_pairs, write_jsonl
from pairgrade import InputError
from pairgrade.heartbeat import Heartbeat
from pairgrade.lock import exclusive, holder
from pairgrade.run_folder import RunFolder
from pairgrade.run_status import RunStatus, run_status

LABEL = [sys.executable, "-m", "pairgrade.cli", "label", "pairs.jsonl", "--batch-tokens", "300", "--out", "out.jsonl"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "pairs.jsonl", make_pairs(4, 5))
    with (tmp_path / "pairs.jsonl").open("a") as file:
        file.write("{broken\n")
    return tmp_path


def _run(folder: Path, model: str) -> subprocess.Popen[bytes]:
    command = [*LABEL, "--model", model]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _wait(out: Path, wanted: Callable[[RunStatus], bool]) -> RunStatus:
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        try:
            status = run_status(out)
        except InputError:
            pass
        else:
            if wanted(status):
                return status
        time.sleep(0.05)
    pytest.fail("the state never came")


def test_running_then_dead_then_running_then_stopped_then_finished(folder: Path) -> None:
    out = folder / "out.jsonl"
    process = _run(folder, "fake:0.3")
    running = _wait(out, lambda s: s.state == "running" and bool(s.done))
    assert (running.pid, running.total, running.errors) == (process.pid, 20, 1)
    assert running.done is not None
    assert 0 < running.done < 20
    assert running.rate is not None
    assert 0 < running.rate < 4  # a pair sleeps 0.3 s
    process.kill()
    process.wait()
    dead = run_status(out)
    assert (dead.state, dead.pid, dead.total) == ("dead", process.pid, 20)
    assert dead.seconds_left is None

    process = _run(folder, "fake:0.3")
    _wait(out, lambda s: s.state == "starting" or (s.state == "running" and s.pid == process.pid))
    _wait(out, lambda s: s.state == "running" and s.pid == process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM
    stopped = run_status(out)
    assert (stopped.state, stopped.reason) == ("stopped", "SIGTERM")

    assert _run(folder, "fake:").wait(60) == 3
    finished = run_status(out)
    assert (finished.state, finished.total, finished.done, finished.errors) == ("finished", 20, 20, 1)


def test_a_file_of_somebody_else_has_no_state(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for name in ("notes.txt", "none.jsonl"):
        with pytest.raises(InputError, match="was not written by a run"):
            run_status(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    lock = tmp_path / "out.jsonl.run" / "lock"
    with exclusive(lock):
        assert holder(lock) == os.getpid()
        assert run_status(out) == RunStatus(str(out), "starting", os.getpid())
        assert holder(lock) == os.getpid()  # looking took nothing away
    assert holder(lock) is None
    assert run_status(out).state == "dead"


def test_a_beat_of_an_earlier_process_of_the_same_id_is_not_told(tmp_path: Path) -> None:
    """In a container the run is always the same process."""
    out = tmp_path / "out.jsonl"
    folder = RunFolder(tmp_path / "out.jsonl.run")
    folder.path.mkdir()
    with pytest.raises(ValueError, match="disk full"), Heartbeat(folder.heartbeat, 5):
        raise ValueError("disk full")
    time.sleep(0.05)
    with exclusive(folder.lock):
        assert run_status(out).state == "starting"
        with Heartbeat(folder.heartbeat, 5, clock=lambda: 1e9):  # a clock that was set back does not matter
            assert run_status(out).state == "running"
