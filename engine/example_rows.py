"""Training rows that people already have, as rows of a ranking set.

JSON lines, Parquet, CSV and TSV with a header, where a row holds a query with its positives and negatives, or a
query with labelled documents, under the names that training libraries use:

- ``query``, ``positive``, ``negative`` (texts or lists of texts; also ``negative_1``, ``negative_2``, ...), the
  columns of sentence-transformers, whose ``anchor`` is a query too;
- ``query``, ``pos``, ``neg``, as FlagEmbedding writes them;
- ``query``, ``positive_passages``, ``negative_passages``, lists of objects with ``docid``, ``title`` and ``text``,
  as Tevatron writes them;
- ``query``, ``document``, ``label`` (ranking sets are such), and ``query``, ``documents``, ``labels``; a positive
  column alone beside labels holds documents of either kind: so sentence-transformers writes mined negatives as pairs
  or lists with labels.

TSV without a header holds lines of query, positive and negative text, as MS MARCO's small triples do. What has no
id gets one made of its text, so that equal texts are one query or document.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Container, Iterator, Mapping
from itertools import chain
from pathlib import Path

from pairgrade.delimited import csv_records, field_count, tab_separated
from pairgrade.errors import InputError
from pairgrade.lines import quoted
from pairgrade.pair_checks import checked_identifier, checked_optional_text, checked_text
from pairgrade.ranking_set import RankingRow
from pairgrade.records import Rejection
from pairgrade.table_rows import Row, json_objects, rows
from pairgrade.trec_input import plain_tsv

_QUERY = ("query", "anchor", "question")
_QUERY_ID = ("query_id", "qid")
_DOCUMENT = ("document", "passage", "text", "answer")
_DOCUMENT_ID = ("doc_id", "docid", "passage_id", "pid", "_id")
_LABEL = ("label", "score", "relevance", "grade")
_POSITIVES = ("positive", "positives", "pos", "positive_passages")
_NEGATIVES = ("negative", "negatives", "neg", "negative_passages")
_LISTS = ("documents", "docs", "passages")
_LABEL_LISTS = ("labels", "scores")
_NUMBERED = re.compile("(positive|negative)_[0-9]+")
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".csv": "csv", ".tsv": "tsv"}
_LONGEST_LINE = 2**24  # bytes


def read_examples(path: str) -> Iterator[RankingRow | Rejection]:
    """Yield a row for each document of each example, or the rejection of an example that is not sound.

    A query and document may come again, in other examples; InputError for a file of another shape.
    """
    kind = example_format(path)
    if kind is None:
        raise InputError(f"{path}: rows with texts come as .jsonl, .parquet, .csv or .tsv (text also .gz)")
    if kind == "tsv" and not _has_header(path):
        for item in plain_tsv(path, (3,), _LONGEST_LINE):
            if isinstance(item, Rejection):
                yield item
            else:
                line, (query, negative, positive) = item  # the last field comes second
                yield from _rows_or_rejection(
                    path, line, {"query": query, "positive": positive, "negative": negative}, "triples"
                )
        return
    first = True
    for row in _objects(path, kind) if kind in ("jsonl", "parquet") else _table(path, kind):
        if isinstance(row, Rejection):
            yield row
            continue
        line, values = row
        if first and not _fits(values):
            raise InputError(
                f"{path}: the columns are {', '.join(map(quoted, list(values)[:20]))}; a row needs a query and either "
                "positive and negative, pos and neg, positive_passages and negative_passages, document and label, or "
                "documents and labels"
            )
        first = False
        source = "triples" if {"positive", "negative"} <= values.keys() else "rows"
        yield from _rows_or_rejection(path, line, values, source)


def _objects(path: str, kind: str) -> Iterator[Row | Rejection]:
    return json_objects(path) if kind == "jsonl" else rows(path, kind, {})


def _table(path: str, kind: str) -> Iterator[tuple[int, Mapping[str, object]] | Rejection]:
    """Yield the rows of a CSV or TSV file under the names of its header; in TSV quotes have no meaning."""
    names: list[str] | None = None
    for record in (csv_records if kind == "csv" else tab_separated)(path, _LONGEST_LINE):
        if isinstance(record, Rejection):
            if names is None:
                raise InputError(f"{path}: the header cannot be read: {record.reason}")
            yield record
        elif names is None:
            names = record[1]
            if len(set(names)) < len(names):
                raise InputError(f"{path}: two columns have the same name; the columns are {', '.join(names)}")
        elif len(record[1]) != len(names):
            yield Rejection(path, record[0], f"{field_count(len(record[1]))}, the header has {len(names)}")
        else:
            cells = zip(names, record[1], strict=True)
            # an example may have fewer documents than another
            yield record[0], {name: None if cell == "" and _is_side(name) else cell for name, cell in cells}


def _is_side(name: str) -> bool:
    return name in _POSITIVES or name in _NEGATIVES or bool(_NUMBERED.fullmatch(name))


def _is_negative(name: str) -> bool:
    return name.partition("_")[0] in _NEGATIVES


def example_format(path: str) -> str | None:
    """Return the format of a file of examples by its suffix, or None for another."""
    name = path.lower()
    kind = _SUFFIXES.get(Path(name.removesuffix(".gz")).suffix)
    return None if kind == "parquet" and name.endswith(".gz") else kind


def text_id(*texts: str) -> str:
    """Return an id made of texts: 16 hexadecimal digits of their sha256."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _has_header(path: str) -> bool:
    """Say whether the first line of a TSV file names columns."""
    for item in tab_separated(path, _LONGEST_LINE):
        if not isinstance(item, Rejection):
            return _fits(dict.fromkeys(item[1]))
    raise InputError(f"{path}: holds no rows; there is nothing to read")


