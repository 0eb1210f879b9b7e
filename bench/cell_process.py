"""Starts the process that measures a cell and reads its answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from pairgrade.bench.cell_records import CellJob, CellRun
from pairgrade.errors import ModelError

_LONGEST_QUOTE = 400  # characters of what a dead process printed
# What is importable here is importable there; nothing comes from the working directory, as with -m.
_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from pairgrade.bench.cell import main; main()"
_SECONDS_TO_END = 20.0  # a server of its own may take 10
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


def measure_cell(job: CellJob) -> CellRun:
    """Run one cell in a new process; ModelError says why it cannot be measured."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-c", _BOOT, str(answer), *(p for p in sys.path if isinstance(p, str))]
        fixed = {name: str(job.threads) for name in _THREADS} | {"TOKENIZERS_PARALLELISM": "false"}
        asked = json.dumps(asdict(replace(job, started=time.time())))
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=os.environ | fixed) as cell:
            try:
                _, printed = cell.communicate(asked)
            except BaseException:
                _end(cell)
                raise
        if not answer.is_file():
            lines = printed.strip().splitlines() or ["nothing was printed"]
            raise ModelError(f"the measuring process ended with code {cell.returncode}: {lines[-1][:_LONGEST_QUOTE]}")
        found = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in found:
        raise ModelError(found["error"])
    return CellRun.from_dict(found["run"])


def _end(cell: subprocess.Popen[str]) -> None:
    """End a cell so that it can stop a server of its own and clear its scratch folders."""
    cell.terminate()
    try:
        cell.communicate(timeout=_SECONDS_TO_END)
    except BaseException as error:
        cell.kill()
        if not isinstance(error, subprocess.TimeoutExpired):  # another signal
            raise
