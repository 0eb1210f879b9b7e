from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pairgrade import diagnosis
from pairgrade.cli import cli
from pairgrade.diagnosis import Feature


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
    ):
        assert expected in text
    found = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)
    assert [v["works"] for v in found["verdicts"]] == [True, False]
    assert found["advisories"] == []
    assert found["ceilings"] == {}
    assert found["onnx_product"] in ("u8s8", "u8u8", "none")
