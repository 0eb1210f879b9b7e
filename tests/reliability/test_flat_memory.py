"""Memory and open files do not grow with the run: 200,000 rows, or $PAIRGRADE_ROWS, sampled from a tenth on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pairgrade.heartbeat import read_beat

_ROWS = int(os.environ.get("PAIRGRADE_ROWS", "200000"))


@pytest.mark.slow
def test_a_run_takes_no_more_memory_at_its_end_than_at_a_tenth(tmp_path: Path) -> None:
    with (tmp_path / "pairs.jsonl").open("w") as file:
        for row in range(_ROWS):
            pair = {"query_id": f"q{row // 100}", "doc_id": f"d{row}", "query": f"query {row // 100}"}
            file.write(json.dumps(pair | {"document": f"document {row} of them, with some words"}) + "\n")
    command = [sys.executable, "-m", "pairgrade.cli", "label", "pairs.jsonl", "-m", "fake:", "-o", "out.jsonl", "-q"]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    process, beat_path = psutil.Process(run.pid), tmp_path / "out.jsonl.run" / "heartbeat.json"
    samples: list[tuple[int, float, int]] = []  # pairs done, MB, open files
    while run.poll() is None:
        beat = read_beat(beat_path)
        try:
            if beat is not None and beat.phase == "labelling":
                samples.append((beat.done, process.memory_info().rss / 1e6, process.num_fds()))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.2)
    assert run.wait() == 0
    # wide enough for a heartbeat to fall into each on a fast machine
    early = [s for s in samples if _ROWS * 0.1 <= s[0] <= _ROWS * 0.35]
    late = [s for s in samples if s[0] >= _ROWS * 0.65]
    assert early
    assert late
    grown = max(mb for _, mb, _ in late) - min(mb for _, mb, _ in early)
    print(f"{grown:.1f} MB more from 10% to 100% of {_ROWS:,} rows")  # noqa: T201
    assert grown < 20  # 100 MB at a million rows
    assert max(files for *_, files in late) <= max(files for *_, files in early)
