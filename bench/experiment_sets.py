"""The experiment's pairs: each collection with BM25's ranking of them, the labels of arms a and d, and the dev queries.

The candidates of a query are its judged documents. Where a collection's folder has ``qrels.implied_zeros.txt``, the
documents in it are candidates too, with its grades.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from pairgrade.atomic import write_text
from pairgrade.bench.experiment_options import ANNOTATORS, ARMS, Direction, ExperimentOptions
from pairgrade.bench.experiment_steps import Step
from pairgrade.bench.matrix import Data
from pairgrade.bench.slice import take_slice, write_slice
from pairgrade.errors import InputError
from pairgrade.mine_job import MineJob, mine
from pairgrade.mining import MiningOptions
from pairgrade.qrels import read_qrels, write_qrels
from pairgrade.ranking_set import RankingGroup, RankingRow, grouped, read_groups, read_ranking_set, write_ranking_set
from pairgrade.readers import Source, read_pairs
from pairgrade.records import Pair
from pairgrade.rubric import Rubric
from pairgrade.train.options import TrainOptions
from pairgrade.train.sampling import Row, SameTexts, split

_QRELS = ("qrels.txt", "qrels.implied_zeros.txt")
_FILES = ("pairs.jsonl", "qrels.txt", "candidates.jsonl", "bm25.run")  # of a collection
_ALL = 10**9
_SEED = 0  # of the slices and the dev queries: the same for all arms


class Layout:
    """Where the experiment's files are."""

    def __init__(self, options: ExperimentOptions) -> None:
        self._options, self.root = options, options.out

    def texts(self, collection: str) -> tuple[Path, Path]:
        """Return the files of a collection's queries and documents."""
        folder = self._options.data / collection
        return folder / "queries.jsonl", folder / "docs.jsonl"

    def collection(self, name: str, file: str) -> Path:
        """Return a file of a collection: pairs.jsonl, qrels.txt, candidates.jsonl, bm25.run or cosine.run."""
        return self.root / "collections" / name / file

    def judgments(self, annotator: str, way: Direction, collection: str) -> Path:
        """Return what an annotator said of a collection; the zero-shot one says the same whichever way round."""
        by = f"tuned-on-{way.train}" if annotator == "tuned" else annotator
        return self.root / "judgments" / f"{collection}-by-{by}.jsonl"

    def way(self, way: Direction, *parts: str) -> Path:
        """Return a file or folder of one way round."""
        return self.root.joinpath(way.name, *parts)

    def labels(self, way: Direction, arm: str, side: str = "") -> Path:
        """Return an arm's ranking set: whole, or its ``train`` or ``dev`` queries."""
        return self.way(way, "sets", f"{arm}{'-' if side else ''}{side}.jsonl")


def sets_steps(options: ExperimentOptions) -> list[Step]:
    """Return the steps of the stage ``sets``."""
    layout, steps = Layout(options), []
    for name in dict.fromkeys([options.train, options.test, *options.other]):
        qrels = [path for file in _QRELS if (path := options.data / name / file).is_file()]
        outputs = [layout.collection(name, file) for file in _FILES]
        limits = {limit: str(getattr(options, limit)) for limit in ("limit_queries", "documents")}
        work = partial(_collection, options, name, qrels)
        steps.append(Step(f"collection {name}", work, (*qrels, *layout.texts(name)), tuple(outputs), limits))
    for way in options.directions():
        inputs = [layout.collection(way.train, file) for file in ("pairs.jsonl", "candidates.jsonl")]
        whole = options.data / way.train / "qrels.txt"
        inputs += [way.held_out] if way.held_out else [whole, *layout.texts(way.train)]
        outputs = [layout.labels(way, arm) for arm in ("a", "d")] + [layout.way(way, "sets", "split.json")]
        work = partial(_labels, options, way)
        settings = {
            "positive_share": str(options.positive_share),
            "annotators": " ".join(options.annotators(way)),  # the grades must be theirs, the dev queries not learnt of
            "rubric": Rubric.load(options.rubric).digest,
        }
        steps.append(Step(f"labels {way.name}", work, tuple(inputs), tuple(outputs), settings))
    return steps


