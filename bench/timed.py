"""Clocks around the parts of an annotator that are not inside the model."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pairgrade.backend import Backend, Counters, Scores
from pairgrade.bench.cell_records import BatchTime
from pairgrade.progress import Progress
from pairgrade.tokenizer import Ids, Tokenizer


class TimedTokenizer:
    """A tokenizer that adds up the seconds it takes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.bos = tokenizer.bos
        self.seconds = 0.0

    def scaffold(self, text: str) -> Ids:
        """Tokenize our own text."""
        return self._tokenizer.scaffold(text)

    def plain(self, text: str) -> Ids:
        """Tokenize foreign text, timed."""
        start = time.perf_counter()
        ids = self._tokenizer.plain(text)
        self.seconds += time.perf_counter() - start
        return ids

    def special(self, text: str) -> int | None:
        """Return the id of a special token."""
        return self._tokenizer.special(text)

    def piece(self, token: int) -> str:
        """Return the text of a token."""
        return self._tokenizer.piece(token)


class TimedBackend:
    """A backend with a timed tokenizer; everything else is passed on."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.tokenizer = TimedTokenizer(backend.tokenizer)
        self.context = backend.context
        self.threads = backend.threads
        self.exact = backend.exact
        self.is_chat_model = backend.is_chat_model

    @property
    def counters(self) -> Counters:
        """What was computed since the model was loaded."""
        return self._backend.counters

    def identity(self) -> dict[str, str]:
        """Name what decides the result."""
        return self._backend.identity()

    def score(self, prefix: Sequence[Ids], suffixes: Sequence[Ids], labels: Ids) -> Scores:
        """Run the model."""
        return self._backend.score(prefix, suffixes, labels)

    def close(self) -> None:
        """Free the model."""
        self._backend.close()


class BatchClock(Progress):
    """Keeps the time and the tokens of each batch of a run."""

    def __init__(self) -> None:
        self.batches: list[BatchTime] = []
        self._last = 0.0
        self._computed = 0

    def begin(self, counters: Counters) -> None:
        """Take note of what was computed before the run."""
        self._computed = counters.computed

    def start(self, total: int, done: int) -> None:
        """Let the clock run."""
        self._last = time.perf_counter()

    def advance(self, pairs: int, counters: Counters) -> None:
        """Keep one batch."""
        now = time.perf_counter()
        self.batches.append(BatchTime(pairs, now - self._last, counters.computed - self._computed))
        self._last, self._computed = now, counters.computed
