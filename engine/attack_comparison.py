"""Whether an annotator is easier to fool than an earlier report of ``pairgrade attack`` says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from pairgrade.attacks import UNCHANGED, AttackReport
from pairgrade.errors import InputError
from pairgrade.records import Pair
from pairgrade.rubric import Rubric

_SLACK = 1e-9  # of a difference of two shares


@dataclass(frozen=True, slots=True)
class EarlierReport:
    """What another report is compared with."""

    path: str
    task: Mapping[str, Any]  # see ``task_of``
    rates: Mapping[str, float]  # share of the documents that became relevant, by manipulation

    def require(self, task: Mapping[str, Any], names: Sequence[str]) -> None:
        """Raise InputError where a report of this task and these manipulations would not be comparable."""
        if other := [name for name in task if self.task.get(name) != task[name]]:
            raise InputError(
                f"{self.path} is not comparable: its {other[0]} is {self.task.get(other[0], 'not told')}, here "
                f"{task[other[0]]}; give the same pairs, --sample, --seed, --irrelevant, --threshold and --rubric"
            )
        if missing := [name for name in names if name not in self.rates]:
            known = ", ".join(name for name in self.rates if name != UNCHANGED) or "none"
            raise InputError(f"{self.path} has no '{missing[0]}'; its manipulations: {known}; see --attacks")

    def rises(self, report: AttackReport, most: float) -> tuple[Rise, ...]:
        """Return what made more than ``most`` more of the documents relevant; those as they are count, too."""
        found = (Rise(result.name, self.rates[result.name], result.rate) for result in report.results)
        return tuple(rise for rise in found if rise.after - rise.before > most + _SLACK)


@dataclass(frozen=True, slots=True)
class Rise:
    """A manipulation, or none, with which more documents are relevant than before."""

    name: str
    before: float  # share of the documents
    after: float


def task_of(rubric: Rubric, threshold: int, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Name what two reports must have in common: rubric, threshold, and the documents that are manipulated."""
    content = hashlib.sha256()
    for pair in pairs:
        content.update(json.dumps(astuple(pair)).encode())
    return {"rubric_sha256": rubric.digest, "threshold": threshold, "pairs_sha256": content.hexdigest()}


def read_report(path: str | Path) -> EarlierReport:
    """Read what ``pairgrade attack --json`` printed; InputError where it is something else."""
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        rates = {str(row["name"]): float(row["rate"]) for row in table["results"]}
        if UNCHANGED in rates and all(0 <= rate <= 1 for rate in rates.values()):
            return EarlierReport(str(path), table, rates)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        pass
    raise InputError(f"{path} is no report of `pairgrade attack --json`: no results, or some without name and rate")
