"""What commands do that write a folder whole or not at all when a polite signal stops them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import rich_click as click

from pairgrade.stop import PoliteStop, StopRequested


@contextmanager
def whole_or_nothing() -> Iterator[None]:
    """Let SIGINT and SIGTERM unwind the block, so that it removes what it has begun, and end the process."""
    try:
        with PoliteStop().listening():
            yield
    except StopRequested as stop:
        click.echo(f"\npairgrade: stopped by {stop}; nothing was kept", err=True)
        sys.exit(128 + stop.signal)
