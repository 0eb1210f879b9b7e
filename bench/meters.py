"""What the machine itself says while pairs are judged: memory, energy, other processes' load."""

from __future__ import annotations

import importlib
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from pairgrade.hardware import one_cpu_a_core

_RAPL = Path("/sys/class/powercap")


def pin(threads: int) -> bool:
    """Bind this process to one CPU of each of so many cores; False where there are fewer, or the system has no way."""
    cpus = one_cpu_a_core()
    if len(cpus) < threads:
        return False
    os.sched_setaffinity(0, cpus[:threads])
    return True


def peak_rss_bytes(process: int | None = None) -> int:
    """Return the most memory that was resident at a time in this process, or in another one (Linux only).

    Not ``ru_maxrss`` on Linux: there it counts what the parent process held when it started this one.
    """
    try:
        for line in Path(f"/proc/{process or 'self'}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        if process:
            raise
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def rss_bytes(*others: int) -> int | None:
    """Return the memory that is resident now in this process and others; None where the system does not tell."""
    try:
        pages = [int(Path(f"/proc/{process}/statm").read_text().split()[1]) for process in ("self", *others)]
    except OSError:
        return None
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


class EnergyMeter:
    """Joules of the processor's packages by Intel's and AMD's RAPL counters, which Linux lets root read."""

    def __init__(self, root: Path = _RAPL) -> None:
        zones = sorted(zone for zone in root.glob("intel-rapl:*") if self._is_package(zone))
        self._zones = [zone for zone in zones if self._read(zone, "energy_uj") is not None]
        self._start = [self._read(zone, "energy_uj") for zone in self._zones]

    def joules(self) -> float | None:
        """Return the joules since the meter was made, all packages together; None where they cannot be read."""
        total = 0
        for zone, start in zip(self._zones, self._start, strict=True):
            now = self._read(zone, "energy_uj")
            if now is None or now == start or start is None:  # one that stands still does not count
                return None
            if now < start:  # the counter went through its highest value
                now += self._read(zone, "max_energy_range_uj") or 0
            total += now - start
        return total / 1e6 if self._zones else None

    @staticmethod
    def _is_package(zone: Path) -> bool:
        """Whether a zone is a processor's package: neither a part of one, nor the whole platform (psys)."""
        try:
            return zone.name.count(":") == 1 and (zone / "name").read_text().startswith("package")
        except OSError:
            return False

    @staticmethod
    def _read(zone: Path, name: str) -> int | None:
        try:
            return int((zone / name).read_text())
        except (OSError, ValueError):
            return None


class GpuEnergyMeter:
    """Joules of the NVIDIA GPUs by the counters of NVML (Volta and later), which nvidia-ml-py reads.

    All GPUs that NVML shows are counted, whether they were used or not, as all of the processor is.
    """

    def __init__(self) -> None:
        self._nvml = _nvml()
        self._gpus = [gpu for gpu in self._found() if self._read(gpu) is not None]
        self._start = [self._read(gpu) for gpu in self._gpus]

    def joules(self) -> float | None:
        """Return the joules since the meter was made, all GPUs together; None where they cannot be read."""
        total = 0
        for gpu, start in zip(self._gpus, self._start, strict=True):
            now = self._read(gpu)
            if now is None or start is None or now <= start:  # it stands still, or the driver was loaded anew
                return None
            total += now - start
        return total / 1e3 if self._gpus else None

    def _found(self) -> list[Any]:
        if self._nvml is None:
            return []
        try:
            return [self._nvml.nvmlDeviceGetHandleByIndex(i) for i in range(self._nvml.nvmlDeviceGetCount())]
        except self._nvml.NVMLError:
            return []

    def _read(self, gpu: Any) -> int | None:
        """Return a GPU's counter, in millijoules since its driver was loaded."""
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(gpu))
        except self._nvml.NVMLError:
            return None


def _nvml() -> Any:
    """Return NVML's Python module, started; None without it, without a driver or without a GPU."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


class LoadMeter:
    """Cores that processes other than this one, and than the one given, keep busy."""

    def __init__(self, process: int | None = None) -> None:
        self._process = process
        self._wall, self._busy, self._own = time.perf_counter(), _busy_seconds(), _own_seconds(process)

    def cores(self) -> float | None:
        """Return the mean since the meter was made; None where the system does not tell."""
        busy = _busy_seconds()
        wall = time.perf_counter() - self._wall
        if busy is None or self._busy is None or wall <= 0:
            return None
        try:
            own = _own_seconds(self._process)
        except OSError:  # it died, and another does its work
            return None
        return max(0.0, (busy - self._busy - (own - self._own)) / wall)


def _own_seconds(process: int | None) -> float:
    times = os.times()
    own = times.user + times.system
    if process is None:
        return own
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()  # from the third field on
    return own + (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


def _busy_seconds() -> float | None:
    """Return the processor seconds of all processes since the machine started, by /proc/stat."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _wait, irq, soft, *_ = map(int, fields)
    return (user + nice + system + irq + soft) / float(os.sysconf("SC_CLK_TCK"))
