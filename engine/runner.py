"""What runs a model behind the ONNX backend: states of a prefix's segments that are kept, documents behind them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pairgrade.backend import Counters, segments_in_common
from pairgrade.onnx_table import Floats
from pairgrade.tokenizer import Ids

A = TypeVar("A")  # how a runner holds keys and values


@dataclass(frozen=True, slots=True)
class State(Generic[A]):
    """Keys and values of a prefix up to the end of one of its segments."""

    name: bytes  # the segment's ids
    length: int  # tokens up to its end
    arrays: A


class Runner(ABC, Generic[A]):
    """Keeps the states of the last prefix's segments.

    What computes raises MemoryError where there is none left for it, and ModelError for any other reason.
    """

    def __init__(self, nothing: A) -> None:
        self.counters = Counters()
        self._nothing = State(b"", 0, nothing)
        self._states: list[State[A]] = []
        self._fresh = 0  # tokens that the last hold computed and no document has been counted behind

    def hold(self, prefix: Sequence[Ids]) -> State[A]:
        """Return the prefix's state, computing only the segments that are not kept."""
        segments = [segment for segment in prefix if len(segment)]
        kept = segments_in_common((segment.tobytes() for segment in segments), (state.name for state in self._states))
        del self._states[kept:]
        self._fresh = 0
        for segment in segments[kept:]:
            before = self._states[-1] if self._states else self._nothing
            seconds = self.counters.seconds
            arrays = self._extend(segment, before)
            self.counters.prefix_seconds += self.counters.seconds - seconds
            self.counters.prefix_computed += len(segment)
            self._states.append(State(segment.tobytes(), before.length + len(segment), arrays))
            self._fresh += len(segment)
        return self._states[-1] if self._states else self._nothing

    @property
    def held(self) -> int:
        """How many segments' states are kept."""
        return len(self._states)

    def forget(self) -> None:
        """Drop the kept states."""
        self._states.clear()

    @abstractmethod
    def hidden(self, documents: Sequence[Ids], state: State[A]) -> Floats:
        """Run documents behind a prefix: the hidden state of each one's last token, (documents, hidden)."""

    @abstractmethod
    def close(self) -> None:
        """Free the model."""

    @abstractmethod
    def _extend(self, segment: Ids, before: State[A]) -> A:
        """Return keys and values of a prefix and of a segment behind it."""

    def _count(self, seconds: float, tokens: int) -> None:
        self.counters.seconds += seconds
        self.counters.computed += tokens

    def _count_reused(self, state: State[A], documents: int) -> None:
        self.counters.reused += state.length * documents - self._fresh
        self._fresh = 0
