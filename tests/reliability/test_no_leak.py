"""What is written beside the judgments holds nothing of the documents' text: log, progress, manifest, errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SECRET = "xylophonequark"


@pytest.mark.parametrize("in_process", [True, False])
def test_neither_log_nor_manifest_nor_errors_hold_text(in_process: bool, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"query_id": f"q{n // 5}", "doc_id": f"d{n}", "query": f"a {SECRET}", "document": f"{SECRET} {n}"}
            for n in range(20)]  # fmt: skip
    rows.append({"query_id": "q9", "doc_id": "d9", "query": "", "document": SECRET})
    lines = [json.dumps(row) for row in rows]
    lines += ['{"query_id": "q9", "doc_id": "d10", "document": "' + SECRET, f"[{SECRET}]", f'"{SECRET}"']
    pairs.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "pairgrade.cli", "-v", "label", "pairs.jsonl", "--model", "fake:", "--out"]
    command += ["out.jsonl", *(["--in-process"] if in_process else [])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "out.jsonl").read_text().count("\n") == 20
    assert len((tmp_path / "out.jsonl.errors.jsonl").read_text().splitlines()) == 4
    assert SECRET not in done.stderr + done.stdout
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != pairs]
    assert len(written) >= 3
    assert not [path.name for path in written if SECRET in path.read_text(errors="replace")]