def _collection(options: ExperimentOptions, name: str, qrels: list[Path]) -> None:
    layout = Layout(options)
    pairs_file, qrels_file, candidates, run = (layout.collection(name, file) for file in _FILES)
    # the first file's grade counts
    rows = {(q.query_id, q.doc_id): q.grade for path in reversed(qrels) for q in read_qrels(path)}
    write_qrels(qrels_file, ((query, document, grade) for (query, document), grade in rows.items()))
    queries, docs = map(str, layout.texts(name))
    limits = options.limit_queries or _ALL, options.documents or _ALL
    pairs = take_slice(Data(str(qrels_file), queries, docs, *limits, seed=_SEED))
    write_slice(pairs_file, pairs)
    write_qrels(qrels_file, ((p.query_id, p.doc_id, max(0, p.grade or 0)) for p in pairs))
    mine(MineJob(candidates, queries, docs, candidates=str(qrels_file), run=run, mining=MiningOptions(positives=0)))


def _labels(options: ExperimentOptions, way: Direction) -> None:
    """Write the sets of the arms a and d, and which queries choose the step and calibrate the annotators."""
    layout = Layout(options)
    candidates = read_groups(layout.collection(way.train, "candidates.jsonl"))
    grades = {(q.query_id, q.doc_id): q.grade for q in read_qrels(layout.collection(way.train, "qrels.txt"))}
    _refuse_grades_beyond(options, way, set(grades.values()))
    write_ranking_set(layout.labels(way, "a"), by_rank(candidates, options.positive_share))
    rows = [row for group in candidates for row in group.rows]
    people = (replace(row, label=float(grades[row.query_id, row.doc_id]), source="qrels") for row in rows)
    write_ranking_set(layout.labels(way, "d"), people)
    dev = _untuned(options, way, grades)
    of_dev = sorted(pair for pair in grades if pair[0] in dev)
    count = min(TrainOptions().validation_pairs, len(of_dev))
    # at random, unlike the training's: cut points need the grades as frequent as they are
    calibration = sorted(random.Random(_SEED).sample(of_dev, count))
    table = {"dev_queries": dev, "calibration_pairs": calibration}
    write_text(layout.way(way, "sets", "split.json"), json.dumps(table, indent=0) + "\n")


def _refuse_grades_beyond(options: ExperimentOptions, way: Direction, grades: set[int]) -> None:
    """Raise InputError where people gave grades that the annotators, who are calibrated on them, cannot give."""
    rubric = Rubric.load(options.rubric)
    if options.annotators(way) and (beyond := grades - set(rubric.values)):
        raise InputError(
            f"{options.data / way.train / 'qrels.txt'} has the grade {min(beyond)}, and the rubric {rubric.name} has "
            f"{', '.join(map(str, rubric.values))}: give --rubric the file of one that has all grades of the collection"
        )


def _untuned(options: ExperimentOptions, way: Direction, grades: dict[tuple[str, str], int]) -> list[str]:
    """Return the queries of which the tuned annotator did not learn: those held out, or kept by default."""
    queries = {query for query, _ in grades}
    if way.held_out:
        file, dev = way.held_out, queries & {q.query_id for q in read_qrels(way.held_out)}
    else:  # of the whole collection, which the annotator was tuned on, not of the queries that are used here
        file = options.data / way.train / "qrels.txt"
        texts = [str(path) for path in Layout(options).texts(way.train)]
        dev = queries & _kept_by_default(Source(str(file), texts[0], texts[1]))
    if 0 < len(dev) < len(queries):
        return sorted(dev)
    if not way.held_out and not way.tuned:
        used = Layout(options).collection(way.train, "pairs.jsonl")
        return sorted(_kept_by_default(Source(str(used))))  # nobody learnt of any
    what = "names" if way.held_out else "has, held out by a training with default options,"
    raise InputError(
        f"{file} {what} {len(dev)} of the {len(queries)} queries of {way.train} that are used here; it must be some "
        "and not all: give held-out.qrels of the adapter that was trained on that collection, or use more queries"
    )


