"""BM25 over documents in memory, by bm25s: the ranking that proposes candidates.

S. Robertson and H. Zaragoza, "The probabilistic relevance framework: BM25 and beyond", Foundations and Trends in
Information Retrieval 3(4), 2009, in Lucene's form. Needs the extra ``rerank``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from pairgrade.errors import InputError
from pairgrade.extras import unusable

STOPWORDS = ("english", "german", "french", "spanish", "italian", "portuguese", "dutch", "none")

_MOST_K1 = 1000  # repetitions count in full long before


@dataclass(frozen=True, slots=True)
class Bm25Options:
    """How documents are indexed and scored; the parameters are those of Anserini for passages."""

    k1: float = 0.9  # how fast a word's repetitions stop counting
    b: float = 0.4  # how much long documents are held back
    stopwords: str = "english"  # whose are left out, or none

    def __post_init__(self) -> None:
        if not 0 <= self.k1 <= _MOST_K1:
            raise InputError(f"k1 is {self.k1}; it must be from 0 to {_MOST_K1}")
        if not 0 <= self.b <= 1:
            raise InputError(f"b is {self.b}; it must be from 0 to 1")
        if self.stopwords not in STOPWORDS:
            raise InputError(f"stopwords is {self.stopwords!r}; it can be {', '.join(STOPWORDS)}")


class Bm25:
    """An index of documents, which ranks them for a query: by falling score, equal ones by falling id."""

    def __init__(self, texts: Mapping[str, str], options: Bm25Options | None = None) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise unusable(error, "BM25", "bm25s", extra="rerank") from None

        logging.getLogger("bm25s").setLevel(logging.NOTSET)  # it asks for debug messages whatever the program wants
        self._options = options or Bm25Options()
        self._ids = list(texts)
        self._places = {doc_id: place for place, doc_id in enumerate(self._ids)}
        self._tokenize = bm25s.tokenize
        tokens = self._tokens(list(texts.values()))
        if not any(tokens):
            raise InputError("no document holds a word that BM25 could index; look at the documents and the stopwords")
        self._index = bm25s.BM25(k1=self._options.k1, b=self._options.b, method="lucene", auto_compile=False)
        self._index.index(tokens, show_progress=False)

    def rank(self, query: str, depth: int) -> list[tuple[str, float]]:
        """Return the first documents that share a word with the query, with their scores."""
        scores = self._scores(query)
        found = np.flatnonzero(scores > 0)
        if len(found) > depth:
            least = np.partition(scores[found], -depth)[-depth]
            found = found[scores[found] >= least]  # with all that tie for the last place, which ids decide
        return self._ordered(found.tolist(), scores)[:depth]

    def rank_only(self, query: str, doc_ids: Iterable[str]) -> list[tuple[str, float]]:
        """Return these documents with their scores, which are 0 for one that shares no word with the query.

        Those that are not indexed are left out.
        """
        places = [self._places[doc_id] for doc_id in dict.fromkeys(doc_ids) if doc_id in self._places]
        return self._ordered(places, self._scores(query))

    def _ordered(self, places: list[int], scores: np.ndarray) -> list[tuple[str, float]]:
        found = ((float(scores[place]), self._ids[place]) for place in places)
        return [(doc_id, score) for score, doc_id in sorted(found, reverse=True)]

    def _scores(self, query: str) -> np.ndarray:
        known = [token for token in self._tokens([query])[0] if token in self._index.vocab_dict]
        if not known:
            return np.zeros(len(self._ids), dtype=np.float32)
        scores: np.ndarray = self._index.get_scores(known)
        return scores

    def _tokens(self, texts: list[str]) -> list[list[str]]:
        stopwords = [] if self._options.stopwords == "none" else self._options.stopwords
        tokens: list[list[str]] = self._tokenize(
            texts, stopwords=stopwords, return_ids=False, show_progress=False, allow_empty=True
        )
        return tokens
