"""A backend without a model, for tests of everything around one: scores are a hash of the prompt's ids.

Deterministic, exact whatever runs beside a prompt, and its tokenizer has a control and a user-defined token, so
that everything up to the journal can be tried at tens of thousands of pairs a second: ``--model fake:``. With
``PAIRGRADE_FAKE_DEATHS`` set in the environment, a document with ``die:SIGSEGV`` in it ends the process by that
signal; set to such a text itself, the fake dies while it is loaded.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Sequence

import numpy as np

from pairgrade.backend import Counters, Scores, segments_in_common
from pairgrade.tokenizer import Ids, encode_apart

DEATHS = "PAIRGRADE_FAKE_DEATHS"
_BYTES = 256
_SPECIALS = ("<|begin|>", "<|end|>", "<|tool|>")  # the first two are control tokens, the third is user-defined
VOCABULARY = _BYTES + len(_SPECIALS)


class FakeTokenizer:
    """One token per UTF-8 byte, and three special tokens."""

    bos: int | None = _BYTES

    def __init__(self) -> None:
        self._forbidden = np.arange(VOCABULARY) >= _BYTES
        self._texts = {_BYTES + i: text for i, text in enumerate(_SPECIALS)}

    def scaffold(self, text: str) -> Ids:
        """Tokenize with every special token recognized."""
        return self._encode(text, _SPECIALS)

    def plain(self, text: str) -> Ids:
        """Tokenize with the user-defined token broken up, which ``_encode`` matches as llama.cpp does."""
        return encode_apart(lambda part: self._encode(part, _SPECIALS[2:]), text, self._forbidden, self._texts)

    def special(self, text: str) -> int | None:
        """Return the id of a special token."""
        return _BYTES + _SPECIALS.index(text) if text in _SPECIALS else None

    def piece(self, token: int) -> str:
        """Return the text of a token."""
        return self._texts[token] if token >= _BYTES else bytes([token]).decode("latin-1")

    def _encode(self, text: str, specials: Sequence[str]) -> Ids:
        ids: list[int] = []
        while text:
            found = [(text.find(s), s) for s in specials if s in text]
            at, special = min(found) if found else (len(text), "")
            ids.extend(text[:at].encode())
            if special:
                ids.append(_BYTES + _SPECIALS.index(special))
            text = text[at + len(special) :]
        return np.array(ids, np.int32)


class FakeBackend:
    """Scores by hash, another one for each ``name``; ``nonfinite`` makes the scores of prompts with this id NaN.

    ``delay`` is slept for each suffix, ``token_delay`` for each token that is computed, the prefix's among them: up to
    twice as long for those of a suffix, by its hash, for real documents of one length differ, too.
    """

    is_chat_model = False
    exact = True
    threads = 1

    def __init__(
        self,
        context: int = 1024,
        delay: float = 0.0,
        nonfinite: int | None = None,
        token_delay: float = 0.0,
        name: str = "",
    ) -> None:
        self.tokenizer = FakeTokenizer()
        self.counters = Counters()
        self.context = context
        self.calls: list[int] = []  # suffixes of each call
        self._delay, self._token_delay = delay, token_delay
        self._nonfinite = nonfinite
        self._name = name
        self._cached: tuple[bytes, ...] = ()
        _die_as_told(os.environ.get(DEATHS, "").encode())

    def identity(self) -> dict[str, str]:
        """Name the fake and its context size."""
        own = {"name": self._name} if self._name else {}
        return own | {"kind": "fake", "context": str(self.context)}

    def score(self, prefix: Sequence[Ids], suffixes: Sequence[Ids], labels: Ids) -> Scores:
        """Hash each whole prompt into logits between -4 and 4."""
        self.calls.append(len(suffixes))
        start = hashlib.blake2b(np.concatenate(prefix).tobytes(), digest_size=32, key=self._name.encode()[:64])
        logits = np.empty((len(suffixes), len(labels)), np.float32)
        for row, suffix in enumerate(suffixes):
            if DEATHS in os.environ:
                _die_as_told(suffix[suffix < _BYTES].astype(np.uint8).tobytes())
            state = start.copy()
            state.update(suffix.tobytes())
            noise = np.frombuffer((state.digest() * (len(labels) // 8 + 1))[: 4 * len(labels)], np.uint32)
            logits[row] = noise / 2**29 - 4
            if self._nonfinite is not None and self._nonfinite in suffix:
                logits[row, 0] = np.nan
            self._sleep(self._delay + self._token_delay * len(suffix) * 2 * int(noise[0]) / 2**32)
        self._sleep(self._token_delay * self._count(prefix, suffixes))
        return Scores(logits, np.log(np.exp(logits.astype(np.float64)).sum(1)) + 0.25)

    def _sleep(self, seconds: float) -> None:
        if seconds:
            time.sleep(seconds)
            self.counters.seconds += seconds  # as it was told, so that equal work counts equally

    def _count(self, prefix: Sequence[Ids], suffixes: Sequence[Ids]) -> int:
        """Count the tokens, and return those of the prefix that were not kept."""
        names = tuple(segment.tobytes() for segment in prefix)
        kept = segments_in_common(names, self._cached)
        self._cached = names
        total = sum(len(segment) for segment in prefix)
        fresh = sum(len(segment) for segment in prefix[kept:])
        self.counters.computed += fresh + sum(len(s) for s in suffixes)
        self.counters.prefix_computed += fresh
        self.counters.reused += total * len(suffixes) - fresh
        return fresh

    def close(self) -> None:
        """Free nothing."""


def _die_as_told(text: bytes) -> None:
    """End the process as a native library would, where the text names a signal."""
    _, told, name = text.partition(b"die:")
    number = next((s for s in signal.Signals if name.startswith(s.name.encode())), None)
    if told and number is not None:
        os.kill(os.getpid(), number)
