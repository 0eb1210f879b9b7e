"""A query and a document as one input of an encoder: the same ids in a re-ranker's training and in its use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pairgrade.errors import InputError, ModelError
from pairgrade.extras import unusable
from pairgrade.lines import quoted

Ints = npt.NDArray[np.int64]
Row = tuple[Ints, Ints]  # token ids and segment ids of one pair

INPUTS = ("input_ids", "token_type_ids", "attention_mask")


class PairEncoder:
    """Pairs to token ids by the model's own tokenizer.

    Documents are cut to fit, queries never. The text of a special token inside a query or document is text.
    """

    def __init__(self, tokenizer_json: str, max_length: int, pad_id: int) -> None:
        self.max_length, self._pad = max_length, pad_id
        self._tokenizer, self._uncut = tokenizer, uncut = _load(tokenizer_json), _load(tokenizer_json)
        uncut.no_truncation()
        for each in (tokenizer, uncut):
            each.no_padding()
            each.encode_special_tokens = True
        self._room = max_length - tokenizer.num_special_tokens_to_add(is_pair=True)
        tokenizer.enable_truncation(max_length, strategy="only_second")

    def rows(self, pairs: Sequence[tuple[str, str]]) -> list[Row]:
        """Encode pairs of query and document; InputError for a query that leaves no room for a document."""
        self.check_queries(query for query, _ in pairs)
        try:
            found = self._tokenizer.encode_batch([(query, document) for query, document in pairs])
        except TypeError:  # the library's answer to a lone surrogate
            raise InputError(_not_unicode(next(d for _, d in pairs if not _is_unicode(d)))) from None
        return [(np.array(e.ids, np.int64), np.array(e.type_ids, np.int64)) for e in found]

    def check_queries(self, queries: Iterable[str]) -> None:
        """Raise InputError for a query that leaves no room for a document."""
        for query in dict.fromkeys(queries):
            self._check_query(query)

    def padded(self, rows: Sequence[Row]) -> dict[str, Ints]:
        """Put rows into arrays (rows, longest), padded at the end, by the names of an encoder's inputs."""
        shape = len(rows), max(len(ids) for ids, _ in rows)
        ids, segments, mask = np.full(shape, self._pad, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for place, (own_ids, own_segments) in enumerate(rows):
            ids[place, : len(own_ids)] = own_ids
            segments[place, : len(own_ids)] = own_segments
            mask[place, : len(own_ids)] = 1
        return dict(zip(INPUTS, (ids, segments, mask), strict=True))

    def _check_query(self, query: str) -> None:
        if not _is_unicode(query):
            raise InputError(_not_unicode(query))
        tokens = len(self._uncut.encode(query, add_special_tokens=False).ids)
        if tokens >= self._room:
            raise InputError(
                f"the query {quoted(query)} has {tokens} tokens; the re-ranker reads {self.max_length} of query and "
                f"document together, so a query may have {self._room - 1}"
            )


def _load(tokenizer_json: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise unusable(error, "a re-ranker", "tokenizers", extra="onnx") from None
    try:
        return Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # the library raises plain Exception
        raise ModelError(f"tokenizer.json: the tokenizers library cannot read it ({error})") from None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _not_unicode(text: str) -> str:
    return f"the text {quoted(text)} holds a lone surrogate; give valid Unicode"
