"""The judged pairs of a data set of the ir_datasets catalogue, which fetches the files it lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

from pairgrade.errors import InputError, MissingExtraError
from pairgrade.extras import unusable
from pairgrade.lines import Row
from pairgrade.trec_input import Judged


class Catalogued:
    """A data set by its id, with the iterators that a join with its texts takes.

    Its "lines" count from 1 through the data set's own order.
    """

    def __init__(self, dataset_id: str) -> None:
        self.name = f"irds:{dataset_id}"
        try:
            import ir_datasets
        except ImportError as error:
            raise unusable(error, f"the input {self.name}", "ir_datasets", extra="irds") from None
        try:
            self._dataset: Any = ir_datasets.load(dataset_id)
        except KeyError:
            raise InputError(f"{self.name}: no such data set; see https://ir-datasets.com") from None
        lacking = [part for part in ("docs", "queries", "qrels") if not self._dataset.has(part)]
        if lacking:
            raise InputError(f"{self.name}: has no {' and no '.join(lacking)}; try a more specific id")

    def judged(self) -> Iterator[Judged]:
        """Yield the judgments."""
        for number, qrel in self._numbered(self._dataset.qrels_iter):
            yield number, (qrel.query_id, qrel.doc_id, qrel.relevance)

    def queries(self) -> Iterator[Row]:
        """Yield (id, text, title) of the queries; the title is None."""
        for number, query in self._numbered(self._dataset.queries_iter):
            yield number, (query.query_id, query.default_text(), None)

    def documents(self) -> Iterator[Row]:
        """Yield (id, text, title) of the documents; the text holds all where there is no plain title."""
        for number, document in self._numbered(self._dataset.docs_iter):
            title = getattr(document, "title", None)
            text = getattr(document, "text", getattr(document, "body", None))
            if not isinstance(title, str) or not isinstance(text, str):
                title, text = None, document.default_text()
            yield number, (document.doc_id, text, title)

    def _numbered(self, records: Callable[[], Iterator[Any]]) -> Iterator[tuple[int, Any]]:
        try:
            yield from enumerate(records(), start=1)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"{self.name}: ir_datasets cannot read it: {error}") from error


def catalogue_version() -> str:
    """Name the catalogue's package with its version; MissingExtraError where it is not installed."""
    try:
        return f"ir_datasets {metadata.version('ir_datasets')}"
    except metadata.PackageNotFoundError:
        raise MissingExtraError("an irds: input", "ir_datasets", "irds") from None
