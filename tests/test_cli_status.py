from __future__ import annotations

import json
import re
from pathlib import Path

from click.testing import CliRunner

from helpers import make_pairs, write_jsonl
from pairgrade.cli import cli


def test_status_of_a_finished_run_for_people_and_machines(tmp_path: Path) -> None:
    pairs, out = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(2, 3)), tmp_path / "o.jsonl"
    runner = CliRunner()
    assert runner.invoke(cli, ["label", str(pairs), "-m", "fake:", "-o", str(out), "--in-process"]).exit_code == 0
    shown = runner.invoke(cli, ["status", str(out)])
    assert shown.exit_code == 0
    assert re.search(r"state\W+finished", shown.output)
    assert "6 of 6 (100.0%)" in shown.output
    found = json.loads(runner.invoke(cli, ["status", str(out), "--json"]).output)
    assert (found["state"], found["total"], found["done"], found["errors"]) == ("finished", 6, 6, 0)
    assert found["rate"] > 0
