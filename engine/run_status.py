"""What has become of a run, told by its files alone: nothing is started, waited for or changed."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pairgrade.errors import InputError
from pairgrade.heartbeat import read_beat
from pairgrade.lock import holder, token
from pairgrade.manifest import Manifest
from pairgrade.run_folder import RunFolder, behind_link, named

_REPORT = "report.json"  # of a training, in its OUT
STATES = ("starting", "running", "finished", "stopped", "failed", "dead")


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The state of a run and, as far as they are known, its figures."""

    out: str
    state: str  # one of STATES; dead: killed, and nobody holds its lock
    pid: int | None = None  # of the process that works on it, or did last
    unit: str = "pairs"  # of what is counted; steps of a training
    total: int | None = None
    done: int | None = None
    errors: int | None = None  # rows without a judgment
    rate: float | None = None  # pairs a second: over the last minute (steps: hour), or in all where it is finished
    seconds_left: float | None = None
    seconds_since_update: float | None = None
    reason: str = ""  # why it stopped or failed
    told: str = ""  # what a training found last

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return asdict(self)


def run_status(out: Path) -> RunStatus:
    """Tell the state of the run that writes ``out``; InputError where there is no trace of one.

    An unfinished run that no process works on any more is ``stopped`` or ``failed`` where it ended by itself, and
    ``dead`` where it was killed. The same command resumes each.
    """
    out = behind_link(named(out))
    if not out.name:
        raise _unknown(out)
    folder = RunFolder(out.with_name(f"{out.name}.run"))
    pid = holder(folder.lock)
    beat = read_beat(folder.heartbeat)
    if beat is not None and pid is not None and beat.lock != token(folder.lock):
        beat = None  # of an earlier process, whose id may be the same in a container
    at_its_end = beat is not None and beat.phase == "writing" and _is_after(out / _REPORT, beat.started)
    if pid is None and at_its_end and (trained := _trained(out)):
        return trained  # it was killed while it tidied up
    if beat is not None and (pid is None or pid == beat.pid):
        return RunStatus(
            out=str(out),
            state=beat.phase if beat.phase in ("stopped", "failed") else "running" if pid else "dead",
            pid=beat.pid,
            unit=beat.unit,
            total=beat.total,
            done=beat.done,
            errors=beat.errors,
            rate=beat.rate,
            seconds_left=beat.seconds_left if pid else None,
            seconds_since_update=max(0.0, time.time() - beat.updated),
            reason=beat.reason,
            told=beat.told,
        )
    if pid is not None:
        return RunStatus(str(out), "starting", pid)
    if folder.manifest.exists():
        return RunStatus(str(out), "dead")  # killed before its first beat
    finished = Manifest.load(out.with_name(out.name + ".manifest.json"))
    if finished is not None and finished.result and out.is_file():
        return _finished(out, finished)
    if trained := _trained(out):
        return trained
    if folder.lock.exists():
        return RunStatus(str(out), "dead")  # killed while it read the input or loaded the model
    raise _unknown(out)


def _unknown(out: Path) -> InputError:
    return InputError(f"{out} was not written by a run, and no run of it is under way; name the output of one")


def _finished(out: Path, manifest: Manifest) -> RunStatus:
    try:
        tally, effort = manifest.result["tally"], manifest.result["effort"]
        errors = tally["rejected"] + tally["unfit"]
        done = tally["labelled"] + tally["unfit"]
        rate = effort["pairs"] / effort["seconds"] if effort["seconds"] else None
    except (KeyError, TypeError):
        raise InputError(f"the manifest of {out} is damaged") from None
    return RunStatus(
        str(out), "finished", manifest.environment.get("process"),
        total=done, done=done, errors=errors, rate=rate, seconds_left=0.0,
    )  # fmt: skip


def _trained(out: Path) -> RunStatus | None:
    """Tell of a folder that a training left, or return None where it is none."""
    try:
        steps = json.loads((out / _REPORT).read_text(encoding="utf-8"))["steps"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if type(steps) is not int:
        return None
    return RunStatus(str(out), "finished", unit="steps", total=steps, done=steps, seconds_left=0.0)


def _is_after(path: Path, moment: float) -> bool:
    """Whether a file is there that was written after a moment, in seconds since 1970."""
    try:
        return path.stat().st_mtime > moment
    except OSError:
        return False
