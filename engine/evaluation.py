"""How good rankings are by human grades: ir-measures' values, their intervals, and tests between runs.

Every query of the qrels counts in every mean. A query that a run lacks, or ranks nothing for, scores what
ir-measures gives an empty ranking, 0 for the usual measures, and is counted in ``RunScores.missing``; queries of a
run that the qrels lack are left out and counted in ``unknown``. Documents are ordered as trec_eval orders them before
any measure sees them, so that equal scores mean the same to all measures (ir-measures' providers differ there).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pairgrade.agreement import check_scale
from pairgrade.bootstrap import Floats
from pairgrade.errors import InputError
from pairgrade.evaluation_report import Comparison, Evaluation, Mean, RunScores
from pairgrade.lines import quoted
from pairgrade.option_checks import whole
from pairgrade.qrels import read_qrels
from pairgrade.ranking_measures import Grades, examples, measured, named_measures
from pairgrade.records import Qrel
from pairgrade.run_files import Ranking, check_ids, checked_ranking, read_ranking
from pairgrade.significance import holm, mean_intervals, paired_t_test, randomization_test

_DEFAULT_MEASURES = ("nDCG@10", "RR(rel={})@10", "AP(rel={})", "R(rel={})@100", "Judged@10")


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How runs are evaluated and compared."""

    measures: tuple[str, ...] = ()  # as ir-measures writes them; none: nDCG@10, RR@10, AP, R@100 and Judged@10
    threshold: int | None = None  # of relevance, where no measures are named; None: 2, or 1 where the qrels end there
    baseline: str | None = None  # name of the run that the others are compared with; None: the first
    all_pairs: bool = False  # compare every two runs
    resamples: int = 10_000  # of the bootstrap; 0 for no intervals
    permutations: int = 10_000  # of the randomization test
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        measures: object = self.measures
        if isinstance(measures, str):
            raise InputError(f"measures is one text, {quoted(measures)}; give a tuple of measures")
        for name, least in (("resamples", 0), ("permutations", 1), ("seed", 0), ("threshold", 1)):
            number = getattr(self, name)
            if number is not None and number < least:
                raise InputError(f"{name} is {number}; it must be {least} or more")
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence is {self.confidence}; it must lie between 0 and 1")
        if self.all_pairs and self.baseline is not None:
            raise InputError(f"every two runs are compared, so {self.baseline!r} cannot be the baseline: leave one out")
        if self.measures and self.threshold is not None:
            raise InputError(
                f"the threshold {self.threshold} is for the measures that are taken where none is named; write it into "
                f"yours, as in RR(rel={self.threshold})@10"
            )


def evaluate_files(
    runs: Sequence[str | os.PathLike[str]],
    qrels: str | os.PathLike[str],
    options: EvaluationOptions | None = None,
) -> Evaluation:
    """Evaluate runs (or judgments, by expected grade) from files; each is named by its file's name."""
    grades = graded(read_qrels(qrels), qrels)
    return evaluate({name: read_ranking(path) for name, path in run_names(runs).items()}, grades, options)


def run_names(paths: Sequence[str | os.PathLike[str]]) -> dict[str, str]:
    """Name runs by their file names without suffix, or by their paths where two would be named alike."""
    if isinstance(paths, (str, os.PathLike)):
        raise InputError(f"the runs are one path, {quoted(str(paths))}; give a list of paths")
    texts = [str(path) for path in paths]
    if repeated := [text for text in texts if texts.count(text) > 1]:
        raise InputError(f"{repeated[0]} is given twice; give each run once")
    stems = [os.path.splitext(os.path.basename(text.removesuffix(".gz")))[0] for text in texts]
    alike = len(set(stems)) < len(stems)
    return dict(zip(texts if alike else stems, texts, strict=True))


def graded(qrels: Iterable[Qrel], path: str | os.PathLike[str] = "the qrels") -> Grades:
    """Key grades by query and document; InputError for two grades of one pair and for none at all."""
    grades: Grades = {}
    for query_id, doc_id, grade in ((q.query_id, q.doc_id, q.grade) for q in qrels):
        if grades.setdefault(query_id, {}).setdefault(doc_id, grade) != grade:
            raise InputError(f"{path}: the pair {quoted(query_id)} {quoted(doc_id)} has two grades; keep one line")
    if not grades:
        raise InputError(f"{path}: holds no grades; there is nothing to evaluate by")
    return grades


