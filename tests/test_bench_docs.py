"""The commands of docs/benchmarks.md, run as they stand on the fake model; its matrix, read as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from helpers import make_pairs, write_jsonl
from pairgrade.bench.matrix_file import load_matrix
from pairgrade.bench.results import load_result

PAGE = (Path(__file__).parent.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_commands_run(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", make_pairs(2, 3))
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) == 5
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        small = command.replace("smollm2-q8_0.gguf", "fake:0.003").replace("smollm2-onnx-int8", "fake:0.004")
        if command.startswith("pairgrade bench --"):
            small = f"{small} --rounds 2 --threads 1"
        done = subprocess.run(
            small, shell=True, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{small}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "report" / "report.html").is_file()
    assert "too few rounds" in done.stdout


def test_the_matrix_is_read(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    (tmp_path / "bench.toml").write_text(text)
    matrix = load_matrix(tmp_path / "bench.toml")
    assert len(matrix.cells()) == 10
    assert matrix.machine == "c7i.xlarge"


def test_the_matrix_of_the_report_is_that_of_its_result() -> None:
    folder = Path(__file__).parent.parent / "docs" / "report"
    matrix, result = load_matrix(folder / "matrix.toml"), load_result(folder / "results.json")
    usual = {field.name: field.default for field in fields(matrix)}  # of settings that came after the report
    assert json.loads(json.dumps(asdict(matrix))) == usual | result.settings
    wanted = {(c.model, c.engine, c.rubric, c.threads, c.batch_tokens) for c in matrix.cells()}
    assert {(c.model, c.engine, c.rubric, c.threads, c.batch_tokens) for c in result.cells} <= wanted
    for model in matrix.models:
        assert Path(model).name.removesuffix(".gguf").removeprefix("model-").removeprefix("onnx-") in PAGE


def test_the_report_is_what_its_result_gives(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from pairgrade.bench.report_folder import write_report

    folder = Path(__file__).parent.parent / "docs" / "report"
    write_report(load_result(folder / "results.json"), tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text == (folder / "report.md").read_text(encoding="utf-8")
    assert "{'" not in text  # nothing is shown as Python writes it
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {path.name for path in folder.glob("*.png")}
