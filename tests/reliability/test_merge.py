"""Merging: equal to the adapter beside its base, and refused where anything does not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import tiny_models
from helpers import make_pairs, write_jsonl
from pairgrade import InputError, ModelError, Rubric
from pairgrade.file_hashes import file_sha256
from pairgrade.readers import Source

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from pairgrade.train import merge as merging  # noqa: E402
from pairgrade.train.merge import merge  # noqa: E402
from pairgrade.train.options import TrainOptions  # noqa: E402
from pairgrade.train.run import TrainJob, train  # noqa: E402

RUBRIC = Rubric.load("trec")
PAIRS = make_pairs(4, 4)
# at higher rates the random Qwen 2 amplifies float32's rounding, and how much depends on the processor
OPTIONS = TrainOptions(train_pairs=8, validation_pairs=4, epochs=2, batch=8, rank=4, learning_rate=5e-3, threads=1)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


def adapter_of(base: Path, folder: Path) -> Path:
    source = Source(str(write_jsonl(folder / "graded.jsonl", PAIRS)))
    return train(TrainJob(source, str(base), folder / "adapter", RUBRIC), OPTIONS).adapter


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_the_merged_model_is_the_adapter_beside_its_base(
    family: str, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    from safetensors.torch import load_file

    base = tiny_folder(family)
    found = merge(adapter_of(base, tmp_path), tmp_path / "merged", PAIRS[:3], RUBRIC)
    assert found.moved > 1e-3
    assert found.difference < 1e-5
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert moved <= {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(moved) >= 6
    assert (tmp_path / "merged" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    manifest = json.loads((tmp_path / "merged" / "manifest.json").read_text())
    assert {path.name for path in (tmp_path / "merged").iterdir()} == {*manifest["files"], "manifest.json"}


def test_a_merge_that_changes_the_model_writes_nothing(
    tmp_path: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = adapter_of(tiny_folder("llama"), tmp_path)
    monkeypatch.setattr(merging, "TOLERANCE", 1e-12)
    with pytest.raises(ModelError, match="nothing was written"):
        merge(adapter, tmp_path / "merged", PAIRS[:2], RUBRIC)
    assert not (tmp_path / "merged").exists()


def test_an_adapter_that_changes_nothing_is_refused(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    """As one of names that this version of peft does not match: the base would be certified for the trained model."""
    from safetensors.torch import load_file, save_file

    adapter = adapter_of(tiny_folder("llama"), tmp_path)
    weights = adapter / "adapter_model.safetensors"
    save_file({name.replace("_proj", "_project"): value for name, value in load_file(weights).items()}, weights)
    manifest = json.loads((adapter / "manifest.json").read_text())
    manifest["files"][weights.name] = file_sha256(weights)
    (adapter / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="moves no logit of 3 prompts"):
        merge(adapter, tmp_path / "merged", PAIRS[:3], RUBRIC)
    assert not (tmp_path / "merged").exists()


def test_a_base_in_4_bits_is_told(
    tmp_path: Path, tiny_folder: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    adapter = adapter_of(tiny_folder("llama"), tmp_path)
    manifest = json.loads((adapter / "manifest.json").read_text())
    manifest["identity"]["option.qlora"] = "True"
    (adapter / "manifest.json").write_text(json.dumps(manifest))
    merge(adapter, tmp_path / "merged", PAIRS[:2], RUBRIC)
    assert "trained beside a base in 4 bits" in caplog.text
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "trained beside a base in 4 bits" in card
    assert f"it was trained on | {manifest['identity']['input']} |" in card


def test_prompts_that_do_not_fit_are_left_out(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    adapter = adapter_of(tiny_folder("llama"), tmp_path)
    long = [replace(pair, query=pair.query * 300) for pair in PAIRS[:2]]
    assert merge(adapter, tmp_path / "merged", [*long, *PAIRS[2:4]], RUBRIC).prompts == 2
    with pytest.raises(InputError, match=r"none of 2 pairs fits .* that leaves 0 of the 1024 tokens"):
        merge(adapter, tmp_path / "other", long, RUBRIC)


def test_a_changed_adapter_and_another_base_are_refused(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    adapter = adapter_of(tiny_folder("llama"), tmp_path)
    with pytest.raises(ModelError, match="is not the base"):
        merge(adapter, tmp_path / "merged", PAIRS[:2], RUBRIC, base=tiny_folder("qwen3"))
    changed = tmp_path / "changed"
    shutil.copytree(adapter, changed)
    weights = bytearray((changed / "adapter_model.safetensors").read_bytes())
    weights[-1] ^= 1
    (changed / "adapter_model.safetensors").write_bytes(weights)
    with pytest.raises(ModelError, match="sha256"):
        merge(changed, tmp_path / "merged", PAIRS[:2], RUBRIC)
    with pytest.raises(ModelError, match="is not an adapter"):
        merge(tiny_folder("llama"), tmp_path / "merged", PAIRS[:2], RUBRIC)
    with pytest.raises(InputError, match="exists already"):  # told first
        merge(tmp_path / "nothing", adapter, PAIRS[:2], RUBRIC)
