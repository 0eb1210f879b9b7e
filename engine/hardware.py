"""What of the machine this process may use."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

CPU_FEATURES = {
    "avx2": "256-bit vectors",
    "avx512f": "512-bit vectors",
    "avx512_vnni": "8-bit products in one instruction, 512 bits",
    "avx_vnni": "8-bit products in one instruction, 256 bits",
    "amx_int8": "8-bit products of tiles",
    "amx_bf16": "bfloat16 products of tiles",
    "asimd": "NEON vectors",
    "asimddp": "NEON 8-bit dot products",
    "i8mm": "NEON 8-bit products of small matrices",
}


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


def one_cpu_a_core() -> list[int]:
    """Return one CPU of each physical core that this process may run on; empty where the system does not tell."""
    try:
        cpus = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return []
    return sorted({_core(cpu): cpu for cpu in sorted(cpus, reverse=True)}.values())


def cpu_model() -> str:
    """Return the processor's name, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_features() -> frozenset[str]:
    """Return the instruction sets that the engines' speed depends on and this processor has, by Linux's names."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(flags.partition(":")[2].split()) & CPU_FEATURES.keys()


def nvidia_gpus(proc: Path = Path("/proc/driver/nvidia")) -> str:
    """Name the NVIDIA GPUs of this machine, in the driver's order, and the driver; "unknown" where it does not tell."""
    try:
        driver = (proc / "version").read_text().splitlines()[0].partition(":")[2].split()
        texts = [(gpu / "information").read_text() for gpu in sorted((proc / "gpus").iterdir())]
    except (OSError, IndexError):
        return "unknown"
    lines = "\n".join(texts).splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]
    version = next((word for word in driver if word[:1].isdigit() and "." in word), "unknown")
    return f"{', '.join(models) or 'none'}; driver {version}"


def has_vnni(features: frozenset[str]) -> bool:
    """Whether an 8-bit product of activations and weights is one instruction: x86's VNNI or AMX, ARM's dot product."""
    return bool(features & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})


def memory_bytes() -> tuple[int, int] | None:
    """Return the memory that this process may use at most, and what is free of it now; None where unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        table = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        total, free = table["MemTotal"], table["MemAvailable"]
    except (OSError, ValueError, KeyError):
        return None
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text()) - _page_cache()
    except (OSError, ValueError):  # no limit, or "max"
        return total, free
    return min(total, limit), min(free, max(0, limit - used))


def _page_cache() -> int:
    """Return the bytes of files that the cgroup's memory holds and gives back when they are needed."""
    for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0


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
