"""The worker process: opens a model and answers for it until its parent is gone.

Started by ``pairgrade.worker`` only. It leaves the terminal's Ctrl-C to its parent and ends with it: the socket is
closed then, and on Linux the kernel is asked to kill it, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import resource
import signal
import socket
import sys
import traceback
from dataclasses import asdict
from typing import Any

import numpy as np

from pairgrade import worker_frames as frames
from pairgrade.backend import Backend
from pairgrade.backends import open_backend
from pairgrade.errors import ModelError, PairgradeError
from pairgrade.llama import LlamaOptions
from pairgrade.onnx_backend import OnnxOptions
from pairgrade.tokenizer import Ids

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def main() -> None:
    """Open the model that the first argument describes, and serve it over the socket it names."""
    job = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a model that dies again and again must not fill the disk
    if job["die_with_parent"]:
        _die_with(job["parent"])
    channel = socket.socket(fileno=job["socket"])
    told = _Told()
    level = logging.DEBUG if job["verbose"] else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s worker: %(message)s", handlers=[told.handler(job)])
    with contextlib.suppress(frames.BrokenFrameError):  # the parent is gone: so are we
        _serve(channel, job, told)
    os._exit(0)  # at once: the libraries' own endings have been seen to hang or abort


def _serve(channel: socket.socket, job: dict[str, Any], told: _Told) -> None:
    try:
        llama = LlamaOptions(**job["llama"]) if job["llama"] else None
        onnx = OnnxOptions(**job["onnx"]) if job["onnx"] else None
        backend, _ = open_backend(job["model"], llama, onnx)
    except Exception as error:
        frames.send(channel, _described(error) | {"log": told.taken()})
        return
    facts = {
        "identity": backend.identity(),
        "context": backend.context,
        "threads": backend.threads,
        "exact": backend.exact,
        "is_chat_model": backend.is_chat_model,
    }
    frames.send(channel, {"ready": facts, "log": told.taken()})
    prefix: list[Ids] = []
    while True:
        header, arrays = frames.receive(channel)
        try:
            prefix = prefix[: header["kept"]]
            answer, results = _score(backend, header, arrays, prefix)
        except Exception as error:
            answer, results = _described(error), []
        counters = asdict(backend.counters)
        frames.send(channel, answer | {"counters": counters, "log": told.taken()}, results)


def _score(
    backend: Backend, header: dict[str, Any], arrays: list[frames.Array], prefix: list[Ids]
) -> tuple[dict[str, Any], list[frames.Array]]:
    """Run one request; ``prefix`` holds the segments that were kept and takes the new ones."""
    labels, ids = arrays
    new, lengths = header["segments"], header["segments"] + header["suffixes"]
    parts = np.split(ids, np.cumsum(lengths)[:-1]) if lengths else []
    prefix += parts[: len(new)]
    scores = backend.score(list(prefix), parts[len(new) :], labels)
    totals = [] if scores.log_totals is None else [scores.log_totals]
    return {"failed": list(scores.failed.items())}, [scores.logits, *totals]


def _described(error: Exception) -> dict[str, Any]:
    """Turn an exception into what the parent can raise again."""
    if isinstance(error, PairgradeError):
        return {"error": type(error).__name__, "message": str(error)}
    if isinstance(error, MemoryError):
        return {"error": ModelError.__name__, "message": "the model's process ran out of memory"}
    logging.getLogger(__name__).debug("%s", traceback.format_exc())
    where = traceback.extract_tb(error.__traceback__)[-1]
    message = f"the model's process failed: {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
    return {"error": ModelError.__name__, "message": message}


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(0)


class _Told(logging.Handler):
    """Keeps the log's records until the next answer takes them along."""

    def __init__(self) -> None:
        super().__init__()
        self._records: list[list[Any]] = []

    def handler(self, job: dict[str, Any]) -> logging.Handler:
        """Return where records go: with -v to stderr, where they outlive a crash, else to the parent."""
        return logging.StreamHandler(sys.stderr) if job["verbose"] else self

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append([record.levelno, record.name, record.getMessage()])

    def taken(self) -> list[list[Any]]:
        """Return what was kept, and keep it no longer."""
        records, self._records = self._records, []
        return records
