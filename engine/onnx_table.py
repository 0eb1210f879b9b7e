"""Embedding and head: tables with a row a token, mapped from the disk, so that only the rows in use cost memory."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pairgrade.errors import ModelError

_ROWS = 2048  # widened to float32 at a time
_LARGE = 256 << 20  # bytes; a larger table's pages are let go of
_KEPT = 16 << 20  # bytes of it that stay mapped, about
_AROUND = 1 << 16  # bytes that Linux maps with each page

Floats = npt.NDArray[np.float32]


class TokenTable:
    """A matrix (vocabulary, hidden) of float32, or of the upper halves of float32 (bfloat16) in uint16."""

    def __init__(self, path: Path, vocabulary: int, hidden: int) -> None:
        table = _mapped(path)
        if table.shape != (vocabulary, hidden) or table.dtype not in (np.float32, np.uint16):
            raise ModelError(
                f"{path}: {table.dtype} {table.shape}; float32 or uint16 {(vocabulary, hidden)} was expected"
            )
        self._table = table
        pages: Any = table.base  # the map itself
        self._pages = pages if table.nbytes > _LARGE and hasattr(mmap, "MADV_DONTNEED") else None
        self._mapped = 0  # bytes since the pages were let go of

    def rows(self, ids: npt.NDArray[np.integer[Any]]) -> Floats:
        """Return the rows of some tokens, (n, hidden).

        The pages of a large table are unmapped from time to time, else all of it would count as memory in the end.
        """
        rows = _wide(self._table[ids])
        self._mapped += len(ids) * _AROUND
        if self._pages is not None and self._mapped > _KEPT:
            self._mapped = 0
            self._pages.madvise(mmap.MADV_DONTNEED)  # the system keeps them, and reading maps them again
        return rows

    def log_totals(self, hidden: Floats, cap: float | None) -> npt.NDArray[np.float64]:
        """Return the log of the sum of exp of all tokens' logits, for hidden states (n, hidden).

        One state at a time, for the roundings of a product of several depend on a state's place among them.
        """
        peak = np.full(len(hidden), -np.inf)
        whole = np.zeros(len(hidden))
        for start in range(0, len(self._table), _ROWS):
            rows = _wide(self._table[start : start + _ROWS])
            for i, state in enumerate(hidden):
                logits = soft_cap(rows @ state, cap).astype(np.float64)
                higher = max(peak[i], logits.max())
                whole[i] = whole[i] * np.exp(peak[i] - higher) + np.exp(logits - higher).sum()
                peak[i] = higher
        totals: npt.NDArray[np.float64] = peak + np.log(whole)
        return totals


def read_vector(path: Path, hidden: int) -> Floats:
    """Read (hidden,) numbers in float32; ModelError where a file holds anything else, or one that is not finite."""
    vector = _mapped(path)
    if vector.shape != (hidden,) or vector.dtype != np.float32 or not np.isfinite(vector).all():
        what = f"{vector.dtype} {vector.shape}"
        raise ModelError(f"{path}: {what}; {hidden} finite numbers in float32 were expected; export the model again")
    return np.array(vector)


def label_logits(hidden: Floats, head: Floats, cap: float | None) -> Floats:
    """Return hidden (n, h) times head (k, h), row by row, so that no neighbour can move a bit."""
    logits = np.empty((len(hidden), len(head)), np.float32)
    for row, state in enumerate(hidden):
        logits[row] = (state * head).sum(1, dtype=np.float64)
    return soft_cap(logits, cap)


def soft_cap(logits: Floats, cap: float | None) -> Floats:
    """Bound logits by cap * tanh(logits / cap)."""
    return logits if cap is None else np.float32(cap) * np.tanh(logits / np.float32(cap))


def save_table(path: Path, table: Floats) -> None:
    """Write a table as it is, or halved where that loses nothing: a model that was trained in bfloat16."""
    bits = table.view(np.uint32)
    np.save(path, table if np.any(bits & 0xFFFF) else (bits >> 16).astype(np.uint16), allow_pickle=False)


def _mapped(path: Path) -> npt.NDArray[Any]:
    try:
        table: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"{path}: not a table of numbers ({error}); export the model again") from None
    return table


def _wide(rows: npt.NDArray[Any]) -> Floats:
    if rows.dtype == np.float32:
        return np.asarray(rows)
    return (rows.astype(np.uint32) << 16).view(np.float32)
