"""SIGINT and SIGTERM end a run within seconds whatever it does, and no worker is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from helpers import make_pairs, write_jsonl
from pairgrade.fake import DEATHS

WHILE = {
    "the model loads": ("fake:", "die:SIGSTOP"),  # the worker stops itself: a load without end
    "a document is scored": ("fake:30", ""),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", WHILE)
def test_a_run_stops_within_seconds(tmp_path: Path, moment: str, number: signal.Signals) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", make_pairs(2, 5))
    model, deaths = WHILE[moment]
    command = [sys.executable, "-m", "pairgrade.cli", "label", "pairs.jsonl", "-m", model, "-o", "out.jsonl"]
    env = os.environ | ({DEATHS: deaths} if deaths else {})
    run = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    workers = _workers(run.pid, stopped=bool(deaths))
    beat = tmp_path / "out.jsonl.run" / "heartbeat.json"
    deadline = time.monotonic() + 30
    while not deaths and not beat.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    start = time.monotonic()
    run.send_signal(number)
    try:
        _, said = run.communicate(timeout=20)
    finally:
        run.kill()
    assert time.monotonic() - start < 10
    assert run.returncode == 128 + number
    assert f"stopped by {number.name}" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out.jsonl").exists()
    gone, alive = psutil.wait_procs(workers, timeout=5)
    assert gone
    assert not alive


def _workers(parent: int, stopped: bool) -> list[psutil.Process]:
    """Wait for the run's worker, where wanted until it has stopped itself."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        children = psutil.Process(parent).children()
        if children and (not stopped or children[0].status() == psutil.STATUS_STOPPED):
            return list(children)
        time.sleep(0.05)
    pytest.fail("no worker came")
