"""One worker process as its parent sees it: started, asked, ended, and how it died."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from pairgrade import errors
from pairgrade import worker_frames as frames
from pairgrade.backend import segments_in_common
from pairgrade.errors import ModelError, PairgradeError
from pairgrade.tokenizer import Ids

_log = logging.getLogger(__name__)

# What is importable there is what is importable here; nothing is taken from the working directory, as -m would.
_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from pairgrade.worker_child import main; main()"
_ENDING_SECONDS = 5.0
_LONGEST_QUOTE = 300  # characters


class WorkerDiedError(Exception):
    """The process is gone; the text names its signal or exit code."""


class WorkerProcess:
    """A child that has opened the model; ``facts`` is what it says of it.

    WorkerDiedError where it dies or does not answer in ``start_timeout`` seconds; the child's own errors (a model
    file that is not there, say) are raised as they were there.
    """

    def __init__(self, job: dict[str, Any], start_timeout: float) -> None:
        ours, theirs = socket.socketpair()
        verbose = _log.isEnabledFor(logging.DEBUG)
        self._errors: IO[bytes] | None = None if verbose else tempfile.TemporaryFile()  # noqa: SIM115
        self._channel = ours
        self._sent: list[bytes] = []  # prefix segments that it holds
        own = {
            "socket": theirs.fileno(),
            "parent": os.getpid(),
            # Linux means the thread when it says parent
            "die_with_parent": threading.current_thread() is threading.main_thread(),
            "verbose": verbose,
        }
        command = [sys.executable, "-c", _BOOT, json.dumps(job | own), *(p for p in sys.path if isinstance(p, str))]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=self._errors or sys.__stderr__,  # the libraries' prints must not mix with ours
                    stderr=self._errors,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C in the terminal is for the parent alone
                    env=os.environ | {"GGML_NO_BACKTRACE": "1"},
                )
        except OSError as error:
            ours.close()
            raise ModelError(f"no process can be started for the model ({error}); --in-process does without") from None
        self.busy = True  # an answer is outstanding
        try:
            self._channel.settimeout(start_timeout)
            header, _ = self._answer()
            self._channel.settimeout(None)
        except TimeoutError:
            self.kill()
            raise WorkerDiedError(f"it hung for {start_timeout:g} s while loading and was killed") from None
        except BaseException:
            self.kill()
            raise
        self.facts: dict[str, Any] = header["ready"]

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ask(
        self, prefix: Sequence[Ids], suffixes: Sequence[Ids], labels: Ids
    ) -> tuple[dict[str, Any], list[frames.Array]]:
        """Have it score suffixes after a prefix, of which it is sent only what it does not hold; see ``worker_child``.

        WorkerDiedError where it dies on that; ModelError where it cannot.
        """
        names = [segment.tobytes() for segment in prefix]
        kept = segments_in_common(names, self._sent)
        segments, lengths = [len(segment) for segment in prefix[kept:]], [len(suffix) for suffix in suffixes]
        header = {"kept": kept, "segments": segments, "suffixes": lengths}
        self.busy = True
        self._sent = names
        try:
            ids = np.concatenate([*prefix[kept:], *suffixes, labels[:0]])
            frames.send(self._channel, header, [labels, ids])
        except frames.BrokenFrameError:
            raise WorkerDiedError(self._end()) from None
        return self._answer()

    def close(self) -> None:
        """End the process: at once if it is computing, else by closing the connection."""
        if self.busy:
            self.kill()
        else:
            self._end()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._end()

    def _answer(self) -> tuple[dict[str, Any], list[frames.Array]]:
        try:
            header, arrays = frames.receive(self._channel)
        except frames.BrokenFrameError:
            raise WorkerDiedError(self._end()) from None
        self.busy = False
        for level, name, message in header.get("log", ()):
            logging.getLogger(name).log(level, "%s", message)
        if "error" in header:
            raise _error(header)
        return header, arrays

    def _end(self) -> str:
        """Close the connection, wait for the process's end and say how it came, with what it said last."""
        self._channel.close()
        try:
            code = self._process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        how = f"exit code {code}" if code >= 0 else _signal_name(-code)
        if self._errors is None or self._errors.closed:
            return how
        with self._errors as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2**16))
            said = _last_word(file.read().decode("utf-8", "replace"))
        return f"{how}: {said}" if said else how


def _error(header: dict[str, Any]) -> PairgradeError:
    """Make the exception that the child caught; a kind that is unknown here becomes a ModelError."""
    kind = getattr(errors, str(header["error"]), ModelError)
    if not (isinstance(kind, type) and issubclass(kind, PairgradeError)):
        kind = ModelError
    error: PairgradeError = kind.__new__(kind, str(header.get("message", "")))  # not every kind is made of its message
    return error


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_word(text: str) -> str:
    """Return the line that tells why a process ended: a failed assertion, or else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "ASSERT" in line] or lines[-1:]
    quote = telling[-1] if telling else ""
    return "".join(c for c in quote if c.isprintable())[:_LONGEST_QUOTE]
