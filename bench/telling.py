"""Errors of the scripts that are run by ``python -m pairgrade.bench.NAME``: words in the place of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pairgrade.errors import PairgradeError


@contextmanager
def telling(name: str) -> Iterator[None]:
    """End the process in words where an error of pairgrade's own comes up."""
    try:
        yield
    except PairgradeError as error:
        sys.exit(f"{name}: {error}")
