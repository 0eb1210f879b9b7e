from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pairgrade.heartbeat import Beat, Heartbeat, read_beat


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_it_beats_at_most_once_a_second_and_tells_how_far_it_is(tmp_path: Path) -> None:
    path, clock = tmp_path / "beat.json", Clock()
    with Heartbeat(path, 100, 2, clock, timer=clock) as heartbeat:
        heartbeat.resume(30, 1)
        clock.now += 0.9
        heartbeat.advance(5, 0)
        first = read_beat(path)
        assert first is not None
        assert (first.done, first.errors, first.rate) == (30, 3, None)  # too early for another beat
        clock.now += 0.1
        heartbeat.advance(5, 1)
        expected = Beat(os.getpid(), 1000.0, 1001.0, "labelling", 100, 40, 4, 10.0, 6.0)
        assert read_beat(path) == expected  # what was resumed does not count for the rate
        heartbeat.writing()
        assert read_beat(path) == replace(expected, phase="writing")


def test_the_rate_is_that_of_the_last_minute(tmp_path: Path) -> None:
    path, clock = tmp_path / "beat.json", Clock()
    with Heartbeat(path, 10_000, clock=clock, timer=clock) as heartbeat:
        for pairs in [100] * 100 + [1] * 100:
            clock.now += 1
            heartbeat.advance(pairs, 0)
    beat = read_beat(path)
    assert beat is not None
    assert beat.rate == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("error", "phase"), [(KeyboardInterrupt("SIGINT"), "stopped"), (ValueError("ä" * 9000), "failed")]
)
def test_how_a_run_ended_is_told_in_a_file_of_the_same_length(tmp_path: Path, error: BaseException, phase: str) -> None:
    path = tmp_path / "beat.json"

    def work() -> None:
        with Heartbeat(path, 5):
            assert path.stat().st_size == 1024
            raise error

    with pytest.raises(type(error)):
        work()
    beat = read_beat(path)
    assert beat is not None
    assert beat.phase == phase
    assert beat.reason[:5] in ("SIGIN", "?????")
    assert path.stat().st_size == 1024


def test_a_reason_full_of_control_characters_keeps_the_length(tmp_path: Path) -> None:
    path = tmp_path / "beat.json"
    with pytest.raises(ValueError, match="red"), Heartbeat(path, 10):
        raise ValueError("\x1b\x07red" * 400)
    size = path.stat().st_size
    assert read_beat(path) is not None
    with Heartbeat(path, 10):
        assert path.stat().st_size == size
        assert read_beat(path) is not None


def test_a_disk_that_refuses_it_does_not_stop_the_run(tmp_path: Path) -> None:
    with Heartbeat(tmp_path / "no folder" / "beat.json", 5) as heartbeat:
        heartbeat.advance(1, 0)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b'{"pid": 1'])
def test_what_is_no_beat_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "beat.json"
    if content is not None:
        path.write_bytes(content)
    assert read_beat(path) is None


def test_a_reader_beside_the_writer_always_sees_a_whole_beat(tmp_path: Path) -> None:
    path, clock, ended = tmp_path / "beat.json", Clock(), threading.Event()
    seen: list[bool] = []

    def read() -> None:
        while not ended.is_set():
            seen.append(read_beat(path) is not None)

    with Heartbeat(path, 10**9, clock=clock, timer=clock) as heartbeat:
        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(2000):
            clock.now += 1.5
            heartbeat.advance(7, 1)
        ended.set()
        reader.join()
    assert seen
    assert all(seen)
    assert json.loads(path.read_bytes())["done"] == 14_000


def test_a_clock_that_is_set_back_stops_no_beat(tmp_path: Path) -> None:
    path, clock, timer = tmp_path / "beat.json", Clock(), Clock()
    with Heartbeat(path, 400, clock=clock, timer=timer) as heartbeat:
        for second in range(300):
            timer.now += 1
            clock.now += 1 - 3600 * (second == 100)
            heartbeat.advance(1, 0)
    beat = read_beat(path)
    assert beat is not None
    assert (beat.done, beat.rate, beat.updated) == (300, pytest.approx(1.0), 1000.0 + 300 - 3600)
