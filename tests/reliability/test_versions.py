"""No model is loaded by a library version with a known advisory."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from helpers import make_pairs, write_jsonl
from pairgrade import Annotator, ModelError, advisories, backends
from pairgrade.cli import cli


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
