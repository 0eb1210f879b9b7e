"""The seam between the engine and what runs a model: token ids in, logits of the label tokens out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

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
