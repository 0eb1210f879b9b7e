from __future__ import annotations

from pathlib import Path

import pytest

from pairgrade import advisories, diagnosis, hardware
from pairgrade.diagnosis import Feature, Verdict, diagnose


def test_each_feature_is_tried_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crashing.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    (tmp_path / "broken.py").write_text("import no_such_module")
    (tmp_path / "leaving.py").write_text("import os; os._exit(7)")
    monkeypatch.syspath_prepend(str(tmp_path))
    features = (
        Feature("fine", ("json", "csv"), None),
        Feature("crash", ("crashing", "json"), None),
        Feature("break", ("broken",), "onnx"),
        Feature("leave", ("leaving",), None),
        Feature("absent", ("no_such_module",), "onnx"),
        Feature("after", ("colorsys",), None),
    )
    found = {verdict.feature: verdict for verdict in diagnose(features).verdicts}
    assert found["fine"] == Verdict("fine", True)
    assert found["after"].works  # what comes behind a crash is tried, too
    assert found["crash"].why == "crashing: importing it ends the process by SIGILL; it was built for another processor"
    assert "ModuleNotFoundError: No module named 'no_such_module'" in found["break"].why
    assert found["leave"].why == "leaving: importing it ends the process with exit code 7"
    assert found["absent"].why == "no_such_module not installed; run: pip install 'pairgrade[onnx]'"


def test_what_is_installed_is_held_against_the_advisories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "package_version", lambda name: "2.9.0" if name == "torch" else "none")
    assert [a.name for a in diagnose(()).advisories] == ["CVE-2026-24747"]
    assert advisories.known_bad("torch", "2.9.0")


def test_processor_and_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = diagnose(())
    assert found.vnni == hardware.has_vnni(frozenset(found.cpu_features))
    assert found.memory_bytes is None or found.memory_bytes > 2**28
    assert not hardware.has_vnni(frozenset({"avx2", "avx512f"}))
    assert hardware.has_vnni(frozenset({"avx2", "avx_vnni"}))
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(hardware, "Path", lambda _: cpuinfo)
    for text, expected in (
        ("model name\t: x\nflags\t\t: fpu avx2 avx512_vnni\n", {"avx2", "avx512_vnni"}),
        ("Features\t: fp asimd asimddp\n", {"asimd", "asimddp"}),
        ("", set()),
    ):
        cpuinfo.write_text(text)
        assert hardware.cpu_features() == expected