def _kept_by_default(source: Source) -> set[str]:
    """Return the queries that a training on these pairs with default options keeps to validate on."""
    sample, texts = TrainOptions(), SameTexts()
    graded = (pair for pair in read_pairs(source) if isinstance(pair, Pair) and pair.grade is not None)
    rows = [
        Row(place, pair.query_id, pair.grade or 0, same_as=texts.first_id(pair.query_id, pair.query))
        for place, pair in enumerate(graded)
    ]
    return {rows[place].query_id for place in split(rows, sample.train_pairs, sample.validation_pairs).held_out}


def by_rank(groups: Iterable[RankingGroup], share: float) -> Iterator[RankingRow]:
    """Label the first ranks of each query, at least one, 1 and the others 0."""
    for group in groups:
        positives = max(1, round(share * len(group.rows)))
        for row in group.rows:
            if row.rank is None:
                raise InputError(f"the document {row.doc_id} of the query {row.query_id} has no rank")
            yield replace(row, label=float(row.rank <= positives))


def read_split(path: Path) -> tuple[set[str], set[tuple[str, str]]]:
    """Return the dev queries, and the pairs that calibrate the annotators."""
    table = json.loads(path.read_text(encoding="utf-8"))
    return set(table["dev_queries"]), {(query, document) for query, document in table["calibration_pairs"]}


def divide(options: ExperimentOptions, way: Direction, arm: str) -> None:
    """Write an arm's training and dev queries, of these some documents each, the same for every arm."""
    layout = Layout(options)
    dev, _ = read_split(layout.way(way, "sets", "split.json"))
    source = read_ranking_set(layout.labels(way, arm))
    sides: dict[str, list[RankingRow]] = {"train": [], "dev": []}
    for group in grouped(source):
        if group.query_id in dev:
            sides["dev"] += some_rows(group, options.dev_documents)
        else:
            sides["train"] += group.rows
    for side, rows in sides.items():
        write_ranking_set(layout.labels(way, arm, side), rows, relabelled=source.relabelled)


def some_rows(group: RankingGroup, count: int) -> list[RankingRow]:
    """Draw so many rows of a query, the same documents whatever their labels; all where there are no more."""
    rows = sorted(group.rows, key=lambda row: row.doc_id)
    return random.Random(f"{_SEED} {group.query_id}").sample(rows, min(count, len(rows)))


def arms_to_label(options: ExperimentOptions, way: Direction) -> list[str]:
    """Return the arms whose labels can be made: all but those of annotators that were not given."""
    given = options.annotators(way)
    return [arm for arm in ARMS if arm in given or arm not in ANNOTATORS]


def arms_of(options: ExperimentOptions, way: Direction) -> tuple[dict[str, str], dict[str, str]]:
    """Return the arms that can be trained, with their names, and why the others are left out.

    After the stage ``relabel`` arms whose labels order no documents are left out, too.
    """
    layout, possible = Layout(options), arms_to_label(options, way)
    arms, left_out = {}, {}
    for arm, name in ARMS.items():
        if arm not in possible:
            left_out[arm] = f"no {'zero-shot' if arm == 'b' else 'tuned'} annotator was given for {way.train}"
            continue
        files = [layout.labels(way, arm, side) for side in ("train", "dev")]
        flat = [side.stem for side in files if side.is_file() and not _orders(side)]
        if flat:
            left_out[arm] = f"its labels are equal on every query of {', '.join(flat)}: there is nothing to learn"
        else:
            arms[arm] = name
    return arms, left_out


def _orders(path: Path) -> bool:
    return any(len({row.label for row in group.rows}) > 1 for group in read_groups(path))
