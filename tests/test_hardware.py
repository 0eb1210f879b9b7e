import os
from pathlib import Path

import pytest

from pairgrade import hardware


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity masks")
def test_the_affinity_mask_is_honoured() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert hardware.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= hardware.usable_cores() <= len(before)


def test_threads_of_one_core_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 6})
    monkeypatch.setattr(hardware, "_core", lambda cpu: ("0", str(cpu // 2)))
    monkeypatch.setattr(hardware, "_cgroup_quota", lambda: None)
    assert hardware.usable_cores() == 3
    monkeypatch.setattr(hardware, "_cgroup_quota", lambda: 2)
    assert hardware.usable_cores() == 2


def test_cached_files_of_a_container_are_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    giga, read = 2**30, Path.read_text
    files = {
        "/proc/meminfo": f"MemTotal: {64 * 2**20} kB\nMemAvailable: {50 * 2**20} kB\n",
        "/sys/fs/cgroup/memory.max": str(8 * giga),
        "/sys/fs/cgroup/memory.current": str(7 * giga),
        "/sys/fs/cgroup/memory.stat": f"anon {giga}\nfile {6 * giga}\ninactive_file {5 * giga}\n",
    }
    monkeypatch.setattr(Path, "read_text", lambda self, *_, **__: files.get(str(self)) or read(self))
    assert hardware.memory_bytes() == (8 * giga, 6 * giga)


def test_the_processor_has_a_name() -> None:
    assert hardware.cpu_model()


def test_gpus_are_named_with_their_driver(tmp_path: Path) -> None:
    assert hardware.nvidia_gpus(tmp_path) == "unknown"
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build\nGCC version: 13\n"
    )
    assert hardware.nvidia_gpus(tmp_path) == "unknown"
    for place, model in (("0000:19:00.0", "NVIDIA H100 80GB HBM3"), ("0000:04:00.0", "NVIDIA H200")):
        (tmp_path / "gpus" / place).mkdir(parents=True)
        (tmp_path / "gpus" / place / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 18\n")
    assert hardware.nvidia_gpus(tmp_path) == "NVIDIA H200, NVIDIA H100 80GB HBM3; driver 550.54.14"
