"""Whether an annotator is easier to fool than an earlier report of ``pairgrade attack`` says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairgrade.attacks import AttackReport
from pairgrade.errors import InputError
from pairgrade.lines import quoted

_SLACK = 1e-9  # of a difference of two shares


@dataclass(frozen=True, slots=True)
class EarlierReport:
    """What another report is compared with."""

    path: str
    rubric: str
    threshold: int
    pairs: int  # all that were tried
    rates: dict[str, float]  # share of the documents that became relevant, by manipulation

    def require(self, rubric: str, threshold: int, pairs: int, names: Sequence[str]) -> None:
        """Raise InputError where a report of these would not be comparable."""
        facts = [
            ("rubric", self.rubric, rubric),
            ("threshold", self.threshold, threshold),
            ("pairs", self.pairs, pairs),
        ]
        for what, before, now in facts:
            if before != now:
                raise InputError(f"{self.path} is not comparable: its {what} {quoted(str(before))}, here {now}")
        if missing := [name for name in names if name not in self.rates]:
            raise InputError(f"{self.path} has no '{missing[0]}'; --attacks can be {', '.join(list(self.rates)[1:])}")

    def rises(self, report: AttackReport, most: float) -> tuple[Rise, ...]:
        """Return the manipulations whose rate is more than ``most`` above the earlier one."""
        found = (Rise(result.name, self.rates[result.name], result.rate) for result in report.results)
        return tuple(rise for rise in found if rise.after - rise.before > most + _SLACK)


@dataclass(frozen=True, slots=True)
class Rise:
    """A manipulation that makes more documents relevant than before."""

    name: str
    before: float  # share of the documents
    after: float


def read_report(path: str | Path) -> EarlierReport:
    """Read what ``pairgrade attack --json`` printed; InputError where it is something else."""
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        results: list[dict[str, Any]] = table["results"]
        rates = {str(row["name"]): float(row["rate"]) for row in results}
        pairs = results[0]["pairs"] + results[0]["unfit"]
        if all(0 <= rate <= 1 for rate in rates.values()):
            return EarlierReport(str(path), str(table["rubric"]), int(table["threshold"]), int(pairs), rates)
        why = "a rate is no share"
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError) as error:
        why = f"{type(error).__name__}: {error}"
    raise InputError(f"{path} is no report of `pairgrade attack --json` ({why})")
