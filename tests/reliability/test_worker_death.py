"""The model's process dies, in every way it can: the run goes on, the pair is named, the rest is as if nothing was."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from helpers import make_pairs, write_jsonl
from pairgrade import ModelError, worker_process
from pairgrade.fake import DEATHS, FakeTokenizer
from pairgrade.judgments import read_judgments
from pairgrade.llama_model import LlamaModel
from pairgrade.worker import MOST_DEATHS, WorkerBackend

PAIRS = make_pairs(4, 10)
KILLERS = {7: "SIGABRT", 20: "SIGSEGV", 33: "SIGKILL"}


def label(folder: Path, out: str, *options: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pairgrade.cli", "label", "pairs.jsonl", "-o", out, "-q", *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | (env or {}))


def write(folder: Path, killers: dict[int, str]) -> None:
    marked = {i: replace(PAIRS[i], document=f"document {i} with die:{name} in it") for i, name in killers.items()}
    write_jsonl(folder / "pairs.jsonl", [marked.get(i, pair) for i, pair in enumerate(PAIRS)])


def test_pairs_that_kill_are_reported_and_all_others_labelled(tmp_path: Path) -> None:
    write(tmp_path, KILLERS)
    done = label(tmp_path, "out.jsonl", "-m", "fake:", env={DEATHS: "1"})
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    errors = [json.loads(line) for line in (tmp_path / "out.jsonl.errors.jsonl").read_text().splitlines()]
    assert {e["line"] - 1: e["reason"] for e in errors} == {
        i: f"the model process died on this pair ({name}, 3 tries)" for i, name in KILLERS.items()
    }
    assert {(e["query_id"], e["doc_id"]) for e in errors} == {(PAIRS[i].query_id, PAIRS[i].doc_id) for i in KILLERS}
    calm = label(tmp_path, "calm.jsonl", "-m", "fake:", "--in-process")  # where nothing in a text kills
    assert calm.returncode == 0
    assert list(read_judgments(tmp_path / "out.jsonl")) == [
        j for i, j in enumerate(read_judgments(tmp_path / "calm.jsonl")) if i not in KILLERS
    ]


def test_a_query_that_kills_on_all_its_documents_costs_that_query_only(tmp_path: Path) -> None:
    deadly = range(10, 20)  # the second query's
    write(tmp_path, dict.fromkeys(deadly, "SIGABRT"))
    done = label(tmp_path, "out.jsonl", "-m", "fake:", env={DEATHS: "1"})
    assert done.returncode == 3, done.stderr
    errors = [json.loads(line) for line in (tmp_path / "out.jsonl.errors.jsonl").read_text().splitlines()]
    assert [e["line"] - 1 for e in errors] == list(deadly)
    assert sum("died on this pair" in e["reason"] for e in errors) == 3
    assert sum("not tried: the model process died on 3 other pairs" in e["reason"] for e in errors) == 7
    assert [j.query_id for j in read_judgments(tmp_path / "out.jsonl")] == ["q0"] * 10 + ["q2"] * 10 + ["q3"] * 10


def test_without_a_worker_such_a_pair_ends_the_run(tmp_path: Path) -> None:
    write(tmp_path, KILLERS)
    done = label(tmp_path, "out.jsonl", "-m", "fake:", "--in-process", env={DEATHS: "1"})
    assert done.returncode == -signal.SIGABRT


def test_a_model_that_dies_on_every_pair_is_given_up(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(range(len(PAIRS)), "SIGSEGV"))
    done = label(tmp_path, "out.jsonl", "-m", "fake:", env={DEATHS: "1"})
    assert done.returncode == 1
    assert f"the model process died {MOST_DEATHS} times in a row, last by SIGSEGV" in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_a_model_that_dies_while_it_is_loaded_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, {})
    done = label(tmp_path, "out.jsonl", "-m", "fake:", env={DEATHS: "die:SIGSEGV"})
    assert done.returncode == 1
    assert "died while it loaded the file (SIGSEGV)" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.jsonl"]


def _kill_workers(parent: int, ended: threading.Event, kills: list[int]) -> None:
    moments = random.Random(3)
    while not ended.wait(moments.uniform(0.3, 1.2)):
        try:
            for child in psutil.Process(parent).children():
                child.send_signal(moments.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT]))
                kills.append(child.pid)
        except psutil.NoSuchProcess:
            return


def test_workers_killed_at_random_moments_change_nothing(tmp_path: Path) -> None:
    write(tmp_path, {})
    assert label(tmp_path, "calm.jsonl", "-m", "fake:", "--in-process").returncode == 0
    command = [sys.executable, "-m", "pairgrade.cli", "label", "pairs.jsonl", "-o", "killed.jsonl", "-m", "fake:0.1"]
    ended, kills = threading.Event(), []  # type: ignore[var-annotated]
    run = subprocess.Popen(
        [*command, "--batch-tokens", "500"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "killed.jsonl.run" / "journal").exists() and time.monotonic() < deadline:
        time.sleep(0.05)  # a death in the first load would be the model's fault
    killer = threading.Thread(target=_kill_workers, args=(run.pid, ended, kills))
    killer.start()
    time.sleep(9)
    ended.set()  # it may end in peace now
    killer.join()
    assert run.wait(60) == 0
    assert len(kills) >= 3
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "calm.jsonl").read_bytes()


@pytest.mark.model
@pytest.mark.parametrize("blocks", [0, 2**31])
def test_a_file_on_which_llama_cpp_aborts(
    smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    """The check of the header refuses it before; this is the second line of defence, with that check taken out."""
    data = bytearray(smollm2_path.read_bytes())
    key = b"llama.block_count"
    struct.pack_into("<I", data, data.index(key) + len(key) + 4, blocks)
    path = tmp_path / "hostile.gguf"
    path.write_bytes(data)
    without_check = "import pathlib, pairgrade.backends as b; b.resolve = pathlib.Path; from pairgrade.worker_child"
    boot = worker_process._BOOT.replace("from pairgrade.worker_child", without_check)
    monkeypatch.setattr(worker_process, "_BOOT", boot)
    with pytest.raises(ModelError, match=r"died while it loaded the file \(SIGABRT|llama\.cpp cannot load it"):
        WorkerBackend(str(path), _never)


def _never() -> FakeTokenizer:  # type: ignore[misc]
    pytest.fail("the file was read in this process")


@pytest.mark.model
def test_the_real_model_survives_a_kill(smollm2_path: Path) -> None:
    from pairgrade import Annotator, LlamaOptions

    pairs, llama = make_pairs(1, 3), LlamaOptions(context=400, threads=1)
    with Annotator.open(smollm2_path, llama=llama) as annotator:
        expected = list(annotator.label(pairs))
    with Annotator.open(smollm2_path, llama=llama, isolate=True) as annotator:
        first = list(annotator.label(pairs))
        for child in psutil.Process().children():
            child.kill()
        again = list(annotator.label(pairs))
    assert first == again == expected


def test_the_vocabulary_is_read_here_only_after_the_worker_has_read_the_file() -> None:
    """So that a file on which the library dies kills a worker, not the run."""
    with pytest.raises(ModelError, match="no model file"):
        WorkerBackend("none.gguf", _never)
    assert LlamaModel.__init__.__defaults__ == (0, False)