def _fits(values: Mapping[str, object]) -> bool:
    names = values.keys()
    has_documents = not names.isdisjoint(_POSITIVES) or (not names.isdisjoint(_DOCUMENT) and _name(names, _LABEL))
    has_list = not names.isdisjoint(_LISTS) and _name(names, _LABEL_LISTS)
    return not names.isdisjoint(_QUERY) and bool(has_documents or has_list)


def _name(names: Container[str], wanted: tuple[str, ...]) -> str | None:
    return next((name for name in wanted if name in names), None)


def _rows_or_rejection(
    path: str, line: int, values: Mapping[str, object], source: str
) -> Iterator[RankingRow | Rejection]:
    try:
        yield from list(_rows(values, source))
    except ValueError as error:
        yield Rejection(path, line, str(error))


def _rows(values: Mapping[str, object], source: str) -> Iterator[RankingRow]:
    """Make the rows of one example; ValueError says what is wrong with it."""
    name = _name(values, _QUERY)
    if name is None:
        raise ValueError(f"there is no query; it is called {', '.join(_QUERY)}")
    query = checked_text(values[name], name)
    if not query.strip():
        raise ValueError(f"{name} is blank")
    id_name = _name(values, _QUERY_ID)
    query_id = text_id(query) if id_name is None else checked_identifier(values[id_name], id_name)
    count = 0
    for label, item in _labelled(values):
        doc_id, title, document = _document(item)
        if not (title + document).strip():
            raise ValueError("a document is blank")
        known = values.get("source")
        origin = known if isinstance(known, str) and known else source
        yield RankingRow(query_id, doc_id, query, document, title, label, origin)
        count += 1
    if not count:
        raise ValueError("the row has no documents")


def _labelled(values: Mapping[str, object]) -> Iterator[tuple[float, object]]:
    """Yield label and document, as the row has them."""
    sides = [name for name in values if _is_side(name)]
    graded = _name(values, (*_LABEL, *_LABEL_LISTS))
    if graded and len(sides) == 1 and not _is_negative(sides[0]):
        if graded.startswith("score"):  # of a labelled pair, or what is known of a positive besides
            raise ValueError(
                f"{sides[0]} stands beside {graded} and no negatives; call {graded} label(s) where it is one, or leave "
                "it out"
            )
        yield from _graded(values, sides[0], graded)
        return
    for label, wanted in ((1.0, _POSITIVES), (0.0, _NEGATIVES)):
        numbered = [name for name in values if _NUMBERED.fullmatch(name) and name.split("_")[0] in wanted]
        for name in chain((name for name in wanted if name in values), numbered):
            value = values[name]
            for item in value if isinstance(value, list) else [value] if value is not None else []:
                yield label, item
    text_name, label_name = _name(values, _DOCUMENT), _name(values, _LABEL)
    if text_name and label_name:
        found = {"text": values[text_name], "title": values.get("title")}
        if id_name := _name(values, _DOCUMENT_ID):
            found["doc_id"] = values[id_name]
        yield _label(values[label_name]), found
    if listed := _name(values, _LISTS):
        yield from _graded(values, listed, _name(values, _LABEL_LISTS) or "labels")


def _graded(values: Mapping[str, object], documents: str, labels: str) -> Iterator[tuple[float, object]]:
    """Yield label and document of a column of documents and one of their labels: one of each, or lists."""
    items, found = values[documents], values.get(labels)
    if isinstance(items, list) and labels not in _LABEL_LISTS and not isinstance(found, list):
        found = [found] * len(items)
    if labels in _LABEL_LISTS or isinstance(items, list) or isinstance(found, list):
        if not isinstance(items, list) or not isinstance(found, list) or len(items) != len(found):
            raise ValueError(f"{documents} and {labels} must be lists of the same length")
    else:
        items, found = [items], [found]
    for item, value in zip(items, found, strict=True):
        yield _label(value), item


def _label(value: object) -> float:
    label = math.nan
    if isinstance(value, (str, int, float)):
        try:
            label = float(value)
        except (ValueError, OverflowError):
            label = math.nan
    if not math.isfinite(label) or label < 0:
        raise ValueError(f"the label is {quoted(str(value))}; it must be a number of 0 or more")
    return label


def _document(item: object) -> tuple[str, str, str]:
    """Return id, title and text of a document that is a text or an object."""
    if isinstance(item, dict):
        title = checked_optional_text(item.get("title"))
        text = checked_text(item.get(_name(item, _DOCUMENT) or "text"), "text")
        id_name = _name(item, _DOCUMENT_ID)
        return text_id(title, text) if id_name is None else checked_identifier(item[id_name], id_name), title, text
    text = checked_text(item, "document")
    return text_id("", text), "", text
