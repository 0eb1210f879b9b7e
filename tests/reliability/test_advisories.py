from __future__ import annotations

import re
from pathlib import Path

import pytest

from pairgrade import ModelError, advisories
from pairgrade.advisories import ADVISORIES, known_bad, refuse_known_bad
from pairgrade.onnx_manifest import MIN_ONNXRUNTIME


@pytest.mark.parametrize(
    ("library", "version", "names"),
    [
        ("llama-cpp-python", "0.2.71", ["CVE-2024-34359"]),
        ("llama-cpp-python", "0.2.72", []),
        ("transformers", "4.35.2", ["CVE-2023-6730", "CVE-2026-4372"]),
        ("llama-cpp-python", "0.3.36", []),
        ("torch", "2.5.1+cpu", ["CVE-2025-32434", "CVE-2026-24747"]),
        ("torch", "2.6", ["CVE-2026-24747"]),
        ("torch", "2.6.0rc1", ["CVE-2025-32434", "CVE-2026-24747"]),
        ("torch", "2.10.0+cu128", []),
        ("onnx", "1.20.1", ["CVE-2026-27489", "CVE-2026-34446"]),
        ("onnx", "1.21.0", []),
        ("transformers", "5.2.0", ["CVE-2026-4372"]),
        ("transformers", "5.3.0.dev0", ["CVE-2026-4372"]),
        ("transformers", "5.10.0", []),
        ("numpy", "0.1", []),
        ("torch", "none", []),
        ("torch", "v2.13.0", ["CVE-2025-32434", "CVE-2026-24747"]),  # not a version: who can say?
    ],
)
def test_versions_are_compared_as_numbers(library: str, version: str, names: list[str]) -> None:
    assert [advisory.name for advisory in known_bad(library, version)] == names


def test_every_advisory_has_an_identifier_and_a_range() -> None:
    for advisory in ADVISORIES:
        assert re.fullmatch(r"CVE-\d{4}-\d{4,}", advisory.name)
        assert known_bad(advisory.library, advisory.first)
        assert advisory not in known_bad(advisory.library, advisory.fixed)


def test_the_refusal_names_version_advisory_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advisories, "package_version", lambda _: "2.4.0")
    with pytest.raises(ModelError, match=r"torch 2\.4\.0 .*CVE-2025-32434.*pip install 'torch>=2\.10\.0'"):
        refuse_known_bad("torch")


def test_what_the_tests_run_with_is_not_known_to_be_bad() -> None:
    refuse_known_bad(*{advisory.library for advisory in ADVISORIES})


def test_what_the_constraints_pin_is_not_known_to_be_bad() -> None:
    """The pins that everything here is installed from, against our own table; ``pip-audit`` asks the world's."""
    lines = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    pins = [match.groups() for line in lines if (match := re.match(r"([\w.-]+)==([\w.+-]+)", line))]
    pinned: dict[str, list[str]] = {}
    for name, version in pins:
        pinned.setdefault(name.lower().replace("_", "-"), []).append(version)
    for library in {advisory.library for advisory in ADVISORIES} | {"onnxruntime", "safetensors"}:
        assert pinned[library]
        assert [bad for version in pinned[library] for bad in known_bad(library, version)] == []
    assert all(tuple(map(int, v.split(".")[:2])) >= MIN_ONNXRUNTIME for v in pinned["onnxruntime"])
