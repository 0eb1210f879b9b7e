"""What came of the experiment: each ranking's quality, its spread over the seeds, and the arms against each other."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.bench.experiment_judgments import agreements
from pairgrade.bench.experiment_options import Direction, ExperimentOptions
from pairgrade.bench.experiment_ranking import rankings
from pairgrade.bench.experiment_sets import Layout, arms_of, read_split
from pairgrade.bootstrap import Floats
from pairgrade.evaluation import EvaluationOptions, compare, evaluate, graded
from pairgrade.evaluation_report import Comparison
from pairgrade.qrels import read_qrels
from pairgrade.ranking_measures import Grades
from pairgrade.ranking_set import read_groups
from pairgrade.run_files import Ranking, read_ranking

_QUESTIONS = (("c", "a"), ("b", "a"), ("d", "a"), ("c", "b"), ("d", "c"))  # is the first better than the second?
_SHOWN = ("nDCG@10", "RR")  # beginnings of the names of the measures


@dataclass(frozen=True, slots=True)
class Quality:
    """A ranking's values by one measure; with more than one seed, those of all."""

    name: str
    measure: str
    values: tuple[float, ...]  # mean over the queries, of each seed
    mean: float
    deviation: float | None  # standard deviation over the seeds; None for one


@dataclass(frozen=True, slots=True)
class Ranked:
    """All that is known of the rankings of one collection."""

    collection: str
    queries: int
    pairs: int
    qualities: tuple[Quality, ...]
    comparisons: tuple[Comparison, ...]  # of means over the seeds, by query


def compare_rankings(collection: str, runs: Mapping[str, list[Ranking]], grades: Grades) -> Ranked:
    """Evaluate rankings by name, those of one name being seeds; compare the arms by each query's mean over seeds."""
    single = {f"{name}/{place}": run for name, own in runs.items() for place, run in enumerate(own)}
    found = evaluate(single, grades, EvaluationOptions(resamples=0, permutations=1))
    measures = [measure for measure in found.measures if measure.startswith(_SHOWN)]
    scores = {run.name: run for run in found.runs}
    qualities, comparisons = [], []
    for measure in measures:
        by_query: dict[str, Floats] = {}
        for name, own in runs.items():
            each = [scores[f"{name}/{place}"] for place in range(len(own))]
            values = tuple(run.means[measure].value for run in each)
            spread = statistics.stdev(values) if len(values) > 1 else None
            qualities.append(Quality(name, measure, values, statistics.fmean(values), spread))
            by_query[name] = np.mean([list(run.per_query[measure].values()) for run in each], axis=0)
        comparisons += _comparisons(measure, by_query)
    return Ranked(collection, found.queries, found.judged, tuple(qualities), tuple(comparisons))


def _comparisons(measure: str, by_query: Mapping[str, Floats]) -> list[Comparison]:
    asked = [(better, worse) for better, worse in _QUESTIONS if better in by_query and worse in by_query]
    if not asked:
        return []
    differences = np.stack([by_query[better] - by_query[worse] for better, worse in asked], axis=1)
    return list(compare(measure, [(worse, better) for better, worse in asked], differences, EvaluationOptions()))


def way_figures(options: ExperimentOptions, way: Direction) -> dict[str, Any]:
    """Return all figures of one way round, as JSON takes them."""
    layout = Layout(options)
    arms, left_out = arms_of(options, way)
    dev, calibration = read_split(layout.way(way, "sets", "split.json"))
    tested = []
    for name in options.tested(way):
        path = layout.collection(name, "qrels.txt")
        runs = {key: [read_ranking(run) for run in files] for key, files in rankings(options, way, name).items()}
        tested.append(asdict(compare_rankings(name, runs, graded(read_qrels(path), path))))
    return {
        "train": way.train,
        "test": way.test,
        "arms": arms,
        "left_out": left_out,
        "dev_queries": len(dev),
        "calibration_pairs": len(calibration),
        "sets": {arm: _set_figures(layout, way, arm) for arm in arms},
        "agreement": agreements(options, way),
        "changes": {arm: _changes(layout.way(way, f"changes-{arm}.json")) for arm in options.annotators(way)},
        "tested": tested,
    }


def _set_figures(layout: Layout, way: Direction, arm: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for side in ("train", "dev"):
        groups = read_groups(layout.labels(way, arm, side))
        labels = [row.label for group in groups for row in group.rows]
        found[side] = {
            "queries": len(groups),
            "documents": len(labels),
            "labels": {f"{label:g}": labels.count(label) for label in sorted(set(labels))[:8]},
        }
    return found


def _changes(path: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in table.items() if key not in ("per_query", "cells")}
