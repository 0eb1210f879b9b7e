"""Canary pairs: a few pairs that are judged again and again, to find out a model that changes while it runs.

A model, its memory or the machine can go wrong without an error, and every judgment from then on is wrong. The same
pairs, judged between the others, must get what they got the first time: bit for bit from a backend that is exact.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pairgrade.annotator import Annotator
from pairgrade.atomic import write_text
from pairgrade.errors import InputError, SuspectError
from pairgrade.file_hashes import file_sha256
from pairgrade.journal import Journal
from pairgrade.readers import Source, read_pairs
from pairgrade.records import Pair

_BOUND = 1e-3  # of a probability, where the backend is not exact


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """What the canaries of a run said."""

    pairs: int
    graded: int  # of them with a human grade
    agreeing: int  # of these graded by the model as by people
    checks: int  # times that all were judged and nothing had changed


def read_canaries(path: Path) -> list[Pair]:
    """Read the canary pairs; InputError where a row is no usable pair, or there is no row."""
    pairs = []
    for row in read_pairs(Source(str(path))):
        if not isinstance(row, Pair):
            raise InputError(f"{path}, line {row.line}: {row.reason}; every canary must be a usable pair")
        pairs.append(row)
    return pairs


class Canaries:
    """The canary pairs of one run.

    What they got first, and how far the journal had been checked, is kept in a file for the run that resumes it.
    """

    def __init__(self, path: Path, memory: Path) -> None:
        self.pairs = read_canaries(path)
        self._memory = memory
        self._digest = file_sha256(path)
        self._first: list[list[float]] | None = None
        self._checks = self._agreeing = 0

    def recall(self) -> None:
        """Take over what these pairs got when the run that is resumed began."""
        memory = _remembered(self._memory)
        if memory and memory.canaries == self._digest and len(memory.probabilities) == len(self.pairs):
            self._first = memory.probabilities

    def check(self, annotator: Annotator) -> None:
        """Judge the pairs; SuspectError where one no longer gets what it got the first time."""
        judgments = list(annotator.label(self.pairs))
        found = [list(judgment.probabilities) for judgment in judgments]
        if self._first is None:
            self._first = found
        for pair, first, now in zip(self.pairs, self._first, found, strict=True):
            if not _same(first, now, 0.0 if annotator.exact else _BOUND):
                raise SuspectError(
                    f"canary pair ({pair.query_id}, {pair.doc_id}) got the probabilities {_shown(now)}, and "
                    f"{_shown(first)} when the run began: the model or the machine changed while it ran. What was "
                    "judged since the last sound check is forgotten; test the memory and the model file, and run the "
                    "same command again"
                )
        human = [(pair.grade, judgment.grade) for pair, judgment in zip(self.pairs, judgments, strict=True)]
        self._agreeing = sum(grade == model for grade, model in human if grade is not None)
        self._checks += 1

    def remember(self, sound: int) -> None:
        """Keep for a run that resumes this one that the journal was checked up to that byte."""
        table = {"canaries": self._digest, "probabilities": self._first, "sound": sound}
        write_text(self._memory, json.dumps(table))

    def report(self) -> CanaryReport:
        """Return what they said so far."""
        graded = sum(pair.grade is not None for pair in self.pairs)
        return CanaryReport(len(self.pairs), graded, self._agreeing, self._checks)


def forget_unchecked(memory: Path, journal: Journal) -> None:
    """Cut off what an earlier run judged after its last check, whatever its canaries were, and are now.

    Nobody knows whether its model was sound then.
    """
    found = _remembered(memory)
    if found is not None and found.sound < journal.end:
        journal.forget(found.sound)


class Watch:
    """Checks a run's canaries when it begins, every so many pairs and when it ends."""

    def __init__(self, canaries: Canaries | None, annotator: Annotator, journal: Journal, every: int) -> None:
        self._canaries, self._annotator, self._journal, self._every = canaries, annotator, journal, every
        self._since = 0
        self._check()

    def advance(self, pairs: int) -> None:
        """So many more pairs are in the journal; SuspectError if the canaries have changed since the last check."""
        self._since += pairs
        if self._since >= self._every:
            self._check()

    def stopped(self) -> None:
        """Check once more where a run is stopped, so that what it did since the last check is kept."""
        self._check()

    def end(self) -> None:
        """Check once more, if there is anything new."""
        if self._since:
            self._check()

    def _check(self) -> None:
        if self._canaries is None:
            return
        self._canaries.check(self._annotator)
        self._journal.sync()
        self._since = 0
        self._canaries.remember(self._journal.end)  # the run that resumes this one forgets what follows


@dataclass(frozen=True, slots=True)
class _Memory:
    """What is kept for the run that resumes one."""

    canaries: str  # sha256 of their file
    probabilities: list[list[float]]  # of each pair when the run began
    sound: int  # bytes of the journal that were checked


def _remembered(path: Path) -> _Memory | None:
    """Return what was kept; None where nothing was, or it is damaged."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        found = _Memory(table["canaries"], table["probabilities"], table["sound"])
        return found if _are_sound(found.probabilities, found.sound) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _are_sound(known: object, sound: object) -> bool:
    """Whether what was remembered is a list of numbers for each pair, and a place of the journal."""
    rows = isinstance(known, list) and all(isinstance(row, list) for row in known)
    numbers = rows and all(type(p) in (int, float) for row in known for p in row)  # type: ignore[attr-defined]
    return numbers and type(sound) is int and sound >= 0


def _same(first: Sequence[float], now: Sequence[float], bound: float) -> bool:
    return len(first) == len(now) and all(abs(a - b) <= bound for a, b in zip(first, now, strict=True))


def _shown(probabilities: Sequence[float]) -> str:
    return " ".join(f"{p:.6f}" for p in probabilities)
