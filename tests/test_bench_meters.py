import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from pairgrade.bench.meters import GpuEnergyMeter, LoadMeter, peak_rss_bytes


class NvmlError(Exception):
    """What pynvml raises."""


def recorded(counters: dict[int, list[int]], init: bool = True) -> SimpleNamespace:
    """Return a pynvml whose GPUs give these millijoules, one reading after the other; none: no counter."""

    def start() -> None:
        if not init:
            raise NvmlError("driver not loaded")

    def read(gpu: int) -> int:
        if not counters[gpu]:
            raise NvmlError("not supported")
        return counters[gpu].pop(0)

    return SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=start,
        nvmlDeviceGetCount=lambda: len(counters),
        nvmlDeviceGetHandleByIndex=lambda place: place,
        nvmlDeviceGetTotalEnergyConsumption=read,
    )


def test_the_energy_of_all_gpus_that_count_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    # read twice at the start: whether there is a counter, and from where it goes on
    counters = {0: [1000, 1000, 251_000], 1: [], 2: [7, 7, 1507]}
    monkeypatch.setitem(sys.modules, "pynvml", recorded(counters))
    assert GpuEnergyMeter().joules() == pytest.approx(250.0 + 1.5)


@pytest.mark.parametrize(
    "counters",
    [{}, {0: []}, {0: [5, 5]}, {0: [5000, 5000, 3000]}, {0: [5, 5, 5]}, {0: [5, 5, 9], 1: [7, 7, 7]}],
    ids=["no GPU", "no counter", "no more readable", "driver loaded anew", "stands still", "one stands still"],
)
def test_energy_that_cannot_be_read_is_absent(counters: dict[int, list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", recorded(counters))
    assert GpuEnergyMeter().joules() is None


def test_no_library_and_no_driver_are_no_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", recorded({0: [1, 1, 2]}, init=False))
    assert GpuEnergyMeter().joules() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # the import fails
    assert GpuEnergyMeter().joules() is None


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
def test_another_process_has_memory_and_its_work_is_no_other_load() -> None:
    code = "b = bytearray(50 << 20); print(flush=True)\nwhile True: pass"
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert worker.stdout is not None
        worker.stdout.readline()
        assert peak_rss_bytes(worker.pid) > 50 * 2**20
        with_it, without = LoadMeter(worker.pid), LoadMeter()
        time.sleep(1.0)
        own, other = with_it.cores(), without.cores()
        assert own is not None
        assert other is not None
        assert other - own > 0.05  # of a core, for it shares them with whatever else runs
    finally:
        worker.kill()
        worker.communicate()
    assert with_it.cores() is None  # it is gone
    assert without.cores() is not None
