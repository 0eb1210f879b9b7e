"""Makes a ranking set of files: by BM25 over documents, of files of ids, or of rows that hold their texts.

The set is put together in memory, for a document may come in many triples and a set holds each pair once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pairgrade.bm25 import Bm25, Bm25Options
from pairgrade.errors import InputError
from pairgrade.example_rows import example_format, read_examples
from pairgrade.id_files import IdFile, read_ids
from pairgrade.judgments import suffix_format
from pairgrade.mining import Labelled, MiningOptions, Text, labels_of_ranking, ranking_rows
from pairgrade.qrels import write_run
from pairgrade.ranking_columns import FORMS, write_columns
from pairgrade.ranking_set import FORMATS, RankingRow, is_ranking_set, read_ranking_set, set_format, write_ranking_set
from pairgrade.readers import read_texts
from pairgrade.records import Rejection

_SHOWN = 5  # rejections whose reason is told
_LONGEST_ROW = 16 * 2**20  # bytes
_NO_RANKS = "not by rank: leave out --positives, --negatives, --negative-ranks, --depth and --seed"


@dataclass(frozen=True, slots=True)
class MineJob:
    """What a ranking set is made of, and where it goes."""

    out: Path  # .jsonl or .parquet
    queries: str | None = None  # the queries' texts
    docs: str | None = None  # the documents' texts
    examples: str | None = None  # rows with texts; with queries and docs, qrels, a run, triples or clicks by id
    known: str | None = None  # positives that are known, as ids: qrels, triples or clicks; with a run, or BM25
    candidates: str | None = None  # rank only a query's documents in this file of ids
    run: Path | None = None  # where the BM25 ranking goes, as a TREC run
    form: str = "set"  # the columns of OUT: a ranking set, or one of sentence-transformers' forms
    known_from: int = 1  # documents of known qrels are positive from this grade on
    mining: MiningOptions = field(default_factory=MiningOptions)
    bm25: Bm25Options = field(default_factory=Bm25Options)

    def __post_init__(self) -> None:
        set_format(self.out)
        if self.form not in ("set", *FORMS):
            raise InputError(f"the form is {self.form!r}; it can be set, {', '.join(FORMS)}")
        if (self.queries is None) != (self.docs is None):
            raise InputError("give the files of both queries and docs, or of neither for rows that hold their texts")
        if self.queries is None and self.examples is None:
            raise InputError("nothing to mine: give QUERIES and DOCS, or rows that hold their texts with --from")
        if self.examples is not None and (self.candidates or self.run):
            raise InputError("--from takes the place of BM25's ranking: leave out --candidates and --run")
        if self.examples is not None and self.bm25 != Bm25Options():
            raise InputError("--from takes the place of BM25's ranking: leave out --k1, --b and --stopwords")
        if self.queries is None and self.mining != MiningOptions():
            raise InputError(f"{self.examples}: rows that hold their texts have labels of their own, {_NO_RANKS}")
        if self.known is not None and self.queries is None:
            raise InputError("--known is of ids: give the files of both queries and docs, which hold the texts")
        if self.known is None and self.known_from != 1:
            raise InputError("--known-from is a grade of --known; give --known too, or leave it out")
        usual = MiningOptions()
        if self.known is not None and self.mining.positives != usual.positives:
            raise InputError("--known tells the positives, so that --positives would do nothing; leave one of them out")
        if self.mining.seed != usual.seed and self.mining.negatives is None:
            raise InputError("--seed is of the draw of --negatives; give --negatives too, or leave it out")


@dataclass(slots=True)
class MineReport:
    """What a ranking set holds, and what did not get into it."""

    queries: int = 0
    rows: int = 0
    positives: int = 0  # rows with a label above 0
    sources: dict[str, int] = field(default_factory=dict)  # rows by source
    written: int = 0  # rows of OUT in its columns
    queries_without_text: int = 0  # in the files of ids, without a line in QUERIES
    queries_without_rows: int = 0  # in QUERIES, without a labelled document
    documents_without_text: int = 0  # pairs left out for want of the document
    repeated: int = 0  # rows for a pair that was there already
    conflicting: int = 0  # of these, with another label: the higher one stays
    rejected: int = 0  # rows and texts that cannot be used
    reasons: list[str] = field(default_factory=list)  # of the first rejections

    def reject(self, rejection: Rejection) -> None:
        """Count a rejection."""
        self.rejected += 1
        if len(self.reasons) < _SHOWN:
            self.reasons.append(rejection.told)


def mine(job: MineJob) -> MineReport:
    """Make the ranking set and report what is in it; InputError where nothing is."""
    if job.run is not None and suffix_format(job.run):
        raise InputError(f"{job.run}: a TREC run by that suffix is taken for judgments; name it {job.run.stem}.run")
    report = MineReport()
    ranked: list[tuple[str, str, float]] = []  # of BM25
    if job.queries is None or job.docs is None:
        found = _with_their_texts(str(job.examples), report)
    elif job.examples is not None:
        found = _by_ids(job, job.queries, job.docs, job.examples, report)
    else:
        found = _by_bm25(job, job.queries, job.docs, report, ranked)
    rows = _unique(found, report)
    if not rows:
        hint = f"; the first reason: {report.reasons[0]}" if report.reasons else ""
        raise InputError(f"no row came of the input, so {job.out} is not written{hint}")
    if job.form == "set":
        report.written = write_ranking_set(job.out, rows, relabelled=any(row.judged for row in rows))
    else:
        report.written = write_columns(job.out, rows, job.form)
    if job.run is not None:
        write_run(job.run, ranked)
    return report


def _by_bm25(
    job: MineJob, queries_file: str, docs_file: str, report: MineReport, ranked: list[tuple[str, str, float]]
) -> Iterator[RankingRow]:
    """Yield labelled rows, and add all that was ranked to ``ranked``."""
    queries = {query_id: text.document for query_id, text in _texts(queries_file, "query", report).items()}
    documents = _texts(docs_file, "document", report)
    candidates = None if job.candidates is None else read_ids(job.candidates)
    known = _known(job)
    _count_unknown([candidates, known], queries, report)
    index = Bm25({doc_id: "\n".join(text) for doc_id, text in documents.items()}, job.bm25)
    for query_id, query in queries.items():
        if candidates is None:
            ranking = index.rank(query, job.mining.corpus_depth())
        else:
            asked = candidates.documents.get(query_id, {})
            told = known.documents.get(query_id, {}) if known else {}  # of which those without text are counted below
            report.documents_without_text += len(asked.keys() - documents.keys() - told.keys())
            ranking = index.rank_only(query, asked)[: job.mining.depth]
        ranked += ((query_id, doc_id, score) for doc_id, score in ranking)
        labelled = _labelled(job, query_id, ranking, "bm25", known)
        yield from _with_texts(query_id, query, labelled, documents, report)


def _known(job: MineJob) -> IdFile | None:
    if job.known is None:
        return None
    known = read_ids(job.known)
    if known.kind not in ("run", "qrels") and job.known_from != 1:
        raise InputError(f"{job.known} holds {known.kind}, which have no grades; leave --known-from out")
    if known.kind == "run":
        raise InputError(
            f"{job.known} is a run, whose scores are no labels; --known takes qrels, triples or clicks. --from takes "
            "a run, and labels it by rank"
        )
    return known


def _labelled(
    job: MineJob, query_id: str, ranking: Sequence[tuple[str, float]], source: str, known: IdFile | None
) -> list[Labelled]:
    """Label a ranking by its ranks, or by what is known and its ranks."""
    if known is None:
        return labels_of_ranking(query_id, ranking, source, job.mining)
    labels = known.documents.get(query_id, {})
    if known.kind == "qrels":
        labels = {doc_id: float(value >= job.known_from) for doc_id, value in labels.items()}
    if not any(labels.values()):
        return []  # no positive is known, so nothing can be learnt of its negatives
    return labels_of_ranking(query_id, ranking, source, job.mining, labels, known.kind)


def _by_ids(job: MineJob, queries_file: str, docs_file: str, path: str, report: MineReport) -> Iterator[RankingRow]:
    ids, known = read_ids(path), _known(job)
    if known is not None and ids.kind != "run":
        raise InputError(f"{path} holds {ids.kind}, whose labels stand as they are; --known goes with a run's ranks")
    if ids.kind != "run" and job.mining != MiningOptions():
        raise InputError(f"{path} holds {ids.kind}, whose labels stand as they are, {_NO_RANKS}")
    queries = {query_id: text.document for query_id, text in _texts(queries_file, "query", report).items()}
    files = [ids] if known is None else [ids, known]
    wanted = {doc_id for file in files for documents in file.documents.values() for doc_id in documents}
    documents = _texts(docs_file, "document", report, wanted)
    _count_unknown(files, queries, report)
    for query_id, query in queries.items():
        if ids.kind == "run":
            labelled = _labelled(job, query_id, ids.ranking(query_id)[: job.mining.depth], "run", known)
        else:
            labels = ids.documents.get(query_id, {})
            labelled = [Labelled(doc_id, max(0.0, label), ids.kind, None, None) for doc_id, label in labels.items()]
        yield from _with_texts(query_id, query, labelled, documents, report)


def _with_texts(
    query_id: str, query: str, labelled: list[Labelled], documents: Mapping[str, Text], report: MineReport
) -> Iterator[RankingRow]:
    rows = list(ranking_rows(query_id, query, labelled, documents))
    report.documents_without_text += len(labelled) - len(rows)
    report.queries_without_rows += not rows
    yield from rows


def _count_unknown(files: Iterable[IdFile | None], queries: Mapping[str, Any], report: MineReport) -> None:
    asked = {query_id for file in files if file is not None for query_id in file.documents}
    report.queries_without_text = len(asked - queries.keys())


def _texts(path: str, role: str, report: MineReport, wanted: set[str] | None = None) -> dict[str, Text]:
    """Read texts by id; of those that come twice the first is kept and the other rejected."""
    texts: dict[str, Text] = {}
    for item in read_texts(path, role, _LONGEST_ROW):
        if isinstance(item, Rejection):
            report.reject(item)
            continue
        line, (identifier, title, text) = item
        if wanted is not None and identifier not in wanted:
            continue
        if identifier in texts:
            report.reject(Rejection(path, line, f"the id {identifier!r} is there already"))
        elif not (text + title).strip():
            report.reject(Rejection(path, line, f"the {role} {identifier!r} is blank"))
        else:
            texts[identifier] = Text(title, text)
    return texts


def _with_their_texts(path: str, report: MineReport) -> Iterator[RankingRow]:
    """Yield the rows of a ranking set as they are, and those made of other examples."""
    if example_format(path) in FORMATS and is_ranking_set(path):
        yield from read_ranking_set(path)
        return
    for item in read_examples(path):
        if isinstance(item, Rejection):
            report.reject(item)
        else:
            yield item


def _unique(items: Iterable[RankingRow], report: MineReport) -> list[RankingRow]:
    """Keep one row of each pair, with the highest of its labels, and count them."""
    queries: dict[str, dict[str, RankingRow]] = {}
    texts: dict[str, str] = {}
    for row in items:
        if texts.setdefault(row.query_id, row.query) != row.query:
            report.rejected += 1
            if len(report.reasons) < _SHOWN:
                report.reasons.append(f"the query {row.query_id!r} has two texts; rows with the second are left out")
            continue
        documents = queries.setdefault(row.query_id, {})
        earlier = documents.setdefault(row.doc_id, row)
        if earlier is not row:
            report.repeated += 1
            report.conflicting += earlier.label != row.label
            if row.label > earlier.label:
                documents[row.doc_id] = row
    rows = [row for documents in queries.values() for row in documents.values()]
    report.queries, report.rows = len(queries), len(rows)
    report.positives = sum(row.label > 0 for row in rows)
    for row in rows:
        report.sources[row.source] = report.sources.get(row.source, 0) + 1
    return rows
