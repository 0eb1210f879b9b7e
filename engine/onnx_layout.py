"""How a batch of documents lies in memory: packed for the products, a rectangle for the attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pairgrade.tokenizer import Ids

_STEP = 16  # the rectangle is a multiple of it wide: whole vectors on every processor, whatever runs beside

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Layout:
    """The inputs of a graph that tell where tokens lie."""

    ids: Ids  # (tokens,)
    rows: Places  # (B, S) packed place of each place of the rectangle; padding repeats the document's last token
    places: Places  # (tokens,) place in the flattened rectangle
    last: Places  # (B,) packed place of each document's last token


def pack(documents: Sequence[Ids], step: int = _STEP, least: int = 1) -> Layout:
    """Lay documents out one after the other; the rectangle is at least ``least`` wide, and a multiple of ``step``."""
    lengths = np.array([len(ids) for ids in documents], np.int64)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    width = _width(int(lengths.max()), step, least)
    column = np.arange(width, dtype=np.int64)
    rows = starts[:, None] + np.minimum(column, lengths[:, None] - 1)
    inside = column < lengths[:, None]
    return Layout(np.concatenate(documents), rows, np.flatnonzero(inside), ends - 1)


def cut(lengths: Sequence[int], budget: int, least: int = 1) -> Iterator[list[int]]:
    """Yield the indices of batches, short documents first; a batch's rectangle holds at most ``budget`` places.

    A document that alone takes more is a batch of its own.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * _width(lengths[index], _STEP, least) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def least_rows(heads: int, kv_heads: int, head_dim: int) -> int:
    """Return the positions that an attention product needs, so that threads share its rows and never its columns.

    ONNX Runtime shares a product out by columns where it has more of them than rows, and a narrow share is summed in
    another order: bits would depend on the number of threads and of documents.
    """
    return -(-head_dim * kv_heads // heads)


def _width(length: int, step: int, least: int) -> int:
    return -(-max(length, least) // step) * step
