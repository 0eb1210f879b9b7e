"""Every row is accounted for and the disk sees each step in order, in runs of the command itself."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from helpers import make_pairs, run_command, write_jsonl
from pairgrade.cli.label import command as label_command
from pairgrade.judgments import read_judgments

CLI = [sys.executable, "-m", "pairgrade.cli"]

# the command, with every call of the model noted in a file before its answer is used
COUNTING = """
import os, sys
from pairgrade.fake import FakeBackend
real = FakeBackend.score

def score(self, prefix, suffixes, labels):
    found = real(self, prefix, suffixes, labels)
    with open(os.environ["CALLS"], "a") as file:
        file.write(f"{len(suffixes)}\\n")
    return found

FakeBackend.score = score
from pairgrade.cli import main
main()
"""


def test_10000_rows_of_which_one_in_100_is_malformed(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in write_jsonl(tmp_path / "x", make_pairs(100, 100)).read_text().splitlines()]
    damage = [
        lambda row: json.dumps(row)[:-3],
        lambda row: json.dumps(row | {"query": None}),
        lambda row: json.dumps({k: v for k, v in row.items() if k != "document"}),
        lambda row: json.dumps(row | {"document": " "}),
        lambda row: json.dumps(row | {"title": 5}),
        lambda row: json.dumps(row | {"doc_id": "a b"}),
    ]
    bad = sorted(random.Random(1).sample(range(10_000), 100))
    lines = [json.dumps(row) for row in rows]
    for place, number in enumerate(bad):
        lines[number] = damage[place % len(damage)](rows[number])
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    pairs.write_text("\n".join(lines) + "\n")
    arguments = [pairs, "--model", "fake:", "--out", out, "--quiet", "--json"]
    done = run_command(label_command, *arguments)
    assert done.exit_code == 3  # neither done (0) nor failed (1)
    tally = json.loads(done.stdout)["tally"]
    assert (tally["labelled"], tally["rejected"], tally["unfit"]) == (9_900, 100, 0)
    errors = [json.loads(line) for line in (tmp_path / "out.jsonl.errors.jsonl").read_text().splitlines()]
    assert [error["line"] - 1 for error in errors] == bad
    assert all(error["reason"] and error["source"] == str(pairs) for error in errors)
    expected = [(row["query_id"], row["doc_id"]) for i, row in enumerate(rows) if i not in set(bad)]
    assert [(j.query_id, j.doc_id) for j in read_judgments(out)] == expected


def test_a_damaged_document_that_nobody_asks_for_is_no_row(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"_id": "q1", "text": "stone"}\n{"_id": "q2", "text": 7}\n')
    (tmp_path / "d.jsonl").write_text(
        '{"_id": "d1", "text": "a stone"}\n{"_id": "d2", "text": null}\n{"_id": "d3", "text": null}\n{"_id": 1.5}\n'
    )
    (tmp_path / "human.qrels").write_text("q1 0 d1 1\nq1 0 d3 1\n")
    texts = ("--queries", tmp_path / "q.jsonl", "--docs", tmp_path / "d.jsonl")
    arguments = (tmp_path / "human.qrels", *texts, "--model", "fake:", "--out", tmp_path / "out.jsonl", "--quiet")
    assert run_command(label_command, *arguments).exit_code == 3
    errors = map(json.loads, (tmp_path / "out.jsonl.errors.jsonl").read_text().splitlines())
    # d3, which is asked for, and the entry without an id, which may be: neither d2 nor q2
    assert [(Path(e["source"]).name, e["line"]) for e in errors] == [("d.jsonl", 3), ("d.jsonl", 4), ("human.qrels", 2)]


def test_the_summary_of_a_finished_run_outlives_its_errors_file(tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1, 2))
    with pairs.open("a") as file:
        file.write("{broken\n")
    arguments = (pairs, "--model", "fake:", "--out", tmp_path / "out.jsonl", "--quiet")
    errors = tmp_path / "out.jsonl.errors.jsonl"
    assert "the first" in run_command(label_command, *arguments).stdout
    for damage in ("", "{", None):
        errors.unlink() if damage is None else errors.write_text(damage)
        again = run_command(label_command, *arguments)
        assert again.exit_code == 3
        assert "finished before" in again.stdout
        assert "the first" not in again.stdout


def _wait_until(happened: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not happened() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def _more_calls(path: Path, than: int) -> bool:
    return _calls(path) > than


def _calls(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_kill_repeats_at_most_one_batch(tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(10, 40))
    calls, out = tmp_path / "calls", tmp_path / "out.jsonl"
    options = ["label", str(pairs), "--model", "fake:0.01", "--out", str(out), "--in-process", "--quiet"]
    command = [sys.executable, "-c", COUNTING, *options, "--batch-tokens", "1500"]
    env, r, kills = os.environ | {"CALLS": str(calls)}, random.Random(8), 0
    for _ in range(5):
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
        _wait_until(partial(_more_calls, calls, _calls(calls) + 3), process)  # three are in the journal
        time.sleep(r.uniform(0, 0.2))
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    asked = [int(line) for line in calls.read_text().splitlines()]
    assert kills >= 3
    assert 400 <= sum(asked) <= 400 + kills * max(asked)
    assert max(asked) < 40
    ids = [(j.query_id, j.doc_id) for j in read_judgments(out)]
    assert ids == [(p.query_id, p.doc_id) for p in make_pairs(10, 40)]


def test_a_reader_sees_the_old_file_or_the_new_one_while_runs_are_killed(tmp_path: Path) -> None:
    pairs, out = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(8, 25)), tmp_path / "out.jsonl"
    options = [*CLI, "label", str(pairs), "--out", str(out), "--overwrite", "--quiet"]
    subprocess.run([*options, "--limit", "150", "--model", "fake:"], check=True, stdout=subprocess.DEVNULL)
    old, seen, done = out.read_bytes(), Counter[bytes](), threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            seen[out.read_bytes()] += 1

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    r = random.Random(2)
    for _ in range(3):
        process = subprocess.Popen([*options, "--model", "fake:0.005"], stdout=subprocess.DEVNULL)
        _wait_until((tmp_path / "out.jsonl.run" / "heartbeat.json").exists, process)
        time.sleep(r.uniform(0.1, 0.5))
        process.kill()
        process.wait()
    assert out.read_bytes() == old
    subprocess.run([*options, "--model", "fake:"], check=True, stdout=subprocess.DEVNULL)
    time.sleep(0.05)
    done.set()
    watcher.join()
    assert set(seen) == {old, out.read_bytes()}
    assert old.count(b"\n") == 150
    assert out.read_bytes().count(b"\n") == 200
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"pairs.jsonl", "out.jsonl", "out.jsonl.manifest.json"}  # and nothing half


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_system_is_asked_to_keep_bytes_before_names_and_names_before_the_end(tmp_path: Path) -> None:
    pairs, log = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(2, 3)), tmp_path / "trace"
    run = [*CLI, "label", str(pairs), "--model", "fake:", "--out", str(tmp_path / "out.jsonl"), "--in-process", "-q"]
    trace = ["strace", "-f", "-y", "-o", str(log), "-e", "trace=fsync,fdatasync,rename,renameat,renameat2"]
    done = subprocess.run([*trace, *run], capture_output=True, text=True)
    if "ptrace" in done.stderr or not log.exists():
        pytest.skip("this system lets nobody trace a process")
    assert done.returncode == 0, done.stderr
    calls = log.read_text().splitlines()
    folder = re.escape(str(tmp_path))
    for name in ("out.jsonl", "out.jsonl.manifest.json"):
        final, temporary = re.escape(name), rf"\.{re.escape(name)}\.\d+\.tmp"
        kept = _place(calls, rf"fsync\(\d+<{folder}/{temporary}>\) += 0")
        named = _place(calls, rf'rename\w*\(.*"{folder}/{temporary}".*"{folder}/{final}".*\) += 0')
        folder_kept = _place(calls[named:], rf"fsync\(\d+<{folder}>\) += 0") + named
        assert kept < named < folder_kept
    first, second = (_place(calls, rf'rename\w*\(.*/{re.escape(n)}"') for n in ("out.jsonl", "out.jsonl.manifest.json"))
    assert first < second  # a manifest never speaks of an output that is not there


def _place(calls: list[str], pattern: str) -> int:
    found = [i for i, call in enumerate(calls) if re.search(pattern, call)]
    assert found, pattern
    return found[0]


# the command, which kills itself at one named point
DYING = """
import os, sys, signal
from pairgrade import atomic, journal, run
point, moment = os.environ["POINT"].split()
target = sys.argv[sys.argv.index("--out") + 1]

