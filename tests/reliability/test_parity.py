"""An export against its original: logits, ids and grades agree, or nothing is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tiny_models
from helpers import assert_equal_ids, logit_distance, make_pairs
from pairgrade import InputError, ModelError, Rubric
from pairgrade.export.measure import Task
from pairgrade.export.verify import Floor, verify
from pairgrade.file_hashes import file_sha256

pytest.importorskip("torch")
pytest.importorskip("gguf")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx_helpers import LABELS, export, opened, prompts
from pairgrade.export.gguf_export import GgufOptions, export_gguf
from pairgrade.export.gguf_writer import write_gguf
from pairgrade.export.onnx_export import OnnxCheck, export_onnx
from pairgrade.export.onnx_folder import OnnxSettings
from pairgrade.export.quantize import QUANTS
from pairgrade.export.torch_backend import TorchBackend, TorchOptions

PAIRS = make_pairs(3, 4)
TASK = Task(PAIRS, Rubric.load("trec"))


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_logits_are_those_of_the_folder(family: str, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    write_gguf(tiny_folder(family), tmp_path / "model.gguf")
    bound = 1e-3 if family.startswith("gemma") else 1e-4  # llama.cpp looks its GELU up in half precision
    assert logit_distance(tiny_folder(family), tmp_path / "model.gguf") < bound


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_ids_are_those_of_the_folder(family: str, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    assert_equal_ids(tiny_folder(family), tmp_path / "model.gguf")


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_ids_are_those_of_a_folder_with_all_that_gemmas_tokenizer_has(family: str, tmp_path: Path) -> None:
    assert_equal_ids(tiny_models.make_folder(family, tmp_path / "folder", whole=True), tmp_path / "model.gguf")


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_the_graph_equals_transformers(family: str, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    source = tiny_folder(family)
    prefix, documents = prompts()
    reference = TorchBackend(source, TorchOptions(threads=1)).score(prefix, documents, LABELS)
    scores = opened(export(source, tmp_path / "out"), label_mass=True).score(prefix, documents, LABELS)
    np.testing.assert_allclose(scores.logits, reference.logits, atol=1e-4)
    assert scores.log_totals is not None
    np.testing.assert_allclose(scores.log_totals, reference.log_totals, atol=1e-4)
    assert np.ptp(reference.logits) > 1  # else anything would agree


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_folder_and_its_file_agree(family: str, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    write_gguf(tiny_folder(family), tmp_path / "model.gguf")
    found = verify(tiny_folder(family), tmp_path / "model.gguf", TASK, threads=1)
    assert found.problems == []
    assert (found.strings, found.fidelity.pairs, found.unfit) == (1000, len(PAIRS), 0)
    assert found.fidelity.relative_logit_distance < 1e-2  # keys and values in half precision


def test_other_weights_and_other_ids_are_told(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    other = tiny_models.make_folder("qwen2", tmp_path / "other", seed=9)
    found = verify(tiny_folder("qwen2"), other, TASK, threads=1)
    assert not found.different_strings
    assert [problem.split()[0] for problem in found.problems] == ["grade", "mean"]
    table = json.loads((other / "tokenizer.json").read_text())
    table["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s+|\S+"
    (other / "tokenizer.json").write_text(json.dumps(table))
    found = verify(other, tiny_folder("qwen2"), TASK, Floor(0, 100), threads=1)
    assert len(found.problems) == 2
    assert "strings have other ids, such as" in found.problems[0]
    assert found.different_prompts > 0
    assert found.to_dict()["passed"] is False


def test_an_export_keeps_what_keeps_its_floor(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    strict, lax = Floor(1.0, 1e-9), Floor(0.0, 10.0)
    options = GgufOptions((QUANTS["q4_0"], QUANTS["f32"], QUANTS["q8_0"]), TASK, floors=(strict, lax, lax), threads=1)
    report = export_gguf(tiny_folder("llama"), tmp_path / "out", options)
    assert [file.quant.name for file in report.refused] == ["q4_0"]
    names = {"model-f32.gguf", "model-q8_0.gguf", "README.md", "manifest.json"}
    assert {path.name for path in report.out.iterdir()} == names
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    manifest = json.loads((report.out / "manifest.json").read_text())
    assert manifest["files"] == {name: file_sha256(report.out / name) for name in names - {"manifest.json"}}
    assert manifest["rubric"] == {"name": "trec", "sha256": TASK.rubric.digest}
    assert [manifest["quants"][f"model-{name}.gguf"]["kept"] for name in ("q4_0", "f32", "q8_0")] == [False, True, True]
    f32, q8 = (manifest["quants"][f"model-{name}.gguf"]["fidelity"] for name in ("f32", "q8_0"))
    assert f32["mean_kl"] < q8["mean_kl"] < 0.1
    assert "(q4_0, refused)" in (report.out / "README.md").read_text()


def test_an_export_without_a_good_file_leaves_nothing(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    floors = (Floor(1.0, 1e-9),)
    options = GgufOptions((QUANTS["q4_0"],), TASK, floors=floors, threads=1)
    with pytest.raises(ModelError, match=r"q4_0: .*mean KL .* is above 1e-09"):
        export_gguf(tiny_folder("qwen2"), tmp_path / "out", options)
    assert not list(tmp_path.iterdir())
    allowed = GgufOptions((QUANTS["q4_0"],), TASK, floors=floors, allow_below_floor=True, threads=1)
    report = export_gguf(tiny_folder("qwen2"), tmp_path / "out", allowed)
    assert report.files[0].kept
    assert report.files[0].verification.problems
    with pytest.raises(InputError, match="exists already"):
        export_gguf(tiny_folder("qwen2"), tmp_path / "out", allowed)


def test_nothing_is_left_of_an_export_that_fails(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in tiny_folder("llama").iterdir():
        (source / file.name).write_bytes(file.read_bytes()[: -1 if file.suffix == ".safetensors" else None])
    with pytest.raises(ModelError, match="bytes of data"):
        export(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    check = OnnxCheck(TASK, Floor(1.0, 0.0), threads=1)
    with pytest.raises(ModelError, match="does not keep its floor"):  # when all of it has been written
        export_onnx(tiny_folder("llama"), tmp_path / "out", OnnxSettings("fp32"), check)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists"):
        export_onnx(tiny_folder("llama"), tmp_path / "out", OnnxSettings("fp32"))


@pytest.mark.slow
@pytest.mark.model
def test_the_real_smollm2(smollm2_folder: Path, tmp_path: Path) -> None:
    write_gguf(smollm2_folder, tmp_path / "model.gguf")
    assert logit_distance(smollm2_folder, tmp_path / "model.gguf", (150,)) < 1e-3
    found = verify(smollm2_folder, tmp_path / "model.gguf", Task(make_pairs(1, 4), TASK.rubric), Floor(1.0, 1e-4))
    assert not found.problems
    assert found.fidelity.relative_logit_distance < 1e-3  # with keys and values in half precision
