"""How well a cell's judgments agree with human grades, and with those of a model in full precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pairgrade.agreement import AgreementOptions, agreement
from pairgrade.bench.results import Value
from pairgrade.calibration_fit import cross_fitted
from pairgrade.errors import InputError
from pairgrade.export.fidelity import fidelity
from pairgrade.judgments import read_judgments, suffix_format
from pairgrade.matching import Graded, match
from pairgrade.qrels import read_qrels
from pairgrade.records import Judgment, Pair, Qrel

MEASURES = {
    "kappa": "kappa",
    "quadratic_kappa": "quadratic kappa",
    "calibrated_kappa": "quadratic kappa, calibrated",
    "tau_b": "tau-b",
    "auc": "AUC",
}
_OF_GRADES = ("kappa", "quadratic_kappa")  # the others rank pairs, and grades alone rank them too coarsely to compare
_FOLDS = 5
_SMALLEST = 1e-30  # probability whose logarithm is taken


@dataclass(frozen=True, slots=True)
class Judged:
    """The judgments of one cell."""

    items: tuple[Graded, ...]
    grades: tuple[int, ...]  # the rubric's

    @property
    def judgments(self) -> list[Judgment]:
        """Those with probabilities; none of an engine that gives grades alone."""
        return [item for item in self.items if isinstance(item, Judgment)]


def read_judged(path: Path, grades: tuple[int, ...]) -> Judged:
    """Read judgments, or the qrels of an engine that gives grades alone."""
    return Judged(tuple(read_judgments(path) if suffix_format(path) else read_qrels(path)), grades)


def against_people(judged: Judged, pairs: Sequence[Pair], resamples: int) -> dict[str, Value]:
    """Return the statistics with intervals by a bootstrap over queries; none where no judged pair has a human grade.

    ``calibrated_kappa`` is the quadratic kappa after cut points on the expected grade, each query's grades by cut
    points that were fitted on the other queries; it is left out where people gave a grade that the rubric has not.
    """
    human = [Qrel(pair.query_id, pair.doc_id, pair.grade) for pair in pairs if pair.grade is not None]
    if not {(item.query_id, item.doc_id) for item in judged.items} & {(q.query_id, q.doc_id) for q in human}:
        return {}
    matched = match(judged.items, human)
    options = AgreementOptions(resamples=resamples)
    report = agreement(
        matched.query_ids, matched.human, matched.predicted, matched.scores, grades=judged.grades, options=options
    )
    known = MEASURES if matched.scores is not None else _OF_GRADES
    found = {name: Value(s.value, s.low, s.high) for name, s in report.statistics.items() if name in known}
    on_scale = {int(grade) for grade in matched.human} <= set(judged.grades)
    if matched.probabilities is not None and report.queries >= _FOLDS and on_scale:
        fitted = cross_fitted(
            "cuts", matched.query_ids, matched.human, matched.predicted, matched.probabilities, judged.grades,
            folds=_FOLDS,
        )  # fmt: skip
        calibrated = agreement(
            matched.query_ids, matched.human, fitted.predicted, matched.scores, grades=judged.grades, options=options
        ).statistics["quadratic_kappa"]
        found["calibrated_kappa"] = Value(calibrated.value, calibrated.low, calibrated.high)
    return {name: found[name] for name in MEASURES if name in found}


def against_reference(judged: Judged, reference: Judged) -> tuple[float | None, float | None]:
    """Return the share of equal grades, and the mean KL(reference || this) where both give probabilities."""
    if judged.grades != reference.grades:
        return None, None
    own = {(item.query_id, item.doc_id): item for item in judged.items}
    theirs = {(item.query_id, item.doc_id): item for item in reference.items}
    both = [key for key in theirs if key in own]
    if not both:
        return None, None
    first, second = [theirs[key] for key in both], [own[key] for key in both]
    equal = sum(a.grade == b.grade for a, b in zip(first, second, strict=True)) / len(both)
    a, b = ([x.probabilities for x in side if isinstance(x, Judgment)] for side in (first, second))
    if len(a) != len(both) or len(b) != len(both):
        return equal, None
    logs = [np.log(np.maximum(np.array(side), _SMALLEST)) for side in (a, b)]
    pairs = [Pair(query, document, "", "") for query, document in both]
    try:
        return equal, fidelity(logs[0], logs[1], judged.grades, pairs).mean_kl
    except InputError:
        return equal, None
