"""The commands of docs/relabel-and-rerank.md run as they stand, on a small collection."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers import commands_of, make_pairs, run_line

PAGE = (Path(__file__).parent.parent / "docs" / "relabel-and-rerank.md").read_text(encoding="utf-8")


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
    page = before + after.partition("\n## ")[2]  # training is the next test's
    ran = []
    for command in commands_of(page):
        run_line(command, folder)
        ran.append(command.split()[1])
    assert set(ran) == {"mine", "label", "relabel", "evaluate"}
    assert (folder / "changes.png").read_bytes().startswith(b"\x89PNG")
    assert "| bm25 |" in (folder / "results.md").read_text(encoding="utf-8")
    labels = [json.loads(line)["label"] for line in (folder / "human.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(set(labels)) == [0.0, 1.0, 2.0, 3.0]


def test_the_commands_of_the_re_ranker_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("bm25s", "sentence_transformers", "onnxscript"):
        pytest.importorskip(name)
    from tiny_encoder import make_encoder

    encoder = make_encoder(tmp_path_factory.mktemp("encoder") / "tiny")
    section = PAGE.partition("## Train and use the re-ranker\n")[2].partition("\n## ")[0]
    found = commands_of(section)
    assert [command.split()[1] for command in found] == ["pretrain-reranker", "train-reranker", "rerank", "evaluate"]
    run_line("pairgrade mine queries.jsonl docs.jsonl --out corrected.jsonl --run bm25.run", folder)
    small = {
        "pretrain-reranker": f" --base {encoder} --queries 8 --max-length 64 --threads 1",
        "train-reranker": " --epochs 1 --max-length 64 --threads 1",
    }
    for command in found:
        run_line(command + small.get(command.split()[1], ""), folder)
    assert (folder / "reranker" / "model.onnx").is_file()
    assert (folder / "reranked.run").read_text(encoding="utf-8").count("\n") > 0