def around(module, name, wanted):
    real = getattr(module, name)
    left = [3 if name == "_write_all" else 1]
    def call(*arguments, **options):
        met = wanted(*arguments)
        left[0] -= met
        die = met and not left[0]
        if die and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = real(*arguments, **options)
        if die:
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    setattr(module, name, call)

if point == "journal":
    around(journal, "_write_all", lambda *a: True)
elif point == "write":
    around(atomic.AtomicFile, "flush", lambda self, *a: str(self.path) == target)
elif point == "rename":
    around(os, "replace", lambda old, new, *a: str(new) == target)
elif point == "manifest":
    around(os, "replace", lambda old, new, *a: str(new) == target + ".manifest.json")
elif point == "spool":
    around(os, "replace", lambda old, new, *a: str(new).endswith(".sqlite"))
elif point == "remove":
    around(run.RunFolder, "remove", lambda *a: True)
from pairgrade.cli import main
main()
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("point", ["spool", "journal", "write", "rename", "manifest", "remove"])
def test_a_run_killed_at_a_named_point_resumes_clean(tmp_path: Path, point: str, moment: str) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(4, 10))
    calm, out = tmp_path / "calm.jsonl", tmp_path / "out.jsonl"
    options = ["--model", "fake:", "--in-process", "--quiet", "--batch-tokens", "1500"]
    assert run_command(label_command, pairs, "--out", calm, *options).exit_code == 0
    dying = [sys.executable, "-c", DYING, "label", str(pairs), "--out", str(out), *options]
    done = subprocess.run(dying, env=os.environ | {"POINT": f"{point} {moment}"}, stdout=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists() or out.read_bytes() == calm.read_bytes()
    again = run_command(label_command, pairs, "--out", out, *options, "--json")
    assert again.exit_code == 0
    effort = json.loads(again.stdout)["effort"]
    if point == "journal":
        assert 0 < effort["resumed"] < 40
    elif point != "spool":
        assert effort["pairs"] == 0  # all was labelled before
    assert out.read_bytes() == calm.read_bytes()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"pairs.jsonl", *(f"{n}.jsonl{end}" for n in ("calm", "out") for end in ("", ".manifest.json"))}


def test_rows_without_judgment_make_the_exit_code_three(tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(4, 5))
    with pairs.open("a") as file:
        file.write("{nonsense\n")
    run = [*CLI, "label", str(pairs), "-m", "fake:", "-o", str(tmp_path / "o.jsonl")]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 3
    assert "1 rows rejected" in done.stdout
    (error,) = (tmp_path / "o.jsonl.errors.jsonl").read_text().splitlines()
    assert json.loads(error)["line"] == 21
