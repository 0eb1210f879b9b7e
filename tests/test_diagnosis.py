from __future__ import annotations

import importlib.util
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pairgrade import ModelError, advisories, diagnosis, hardware, native_library, onnx_session
from pairgrade.diagnosis import FEATURES, Feature, Verdict, diagnose


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


def _modules_of(extra: str | None) -> set[str]:
    """Return the modules of the packages that pyproject.toml lists for an extra, those of extras in it among them."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    for wanted in project["optional-dependencies"][extra] if extra else project["dependencies"]:
        name, others = re.match(r"([\w-]+)(?:\[([\w,]+)\])?", wanted).groups()  # type: ignore[union-attr]
        if name == "pairgrade":
            found = found.union(*map(_modules_of, others.split(",")))
        else:
            found.add({"llama-cpp-python": "llama_cpp"}.get(name, name.replace("-", "_")))
    return found


def test_the_extra_that_is_named_brings_every_module() -> None:
    for feature in FEATURES:
        assert set(feature.modules) <= _modules_of(feature.extra), feature.name


def test_a_python_that_onnxruntime_is_not_built_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    feature = Feature("label with ONNX models", ("json", "onnxruntime"), "onnx")
    monkeypatch.setattr(diagnosis, "MIN_PYTHON", (3, 10))
    (verdict,) = diagnose((feature,)).verdicts
    assert verdict.why == "onnxruntime not installed; run: pip install 'pairgrade[onnx]'"
    monkeypatch.setattr(diagnosis, "MIN_PYTHON", (3, 99))
    (verdict,) = diagnose((feature,)).verdicts
    assert verdict.why == "onnxruntime needs Python 3.99 or later"
    monkeypatch.setattr(onnx_session, "MIN_PYTHON", (3, 99))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"need onnxruntime 1\.\d+ or later, and that Python 3\.99$"):
        onnx_session.runtime()


def test_the_8_bit_product_that_is_exact_here() -> None:
    """On x86 u8s8 adds pairs in 16 bits, and saturates, unless it is one instruction."""
    if importlib.util.find_spec("onnxruntime") is None:
        assert diagnose(()).onnx_product == "none"
    else:
        saturates = platform.machine() in ("x86_64", "AMD64") and not hardware.has_vnni(hardware.cpu_features())
        assert diagnose(()).onnx_product == ("u8u8" if saturates else "u8s8")


def test_processor_and_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for features, vnni in (({"avx512_vnni", "avx2"}, True), ({"avx2", "avx512f"}, False)):
        with monkeypatch.context() as patch:
            patch.setattr(diagnosis, "cpu_features", lambda features=features: frozenset(features))
            found = diagnose(())
        assert (found.cpu_features, found.vnni) == (tuple(sorted(features)), vnni)
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


def test_no_version_is_asked_for_that_every_load_refuses() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    asked = re.findall(r'"([a-z-]+)>=([0-9.]+)', text)
    libraries = {advisory.library for advisory in advisories.ADVISORIES}
    bounds = {(name, least) for name, least in asked if name in libraries}
    assert {name for name, _ in bounds} == libraries
    assert not {(name, least): bad for name, least in bounds if (bad := advisories.known_bad(name, least))}


@pytest.mark.parametrize("version", [None, 0, 1])
def test_a_compiled_pass_that_does_not_fit_is_not_used(version: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("pairgrade._native") is None:
        pytest.skip("this installation has no compiled pass")
    found: dict[str, Callable[[], int]] = {"pairgrade_features": lambda: 0}  # as it is compiled for another processor
    if version is not None:
        found["pairgrade_version"] = lambda: version
    monkeypatch.setattr(native_library.ctypes, "CDLL", lambda _: SimpleNamespace(**found))
    assert native_library.native_library.__wrapped__() is None

    def broken(_: str) -> None:
        raise OSError("built for another system")

    monkeypatch.setattr(native_library.ctypes, "CDLL", broken)
    assert native_library.native_library.__wrapped__() is None
