"""Paths as a result names them, so that it means the same in another folder: relative, or by name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pairgrade.bench.matrix import Cell, Data, Matrix, located


class PortableNames:
    """Names for a matrix's files: relative to ``base`` or the working directory, where inside; else their last part.

    Where two files would have one name, both keep their paths.
    """

    def __init__(self, matrix: Matrix, base: Path) -> None:
        data = filter(None, (matrix.data.pairs, matrix.data.queries, matrix.data.docs))
        models = (*matrix.models, *matrix.peer_models, *filter(None, (matrix.reference,)))
        self._names = _named({*map(located, (*models, *data)), *matrix.rubrics}, (base.resolve(), Path.cwd()))

    def cell(self, cell: Cell) -> Cell:
        """Return a cell with these names."""
        return replace(cell, model=self._name(cell.model), rubric=self._name(cell.rubric))

    def matrix(self, matrix: Matrix) -> Matrix:
        """Return a matrix with these names."""
        old = matrix.data
        data = Data(self._name(old.pairs), self._or_none(old.queries), self._or_none(old.docs),
                    old.max_queries, old.per_query, old.seed)  # fmt: skip
        models, peers, rubrics = (
            tuple(map(self._name, names)) for names in (matrix.models, matrix.peer_models, matrix.rubrics)
        )
        return replace(
            matrix, data=data, models=models, peer_models=peers, rubrics=rubrics,
            reference=self._or_none(matrix.reference),
        )  # fmt: skip

    def text(self, text: str) -> str:
        """Return a message with these names for the paths in it."""
        for path in sorted(self._names, key=len, reverse=True):
            text = text.replace(path, self._names[path])
        return text

    def _name(self, reference: str) -> str:
        known = self._names.get(reference) or self._names.get(located(reference))
        if known:
            return known
        path = Path(reference)  # an export in a folder of several has that folder's name before its own
        inside = (f"{self._names[str(p)]}/{path.relative_to(p)}" for p in path.parents if str(p) in self._names)
        return next(inside, reference)

    def _or_none(self, reference: str | None) -> str | None:
        return None if reference is None else self._name(reference)


def _named(paths: Iterable[str], bases: Iterable[Path]) -> dict[str, str]:
    found = {path: _short(path, bases) for path in paths}
    counts = Counter(found.values())
    return {path: name if counts[name] == 1 else path for path, name in found.items()}


def _short(path: str, bases: Iterable[Path]) -> str:
    if not os.path.isabs(path):  # pkg:, fake:, a rubric's name
        return path
    real = Path(path)
    inside = (real.relative_to(base).as_posix() for base in bases if real.is_relative_to(base))
    return next(inside, real.name)
