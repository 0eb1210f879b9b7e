"""No model is loaded by a library version with a known advisory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from helpers import make_pairs, write_jsonl
from pairgrade import Annotator, ModelError, advisories, backends, diagnosis, onnx_manifest
from pairgrade.cli import cli
from pairgrade.errors import PairgradeError


@pytest.fixture
def _old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advisories, "package_version", lambda name: "0.2.60" if name == "llama-cpp-python" else "none")
    monkeypatch.setattr(backends, "LlamaBackend", lambda *_: pytest.fail("the library was asked to load a model"))
    monkeypatch.setattr(backends, "WorkerBackend", lambda *_: pytest.fail("a worker was started"))


@pytest.mark.usefixtures("_old")
@pytest.mark.parametrize("isolate", [False, True])
def test_a_load_is_refused_and_the_advisory_named(tmp_path: Path, isolate: bool) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"llama-cpp-python 0\.2\.60 .*CVE-2024-34359.*>=0\.2\.72"):
        Annotator.open(path, isolate=isolate)


@pytest.mark.usefixtures("_old")
def test_the_command_ends_with_the_advisory_and_leaves_nothing(tmp_path: Path) -> None:
    pairs, model = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1, 2)), tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    done = CliRunner().invoke(cli, ["label", str(pairs), "-m", str(model), "-o", str(tmp_path / "o.jsonl")])
    assert isinstance(done.exception, ModelError)
    assert "CVE-2024-34359" in str(done.exception)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.gguf", "pairs.jsonl"]


@pytest.mark.parametrize(
    ("library", "version", "advisory"),
    [("torch", "2.5.1", "CVE-2025-32434"), ("torch", "2.9.0", "CVE-2026-24747"), ("transformers", "5.2.0", "CVE-2026")],
)
def test_no_folder_is_loaded_in_torch_by_a_bad_version(
    library: str, version: str, advisory: str, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pairgrade.export.causal_model import load_causal

    monkeypatch.setattr(advisories, "package_version", lambda name: version if name == library else "none")
    with pytest.raises(ModelError, match=rf"{library} {version} .*{advisory}"):
        load_causal(tiny_folder("llama"))


@pytest.mark.parametrize(
    ("library", "version"), [("torch", "2.5.1"), ("transformers", "5.2.0"), ("llama-cpp-python", "0.2.71")]
)
def test_no_gguf_is_read_for_training_by_a_bad_version(
    library: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pairgrade.train.dequantize import dequantize, write_tokenizer

    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    monkeypatch.setattr(advisories, "package_version", lambda name: version if name == library else "none")
    with pytest.raises(ModelError, match=rf"{library} {version} .*known to be unsafe"):
        dequantize(path, tmp_path / "folder")
    with pytest.raises(ModelError, match=rf"{library} {version} .*known to be unsafe"):
        write_tokenizer(path, tmp_path)


def test_no_graph_is_written_by_a_bad_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    from pairgrade.export.onnx_writer import Graph
    from pairgrade.export.reranker import export_reranker

    monkeypatch.setattr(advisories, "package_version", lambda name: "1.20.1" if name == "onnx" else "none")
    with pytest.raises(ModelError, match=r"onnx 1\.20\.1 .*CVE-2026-27489"):
        Graph("documents")
    model: Any = None  # which is not come to
    with pytest.raises(ModelError, match=r"onnx 1\.20\.1 .*CVE-2026-27489"):
        export_reranker(model, [], [], tmp_path, 1)


def test_the_doctor_says_that_an_old_onnxruntime_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    feature = diagnosis.Feature("label with ONNX models", ("onnxruntime",), "onnx")
    for version, works in (("1.30.2", False), ("1.31.0", True), ("2.0.0", True)):
        monkeypatch.setattr(
            onnx_manifest, "package_version", lambda name, v=version: v if name == "onnxruntime" else "none"
        )
        (verdict,) = diagnosis.diagnose((feature,)).verdicts
        assert verdict.works == works
        assert verdict.why == ("" if works else f"onnxruntime: {version} is too old; 1.31 or later is needed")


def test_an_old_onnxruntime_runs_nothing(
    tiny_onnx_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    folder = tiny_onnx_folder("fp32")
    monkeypatch.setattr(onnxruntime, "__version__", "1.18.0")
    with pytest.raises(PairgradeError, match=r"onnxruntime 1\.18\.0|1\.31"):
        Annotator.open(folder)


@pytest.mark.parametrize("library", ["torch", "onnx", "onnxruntime", "transformers", "llama-cpp-python"])
def test_the_doctor_looks_at_each_of_them(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "package_version", lambda name: f"{name} 7")
    monkeypatch.setattr(diagnosis.diagnose, "__defaults__", ((),))
    shown = CliRunner().invoke(cli, ["doctor", "--json"])
    assert json.loads(shown.stdout)["libraries"][library] == f"{library} 7"


def test_a_known_bad_version_is_named_and_fails_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "package_version", lambda name: "0.2.60" if "llama" in name else "none")
    monkeypatch.setattr(diagnosis.diagnose, "__defaults__", ((),))
    shown = CliRunner().invoke(cli, ["doctor"])
    assert shown.exit_code == 1
    assert "UNSAFE: llama-cpp-python" in shown.output
    assert "CVE-2024-34359" in shown.output
    assert advisories.known_bad("llama-cpp-python", "0.2.60")
