"""Steps that are done once: one whose outputs are there, unchanged and made with the same settings is not done again.

Each step leaves a record of what decided it and of the sha256 of its outputs. Quick ones are done again whenever
something before them changed; the costly ones (labelling, training) refuse to replace another job's work unless told
to.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pairgrade.environment import package_version
from pairgrade.errors import InputError, ResumeError
from pairgrade.file_hashes import MANIFEST, remembered_sha256
from pairgrade.manifest import Identity, Manifest, differences

_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of work with its inputs and outputs; a folder stands for the manifest in it."""

    name: str  # of its record, too
    work: Callable[[], object]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    settings: dict[str, str] = field(default_factory=dict)  # what else decides the outputs
    costly: bool = False


class Steps:
    """Does steps, and keeps their records in a folder."""

    def __init__(self, root: Path, overwrite: bool = False) -> None:
        self._root, self._overwrite = root, overwrite
        self.done: list[str] = []  # the steps that had something to do

    def run(self, stage: str, steps: Sequence[Step]) -> None:
        """Do a stage's steps in turn, and tell on stderr what was done and how long the rest will take."""
        start, worked = time.monotonic(), 0
        for number, step in enumerate(steps, start=1):
            head = f"{stage} {number}/{len(steps)}: {step.name}"
            identity = self._identity(step)
            if self._is_done(step, identity):
                _tell(f"{head}: unchanged")
                continue
            _tell(f"{head} ...")
            seconds = self._do(step, identity)
            worked += 1
            fresh = sum(Manifest.load(self._record(later)) is None for later in steps[number:])
            left = fresh * (time.monotonic() - start) / worked
            _tell(f"{head}: {shown_time(seconds)}" + (f"; about {shown_time(left)} left of {stage}" if fresh else ""))

    def _identity(self, step: Step) -> Identity:
        for path in step.inputs:
            if not path.exists():
                raise InputError(f"{step.name} needs {path}, which is not there; run the stages before it first")
        digests = {f"input.{self._named(path)}": _digest(path) for path in step.inputs}
        return {"pairgrade": package_version()} | digests | step.settings

    def _is_done(self, step: Step, identity: Identity) -> bool:
        record = Manifest.load(self._record(step))
        if record is None:
            return False
        if record.identity != identity:
            if step.costly and not self._overwrite:
                raise ResumeError(
                    f"{step.name} was done with something else: {'; '.join(differences(record.identity, identity))}. "
                    "Name another --out, or give --overwrite to do it again"
                )
            return False
        return record.result == {self._named(path): _digest(path) for path in step.outputs if path.exists()}

    def _do(self, step: Step, identity: Identity) -> float:
        record = self._record(step)
        record.unlink(missing_ok=True)
        for path in step.outputs:
            path.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        step.work()
        record.parent.mkdir(parents=True, exist_ok=True)
        Manifest(identity, {}, {self._named(path): _digest(path) for path in step.outputs}).save(record)
        self.done.append(step.name)
        return time.monotonic() - start

    def _record(self, step: Step) -> Path:
        return self._root / "steps" / f"{step.name.replace('/', '.').replace(' ', '-')}.json"

    def _named(self, path: Path) -> str:
        return str(path.relative_to(self._root) if path.is_relative_to(self._root) else path.name)


def shown_time(seconds: float) -> str:
    """Return a time in the unit that fits it."""
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    minutes = round(seconds / _MINUTE)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


def _digest(path: Path) -> str:
    return remembered_sha256(path / MANIFEST if path.is_dir() else path)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
