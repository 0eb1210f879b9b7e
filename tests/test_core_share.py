import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pairgrade.core_share import CoreShare


def _warm(threads: int) -> CoreShare:
    share = CoreShare(threads)
    share.add(60.0, 1.0)  # the weights are read
    return share


def test_threads_that_run_all_the_time_are_no_news_and_others_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    share = _warm(4)
    share.add(100.0, 360.0)
    assert not caplog.records
    for _ in range(3):
        share.add(10.0, 20.0)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "4 threads of the model got 50% of their processor time" in record.getMessage()
    assert "--threads" in record.getMessage()


def test_a_moment_is_not_enough(caplog: pytest.LogCaptureFixture) -> None:
    share = _warm(2)
    share.add(4.0, 2.0)
    assert not caplog.records
    share.add(2.0, 1.0)
    assert len(caplog.records) == 1


def test_an_hour_of_rest_does_not_hide_it(caplog: pytest.LogCaptureFixture) -> None:
    share = _warm(2)
    share.add(3600.0, 7200.0)
    share.add(6.0, 6.0)
    assert len(caplog.records) == 1


def test_one_thread_waits_for_nobody(caplog: pytest.LogCaptureFixture) -> None:
    _warm(1).add(100.0, 20.0)
    assert not caplog.records


_TWO_ON_ONE = """
import logging, os, sys
from pathlib import Path
import numpy as np
logging.basicConfig(format="%(name)s: %(message)s")
from pairgrade import core_share
from pairgrade.llama import LlamaBackend, LlamaOptions
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
core_share._ENOUGH_SECONDS = 0.2
backend = LlamaBackend(Path(sys.argv[1]), LlamaOptions(context=512, threads=2))
ids = np.arange(200, dtype=np.int32)
while backend.counters.seconds < 2.0:
    backend.score([ids], [ids + 1], ids[:4])
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity masks")
def test_two_threads_of_llama_cpp_on_one_core_are_told(smollm2_path: Path) -> None:
    """In a process of its own: the library keeps its threads where it first started them."""
    command = [sys.executable, "-c", _TWO_ON_ONE, str(smollm2_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    assert sum(line.startswith("pairgrade.core_share: the 2 threads") for line in told) == 1
