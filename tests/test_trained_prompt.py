"""The prompt of a training on its way from the adapter to the exports: its rubric, turns and context."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from helpers import make_pairs, run_command, write_jsonl
from pairgrade import (
    Annotator,
    AnnotatorOptions,
    InputError,
    LlamaOptions,
    ModelError,
    OnnxOptions,
    Pair,
    Rubric,
    RubricError,
)
from pairgrade.file_hashes import file_sha256
from pairgrade.readers import Source
from pairgrade.rubric_check import check_rubric

pytest.importorskip("torch")
pytest.importorskip("peft")

from pairgrade.cli.export import command as export_command
from pairgrade.cli.label import command as label_command
from pairgrade.cli.merge import command as merge_command
from pairgrade.cli.options import as_trained
from pairgrade.train import merge as merging
from pairgrade.train.merge import merge
from pairgrade.train.options import TrainOptions
from pairgrade.train.run import TrainJob, train
from pairgrade.trained_prompt import read_trained_prompt, rubric_in_force

PAIRS = make_pairs(4, 4)
CONTEXT = 300
NOTHING_GIVEN: dict[str, Any] = {"rubric": None, "chat": "auto", "ctx": None}

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Rubric:
    """Return a rubric of one's own that kept the name of the built-in one which it was made from."""
    built_in = (files("pairgrade") / "rubrics" / "trec.toml").read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("rubric") / "mine.toml"
    path.write_text(built_in.replace('instruction = """', 'instruction = """Be strict. '), encoding="utf-8")
    rubric = Rubric.load(path)
    assert rubric.name == "trec"
    assert rubric.digest != Rubric.load("trec").digest
    return rubric


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Callable[[str], Path], mine: Rubric) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    source = Source(str(write_jsonl(folder / "graded.jsonl", PAIRS)))
    options = TrainOptions(
        train_pairs=8, validation_pairs=4, epochs=1, batch=8, rank=4, threads=1, context=CONTEXT, chat="plain"
    )
    return train(TrainJob(source, str(tiny_folder("qwen2")), folder / "adapter", mine), options).adapter


@pytest.fixture(scope="module")
def merged(adapter: Path) -> Path:
    """Return the merged model, of a command line without --rubric."""
    out = adapter.with_name("merged")
    assert run_command(merge_command, adapter, "--out", out, "--sample", 1, "--threads", 1).exit_code == 0
    return out


def test_the_rubric_itself_goes_along(adapter: Path, merged: Path, mine: Rubric) -> None:
    for folder in (adapter, merged):
        assert Rubric.load(folder / "rubric.toml") == mine
        files_of = json.loads((folder / "manifest.json").read_text())["files"]
        assert files_of["rubric.toml"] == file_sha256(folder / "rubric.toml")
        found = read_trained_prompt(folder)
        assert found is not None
        assert (found.rubric, found.digest, found.chat, found.context) == (mine, mine.digest, "plain", CONTEXT)


