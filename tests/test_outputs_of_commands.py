"""No command writes over what it reads, and an output that cannot be is told before the work."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from helpers import make_pairs, write_jsonl
from pairgrade import InputError
from pairgrade.cli import cli
from pairgrade.ranking_set import RankingRow, write_ranking_set


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small file of every kind that commands read."""
    folder = tmp_path_factory.mktemp("files")
    pairs = make_pairs(4, 3)
    write_jsonl(folder / "pairs.jsonl", pairs)
    (folder / "human.qrels").write_text("".join(f"{p.query_id} 0 {p.doc_id} {p.grade}\n" for p in pairs))
    (folder / "bm25.run").write_text("".join(f"{p.query_id} Q0 {p.doc_id} 1 1.0 x\n" for p in pairs))
    queries, documents = {p.query_id: p.query for p in pairs}, {p.doc_id: p.document for p in pairs}
    (folder / "queries.tsv").write_text("".join(f"{q}\t{text}\n" for q, text in queries.items()))
    (folder / "docs.tsv").write_text("".join(f"{d}\t{text}\n" for d, text in documents.items()))
    write_ranking_set(
        folder / "set.jsonl", [RankingRow(p.query_id, p.doc_id, p.query, p.document, label=1.0) for p in pairs]
    )
    label = ["label", str(folder / "pairs.jsonl"), "-m", "fake:", "-o", str(folder / "judged.jsonl"), "--in-process"]
    assert CliRunner().invoke(cli, label).exit_code == 0
    return folder


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("evaluate bm25.run --qrels human.qrels --markdown human.qrels", "is the human grades"),
        ("evaluate bm25.run --qrels human.qrels --markdown bm25.run", "is a run"),
        ("evaluate bm25.run --qrels human.qrels --markdown no/x.md", "there is no folder"),
        ("agree judged.jsonl --qrels human.qrels --picture no/c.png", "there is no folder"),
        ("calibrate judged.jsonl --qrels human.qrels --out human.qrels --force", "is the human grades"),
        ("calibrate judged.jsonl --qrels human.qrels --out judged.jsonl --force", "is the judgments"),
        ("convert judged.jsonl no/judged.csv", "there is no folder"),
        ("relabel set.jsonl -j judged.jsonl -o judged.jsonl --force", "is the judgments"),
        ("relabel set.jsonl -j judged.jsonl -o new.jsonl --plot no/x.png", "there is no folder"),
        ("mine queries.tsv docs.tsv --out s.jsonl --run s.jsonl", "is the set"),
        ("mine queries.tsv docs.tsv --out s.jsonl --run docs.tsv --force", "is the documents"),
        ("mine queries.tsv docs.tsv --out s.jsonl --candidates bm25.run --run bm25.run --force", "of --candidates"),
        ("mine --from set.jsonl --out set.jsonl --force", "the file of --from"),
        ("rerank bm25.run --queries queries.tsv --docs docs.tsv --model none --out bm25.run --force", "is the run"),
    ],
)
def test_what_a_command_reads_is_never_replaced(
    line: str, said: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    with pytest.raises(InputError, match=f"{said}.*another file"):
        CliRunner().invoke(cli, line.split(), catch_exceptions=False)
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
