"""A small file in a run's folder that tells how far the run is, rewritten in place once a second while it works.

It is for people and monitors and decides nothing: a disk that refuses it does not stop the run. In place, because a
full disk has room for it and a killed run leaves no second file; always of one length, written by one call.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pairgrade.lock import token

_BYTES = 1024
_INTERVAL = 1.0  # seconds between two writes
_RATE_SECONDS = 60.0  # the rate is that of the last minute
_TOLD = 200  # characters of what a training found last


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat file holds; times are seconds since 1970."""

    pid: int
    started: float  # when labelling began in this process
    updated: float
    phase: str  # labelling or training, writing, stopped or failed
    total: int  # usable pairs, or the steps of a training
    done: int  # of these, with an outcome
    errors: int  # rows without a judgment: rejected while reading, or pairs that could not be graded
    rate: float | None  # pairs a second, over the last minute; steps a second, over the last hour
    seconds_left: float | None
    reason: str = ""  # why it stopped or failed
    unit: str = "pairs"  # or steps
    told: str = ""  # what a training found last
    lock: str = ""  # what this run wrote into its lock, see lock.token


class Heartbeat:
    """Writes beats; use it in a ``with``, whose end by an exception is told in the file."""

    def __init__(
        self,
        path: Path,
        total: int,
        errors: int = 0,
        clock: Callable[[], float] = time.time,
        *,
        phase: str = "labelling",
        unit: str = "pairs",
        rate_seconds: float = _RATE_SECONDS,
        timer: Callable[[], float] = time.monotonic,  # of intervals: the clock may be set back
    ) -> None:
        self._path, self._clock, self._timer = path, clock, timer
        self._phase, self._unit, self._rate_seconds = phase, unit, rate_seconds
        self._total, self._done, self._errors = total, 0, errors
        self._started = clock()
        self._written = -math.inf
        self._marks: deque[tuple[float, int]] = deque()  # (time, pairs done), one a write
        self._told = ""
        self._lock = token(path.with_name("lock"))

    def __enter__(self) -> Heartbeat:
        self._write(self._phase)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._write("stopped" if not isinstance(error, Exception) else "failed", str(error))

    def resume(self, pairs: int, errors: int) -> None:
        """Count what an earlier process did; it does not count for the rate."""
        self._done += pairs
        self._errors += errors
        self._marks.clear()
        self._write(self._phase)

    def advance(self, pairs: int, errors: int) -> None:
        """Count pairs that have an outcome now, and those of them without a judgment."""
        self._done += pairs
        self._errors += errors
        if self._timer() - self._written >= _INTERVAL:
            self._write(self._phase)

    def tell(self, text: str) -> None:
        """Write what a training found last, at once."""
        self._told = _ascii(text)[:_TOLD]
        self._write(self._phase)

    def writing(self) -> None:
        """Tell that the outputs are being written."""
        self._write("writing")

    def _write(self, phase: str, reason: str = "") -> None:
        now = self._written = self._timer()
        self._marks.append((now, self._done))
        while len(self._marks) > 2 and now - self._marks[1][0] > self._rate_seconds:
            self._marks.popleft()
        then, before = self._marks[0]
        rate = (self._done - before) / (now - then) if now > then and self._done > before else None
        left = (self._total - self._done) / rate if rate else None
        beat = Beat(
            os.getpid(), self._started, self._clock(), phase, self._total, self._done, self._errors, rate, left,
            unit=self._unit, told=self._told, lock=self._lock,
        )  # fmt: skip
        room = _BYTES - len(_packed(beat)) - 1
        table = asdict(beat) | {"reason": _ascii(reason)[: room // 2]}
        data = json.dumps(table).encode().ljust(_BYTES - 1) + b"\n"
        with contextlib.suppress(OSError):
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(file, data, 0)
            finally:
                os.close(file)


def read_beat(path: Path) -> Beat | None:
    """Read a heartbeat file, or return None where there is none that can be read."""
    for _ in range(3):  # it may be read while it is written
        try:
            table = json.loads(path.read_bytes())
            return Beat(**{field.name: table[field.name] for field in fields(Beat)})
        except OSError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError):
            time.sleep(0.01)
    return None


def _ascii(text: str) -> str:
    """Return text of which each character takes two bytes of JSON at most."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def _packed(beat: Beat) -> bytes:
    return json.dumps(asdict(beat)).encode()