@pytest.mark.parametrize("to", ["gguf", "onnx"])
def test_exports_are_checked_with_it_and_hold_it(to: str, merged: Path, mine: Rubric, tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", PAIRS[:4])
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    options = ("--to", to, "--quant", "fp32" if to == "onnx" else "f32", "--pairs", pairs, "--threads", 1)
    options += ("--allow-below-floor",)  # random weights stand half-precision keys badly
    assert run_command(export_command, merged, "--out", tmp_path / "out", *options).exit_code == 0
    assert Rubric.load(tmp_path / "out" / "rubric.toml") == mine
    table = json.loads((tmp_path / "out" / ("provenance.json" if to == "onnx" else "manifest.json")).read_text())
    assert table["rubric"]["sha256"] == mine.digest
    assert table["prompt"] == {
        "rubric": {"name": "trec", "sha256": mine.digest},
        "chat": "plain",
        "context": CONTEXT,
    }
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"takes the rubric (rubric.toml) and the longest prompt ({CONTEXT} tokens) of its training" in card


@pytest.fixture(scope="module")
def exported(merged: Path) -> dict[str, Path]:
    """Return what labels of two exports: a GGUF file and an ONNX folder."""
    pytest.importorskip("onnxruntime")
    found = {"gguf": merged.with_name("gguf"), "onnx": merged.with_name("onnx")}
    for to, out in found.items():
        quant = "fp32" if to == "onnx" else "f32"
        options = ("--to", to, "--quant", quant, "--sample", 2, "--threads", 1, "--allow-below-floor")
        assert run_command(export_command, merged, "--out", out, *options).exit_code == 0
    return {"gguf": found["gguf"] / "model-f32.gguf", "onnx": found["onnx"]}


@pytest.mark.parametrize("to", ["gguf", "onnx"])
def test_labelling_takes_it_from_the_export(
    to: str, exported: dict[str, Path], adapter: Path, mine: Rubric, tmp_path: Path
) -> None:
    """Nothing given is the same run as all of it given, down to the bytes, for documents that are cut, too."""
    long = [replace(pair, document=f"{pair.document} " * 60) for pair in PAIRS[:3]]
    pairs, all_given = write_jsonl(tmp_path / "pairs.jsonl", long), ("--rubric", adapter / "rubric.toml")
    all_given += ("--ctx", CONTEXT, "--chat", "plain")
    bytes_of = {}
    for name, given in {"nothing": (), "all": all_given}.items():
        out = tmp_path / f"{name}.jsonl"
        run_command(label_command, pairs, "--model", exported[to], "--out", out, "--threads", 1, "--in-process", *given)
        identity = json.loads(Path(f"{out}.manifest.json").read_text())["identity"]
        told = identity["rubric"], identity["chat"], identity["backend.context"]
        assert told == (mine.digest, "plain", str(CONTEXT))
        bytes_of[name] = out.read_bytes()
    assert bytes_of["nothing"] == bytes_of["all"]
    assert all(json.loads(line)["truncated"] for line in bytes_of["all"].splitlines())


def test_labelling_warns_of_another_rubric_once(
    exported: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", PAIRS[:1])
    given = "--model", exported["gguf"], "--threads", 1, "--in-process", "--rubric", "trec"
    with caplog.at_level(logging.WARNING):
        run_command(label_command, pairs, "--out", tmp_path / "out.jsonl", *given)
    assert caplog.text.count("was trained with another rubric") == 1


@pytest.mark.parametrize("to", ["gguf", "onnx"])
def test_a_rubric_is_checked_in_its_turns(
    to: str, exported: dict[str, Path], mine: Rubric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pairgrade.rubric_check._EXAMPLE", Pair("q", "d", "a", "b"))  # which fits so few tokens
    found = check_rubric(mine, exported[to])
    assert (found["chat"], found["context"]) == ("plain", CONTEXT)
    assert check_rubric(mine, exported[to], "chatml")["chat"] == "chatml"


@pytest.mark.parametrize("to", ["gguf", "onnx"])
def test_an_annotator_takes_it_too(to: str, exported: dict[str, Path], mine: Rubric) -> None:
    """By the file or its folder; what is given goes first."""
    own = OnnxOptions(threads=1) if to == "onnx" else None
    for model in (exported[to], exported[to].parent) if to == "gguf" else (exported[to],):
        with Annotator.open(model, llama=LlamaOptions(threads=1), onnx=own) as annotator:
            identity = annotator.identity()
        told = identity["rubric"], identity["chat"], identity["backend.context"]
        assert told == (mine.digest, "plain", str(CONTEXT))
    own = OnnxOptions(threads=1, context=700)
    given = {"options": AnnotatorOptions("chatml"), "llama": LlamaOptions(700, 1), "onnx": own}
    with Annotator.open(exported[to], "trec", **given) as annotator:
        identity = annotator.identity()
    told = identity["rubric"], identity["chat"], identity["backend.context"]
    assert told == (Rubric.load("trec").digest, "chatml", "700")


def test_a_file_takes_the_prompt_of_a_manifest_that_lists_it_alone(
    exported: dict[str, Path], mine: Rubric, tmp_path: Path
) -> None:
    found = read_trained_prompt(exported["gguf"])
    assert found is not None
    assert (found.rubric, found.chat, found.context) == (mine, "plain", CONTEXT)
    for name in ("manifest.json", "rubric.toml"):
        shutil.copyfile(exported["gguf"].with_name(name), tmp_path / name)
    other = tmp_path / "other.gguf"
    shutil.copyfile(exported["gguf"], other)
    assert read_trained_prompt(other) is None
    assert read_trained_prompt(tmp_path / "absent.gguf") is None
    shutil.copyfile(exported["gguf"], tmp_path / exported["gguf"].name)
    assert read_trained_prompt(tmp_path / exported["gguf"].name) == found
    (tmp_path / "rubric.toml").unlink()
    with pytest.raises(RubricError, match="comes without the rubric that it was trained with"):
        as_trained(tmp_path / exported["gguf"].name, NOTHING_GIVEN)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"files": []}', '{"files": {"m.gguf": 1}, "prompt": {"rubric": 3, "chat": 1, "context": 9}}']
)
def test_a_manifest_of_others_tells_of_no_training(text: str, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    for name in ("manifest.json", "provenance.json"):
        (tmp_path / name).write_text(text)
    assert read_trained_prompt(tmp_path / "m.gguf") is None
    assert read_trained_prompt(tmp_path) is None


def test_the_merge_compares_the_prompts_of_the_training(
    adapter: Path, tmp_path: Path, mine: Rubric, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def logits(model: Any, prompts: Any) -> Any:
        seen.append(prompts)
        return whole(model, prompts)

    whole = merging._logits
    monkeypatch.setattr(merging, "_logits", logits)
    long = Pair("q", "d", "what is water?", "Water boils at 100 degrees. " * 400)
    merge(adapter, tmp_path / "merged", [long], threads=1)
    assert len(seen[0][0]) == CONTEXT
    base = Path(json.loads((adapter / "manifest.json").read_text())["base"])
    trained_on = TrainOptions(context=CONTEXT, chat="plain")
    assert seen[0][0].tolist() == merging.builder_of(base, mine, trained_on).build(long).ids.tolist()


def test_a_merge_without_pairs_is_told(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of 0 pairs fits the context that the adapter was trained for"):
        merge(adapter, tmp_path / "merged", [], threads=1)


def test_another_rubric_is_warned_of(
    adapter: Path, merged: Path, mine: Rubric, caplog: pytest.LogCaptureFixture
) -> None:
    trained, trec = read_trained_prompt(adapter), Rubric.load("trec")
    for given in (None, mine, replace(mine, name="another")):
        assert rubric_in_force(given, adapter, trained) == (given or mine)
    assert not caplog.records
    assert as_trained(merged, NOTHING_GIVEN) == {"rubric": mine, "chat": "plain", "ctx": CONTEXT}
    with caplog.at_level(logging.WARNING):
        found = as_trained(merged, {"rubric": "trec", "chat": "chatml", "ctx": 900})
    assert found == {"rubric": trec, "chat": "chatml", "ctx": 900}
    assert "was trained with another rubric than the 'trec' that was given" in caplog.text
    assert trec.digest in caplog.text
    assert mine.digest in caplog.text


def test_a_model_that_was_not_trained_takes_the_usual_ones(tiny_folder: Callable[[str], Path]) -> None:
    for place in (tiny_folder("qwen2"), "pkg:absent"):
        assert as_trained(place, NOTHING_GIVEN) == NOTHING_GIVEN | {"rubric": Rubric.load("trec")}


def test_a_folder_without_its_rubric_takes_the_built_in_one_of_that_digest(
    adapter: Path, tmp_path: Path, mine: Rubric
) -> None:
    old = tmp_path / "old"
    shutil.copytree(adapter, old)
    (old / "rubric.toml").unlink()
    with pytest.raises(RubricError, match=rf"none of the built-in ones has its digest \({mine.digest}\)"):
        as_trained(old, NOTHING_GIVEN)
    table = json.loads((old / "manifest.json").read_text())
    table["identity"]["rubric"] = Rubric.load("esci").digest
    (old / "manifest.json").write_text(json.dumps(table))
    assert as_trained(old, NOTHING_GIVEN)["rubric"] == Rubric.load("esci")
    shutil.copyfile(adapter / "rubric.toml", old / "rubric.toml")
    with pytest.raises(ModelError, match="is not the rubric that the model was trained with"):
        as_trained(old, NOTHING_GIVEN)
