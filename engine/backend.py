"""The seam between the engine and what runs a model: token ids in, logits of the label tokens out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pairgrade.errors import ModelError
from pairgrade.tokenizer import Ids, Tokenizer


@dataclass(frozen=True, slots=True)
class Scores:
    """What a backend says of n suffixes with k label tokens."""

    logits: npt.NDArray[np.float32]  # (n, k), at each suffix's last position
    log_totals: npt.NDArray[np.float64] | None  # (n,) log of the sum of exp over the whole vocabulary, if known
    failed: Mapping[int, str] = field(default_factory=dict)  # rows that could not be computed (NaN above), and why


@dataclass
class Counters:
    """Tokens that a backend computed, and those that it found computed already."""

    computed: int = 0
    reused: int = 0
    seconds: float = 0.0  # time inside the model
    prefix_computed: int = 0  # of the computed tokens, those of prefixes
    prefix_seconds: float = 0.0  # of the seconds, those spent on prefixes


class Backend(Protocol):
    """A loaded model.

    ``score`` is a function of its arguments: what it keeps between calls may change the speed, never the result.
    """

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""

    @property
    def counters(self) -> Counters:
        """What was computed since the model was loaded."""

    @property
    def context(self) -> int:
        """The longest prompt, in tokens."""

    @property
    def threads(self) -> int:
        """How many threads compute; information, see ``identity``."""

    @property
    def exact(self) -> bool:
        """Whether ``score`` gives a suffix the same bits whatever runs beside it."""

    @property
    def is_chat_model(self) -> bool:
        """Whether the model was trained on chat turns."""

    def identity(self) -> dict[str, str]:
        """Name everything about the backend that decides the result: kind, library version, settings."""

    def score(self, prefix: Sequence[Ids], suffixes: Sequence[Ids], labels: Ids) -> Scores:
        """Run each suffix after the prefix, by itself, and return the label logits; ModelError if it cannot."""

    def close(self) -> None:
        """Free the model."""


def segments_in_common(wanted: Iterable[bytes], held: Iterable[bytes]) -> int:
    """Count the segments at the start of a prefix that are held already."""
    count = 0
    for one, other in zip(wanted, held, strict=False):
        if one != other:
            break
        count += 1
    return count


def require_fit(context: int, prefix: int, suffixes: Sequence[Ids]) -> None:
    """Raise ModelError for a suffix that is empty, or that does not fit the context behind so many prefix tokens."""
    longest = max(map(len, suffixes), default=0)
    if prefix + longest > context:
        raise ModelError(f"a prompt of {prefix + longest} tokens does not fit the context of {context}")
    if not all(map(len, suffixes)):
        raise ModelError("an empty suffix has no last token to read logits at")
