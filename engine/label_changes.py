"""What relabelling did to a ranking set: counts by label and grade, by source and by query, and examples."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pairgrade.ranking_set import RankingRow

OUTCOMES = ("kept", "raised", "lowered", "dropped", "uncertain", "unjudged")

_DROPPED = float("inf")  # the label after of a row that was left out
_MOST_LABELS = 12  # rows of the matrix; more labels are gathered at the nearest grade


@dataclass(slots=True)
class Counts:
    """Rows of one source, one query or the whole set."""

    rows: int = 0
    positives: int = 0  # by the set's label, of the judged rows
    false_positives: int = 0  # of these, those that the annotator finds irrelevant
    negatives: int = 0
    false_negatives: int = 0  # of these, those that the annotator finds relevant
    kept: int = 0  # judged, and the label is what it was
    raised: int = 0
    lowered: int = 0
    dropped: int = 0
    uncertain: int = 0  # judged, but not surely enough to change anything
    unjudged: int = 0

    def add(self, outcome: str, positive: bool, relevant: bool | None) -> None:
        """Count a row; ``relevant`` is None where it was not judged."""
        self.rows += 1
        setattr(self, outcome, getattr(self, outcome) + 1)
        if relevant is None:
            return
        if positive:
            self.positives += 1
            self.false_positives += not relevant
        else:
            self.negatives += 1
            self.false_negatives += relevant


@dataclass(frozen=True, slots=True)
class Example:
    """A row of a cell of the matrix."""

    query_id: str
    doc_id: str
    certainty: float  # probability of the side, relevant or not, that the grade is on
    outcome: str
    query: str | None = None  # the texts, where they were asked for
    document: str | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """The rows with one label in the set and one grade of the annotator."""

    label: str
    grade: int
    rows: int
    changed: int  # raised, lowered or dropped
    examples: tuple[Example, ...]  # the most certain


@dataclass(frozen=True, slots=True)
class Move:
    """The rows that had one label in the set and have another, or the same, in the output."""

    before: str
    after: str  # a label, "~" and the nearest grade's where there are many, or "dropped"
    rows: int


@dataclass(frozen=True, slots=True)
class LabelChanges:
    """The report of a relabelling."""

    policy: str
    scale: str
    threshold: int
    confidence: float
    top: float  # the highest label that the set's scale has
    total: Counts
    queries: int
    positive_rows: int  # rows of the set, judged or not, that its labels hold to be relevant
    positive_rows_after: int
    mean_label: float  # on a scale from 0 to 1
    mean_label_after: float | None  # None where every row was dropped
    unused_judgments: int  # for pairs that the set lacks
    other_columns: tuple[str, ...]  # of the set, not carried on
    grades: tuple[int, ...]
    labels: tuple[str, ...]  # of the set, ascending: the rows of the matrix
    matrix: tuple[tuple[int, ...], ...]  # judged rows: label (rows) by grade (columns)
    changed: tuple[tuple[int, ...], ...]  # of these, the changed ones
    cells: tuple[Cell, ...]  # with rows
    moves: tuple[Move, ...]  # of every row, judged or not; ascending
    sources: dict[str, Counts]
    per_query: dict[str, Counts]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON takes it."""
        return asdict(self)


@dataclass(slots=True)
class _Tally:
    rows: int = 0
    changed: int = 0
    examples: list[tuple[float, int, Example]] = field(default_factory=list)  # a heap, least certain first


class ChangeCounter:
    """Counts relabelled rows one by one."""

    def __init__(
        self,
        labels: Sequence[float],
        top: float,
        highest: float,
        grades: Sequence[int],
        examples: int,
        texts: bool,
        continuous: bool,
    ) -> None:
        """Take the labels of the set, its top and the output's, and whether the output's labels are of any value."""
        self._grades = tuple(grades)
        self._exact = len(labels) <= _MOST_LABELS
        self._exact_after = self._exact and not continuous
        self._limit, self._texts = examples, texts
        self._names = {label: f"{label:g}" for label in sorted(labels)} if self._exact else self._places(top)
        self._names_after = self._places(highest)
        self._cells: dict[tuple[str, int], _Tally] = {}
        self._moves: dict[tuple[str, float], int] = {}
        self._number = 0
        self.total = Counts()
        self.sources: dict[str, Counts] = {}
        self.per_query: dict[str, Counts] = {}

    def add(
        self, row: RankingRow, outcome: str, positive: bool, relevant: bool | None, certainty: float, after: float
    ) -> None:
        """Count a row as it was in the set, with the annotator's grade if it was judged, and its label after."""
        self._number += 1
        place = after if self._exact_after else min(self._names_after, key=lambda place: abs(place - after))
        move = (self._name(row.label), _DROPPED if outcome == "dropped" else place)
        self._moves[move] = self._moves.get(move, 0) + 1
        by_source = self.sources.setdefault(row.source, Counts())
        by_query = self.per_query.setdefault(row.query_id, Counts())
        for counts in (self.total, by_source, by_query):
            counts.add(outcome, positive, relevant)
        if relevant is None or row.judged_grade is None:
            return
        cell = self._cells.setdefault((self._name(row.label), row.judged_grade), _Tally())
        cell.rows += 1
        cell.changed += outcome in ("raised", "lowered", "dropped")
        if not self._limit:
            return
        texts = (row.query, row.text) if self._texts else (None, None)
        entry = (certainty, -self._number, Example(row.query_id, row.doc_id, certainty, outcome, *texts))
        if len(cell.examples) < self._limit:
            heapq.heappush(cell.examples, entry)
        else:
            heapq.heappushpop(cell.examples, entry)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the matrix's rows."""
        return tuple(dict.fromkeys(self._names.values()))  # labels that differ in the seventh digit are one

    def matrix(self, name: str) -> tuple[tuple[int, ...], ...]:
        """Return ``rows`` or ``changed`` of each label and grade."""
        empty = _Tally()
        return tuple(
            tuple(int(getattr(self._cells.get((label, grade), empty), name)) for grade in self._grades)
            for label in self.labels
        )

    def cells(self) -> tuple[Cell, ...]:
        """Return the cells that have rows, with their examples, the most certain first."""
        found = []
        for label in self.labels:
            for grade in self._grades:
                if tally := self._cells.get((label, grade)):
                    examples = tuple(example for *_, example in sorted(tally.examples, reverse=True))
                    found.append(Cell(label, grade, tally.rows, tally.changed, examples))
        return tuple(found)

    def moves(self) -> tuple[Move, ...]:
        """Return how many rows went from which label to which."""
        rows: dict[tuple[str, str], int] = {}  # labels that differ in the seventh digit are one
        for label in self.labels:
            for (before, after), count in sorted(self._moves.items(), key=lambda item: item[0][1]):
                if before == label:
                    name = f"{after:g}" if self._exact_after else self._names_after.get(after, "")
                    move = (label, "dropped" if after == _DROPPED else name)
                    rows[move] = rows.get(move, 0) + count
        return tuple(Move(before, after, count) for (before, after), count in rows.items())

    def _places(self, top: float) -> dict[float, str]:
        """Return the place of each grade on a scale from 0 to its top, and its name."""
        low, spread = self._grades[0], self._grades[-1] - self._grades[0]
        return {(grade - low) / spread * top: f"~{(grade - low) / spread * top:g}" for grade in self._grades}

    def _name(self, label: float) -> str:
        if self._exact:
            return self._names[label]
        return self._names[min(self._names, key=lambda place: abs(place - label))]
