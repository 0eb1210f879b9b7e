"""The order and batches in which prompts run, so that what they share is computed once.

Pure token ids: no model and no text. Prompts arrive in windows (a window bounds the memory, not the file); within
one, those with the same prefix are put together, equal prompts run once, and the rest is cut into batches by a
token budget. Results are scattered back by index, so the plan never shows in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pairgrade.errors import InputError
from pairgrade.option_checks import require_whole
from pairgrade.prompt import Prompt
from pairgrade.tokenizer import Ids


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """How prompts are packed."""

    batch_tokens: int = 2048  # document and cue tokens of one batch, the most; a longer document is a batch alone
    by_length: bool = False  # sort each prefix's documents by length, for backends that pad

    def __post_init__(self) -> None:
        require_whole(self, "batch_tokens")
        if self.batch_tokens < 1:
            raise InputError(f"batch_tokens is {self.batch_tokens}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class Batch:
    """Suffixes that follow one prefix; ``indices[i]`` are the places in the window that suffix i answers."""

    prefix: tuple[Ids, ...]
    suffixes: tuple[Ids, ...]
    indices: tuple[tuple[int, ...], ...]


def plan(prompts: Sequence[Prompt], options: PlanOptions) -> Iterator[Batch]:
    """Cut a window of prompts into batches, prefixes in order of first appearance."""
    for group in _groups(prompts):
        unique: dict[bytes, list[int]] = {}
        for index in group:
            unique.setdefault(prompts[index].suffix.tobytes(), []).append(index)
        places = list(unique.values())
        if options.by_length:
            places.sort(key=lambda indices: len(prompts[indices[0]].suffix))
        yield from _cut(prompts, places, options.batch_tokens)


def _groups(prompts: Sequence[Prompt]) -> list[list[int]]:
    groups: dict[tuple[bytes, ...], list[int]] = {}
    names: dict[tuple[int, ...], tuple[bytes, ...]] = {}  # segments are mostly the same objects: hash them once
    for index, prompt in enumerate(prompts):
        identity = tuple(id(segment) for segment in prompt.prefix)
        name = names.get(identity)
        if name is None:
            name = names[identity] = tuple(segment.tobytes() for segment in prompt.prefix)
        groups.setdefault(name, []).append(index)
    return list(groups.values())


def _cut(prompts: Sequence[Prompt], places: list[list[int]], budget: int) -> Iterator[Batch]:
    batch: list[list[int]] = []
    used = 0
    for indices in places:
        length = len(prompts[indices[0]].suffix)
        if batch and used + length > budget:
            yield _batch(prompts, batch)
            batch, used = [], 0
        batch.append(indices)
        used += length
    if batch:
        yield _batch(prompts, batch)


def _batch(prompts: Sequence[Prompt], places: list[list[int]]) -> Batch:
    first = prompts[places[0][0]]
    return Batch(
        prefix=first.prefix,
        suffixes=tuple(prompts[indices[0]].suffix for indices in places),
        indices=tuple(tuple(indices) for indices in places),
    )
