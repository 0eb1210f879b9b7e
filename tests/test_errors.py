"""Errors travel: a process of a pool sends them to another."""

from __future__ import annotations

import copy
import pickle

import pytest

from pairgrade import errors
from pairgrade.errors import MissingExtraError, PairgradeError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PairgradeError)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_the_same_after_its_way(kind: type[PairgradeError]) -> None:
    error = kind("a", "b", "c") if issubclass(kind, MissingExtraError) else kind("what came; what to do")
    for found in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(found) is kind
        assert str(found) == str(error)
