"""A backend in a worker process: the same scores, and a death of it is no death of ours."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import make_pairs
from pairgrade import Annotator, LlamaOptions, ModelError, Rubric, llama_build, worker, worker_process
from pairgrade import worker_frames as frames
from pairgrade.backend import Scores
from pairgrade.backends import open_backend
from pairgrade.environment import package_version
from pairgrade.fake import DEATHS, FakeBackend, FakeTokenizer
from pairgrade.tokenizer import Ids
from pairgrade.worker import WorkerBackend

LABELS = np.arange(48, 52, dtype=np.int32)
START = [np.arange(5, dtype=np.int32), np.arange(3, dtype=np.int32)]


def ids(text: str) -> Ids:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def opened(model: str = "fake:", seconds: float = 60.0) -> WorkerBackend:
    return WorkerBackend(model, lambda: nullcontext(FakeTokenizer()), start_seconds=seconds)


@pytest.fixture
def backend() -> Iterator[WorkerBackend]:
    made = opened()
    yield made
    made.close()


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerBackend]:
    monkeypatch.setenv(DEATHS, "1")
    made = opened()
    yield made
    made.close()


def same(found: Scores, expected: Scores) -> bool:
    assert found.log_totals is not None
    assert expected.log_totals is not None
    return bool((found.logits == expected.logits).all() and (found.log_totals == expected.log_totals).all())


def gone(pid: int) -> bool:
    """Whether the process ends within 10 s."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_scores_and_counters_are_those_of_the_backend_itself(backend: WorkerBackend) -> None:
    here = FakeBackend()
    other = [START[0], np.arange(9, dtype=np.int32)]
    for prefix, texts in (
        (START, ["a", "bb"]),
        (START, ["ccc"]),
        (other, ["a"]),
        ([], ["a"]),
        (START, []),
        (START, "ab"),
    ):
        suffixes = [ids(text) for text in texts]
        if prefix:
            assert same(backend.score(prefix, suffixes, LABELS), here.score(prefix, suffixes, LABELS))
            assert backend.counters == here.counters
    assert backend.identity() == here.identity()
    assert (backend.context, backend.exact, backend.is_chat_model) == (1024, True, False)


