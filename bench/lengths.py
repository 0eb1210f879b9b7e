"""How long an input's documents are, and a sample of its pairs that is stratified by that."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pairgrade.bootstrap import Floats, Ints
from pairgrade.errors import InputError
from pairgrade.readers import Source, read_pairs
from pairgrade.records import Pair

_MOST_OF_A_QUERY = 32  # documents of one query in a sample of enough queries


@dataclass(frozen=True, slots=True)
class Lengths:
    """The usable pairs of an input, in its order; 8 bytes a pair."""

    documents: npt.NDArray[np.int32]  # characters, the title's among them
    query: npt.NDArray[np.int32]  # number of the pair's query
    queries: int
    rejected: int

    @property
    def pairs(self) -> int:
        """How many there are."""
        return len(self.documents)

    def sample(self, size: int) -> Ints:
        """Return the places of about so many pairs, ascending: queries from short to long documents, at equal steps.

        Of a query with very many documents some are taken, from short to long as well: the more the fewer queries
        there are to make up the sample.
        """
        if size >= self.pairs:
            return np.arange(self.pairs, dtype=np.int64)
        counts = np.bincount(self.query, minlength=self.queries)
        means: Floats = np.bincount(self.query, self.documents, self.queries) / counts
        order = np.argsort(means, kind="stable")
        taken = np.minimum(counts, max(min(_MOST_OF_A_QUERY, size // 4), -(-size // self.queries)))
        wanted = max(1, min(self.queries, round(size / taken.mean())))
        steps = ((np.arange(wanted) + 0.5) * self.queries / wanted).astype(np.int64)
        by_query = np.split(np.argsort(self.query, kind="stable"), np.cumsum(counts)[:-1])
        places = [self._of_query(by_query[query], int(taken[query])) for query in order[steps].tolist()]
        return np.sort(np.concatenate(places))

    def _of_query(self, places: Ints, count: int) -> Ints:
        by_length = places[np.argsort(self.documents[places], kind="stable")]
        steps = ((np.arange(count) + 0.5) * len(places) / count).astype(np.int64)
        chosen: Ints = by_length[steps]
        return chosen


def measure_lengths(source: Source) -> Lengths:
    """Read an input once; InputError where no row of it is usable."""
    documents, queries = array("i"), array("i")
    numbers: dict[str, int] = {}
    rejected = 0
    for row in read_pairs(source):
        if isinstance(row, Pair):
            documents.append(min(len(row.document) + len(row.title), 2**31 - 1))
            queries.append(numbers.setdefault(row.query_id, len(numbers)))
        else:
            rejected += 1
    if not documents:
        raise InputError(f"{source.pairs}: holds no usable pair, so there is nothing to estimate")
    return Lengths(np.array(documents, np.int32), np.array(queries, np.int32), len(numbers), rejected)
