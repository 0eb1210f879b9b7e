"""What an annotator's judgment makes of a row of a ranking set, under a named policy.

Labels keep the scale of the set, which goes from 0 to its top: 1, or the highest grade where a label is above 1.
The grades lie evenly on it. A row is positive where its label reaches the place of the threshold, and an annotated
pair is relevant where its grade does: a false positive is a positive row that is not relevant, a false negative the
reverse. Rows that were not judged keep their labels and are marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pairgrade.errors import InputError
from pairgrade.ranking_columns import FORMS
from pairgrade.ranking_set import RankingRow
from pairgrade.records import Judgment

POLICIES = {
    "replace": "every judged row takes the annotator's grade",
    "confident": "as replace, where the annotator is sure enough",
    "drop-false-negatives": "negatives that are judged relevant are left out; other labels stay",
    "demote-false-positives": "positives that are judged irrelevant get the label 0; other labels stay",
    "soft": "every judged row takes the expected grade",
}
SCALES = {
    "set": "as in the set",
    "grades": "as the annotator's grades, the lowest 0",
    "binary": "1 or 0, relevant or not; with soft the probability of relevant",
}
SET_SCALES = {
    "auto": "grades where a label is above 1, else unit",
    "unit": "from 0 to 1",
    "grades": "as the annotator's grades, the lowest 0",
}
CONFIDENT = 0.8  # what the policy of that name asks for

_SLACK = 1e-9  # of a label: 2/3 of 3 is a grade of 2


@dataclass(frozen=True, slots=True)
class RelabelOptions:
    """How labels are corrected."""

    policy: str = "replace"  # one of POLICIES
    threshold: int | None = None  # relevant from this grade on; None: 2, or 1 where no grade is above 1
    confidence: float | None = None  # a judgment less sure changes nothing; None: 0.8 for confident, else 0
    scale: str = "set"  # one of SCALES
    form: str = "set"  # columns of the output: a ranking set, or one of sentence-transformers' forms
    examples: int = 3  # of each cell of the report
    example_texts: bool = False  # with their texts
    set_scale: str = "auto"  # of the labels of the set, one of SET_SCALES

    def __post_init__(self) -> None:
        for name, allowed in (
            ("policy", POLICIES),
            ("scale", SCALES),
            ("set_scale", SET_SCALES),
            ("form", ("set", *FORMS)),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(f"the {name} is {getattr(self, name)!r}; it can be {', '.join(allowed)}")
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise InputError(f"the confidence is {self.confidence}; it must be from 0 to 1")
        if self.examples < 0:
            raise InputError(f"examples is {self.examples}; it must be 0 or more")

    @property
    def least_certainty(self) -> float:
        """What the probability of a judgment's side must reach for it to change a label."""
        if self.confidence is not None:
            return self.confidence
        return CONFIDENT if self.policy == "confident" else 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a row."""

    outcome: str  # kept, raised, lowered, dropped, uncertain or unjudged
    label: float  # the new one; of a dropped row the old
    positive: bool  # by the label in the set
    relevant: bool | None  # by the annotator; None where it did not judge
    certainty: float  # probability of its side, relevant or not


class Relabeler:
    """Decides on rows, one by one."""

    def __init__(self, options: RelabelOptions, grades: Sequence[int], top: float) -> None:
        if len(grades) < 2:
            raise InputError(f"the judgments have the grades {list(grades)}; relabelling needs two or more")
        self.options, self.grades, self.top = options, tuple(grades), top
        self.threshold = options.threshold if options.threshold is not None else (2 if grades[-1] > 1 else 1)
        self._low, self._spread = grades[0], grades[-1] - grades[0]
        if not grades[0] < self.threshold <= grades[-1]:
            raise InputError(
                f"the threshold is {self.threshold}, the judgments have the grades {', '.join(map(str, grades))}; "
                f"it must be above the lowest and at most {grades[-1]}"
            )
        self.highest = {"set": top, "grades": float(self._spread), "binary": 1.0}[options.scale]  # label of the output
        self._positive_from = self._place(self.threshold) * top - _SLACK

    def positive(self, label: float) -> bool:
        """Say whether a label of the set stands for relevant."""
        return label >= self._positive_from

    def positive_after(self, label: float) -> bool:
        """Say the same of a label of the output; of a probability, whether it is one half or more."""
        return label >= 0.5 if self.options.scale == "binary" else self.positive(label / self.highest * self.top)

    def scaled(self, label: float) -> float:
        """Return a label of the set on the scale of the output."""
        if self.options.scale == "binary":
            return float(self.positive(label))
        return label if self.highest == self.top else label * (self.highest / self.top)

    def decide(self, row: RankingRow, judgment: Judgment | None) -> Decision:
        """Return what the policy makes of a row."""
        old, positive = self.scaled(row.label), self.positive(row.label)
        if judgment is None:
            return Decision("unjudged", old, positive, None, 0.0)
        relevant = judgment.grade >= self.threshold
        chance = sum(p for p, grade in zip(judgment.probabilities, self.grades, strict=True) if grade >= self.threshold)
        certainty = chance if relevant else 1 - chance
        if certainty < self.options.least_certainty:
            return Decision("uncertain", old, positive, relevant, certainty)
        policy = self.options.policy
        new = old
        if policy == "drop-false-negatives":
            if relevant and not positive:
                return Decision("dropped", old, positive, relevant, certainty)
        elif policy == "demote-false-positives":
            new = 0.0 if positive and not relevant else old
        elif policy == "soft" and self.options.scale == "binary":
            new = min(1.0, chance)
        else:
            new = self._label(judgment.expected_grade if policy == "soft" else judgment.grade)
        outcome = "kept" if abs(new - old) <= _SLACK else "raised" if new > old else "lowered"
        return Decision(outcome, new, positive, relevant, certainty)

    def _place(self, grade: float) -> float:
        """Return where a grade lies between the lowest, 0, and the highest, 1."""
        return min(1.0, max(0.0, (grade - self._low) / self._spread))

    def _label(self, grade: float) -> float:
        if self.options.scale == "binary":
            return float(grade >= self.threshold)
        return self._place(grade) * self.highest