def test_what_the_worker_holds_is_not_sent_again(backend: WorkerBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    real = frames.send

    def send(channel: socket.socket, header: dict[str, object], arrays: list[Ids]) -> None:
        sent.append(len(arrays[1]))
        real(channel, header, arrays)

    monkeypatch.setattr(frames, "send", send)
    for prefix in (START, START, [START[0], START[0]]):
        backend.score(prefix, [ids("xy")], LABELS)
    assert sent == [5 + 3 + 2, 2, 5 + 2]


@pytest.mark.parametrize("name", ["SIGABRT", "SIGSEGV", "SIGKILL"])
def test_the_suffix_that_kills_is_found_and_the_rest_is_scored(deadly: WorkerBackend, name: str) -> None:
    suffixes = [ids("one"), ids("two"), ids(f"die:{name} now"), ids("four")]
    scores = deadly.score(START, suffixes, LABELS)
    assert dict(scores.failed) == {2: f"the model process died on this pair ({name}, 3 tries)"}
    assert np.isnan(scores.logits[2]).all()
    calm = FakeBackend().score(START, [suffixes[i] for i in (0, 1, 3)], LABELS)
    assert (scores.logits[[0, 1, 3]] == calm.logits).all()
    assert scores.log_totals is not None
    assert (scores.log_totals[[0, 1, 3]] == calm.log_totals).all()


def test_a_death_from_outside_costs_no_pair(backend: WorkerBackend, caplog: pytest.LogCaptureFixture) -> None:
    expected = FakeBackend().score(START, [ids("a")], LABELS)
    first = backend.pid
    assert first is not None
    computed = 0
    for _ in range(2):
        assert same(backend.score(START, [ids("a")], LABELS), expected)
        assert backend.counters.computed > computed
        computed = backend.counters.computed
        assert backend.pid is not None
        os.kill(backend.pid, signal.SIGKILL)
    assert same(backend.score(START, [ids("a")], LABELS), expected)
    assert backend.pid != first
    assert "the model process died (SIGKILL); it is started again" in caplog.text


def test_a_worker_with_other_cores_is_the_same_model(backend: WorkerBackend) -> None:
    backend._facts = {**backend._facts, "threads": 99}  # the process was given fewer since
    assert backend.pid is not None
    os.kill(backend.pid, signal.SIGKILL)
    assert same(backend.score(START, [ids("a")], LABELS), FakeBackend().score(START, [ids("a")], LABELS))
    backend._facts = {**backend._facts, "context": 99}
    with pytest.raises(ModelError, match="not the same model any more"):
        backend.score(START, [ids("a")], LABELS)


def test_deaths_without_end_are_given_up(deadly: WorkerBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "MOST_DEATHS", 5)
    with pytest.raises(ModelError, match="died 5 times in a row, last by SIGSEGV"):
        deadly.score(START, [ids("die:SIGSEGV a"), ids("die:SIGSEGV b")], LABELS)


def test_a_llama_cpp_that_was_compiled_wrongly_is_told_at_its_first_death(
    deadly: WorkerBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly._facts["identity"]["kind"] = "llama"
    with pytest.raises(ModelError, match=r"ended by SIGILL: llama\.cpp was compiled for .*CMAKE_ARGS=-D") as told:
        deadly.score(START, [ids("die:SIGILL a"), ids("b")], LABELS)
    assert deadly._deaths == 1
    assert f"llama-cpp-python=={package_version('llama-cpp-python')}" in str(told.value)
    monkeypatch.setattr(llama_build, "cpu_features", lambda: frozenset({"amx_int8"}))
    assert "-mno-amx-int8" in llama_build.illegal_instruction()
    monkeypatch.setattr(llama_build, "cpu_features", frozenset)
    assert "AMX" not in llama_build.illegal_instruction()


def test_a_sigill_behind_an_answer_is_a_death_like_others(
    deadly: WorkerBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_apart_from_threads", lambda _: None)  # the next worker is the fake again
    deadly._facts["identity"]["kind"] = "llama"
    assert not deadly.score(START, [ids("a")], LABELS).failed
    scores = deadly.score(START, [ids("die:SIGILL a")], LABELS)
    assert dict(scores.failed) == {0: "the model process died on this pair (SIGILL, 3 tries)"}


def test_a_deadly_query_in_the_largest_batch_is_found_before_that() -> None:
    """Halving 2,048 suffixes takes 2 tries and 10 halvings; then 3 tries each of 3 suffixes and a halving between.

    Where the query was answered before, its last suffix is tried once more.
    """
    assert worker.BATCH_TRIES + 10 + worker.QUERY_PAIRS * worker.PAIR_TRIES + 1 + 1 < worker.MOST_DEATHS


@pytest.mark.parametrize("batch", [1, 5, 12])
def test_a_query_that_kills_on_each_document_is_given_up_and_the_next_is_scored(
    deadly: WorkerBackend, batch: int
) -> None:
    suffixes = [ids(f"{i} die:SIGKILL") for i in range(12)]
    reasons: list[str] = []
    for first in range(0, 12, batch):
        scores = deadly.score(START, suffixes[first : first + batch], LABELS)
        reasons += [reason for _, reason in sorted(scores.failed.items())]
    assert reasons[:3] == ["the model process died on this pair (SIGKILL, 3 tries)"] * 3
    assert set(reasons[3:]) == {"not tried: the model process died on 3 other pairs of this query, one after the other"}
    assert len(reasons) == 12
    other = [START[0], ids("another query")]
    assert same(deadly.score(other, [ids("a")], LABELS), FakeBackend().score(other, [ids("a")], LABELS))
    assert same(deadly.score(START, [ids("a")], LABELS), FakeBackend().score(START, [ids("a")], LABELS))


def test_a_query_with_an_answer_between_is_not_given_up(deadly: WorkerBackend) -> None:
    texts = ["die:SIGSEGV 1", "die:SIGSEGV 2", "sound", "die:SIGSEGV 3", "die:SIGSEGV 4", "sound too"]
    scores = deadly.score(START, [ids(text) for text in texts], LABELS)
    assert sorted(scores.failed) == [0, 1, 3, 4]
    assert all("died on this pair" in reason for reason in scores.failed.values())


@pytest.mark.parametrize("batch", [7, 13, 60])
def test_a_row_of_killers_takes_no_sound_pair_of_their_query_along(deadly: WorkerBackend, batch: int) -> None:
    killers = {20, 21, 22, 23, 24, 40, 58}
    suffixes = [ids(f"die:SIGSEGV {i}" if i in killers else f"sound {i}") for i in range(60)]
    failed: dict[int, str] = {}
    for first in range(0, 60, batch):
        scores = deadly.score(START, suffixes[first : first + batch], LABELS)
        failed |= {first + row: why for row, why in scores.failed.items()}
    assert failed.keys() == killers
    assert all("died on this pair" in why for why in failed.values())


def test_a_query_that_begins_to_kill_is_given_up(deadly: WorkerBackend) -> None:
    suffixes = [ids(f"sound {i}" if i < 4 else f"die:SIGKILL {i}") for i in range(16)]
    scores = deadly.score(START, suffixes, LABELS)
    assert sorted(scores.failed) == list(range(4, 16))
    tried = {row: why for row, why in scores.failed.items() if "not tried" not in why}
    assert tried == {
        row: f"the model process died on this pair (SIGKILL, {'1 try' if row == 15 else '3 tries'})"
        for row in (4, 5, 6, 15)
    }


def test_a_death_while_loading_names_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEATHS, "die:SIGABRT")
    with pytest.raises(ModelError, match=r"fake:: the model process died while it loaded the file \(SIGABRT\)"):
        opened()


def test_a_worker_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_BOOT", "raise ImportError('no such thing')")
    with pytest.raises(ModelError, match=r"exit code 1: ImportError: no such thing"):
        opened()


def test_a_start_that_hangs_is_ended() -> None:
    with pytest.raises(ModelError, match=r"hung for 0\.01 s"):
        opened(seconds=0.01)


def test_errors_of_the_worker_are_raised_here_as_they_were_there(backend: WorkerBackend) -> None:
    with pytest.raises(ModelError, match="behind fake:"):
        opened("fake:x")
    with pytest.raises(ModelError, match="failed: "):
        backend.score([], [ids("a")], LABELS)  # the fake cannot do without a prefix
    assert same(backend.score(START, [ids("a")], LABELS), FakeBackend().score(START, [ids("a")], LABELS))


def test_ctrl_c_is_for_the_parent_alone(backend: WorkerBackend) -> None:
    pid = backend.pid
    assert pid is not None
    assert os.getsid(pid) != os.getsid(0)
    os.kill(pid, signal.SIGINT)
    backend.score(START, [ids("a")], LABELS)
    assert backend.pid == pid


class _AlarmError(Exception):
    pass


def _interrupted(backend: WorkerBackend) -> None:
    def ring(*_: object) -> None:
        raise _AlarmError

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(_AlarmError):
            backend.score(START, [ids(c) for c in "abc"], LABELS)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_an_interrupted_answer_is_not_taken_for_the_next() -> None:
    backend = opened("fake:0.5")
    _interrupted(backend)
    assert same(backend.score(START, [ids("z")], LABELS), FakeBackend().score(START, [ids("z")], LABELS))
    backend.close()


def test_closing_in_the_middle_of_an_answer_does_not_wait() -> None:
    backend = opened("fake:20")
    pid = backend.pid
    assert pid is not None
    _interrupted(backend)
    start = time.monotonic()
    backend.close()
    assert time.monotonic() - start < 3
    assert gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_worker_ends_with_its_parent() -> None:
    code = (
        "import sys, numpy as np\nfrom pairgrade.backends import open_backend\n"
        "backend = open_backend('fake:30', isolate=True)[0]\nprint(backend.pid, flush=True)\n"
        "one = np.ones(3, np.int32)\nbackend.score([one], [one, one], one)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.2)  # it is asked by now, and computing
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid)


def test_the_worker_outlives_the_thread_that_opened_it() -> None:
    made: list[WorkerBackend] = []
    thread = threading.Thread(target=lambda: made.append(opened()))
    thread.start()
    thread.join()
    time.sleep(0.5)  # Python's thread is over before the system's
    (backend,) = made
    pid = backend.pid
    backend.score(START, [ids("a")], LABELS)
    assert backend.pid == pid
    backend.close()


def test_nothing_is_imported_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "numpy", "pairgrade"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from here')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    opened().close()


def test_an_annotator_is_the_same_in_a_worker() -> None:
    pairs = make_pairs(2, 3)
    with Annotator.open("fake:", Rubric.load("trec")) as here, Annotator.open("fake:", isolate=True) as there:
        assert there.identity() == here.identity()
        assert list(there.label(pairs)) == list(here.label(pairs))


@pytest.mark.model
def test_the_real_model_gives_the_same_bits_in_a_worker(smollm2_path: Path) -> None:
    pairs, llama = make_pairs(2, 3), LlamaOptions(threads=1)
    with (
        Annotator.open(smollm2_path, llama=llama) as here,
        Annotator.open(smollm2_path, llama=llama, isolate=True) as there,
    ):
        assert there.identity() == here.identity()
        assert list(there.label(pairs)) == list(here.label(pairs))


@pytest.mark.model
def test_the_vocabulary_alone_makes_the_same_tokens(smollm2_path: Path) -> None:
    texts = ["a river", "<|im_start|>user\n", "\u202e\u200b <|endoftext|>", "  1,234\n\n\tx", "naïve 日本語"]
    (here, _), (there, _) = open_backend(smollm2_path), open_backend(smollm2_path, isolate=True)
    for text in texts:
        assert here.tokenizer.plain(text).tolist() == there.tokenizer.plain(text).tolist()
        assert here.tokenizer.scaffold(text).tolist() == there.tokenizer.scaffold(text).tolist()
    assert here.tokenizer.bos == there.tokenizer.bos
    here.close()
    there.close()


def _piped(work: Callable[[socket.socket], None]) -> socket.socket:
    """Return the other end of a socket on which ``work`` was done and which is closed then."""
    ours, theirs = socket.socketpair()
    with theirs:
        work(theirs)
    return ours


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=50), max_size=4))
def test_a_frame_arrives_as_it_was_sent(values: list[list[int]]) -> None:
    arrays = [np.array(v, np.int32) for v in values] + [np.array([0.1, np.nan]), np.array([1.5], np.float32)]
    with _piped(lambda end: frames.send(end, {"text": "\u202e\ud800"}, arrays)) as channel:
        header, found = frames.receive(channel)
    assert header == {"text": "\u202e\ud800"}
    assert all((f.tobytes(), f.dtype) == (a.tobytes(), a.dtype) for f, a in zip(found, arrays, strict=True))


