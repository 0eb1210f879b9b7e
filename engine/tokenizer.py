"""What a prompt is built with: text to token ids, foreign text kept apart from control tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]  # token ids, shape (n,)


class Tokenizer(Protocol):
    """One model's vocabulary."""

    @property
    def bos(self) -> int | None:
        """The token that opens every prompt, or None where the model wants none."""

    def scaffold(self, text: str) -> Ids:
        """Tokenize our own text: control tokens written in it are recognized. No BOS is added."""

    def plain(self, text: str) -> Ids:
        """Tokenize foreign text: no id of a control or user-defined token comes out of it. No BOS is added."""

    def special(self, text: str) -> int | None:
        """Return the id of the control or user-defined token written ``text``, or None."""

    def piece(self, token: int) -> str:
        """Return the text that a token stands for."""


def encode_apart(
    encode: Callable[[str], Ids], text: str, forbidden: npt.NDArray[np.bool_], texts: Mapping[int, str]
) -> Ids:
    """Tokenize ``text`` so that no forbidden id comes out.

    Tokenizers match the text of user-defined tokens even where special tokens are off. Where that happened the
    text is cut behind the first character of each occurrence and the parts are tokenized each by itself.

    ``forbidden`` has one flag per id of the vocabulary; ``texts`` holds the text of each forbidden id. Tokens of
    one character cannot be cut and must not be forbidden.
    """
    ids = encode(text)
    found = np.unique(ids[forbidden[ids]])
    if not found.size:
        return ids
    token = max((texts[int(i)] for i in found), key=len)
    parts: list[str] = []
    start = 0
    at = text.find(token)
    while at >= 0:
        parts.append(text[start : at + 1])
        start = at + 1
        at = text.find(token, start)
    parts.append(text[start:])
    if len(parts) == 1:  # the tokenizer normalized the text before it matched: drop what cannot be cut
        return ids[~forbidden[ids]]
    return np.concatenate([encode_apart(encode, part, forbidden, texts) for part in parts])
