"""A backend in a process of its own, which may die: the run goes on, and the pair that kills it is found.

Native libraries end their process on some broken files (llama.cpp aborts), and the kernel does when memory is
short. A death costs a new worker and a retry of the batch; a batch that kills again is halved until the one suffix
that kills is alone, and that one is reported in ``Scores.failed``. Where three of a query do so one after the other,
it may be the query that kills: if none of it was ever answered, or the last suffix kills as well, the others are
reported with them. Scores are the same to the bit as without a worker where the backend is exact. What is sent:
``pairgrade.worker_frames``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.backend import Counters, Scores
from pairgrade.errors import ModelError
from pairgrade.llama import LlamaOptions
from pairgrade.llama_build import illegal_instruction
from pairgrade.onnx_backend import OnnxOptions
from pairgrade.tokenizer import Ids, Tokenizer
from pairgrade.worker_process import WorkerDiedError, WorkerProcess

MOST_DEATHS = 24  # one after the other with no answer between them; then the model is given up
BATCH_TRIES = 2  # a batch is retried whole before it is halved: the death may not have been its doing
PAIR_TRIES = 3  # of a suffix by itself, before it is reported
QUERY_PAIRS = 3  # reported of one prefix with no answer between; then its last is tried, and the rest may be given up
START_SECONDS = 600.0  # loading a model may take so long

_log = logging.getLogger(__name__)


class WorkerBackend:
    """A backend in a child process. ``open_tokenizer`` opens the tokenizer here, once the child has read the model.

    ModelError where the model cannot be loaded, also where the child dies of it, and where it has died
    ``MOST_DEATHS`` times in a row.
    """

    def __init__(
        self,
        model: str,
        open_tokenizer: Callable[[], AbstractContextManager[Tokenizer]],
        llama: LlamaOptions | None = None,
        onnx: OnnxOptions | None = None,
        start_seconds: float = START_SECONDS,
    ) -> None:
        self._job = {"model": model, "llama": asdict(llama) if llama else None, "onnx": asdict(onnx) if onnx else None}
        self._start_seconds = start_seconds
        self._deaths = 0
        self._warned = False
        self._prefix: list[bytes] = []  # of the last call, and how many of its suffixes killed in a row
        self._killed = 0
        self._answered = False  # any of that prefix
        self._works = False  # whether any was ever answered
        self._worker: WorkerProcess | None = None
        self._open = ExitStack()
        self._before = Counters()  # of the workers that died
        self.counters = Counters()
        try:
            self._worker = WorkerProcess(self._job, start_seconds)
        except WorkerDiedError as death:
            why = "the file is damaged or made to do that, the memory too small, or this file too new for the library"
            if str(death).startswith("SIGILL") and not Path(model).is_dir():
                why = illegal_instruction()
            raise ModelError(f"{model}: the model process died while it loaded the file ({death}): {why}") from None
        self._facts = self._worker.facts
        try:
            self.tokenizer: Tokenizer = self._open.enter_context(open_tokenizer())
        except BaseException:
            self.close()
            raise

    @property
    def context(self) -> int:
        """The longest prompt, in tokens."""
        return int(self._facts["context"])

    @property
    def threads(self) -> int:
        """How many threads compute in the worker."""
        return int(self._facts["threads"])

    @property
    def exact(self) -> bool:
        """Whether ``score`` gives a suffix the same bits whatever runs beside it."""
        return bool(self._facts["exact"])

    @property
    def is_chat_model(self) -> bool:
        """Whether the model was trained on chat turns."""
        return bool(self._facts["is_chat_model"])

    @property
    def pid(self) -> int | None:
        """The worker's process id, or None where it has died and no other was needed yet."""
        return self._worker.pid if self._worker else None

    def identity(self) -> dict[str, str]:
        """Return the identity of the backend in the worker: where it runs decides nothing."""
        return dict(self._facts["identity"])

    def score(self, prefix: Sequence[Ids], suffixes: Sequence[Ids], labels: Ids) -> Scores:
        """Have the worker score the suffixes; those that kill it are in the result's ``failed``."""
        logits = np.full((len(suffixes), len(labels)), np.nan, np.float32)
        totals = np.full(len(suffixes), np.nan, np.float64)
        with_totals = True
        failed: dict[int, str] = {}
        self._warned = False  # one warning a batch is enough
        names = [segment.tobytes() for segment in prefix]
        if names != self._prefix:
            self._prefix, self._killed, self._answered = names, 0, False
        groups = [list(range(len(suffixes)))]
        tries = BATCH_TRIES
        while groups:
            group = groups.pop()
            probes = self._killed >= QUERY_PAIRS and self._answered  # a row of bad documents, or a query gone bad?
            if probes:
                *rest, last = (i for each in (group, *reversed(groups)) for i in each)
                groups, group = [rest] if rest else [], [last]
                self._answered = False
            elif self._killed >= QUERY_PAIRS:
                why = (
                    f"not tried: the model process died on {QUERY_PAIRS} other pairs of this query, one after the other"
                )
                failed |= dict.fromkeys(group, why)
                continue
            alone = len(group) == 1
            most = 1 if probes else PAIR_TRIES if alone else tries
            scores = self._try(prefix, [suffixes[i] for i in group], labels, most)
            tries = 1
            if isinstance(scores, Scores):
                self._killed, self._answered = 0, True
                logits[group] = scores.logits
                failed |= {group[row]: why for row, why in scores.failed.items()}
                with_totals = scores.log_totals is not None
                if scores.log_totals is not None:
                    totals[group] = scores.log_totals
            elif alone:
                failed[group[0]] = (
                    f"the model process died on this pair ({scores}, {most} {'try' if most == 1 else 'tries'})"
                )
                self._killed += 1
            else:
                middle = len(group) // 2
                groups += [group[middle:], group[:middle]]
        return Scores(logits, totals if with_totals else None, failed)

    def close(self) -> None:
        """End the worker and close the tokenizer."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()
        self._open.close()

    def _try(self, prefix: Sequence[Ids], suffixes: Sequence[Ids], labels: Ids, tries: int) -> Scores | str:
        """Return the scores, or how the worker died in the last of so many tries."""
        how = ""
        for _ in range(tries):
            worker = self._running()
            try:
                header, arrays = worker.ask(prefix, suffixes, labels)
            except WorkerDiedError as death:
                how = str(death)
                self._died(how)
                continue
            self._deaths = 0
            self._works = True
            self._count(header)
            return _checked(header, arrays, len(suffixes), len(labels))
        return how

    def _running(self) -> WorkerProcess:
        """Return the worker, a new one where it died or was left in the middle of an answer."""
        if self._worker is not None and self._worker.busy:
            self._worker.kill()
            self._forget()
        while self._worker is None:
            try:
                self._worker = WorkerProcess(self._job, self._start_seconds)
            except WorkerDiedError as death:
                self._died(f"{death} while it loaded the model again")
        if _apart_from_threads(self._worker.facts) != _apart_from_threads(self._facts):
            raise ModelError(
                f"{self._job['model']} is not the same model any more: the file was changed under the run, or "
                "the number of usable cores, which moves this model's results; give --threads, and run it again"
            )
        return self._worker

    def _died(self, how: str) -> None:
        self._forget()
        self._deaths += 1
        if how.startswith("SIGILL") and not self._works and self._facts["identity"]["kind"] == "llama":
            raise ModelError(f"{self._job['model']}: the model process ended by SIGILL: {illegal_instruction()}")
        _log.log(
            logging.INFO if self._warned else logging.WARNING, "the model process died (%s); it is started again", how
        )
        self._warned = True
        if self._deaths >= MOST_DEATHS:
            raise ModelError(
                f"the model process died {self._deaths} times in a row, last by {how}; what was done before is kept. "
                "If it dies on every pair, the model file is damaged, the memory too small or the library broken"
            )

    def _forget(self) -> None:
        self._worker = None
        self._before = Counters(**asdict(self.counters))

    def _count(self, header: dict[str, Any]) -> None:
        for name, value in header["counters"].items():
            setattr(self.counters, name, getattr(self._before, name) + value)


def _apart_from_threads(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what tells a model: how many cores a process may use can change while it runs."""
    return {name: value for name, value in facts.items() if name != "threads"}


def _checked(header: dict[str, Any], arrays: list[Any], rows: int, labels: int) -> Scores:
    """Make scores of what a worker sent, once it has the right sizes and types."""
    kinds = [(array.dtype, array.size) for array in arrays]
    expected = [(np.dtype(np.float32), rows * labels), (np.dtype(np.float64), rows)]
    if kinds not in (expected, expected[:1]):
        raise ModelError("the model process answered something else than it was asked")
    totals = arrays[1] if len(arrays) > 1 else None
    return Scores(arrays[0].reshape(rows, labels), totals, dict(header["failed"]))
