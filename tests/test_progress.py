"""Progress: a bar in a terminal, a line a minute where there is none."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from helpers import make_pairs, write_jsonl
from pairgrade.backend import Counters
from pairgrade.cli import cli, progress
from pairgrade.cli.train_progress import TerminalTrainProgress


@pytest.mark.parametrize("width", [80, 100, 140])
def test_what_counts_of_the_progress_has_room(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=width, force_terminal=True)
    monkeypatch.setattr(progress, "progress_console", lambda: console)
    with progress.TerminalProgress() as bar:
        bar.phase("labelling")
        bar.start(100_000, 0)
        bar.advance(79_000, Counters(computed=13, reused=87))
        last = console.render_lines(bar._bar.get_renderable())[-1]
    text = "".join(segment.text for segment in last)
    assert "79000/100000" in text
    assert "87% reused" in text
    assert re.search(r"left *\S+:\S+ *$", text), text


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the seconds that the progress goes by, to be set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_file_gets_a_line_a_minute(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.TerminalProgress() as bar:
        bar.phase("labelling")
        bar.start(11_386, 1_386)  # of an earlier run, which says nothing about the speed of this one
        for _ in range(300):  # a pair a second
            clock[0] += 1
            bar.advance(1, Counters(computed=40, reused=60))
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert len(lines) == 5
    assert re.fullmatch(r"labelling: 1,446 of 11,386, (\S+ pairs/s, )?60% reused; about 2:45:40 left", lines[0])
    assert lines[-1].startswith("labelling: 1,686 of 11,386, ")


def test_a_training_tells_its_loss_and_its_last_look(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalTrainProgress() as bar:
        bar.phase("training")
        bar.looking(5, 250)
        clock[0] += 60
        bar.looking(6, 250)
        bar.start(42, 0)
        clock[0] += 90
        bar.step(1.25)
    assert capsys.readouterr().err.splitlines() == [
        "training: 0, look: 6/250",
        "training: 1 of 42, loss 1.250; about 1:01:30 left",
    ]


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("label PAIRS -m fake: -o OUT --in-process", r"labelling: 12 of 12, .*% reused; about 0:00:00 left"),
        ("attack PAIRS -m fake: --in-process --irrelevant 1", r"labelling: \d+ of \d+; about 0:00:00 left"),
        ("bench -m fake: --pairs PAIRS --rounds 1", r"round 1: fake:"),
    ],
)
def test_commands_tell_it_unless_quiet(
    command: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(3, 4))
    named = {"PAIRS": str(pairs), "OUT": str(tmp_path / "out.jsonl")}
    asked = [named.get(word, word) for word in command.split()]
    done = CliRunner().invoke(cli, asked)
    assert done.exit_code == 0, done.output
    assert any(re.fullmatch(line, told) for told in done.stderr.splitlines()), done.stderr
    named["OUT"] = str(tmp_path / "quiet.jsonl")  # of a finished one nothing would be labelled
    quiet = CliRunner().invoke(cli, [*(named.get(word, word) for word in command.split()), "--quiet"])
    assert quiet.exit_code == 0, quiet.output
    assert not any(re.fullmatch(line, told) for told in quiet.stderr.splitlines()), quiet.stderr
    assert "labelling" not in quiet.stderr


def test_a_short_run_writes_none(tmp_path: Path) -> None:
    pairs, out = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(3, 4)), tmp_path / "out.jsonl"
    done = CliRunner().invoke(cli, ["label", str(pairs), "-m", "fake:", "-o", str(out), "--in-process"])
    assert (done.exit_code, done.stderr) == (0, "")
