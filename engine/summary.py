"""The figures a labelling run ends with."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from pairgrade.canaries import CanaryReport
from pairgrade.records import Judgment, Rejection


@dataclass(frozen=True, slots=True)
class Tally:
    """What the output holds; a function of the judgments alone."""

    labelled: int  # rows of the output
    rejected: int  # rows of the input that were no usable pairs
    unfit: int  # usable pairs that could not be graded
    truncated: int  # judgments of a document that was cut
    grades: dict[str, int]  # judgments per grade
    mean_label_mass: float | None
    mean_expected_grade: float | None
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Effort:
    """What this process did for it; all zero when the job had been finished before."""

    pairs: int = 0  # outcomes reached now
    resumed: int = 0  # outcomes that an earlier, interrupted run had reached
    seconds: float = 0.0  # labelling, from text to journal
    model_seconds: float = 0.0  # of these, inside the model
    prepare_seconds: float = 0.0  # reading and checking the input
    load_seconds: float = 0.0  # loading the model
    write_seconds: float = 0.0  # writing the output
    computed_tokens: int = 0
    reused_tokens: int = 0

    @property
    def pairs_per_second(self) -> float | None:
        """Pairs a second while labelling, or None where there was nothing to label."""
        return self.pairs / self.seconds if self.pairs and self.seconds else None

    @property
    def reused_share(self) -> float | None:
        """Share of the prompts' tokens that were not computed again."""
        tokens = self.computed_tokens + self.reused_tokens
        return self.reused_tokens / tokens if tokens else None


@dataclass(frozen=True, slots=True)
class Summary:
    """A finished run."""

    out: str
    errors: str | None  # the errors file, if any row has no judgment
    qrels: str | None
    tally: Tally
    effort: Effort
    already_finished: bool = False  # nothing was left to do
    canaries: CanaryReport | None = None  # None where there are none, or nothing was left to do

    @property
    def is_partial(self) -> bool:
        """Whether any row of the input has no judgment."""
        return self.tally.rejected + self.tally.unfit > 0

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-ready values."""
        table = asdict(self)
        table["effort"]["pairs_per_second"] = self.effort.pairs_per_second
        table["effort"]["reused_share"] = self.effort.reused_share
        return table


class TallyCounter:
    """Adds judgments up to a tally, in constant memory."""

    def __init__(self) -> None:
        self._grades: dict[int, int] = {}
        self._truncated = self._tokens = self._with_mass = 0
        self._mass = self._expected = 0.0

    def add(self, judgment: Judgment) -> None:
        """Count one judgment."""
        self._grades[judgment.grade] = self._grades.get(judgment.grade, 0) + 1
        self._truncated += judgment.truncated
        self._tokens += judgment.prompt_tokens
        self._expected += judgment.expected_grade
        if judgment.label_mass is not None:
            self._mass += judgment.label_mass
            self._with_mass += 1

    def total(self, rejected: int, unfit: int) -> Tally:
        """Return the tally of what was added."""
        labelled = sum(self._grades.values())
        return Tally(
            labelled=labelled,
            rejected=rejected,
            unfit=unfit,
            truncated=self._truncated,
            grades={str(grade): self._grades[grade] for grade in sorted(self._grades)},
            mean_label_mass=self._mass / self._with_mass if self._with_mass else None,
            mean_expected_grade=self._expected / labelled if labelled else None,
            prompt_tokens=self._tokens,
        )


def first_error(errors: str | os.PathLike[str]) -> Rejection | None:
    """Return the first row of an errors file; None where there is none, or somebody changed it."""
    try:
        with open(errors, encoding="utf-8") as stream:
            return Rejection(**json.loads(stream.readline()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
