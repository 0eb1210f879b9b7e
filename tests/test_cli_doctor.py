from __future__ import annotations

import importlib.util
import json
import re

import pytest
from click.testing import CliRunner

from pairgrade import diagnosis
from pairgrade.bench import ceiling
from pairgrade.cli import cli
from pairgrade.diagnosis import Feature
from pairgrade.hardware import usable_cores


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    features = (Feature("read JSON", ("json",), None), Feature("fly", ("no_such_wing",), "onnx"))
    monkeypatch.setattr(diagnosis.diagnose, "__defaults__", (features,))


def test_doctor_for_people_and_machines() -> None:
    shown = CliRunner().invoke(cli, ["doctor"])
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    for expected in (
        "instruction sets",
        "8-bit products",
        "ONNX int8",
        "memory",
        "read JSON",
        "works",
        "no_such_wing",
        "llama-cpp",
        "[onnx]",  # no markup
        "versions that are refused",
        "before 2.10.0: CVE-2025-32434, CVE-2026-24747",
        "ceiling │ not measured; --measure does",
        "NVIDIA GPUs",
    ):
        assert expected in text
    found = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)
    assert [v["works"] for v in found["verdicts"]] == [True, False]
    assert found["advisories"] == []
    assert found["ceilings"] == {}
    assert found["refused_before"]["torch"] == "2.10.0"


@pytest.mark.parametrize(("product", "shown"), [
    ("u8s8", "exact by u8s8, the fast product"), ("u8u8", "exact by u8u8"), ("none", "no exact product was found"),
])  # fmt: skip
def test_the_exact_product_is_told(product: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "exact_product", lambda: product)
    assert shown in " ".join(CliRunner().invoke(cli, ["doctor"]).output.split())
    assert json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)["onnx_product"] == product


@pytest.mark.parametrize(("kind", "shown"), [
    ("amx", "own pass, with AMX"), ("vnni", "own pass, with AVX-512 VNNI"), ("none", "ONNX Runtime: pairgrade's own"),
])  # fmt: skip
def test_who_computes_int8_documents_is_told(kind: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "native_kind", lambda: kind)
    assert shown in " ".join(CliRunner().invoke(cli, ["doctor"]).output.replace("│", " ").split())
    assert json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)["own_pass"] == kind


def test_the_ceilings_are_measured_where_they_are_asked_for() -> None:
    found = json.loads(CliRunner().invoke(cli, ["doctor", "--measure", "--json"]).output)["ceilings"]
    assert found["threads"] == usable_cores()
    assert found["fp32_gflops"] > 1
    assert found["copy_gb_per_second"] > 0.1
    has_onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
    assert found["int8_gops"] > 1 if has_onnx else found["int8_gops"] is None


@pytest.mark.parametrize(("int8", "shown"), [(812.4, "int8 product 812 GOP/s"), (None, "int8 product not measured")])
def test_the_ceilings_are_shown(int8: float | None, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "measure_ceiling", lambda threads: ceiling.Ceiling(threads, 197.3, int8, 17.81))
    text = re.sub("[│ \n]+", " ", CliRunner().invoke(cli, ["doctor", "--measure"]).output)
    for expected in (
        f"cores measured {usable_cores()} ",
        "fp32 product 197 GFLOP/s",
        shown,
        "copy of memory 17.8 GB/s",
    ):
        assert expected in text
