"""ir-measures behind one door: measures by name, and a run's value of each for every query."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pairgrade.bootstrap import Floats
from pairgrade.errors import InputError
from pairgrade.lines import quoted
from pairgrade.run_files import Ranking, ordered

Grades = dict[str, dict[str, int]]  # grade of each document, by query

_HIGHEST = 2**31 - 1  # of a cutoff or a grade; trec_eval counts in C's int
_NOT_COMPUTED = (ValueError, RuntimeError, AssertionError, TypeError, LookupError, ArithmeticError)


def named_measures(names: Sequence[str]) -> dict[str, Any]:
    """Return ir-measures' measures by the name that it writes; InputError for one that it cannot read."""
    import ir_measures

    found = {}
    for name in names:
        try:
            measure = ir_measures.parse_measure(name)
            _check_parameters(measure)
        except (NameError, ValueError, SyntaxError, TypeError, AssertionError) as error:
            raise InputError(
                f"the measure {quoted(name)} cannot be used: {error}; write it as ir-measures does, for example "
                "nDCG@10, RR(rel=2)@10, AP(rel=2), R(rel=2)@100 or Judged@10"
            ) from None
        found[str(measure)] = measure
    return found


def _check_parameters(measure: Any) -> None:
    """ValueError for what ir-measures' providers take without a look: trec_eval ends the process at a cutoff of 0."""
    allowed = measure.SUPPORTED_PARAMS
    if unknown := sorted(set(measure.params) - set(allowed)):
        raise ValueError(f"it has no parameter {', '.join(unknown)}; it has {', '.join(allowed) or 'none'}")
    if lacking := sorted(key for key, about in allowed.items() if about.required and key not in measure.params):
        raise ValueError(f"it needs {' and '.join(lacking)}, as in {measure.NAME}({lacking[0]}=3)")
    if (kind := type(measure.aggregator()).__name__) != "MeanAgg":
        raise ValueError(f"it is no mean over the queries but a count ({kind})")
    for key in ("cutoff", "rel"):
        if key in measure.params and not 1 <= measure.params[key] <= _HIGHEST:
            raise ValueError(f"{key} is {measure.params[key]}; it must be from 1 to {_HIGHEST:,}")


def measured(name: str, run: Ranking, qrels: Grades, measures: Mapping[str, Any], queries: Sequence[str]) -> Floats:
    """Return (query, measure) values; a run without any query of the qrels is an InputError."""
    import ir_measures

    known = {query: ordered(run[query]) for query in queries if query in run}
    if not known:
        raise InputError(
            f"{name}: no query of the run is in the qrels; its queries: {examples(run) or 'none'}; those of the "
            f"qrels: {examples(qrels)}"
        )
    # places instead of scores: no provider can find ties then, or round scores until there are some
    ranked = {
        query: {doc_id: -float(place) for place, (doc_id, _) in enumerate(documents)}
        for query, documents in known.items()
    }
    columns = {measure: column for column, measure in enumerate(measures.values())}
    rows = {query: row for row, query in enumerate(queries)}
    defaults = [float(getattr(measure, "DEFAULT", 0.0)) for measure in measures.values()]
    values = np.tile(np.array(defaults), (len(queries), 1))
    try:
        for metric in ir_measures.iter_calc(list(columns), qrels, ranked):
            values[rows[metric.query_id], columns[metric.measure]] = metric.value
    except subprocess.CalledProcessError as error:
        raise InputError(
            f"{name}: ir-measures cannot compute {', '.join(measures)}: a program that it runs ended with the status "
            f"{error.returncode}. That of ERR wants query ids that are numbers; leave such a measure out"
        ) from error
    except _NOT_COMPUTED as error:
        broken = [each for each, measure in measures.items() if not _computes(measure, qrels, ranked)]
        raise InputError(f"{name}: ir-measures cannot compute {', '.join(broken or measures)}: {error}") from error
    return values


def _computes(measure: Any, qrels: Grades, ranked: Ranking) -> bool:
    import ir_measures

    try:
        return all(True for _ in ir_measures.iter_calc([measure], qrels, ranked))
    except (*_NOT_COMPUTED, subprocess.CalledProcessError):
        return False


def examples(queries: Iterable[str]) -> str:
    """Name the first three queries."""
    return ", ".join(quoted(query) for query, _ in zip(queries, range(3), strict=False))
