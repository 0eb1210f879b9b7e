"""What of the machine this process may use."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path


def usable_cores() -> int:
    """Count the physical cores that this process may run on: affinity mask and cgroup quota are honoured.

    Two hyper-threads of one core count once: matrix products gain nothing from the second. At least 1.
    """
    try:
        cpus = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return max(1, (os.cpu_count() or 2) // (2 if platform.machine() in ("x86_64", "AMD64") else 1))
    cores = {_core(cpu) for cpu in cpus}
    quota = _cgroup_quota()
    return max(1, min(len(cores), quota) if quota else len(cores))


def cpu_model() -> str:
    """Return the processor's name, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _core(cpu: int) -> tuple[str, str] | int:
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (topology / "physical_package_id").read_text().strip(), (topology / "core_id").read_text().strip()
    except OSError:
        return cpu


def _cgroup_quota() -> int | None:
    """Return the CPUs that the cgroup grants, rounded down, or None where there is no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else max(1, math.floor(int(quota) / int(period)))
    except (OSError, ValueError):
        return None
