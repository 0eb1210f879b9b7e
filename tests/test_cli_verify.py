"""``pairgrade verify``: the table, the JSON and the exit code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers import make_pairs, run_command, write_jsonl
from pairgrade import ModelError, Rubric
from pairgrade.cli.verify import command
from pairgrade.trained_prompt import write_rubric
from tiny_gguf import SOUND, strings

pytest.importorskip("torch")
pytest.importorskip("gguf")

from pairgrade.export.gguf_writer import write_gguf
from pairgrade.export.measure import Task
from pairgrade.export.quantize import QUANTS, quantize


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "pairs.jsonl", make_pairs(3, 4))


def test_a_file_that_keeps_the_floor(tiny_folder: Callable[[str], Path], tmp_path: Path, pairs: Path) -> None:
    write_gguf(tiny_folder("qwen3"), tmp_path / "model.gguf")
    result = run_command(
        command, tiny_folder("qwen3"), tmp_path / "model.gguf", "--pairs", pairs, "--sample", 8, "--threads", 1
    )
    assert result.exit_code == 0
    assert "B against A on 8 pairs" in result.output
    assert "1,000 of 1,000" in result.output
    assert "quadratic kappa of A and of B" in result.output
    assert "agreement 0.97, mean KL 0.01, relative distance of label logits 0.005" in result.output
    assert result.output.endswith("B keeps the floor.\n")


def test_a_damaged_file_is_refused_before_llama_cpp_sees_it(tmp_path: Path, pairs: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(SOUND.entry(tokenizer__ggml__tokens=strings(["a", "b", "a", "d"])).bytes())
    with pytest.raises(ModelError, match="the token 'a' twice"):
        run_command(command, tmp_path / "bad.gguf", tmp_path / "bad.gguf", "--pairs", pairs)


def test_one_that_does_not(tiny_folder: Callable[[str], Path], tmp_path: Path, pairs: Path) -> None:
    write_gguf(tiny_folder("qwen3"), tmp_path / "model.gguf")
    quantize(tmp_path / "model.gguf", tmp_path / "q4.gguf", QUANTS["q4_0"], threads=1)
    arguments = (tiny_folder("qwen3"), tmp_path / "q4.gguf", "--pairs", pairs, "--threads", 1)
    result = run_command(command, *arguments, "--max-kl", 1e-9, "--min-agreement", 0, "--json")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert found["floor"] == {"agreement": 0, "mean_kl": 1e-9, "max_logit": None, "logit_distance": None}
    assert found["fidelity"]["pairs"] == 12
    assert found["passed"] is False
    (problem,) = found["problems"]
    assert problem.startswith("mean KL")
    lax = (*arguments, "--max-kl", 100, "--min-agreement", 0)
    assert run_command(command, *lax).exit_code == 0
    stricter = json.loads(
        run_command(command, *lax, "--max-logit", 1e-3, "--max-logit-distance", 1e-3, "--json").output
    )
    assert [problem.split()[0] for problem in stricter["problems"]] == ["a", "relative"]


def test_of_a_folder_of_several_the_one_that_runs_is_judged(
    tiny_folder: Callable[[str], Path], tmp_path: Path, pairs: Path
) -> None:
    pytest.importorskip("onnxruntime")
    from onnx_helpers import export

    several = tmp_path / "several"
    several.mkdir()
    export(tiny_folder("llama"), several / "int4", "int4")
    common = ("--pairs", pairs, "--sample", 4, "--threads", 1, "--json")
    found = json.loads(run_command(command, tiny_folder("llama"), several, *common).output)
    assert (found["b"], found["floor"]["agreement"]) == (str(several / "int4"), 0.9)


def test_the_prompt_is_that_of_the_model_that_tells_one(
    tiny_folder: Callable[[str], Path], tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    from pairgrade.export import verify

    tuned = []
    for title in ("first", "second"):
        rubric = replace(Rubric.load("trec"), name=title, query_header=f"{title} query: ")
        folder = Path(shutil.copytree(tiny_folder("qwen3"), tmp_path / title))
        identity = {"rubric": rubric.digest, "chat_format": "chatml", "option.context": "512"}
        (folder / "manifest.json").write_text(json.dumps({"kind": "merged", "identity": identity}))
        write_rubric(rubric, folder)
        tuned.append(folder)
    same = Path(shutil.copytree(tuned[0], tmp_path / "same"))
    (same / "rubric.toml").unlink()  # of which the digest stays
    seen: list[tuple[str, int | None]] = []
    compare = verify.verify

    def spied(a: str, b: str, task: Task, *others: Any, **named: Any) -> Any:
        seen.append((task.rubric.name, named["context"]))
        return compare(a, b, task, *others, **named)

    monkeypatch.setattr(verify, "verify", spied)
    for a, b in ((tiny_folder("qwen3"), tuned[0]), (tuned[0], tiny_folder("qwen3")), (tuned[0], same), tuned):
        assert run_command(command, a, b, "--pairs", pairs, "--sample", 4, "--threads", 1).exit_code == 0
    assert seen == [("first", 512)] * 4
    (warned,) = (r.getMessage() for r in caplog.records if "different prompts" in r.getMessage())
    assert warned.endswith("were trained with different prompts; what no option gives is that of the first")