def evaluate(runs: Mapping[str, Ranking], qrels: Grades, options: EvaluationOptions | None = None) -> Evaluation:
    """Evaluate rankings by grades, and compare each with the baseline.

    InputError for ids that trec_eval cannot read, scores that are not finite and grades that are no integers or more
    than 1,000 apart.
    """
    options = options or EvaluationOptions()
    if not runs:
        raise InputError("no run is given; give at least one")
    if options.baseline is not None and options.baseline not in runs:
        raise InputError(f"the baseline {quoted(options.baseline)} is no run; it can be {', '.join(map(quoted, runs))}")
    qrels = _checked(qrels)
    runs = {name: checked_ranking(name, run) for name, run in runs.items()}
    threshold = _threshold(qrels, options.threshold)
    measures = named_measures(options.measures or tuple(name.format(threshold) for name in _DEFAULT_MEASURES))
    queries = sorted(qrels)
    names = list(runs)
    values = [measured(name, runs[name], qrels, measures, queries) for name in names]
    return Evaluation(
        queries=len(queries),
        without_relevant=None
        if options.measures
        else sum(max(documents.values()) < threshold for documents in qrels.values()),
        judged=sum(map(len, qrels.values())),
        threshold=threshold,
        measures=tuple(measures),
        resamples=options.resamples,
        permutations=options.permutations,
        seed=options.seed,
        confidence=options.confidence,
        runs=tuple(
            _scores(name, runs[name], qrels, list(measures), queries, array, options)
            for name, array in zip(names, values, strict=True)
        ),
        comparisons=tuple(_comparisons(names, values, list(measures), options)),
    )


def _checked(qrels: Grades) -> Grades:
    """Return the grades as int, as numpy's integers can be; InputError for what no measure can be computed by."""
    check_ids("the qrels", qrels)
    if not qrels:
        raise InputError("the qrels hold no grades; there is nothing to evaluate by")
    if without := [query_id for query_id, documents in qrels.items() if not documents]:
        raise InputError(f"the qrels have no grade for {examples(without)}; leave a query without grades out")
    found = {
        query_id: {doc_id: _whole(query_id, doc_id, grade) for doc_id, grade in documents.items()}
        for query_id, documents in qrels.items()
    }
    grades = {0}.union(*(documents.values() for documents in found.values()))  # 0: trec_eval counts from there
    check_scale(min(grades), max(grades))
    return found


def _whole(query_id: str, doc_id: str, grade: Any) -> int:
    try:
        return whole(grade)
    except TypeError:
        raise InputError(
            f"the qrels: the grade of document {quoted(doc_id)} of query {quoted(query_id)} is {quoted(str(grade))}; "
            "it must be an integer"
        ) from None


def _threshold(qrels: Grades, threshold: int | None) -> int:
    if threshold is not None:
        return threshold
    return 2 if any(grade > 1 for documents in qrels.values() for grade in documents.values()) else 1


def _scores(
    name: str,
    run: Ranking,
    qrels: Grades,
    measures: Sequence[str],
    queries: Sequence[str],
    values: Floats,
    options: EvaluationOptions,
) -> RunScores:
    intervals = mean_intervals(values, options.resamples, options.seed, options.confidence)
    means = values.mean(axis=0)
    return RunScores(
        name=name,
        missing=sum(query not in run for query in queries),
        unknown=sum(query not in qrels for query in run),
        means={m: Mean(float(means[k]), *intervals[k]) for k, m in enumerate(measures)},
        per_query={m: dict(zip(queries, values[:, k].tolist(), strict=True)) for k, m in enumerate(measures)},
    )


def _comparisons(
    names: Sequence[str], values: Sequence[Floats], measures: Sequence[str], options: EvaluationOptions
) -> Iterable[Comparison]:
    baseline = names.index(options.baseline) if options.baseline is not None else 0
    places = range(len(names))
    pairs = [(a, b) for a in places for b in places if (a < b if options.all_pairs else a == baseline != b)]
    if not pairs:
        return
    for column, measure in enumerate(measures):
        differences = np.stack([values[b][:, column] - values[a][:, column] for a, b in pairs], axis=1)
        yield from compare(measure, [(names[a], names[b]) for a, b in pairs], differences, options)


def compare(
    measure: str, pairs: Sequence[tuple[str, str]], differences: Floats, options: EvaluationOptions
) -> Iterator[Comparison]:
    """Yield the comparison of each pair of baseline and run from their differences, shape (query, pair)."""
    intervals = mean_intervals(differences, options.resamples, options.seed, options.confidence)
    t_test = paired_t_test(differences)
    randomization = randomization_test(differences, options.permutations, options.seed)
    t_holm, randomization_holm = holm(t_test), holm(randomization)
    for k, (baseline, run) in enumerate(pairs):
        difference = differences[:, k]
        yield Comparison(
            measure=measure,
            baseline=baseline,
            run=run,
            difference=float(difference.mean()),
            low=intervals[k][0],
            high=intervals[k][1],
            better=int((difference > 0).sum()),
            worse=int((difference < 0).sum()),
            t_test=t_test[k],
            randomization=randomization[k],
            t_test_holm=t_holm[k],
            randomization_holm=randomization_holm[k],
        )
