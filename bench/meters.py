"""What the machine itself says while pairs are judged: memory, energy, other processes' load."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

from pairgrade.hardware import one_cpu_a_core

_RAPL = Path("/sys/class/powercap")


def pin(threads: int) -> None:
    """Bind this process to one CPU of each of so many cores, where the system allows it and has as many."""
    cpus = one_cpu_a_core()
    if len(cpus) >= threads:
        os.sched_setaffinity(0, cpus[:threads])


def peak_rss_bytes() -> int:
    """Return the most memory that was resident at a time.

    Not ``ru_maxrss`` on Linux: there it counts what the parent process held when it started this one.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class EnergyMeter:
    """Joules of the processor's packages by Intel's and AMD's RAPL counters, which Linux lets root read."""

    def __init__(self, root: Path = _RAPL) -> None:
        zones = sorted(zone for zone in root.glob("intel-rapl:*") if zone.name.count(":") == 1)
        self._zones = [zone for zone in zones if self._read(zone, "energy_uj") is not None]
        self._start = [self._read(zone, "energy_uj") for zone in self._zones]

    def joules(self) -> float | None:
        """Return the joules since the meter was made, all packages together; None where they cannot be read."""
        total = 0
        for zone, start in zip(self._zones, self._start, strict=True):
            now = self._read(zone, "energy_uj")
            if now is None or start is None:
                return None
            if now < start:  # the counter went through its highest value
                now += self._read(zone, "max_energy_range_uj") or 0
            total += now - start
        return total / 1e6 if self._zones else None

    @staticmethod
    def _read(zone: Path, name: str) -> int | None:
        try:
            return int((zone / name).read_text())
        except (OSError, ValueError):
            return None


class LoadMeter:
    """Cores that processes other than this one keep busy."""

    def __init__(self) -> None:
        self._wall, self._busy, self._own = time.perf_counter(), _busy_seconds(), _own_seconds()

    def cores(self) -> float | None:
        """Return the mean since the meter was made; None where the system does not tell."""
        busy = _busy_seconds()
        wall = time.perf_counter() - self._wall
        if busy is None or self._busy is None or wall <= 0:
            return None
        return max(0.0, (busy - self._busy - (_own_seconds() - self._own)) / wall)


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system


def _busy_seconds() -> float | None:
    """Return the processor seconds of all processes since the machine started, by /proc/stat."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _wait, irq, soft, *_ = map(int, fields)
    return (user + nice + system + irq + soft) / float(os.sysconf("SC_CLK_TCK"))
