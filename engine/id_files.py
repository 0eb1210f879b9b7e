"""Files of ids alone: qrels, runs, triples and clicks, told apart by the number of columns of their first line.

===== ======================================================================
2     query_id doc_id: a click, or another sign that the document is relevant
3     query_id positive_doc_id negative_doc_id: a triple
4     query_id 0 doc_id grade: qrels
6     query_id Q0 doc_id rank score tag: a run
===== ======================================================================

Clicks and triples may have a header, whose first column is query_id. Three columns under the header of BEIR's qrels,
query-id corpus-id score, are qrels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pairgrade.errors import InputError
from pairgrade.lines import quoted, text_lines
from pairgrade.qrels import BEIR_HEADER, read_qrels, split_fields, trec_lines
from pairgrade.records import Rejection
from pairgrade.run_files import ordered, read_ranking

_KINDS = {2: "clicks", 3: "triples", 4: "qrels", 6: "run"}
_LONGEST_LINE = 2**20  # bytes


@dataclass(frozen=True, slots=True)
class IdFile:
    """The documents of each query, with what the file says of them: a label, or in a run the score."""

    kind: str  # clicks, triples, qrels or run
    documents: dict[str, dict[str, float]] = field(default_factory=dict)

    def ranking(self, query_id: str) -> list[tuple[str, float]]:
        """Return a query's documents and values, the highest first."""
        return ordered(self.documents.get(query_id, {}))


def read_ids(path: str) -> IdFile:
    """Read a file of ids into memory; a document that is positive once is never negative."""
    kind = _kind(path)
    if kind == "run":
        return IdFile(kind, read_ranking(path))
    found = IdFile(kind)
    if kind == "qrels":
        for qrel in read_qrels(path):
            grades = found.documents.setdefault(qrel.query_id, {})
            if grades.setdefault(qrel.doc_id, qrel.grade) != qrel.grade:
                raise InputError(
                    f"{path}: the pair {quoted(qrel.query_id)} {quoted(qrel.doc_id)} has two grades; keep one line"
                )
        return found
    columns = "query_id doc_id" if kind == "clicks" else "query_id positive_doc_id negative_doc_id"
    for place, (_, (query_id, positive, *negatives)) in enumerate(trec_lines(path, kind, columns)):
        if place == 0 and query_id == "query_id":
            continue  # a header
        labels = found.documents.setdefault(query_id, {})
        labels[positive] = 1.0
        for negative in negatives:
            labels.setdefault(negative, 0.0)
    return found


def _kind(path: str) -> str:
    for item in text_lines(path, _LONGEST_LINE):
        if not isinstance(item, Rejection) and (fields := split_fields(item[1])):
            if tuple(fields) == BEIR_HEADER:
                return "qrels"
            if kind := _KINDS.get(len(fields)):
                return kind
            raise InputError(
                f"{path}: line {item[0]} has {len(fields)} columns; a file of ids has 2 (query and clicked document), "
                "3 (query, positive and negative document), 4 (qrels) or 6 (a run)"
            )
    raise InputError(f"{path}: holds no lines; there is nothing to read")
