"""The commands of docs/relabel-and-rerank.md run as they stand, on a small collection."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import make_pairs

PAGE = (Path(__file__).parent.parent / "docs" / "relabel-and-rerank.md").read_text(encoding="utf-8")


def commands(page: str) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("pairgrade ")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pairs = make_pairs(2, 4)
    texts = {p.query_id: p.query for p in pairs}
    files = {
        "queries.jsonl": [{"query_id": query_id, "text": text} for query_id, text in texts.items()],
        "docs.jsonl": [{"doc_id": p.doc_id, "text": p.document} for p in pairs],
        "triples.jsonl": [{"query": "which moon", "positive": "Titan is a moon.", "negative": "A recipe for cheese."}],
    }
    for name, rows in files.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "human.qrels").write_text("".join(f"{p.query_id} 0 {p.doc_id} {p.grade}\n" for p in pairs))
    (tmp_path / "clicks.tsv").write_text("".join(f"{p.query_id}\t{p.doc_id}\n" for p in pairs if p.grade == 3))
    return tmp_path


@pytest.mark.model
@pytest.mark.usefixtures("smollm2_path")
def test_the_commands_run(folder: Path) -> None:
    pytest.importorskip("bm25s")
    before, _, after = PAGE.partition("## Train and use the re-ranker\n")
    page = before + after.partition("\n## ")[2]  # training has a test of its own
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = []
    for command in commands(page):
        done = subprocess.run(
            command, shell=True, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        ran.append(command.split()[1])
    assert set(ran) == {"mine", "label", "relabel", "evaluate"}
    assert (folder / "changes.png").read_bytes().startswith(b"\x89PNG")
    assert "| bm25 |" in (folder / "results.md").read_text(encoding="utf-8")
    labels = [json.loads(line)["label"] for line in (folder / "human.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(set(labels)) == [0.0, 1.0, 2.0, 3.0]