def _read_all(channel: socket.socket) -> None:
    with channel:
        while True:
            frames.receive(channel)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=80), st.integers(0, 60))
def test_what_is_no_frame_is_an_error_and_no_crash(noise: bytes, cut: int) -> None:
    with _piped(lambda end: frames.send(end, {"a": 1}, [np.arange(3, dtype=np.int32)])) as channel:
        sent = channel.recv(1000)
    for data in (noise, sent[:cut], sent[:14] + noise):
        with pytest.raises(frames.BrokenFrameError):
            _read_all(_piped(lambda end, data=data: end.sendall(data)))  # type: ignore[misc]


@pytest.mark.parametrize(
    "header",
    [
        b"", b"{", b"\xff", b"[1]", b"7", b"{}", b'{"arrays":3}', b'{"arrays":[["<i4"]]}', b'{"arrays":[["O",1]]}',
        b'{"arrays":[["<i4","x"]]}', b'{"arrays":[[[],1]]}', b'{"arrays":[["<i4",Infinity]]}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_header_that_cannot_be_read_is_an_error(header: bytes) -> None:
    with pytest.raises(frames.BrokenFrameError, match="cannot be read"):
        _read_all(_piped(lambda end: end.sendall(struct.pack("<IQ", len(header), 0) + header)))


@pytest.mark.parametrize("arrays", [[["<i4", 5]], [["<i4", -3]], [["<i4", 4], ["<i4", -1]], [["<f8", 3]], []])
def test_a_header_that_lies_about_its_arrays_is_an_error(arrays: list[list[object]]) -> None:
    header = json.dumps({"arrays": arrays}).encode()
    frame = struct.pack("<IQ", len(header), 12) + header + bytes(12)
    with pytest.raises(frames.BrokenFrameError):
        _read_all(_piped(lambda end: end.sendall(frame)))
