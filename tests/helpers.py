"""Small inputs that several tests share."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import rich_click as click
from click.testing import CliRunner, Result

from pairgrade import Pair


def make_pairs(queries: int, documents: int) -> list[Pair]:
    """Pairs of distinct, varied texts, grouped by query."""
    words = ("river", "stone", "cloud", "engine", "paper", "salt", "window", "music", "forest", "copper", "lamp")
    pairs = []
    for q in range(queries):
        for d in range(documents):
            text = " ".join(words[(q * 7 + d * 5 + i * (d + 2)) % len(words)] for i in range(5 + (d * 11 + q) % 40))
            query = f"what is {words[q % len(words)]} number {q}"
            pairs.append(Pair(f"q{q}", f"d{q}-{d}", query, f"{text}. Entry {q}/{d}.", grade=(q + d) % 4))
    return pairs


def write_jsonl(path: Path, pairs: list[Pair]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for p in pairs:
            row = {"query_id": p.query_id, "doc_id": p.doc_id, "query": p.query, "document": p.document}
            file.write(json.dumps(row | {"grade": p.grade}, ensure_ascii=False) + "\n")
    return path


def run_command(command: click.Command, *arguments: object) -> Result:
    """Run a command of the CLI; what it raises besides exits is raised here."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], env={"COLUMNS": "160"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def commands_of(page: str) -> list[str]:
    """Return the pairgrade commands in a page's shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("pairgrade ")]


def run_line(line: str, folder: Path) -> str:
    """Run a command line as a person does, in a folder; it must succeed. Return what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    done = subprocess.run(line, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout
