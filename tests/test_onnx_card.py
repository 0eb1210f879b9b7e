"""What an ONNX folder says of where it comes from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import make_pairs
from onnx_helpers import export
from pairgrade import ModelError, Rubric
from pairgrade.export.measure import Task
from pairgrade.file_hashes import file_sha256
from pairgrade.onnx_manifest import read_manifest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from pairgrade.export.onnx_export import OnnxCheck, export_onnx
from pairgrade.export.onnx_folder import OnnxSettings
from pairgrade.export.verify import Floor

TASK = Task(make_pairs(3, 4), Rubric.load("trec"), "plain")


def test_where_it_comes_from_and_how_it_compared(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    source = tmp_path / "merged"
    shutil.copytree(tiny_folder("llama"), source)
    origin = {"base": "/models/base", "adapter": {"name": "a"}, "identity": {"input": "d" * 64}}
    (source / "manifest.json").write_text(json.dumps(origin))
    settings = OnnxSettings("int8", calibration=TASK, threads=1)
    impossible = OnnxCheck(TASK, Floor(1.0, 0.0), allow_below_floor=True, threads=1)
    report = export_onnx(source, tmp_path / "out", settings, impossible)
    found = json.loads((report.out / "provenance.json").read_text())
    assert (found["base"], found["adapter"], found["data"]) == ("/models/base", {"name": "a"}, "d" * 64)
    assert found["source"]["name"] == "merged"
    assert found["rubric"] == {"name": "trec", "sha256": TASK.rubric.digest}
    assert found["check"] == found["calibration"]
    assert found["recipe"] == report.manifest.recipe
    assert found["verification"]["passed"] is False
    assert report.verification is not None
    assert found["verification"]["fidelity"]["mean_kl"] == report.verification.fidelity.mean_kl
    card = (report.out / "README.md").read_text()
    assert f"trained on | {'d' * 64} |" in card
    assert "`merged` (base: base) in int8" in card
    assert "**It is below its floor** (" in card
    assert "was kept by `--allow-below-floor`" in card
    assert f"| {report.verification.fidelity.mean_kl:.2g} | 0.0 |" in card


def test_both_files_are_listed_with_their_digests(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    out = export(tiny_folder("qwen3"), tmp_path / "out")
    card = (out / "README.md").read_text()
    assert "It was not compared with the original." in card
    assert "its base" not in card  # it was not trained
    assert json.loads((out / "provenance.json").read_text())["verification"] is None
    manifest = read_manifest(out)
    assert {*manifest.files, "manifest.json"} == {path.name for path in out.iterdir()}
    for name in ("provenance.json", "README.md"):
        assert manifest.files[name] == file_sha256(out / name)
        text = (out / name).read_text()
        (out / name).write_text("other words")
        with pytest.raises(ModelError, match=rf"{name} is not the file"):
            read_manifest(out)
        (out / name).write_text(text)
