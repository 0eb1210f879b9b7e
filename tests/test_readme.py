"""The README's commands and code are run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import commands_of, make_pairs, run_line, write_jsonl

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pairs = make_pairs(2, 2)
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    (tmp_path / "human.qrels").write_text("".join(f"{p.query_id} 0 {p.doc_id} {p.grade}\n" for p in pairs))
    return tmp_path


@pytest.mark.model
@pytest.mark.usefixtures("smollm2_path")
def test_the_commands_run(folder: Path) -> None:
    commands = commands_of(README)
    assert len(commands) >= 5
    for command in commands:
        run_line(command, folder)
    for name in ("judgments.jsonl", "judgments.jsonl.manifest.json", "judgments.qrels", "judgments.parquet"):
        assert (folder / name).stat().st_size > 0
    assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.model
@pytest.mark.usefixtures("smollm2_path")
def test_the_python_runs() -> None:
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grade, *_ = done.stdout.split()
    assert grade in "0123"


def test_the_make_targets_are_there() -> None:
    (start,) = [block for block in blocks("sh") if "make demo" in block]
    targets = re.findall(r"^make (\w+)", start, re.MULTILINE)
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_files_that_are_linked_exist() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert "://" in link or (page.parent / link).exists(), f"{page.name} links {link}"


def test_every_top_level_folder_is_explained() -> None:
    for folder in ("engine", "cli", "bench", "export", "train", "tests", "docs"):
        assert re.search(rf"^{folder}/ ", README, re.MULTILINE)
