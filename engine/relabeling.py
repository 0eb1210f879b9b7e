"""Corrects the labels of a ranking set by judgments; ``pairgrade.relabel_policy`` decides on each row."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from pairgrade.errors import InputError
from pairgrade.judgments import read_judgments
from pairgrade.label_changes import ChangeCounter, LabelChanges
from pairgrade.lines import quoted
from pairgrade.matching import by_pair
from pairgrade.ranking_columns import write_columns
from pairgrade.ranking_set import RankingRow, RankingSet, read_ranking_set, write_ranking_set
from pairgrade.records import Judgment
from pairgrade.relabel_policy import Decision, Relabeler, RelabelOptions

PathLike = str | os.PathLike[str]


def relabel(
    ranking_set: PathLike, judgments: PathLike, out: PathLike, options: RelabelOptions | None = None
) -> LabelChanges:
    """Write the set with corrected labels, in the order of its rows, and report the changes.

    The judgments are held in memory, the set is read twice.
    """
    options = options or RelabelOptions()
    source = read_ranking_set(ranking_set)
    file = read_judgments(judgments)
    found = {
        pair: item
        for pair, item in by_pair(file, f"the judgments in {judgments}").items()
        if isinstance(item, Judgment)  # all are; a file of judgments holds nothing else
    }
    labels = _labels(source, found)
    relabeler = Relabeler(options, file.grades, _top(source, max(labels), file.grades, options.set_scale))
    work = _Work(relabeler, labels)
    rows = work.rows(source, found)
    if options.form == "set":
        write_ranking_set(out, rows, relabelled=True)
    else:
        write_columns(out, rows, options.form)
    return work.report(len(found), source)


def _labels(source: RankingSet, judgments: Mapping[tuple[str, str], Judgment]) -> set[float]:
    """Return the labels of the set; InputError where it has no rows, or none that was judged."""
    labels: set[float] = set()
    judged = False
    for row in source:
        labels.add(row.label)
        judged = judged or (row.query_id, row.doc_id) in judgments
    if not labels:
        raise InputError(f"{source.path}: holds no rows; there is nothing to relabel")
    if not judged:
        first = next(iter(source))
        examples = (
            ", ".join(f"{quoted(query)} {quoted(document)}" for query, document in islice(judgments, 3)) or "none"
        )
        raise InputError(
            f"no row of {source.path} was judged; query and document of its first row: {quoted(first.query_id)} "
            f"{quoted(first.doc_id)}; of the judgments: {examples}"
        )
    return labels


def _top(source: RankingSet, highest: float, grades: Sequence[int], scale: str) -> float:
    """Return the highest label that the set's scale has; InputError where the set has a higher one."""
    unit = highest <= 1 if scale == "auto" else scale == "unit"
    top = 1.0 if unit or len(grades) < 2 else float(grades[-1] - grades[0])
    if highest > top:
        if scale == "unit":
            raise InputError(f"{source.path}: the highest label is {highest:g}, so its scale is not unit, from 0 to 1")
        raise InputError(
            f"{source.path}: the highest label is {highest:g}, but the judgments' grades {', '.join(map(str, grades))} "
            f"span {top:g}; bring the labels to a scale from 0 to 1, or to that of the grades"
        )
    return top


class _Work:
    """A pass over the set, and what it found."""

    def __init__(self, relabeler: Relabeler, labels: set[float]) -> None:
        options = relabeler.options
        self._relabeler = relabeler
        self._counter = ChangeCounter(
            sorted(labels), relabeler.top, relabeler.highest, relabeler.grades, options.examples,
            options.example_texts, options.policy == "soft",
        )  # fmt: skip
        self._used = self._positive = self._positive_after = self._written = 0
        self._sum = self._sum_after = 0.0

    def rows(self, source: RankingSet, judgments: Mapping[tuple[str, str], Judgment]) -> Iterator[RankingRow]:
        seen: set[tuple[str, str]] = set()
        for row in source:
            pair = (row.query_id, row.doc_id)
            if pair in seen:
                raise InputError(
                    f"{source.path}: the pair {quoted(pair[0])} {quoted(pair[1])} is there twice; keep one"
                )
            seen.add(pair)
            judgment = judgments.get(pair)
            decision = self._relabeler.decide(row, judgment)
            self._used += judgment is not None
            annotated = row if judgment is None else replace(row, judged_grade=judgment.grade)
            self._counter.add(
                annotated, decision.outcome, decision.positive, decision.relevant, min(1.0, decision.certainty),
                decision.label,
            )  # fmt: skip
            self._positive += decision.positive
            self._sum += row.label / self._relabeler.top
            if decision.outcome != "dropped":
                self._written += 1
                self._sum_after += decision.label / self._relabeler.highest
                self._positive_after += self._relabeler.positive_after(decision.label)
                yield _relabelled(row, decision, judgment)

    def report(self, judgments: int, source: RankingSet) -> LabelChanges:
        options, counter = self._relabeler.options, self._counter
        return LabelChanges(
            policy=options.policy,
            scale=options.scale,
            threshold=self._relabeler.threshold,
            confidence=options.least_certainty,
            top=self._relabeler.top,
            total=counter.total,
            queries=len(counter.per_query),
            positive_rows=self._positive,
            positive_rows_after=self._positive_after,
            mean_label=self._sum / counter.total.rows,
            mean_label_after=self._sum_after / self._written if self._written else None,
            unused_judgments=judgments - self._used,
            other_columns=source.other_columns,
            grades=self._relabeler.grades,
            labels=counter.labels,
            matrix=counter.matrix("rows"),
            changed=counter.matrix("changed"),
            cells=counter.cells(),
            moves=counter.moves(),
            sources=counter.sources,
            per_query=counter.per_query,
        )


def _relabelled(row: RankingRow, decision: Decision, judgment: Judgment | None) -> RankingRow:
    original = row.label if row.original_label is None else row.original_label  # of the first relabelling
    if judgment is None:
        return replace(row, label=decision.label, original_label=original)
    return replace(
        row,
        label=decision.label,
        judged=True,
        original_label=original,
        judged_grade=judgment.grade,
        expected_grade=judgment.expected_grade,
        probabilities=judgment.probabilities,
    )
