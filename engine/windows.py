"""Cuts a stream of pairs into the windows that are planned together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pairgrade.errors import InputError
from pairgrade.records import Pair, Rejection

_WINDOW_CHARACTERS = 32 * 2**20  # a window of long documents holds fewer pairs


def windows(pairs: Iterable[object], size: int) -> Iterator[list[Pair]]:
    """Cut a stream of pairs into lists of at most ``size`` pairs and 32 Mi characters (a longer pair is alone).

    InputError for what is no pair.
    """
    window: list[Pair] = []
    characters = 0
    for pair in pairs:
        if not isinstance(pair, Pair):
            why = f" ({pair.told})" if isinstance(pair, Rejection) else ""
            raise InputError(f"a pairgrade.Pair is graded, and a {type(pair).__name__} came{why}; leave it out")
        length = sum(len(text) for text in (pair.query, pair.document, pair.title) if isinstance(text, str))
        if window and (len(window) == size or characters + length > _WINDOW_CHARACTERS):
            yield window
            window, characters = [], 0
        window.append(pair)
        characters += length
    if window:
        yield window
