"""SIGINT and SIGTERM as an exception that never cuts a write in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequested(BaseException):
    """A polite signal arrived; ``signal`` is its number. Not an Exception, so that nothing swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class PoliteStop:
    """Within ``listening``, the first SIGINT or SIGTERM raises StopRequested; a second one ends the process at once.

    Inside ``uninterrupted`` the exception waits for the block's end.
    """

    def __init__(self) -> None:
        self._shielded = False
        self._pending: int | None = None
        self._heard: list[signal.Signals] = []

    @property
    def heard(self) -> bool:
        """Whether a signal came."""
        return self._pending is not None

    @property
    def number(self) -> int | None:
        """The number of the signal that came."""
        return self._pending

    def hold(self) -> None:
        """Let no signal raise from here on: what is left is soon done, and ``heard`` tells then whether one came."""
        self._shielded = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Install the handlers, and put the old ones back at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may install handlers; elsewhere the caller's stay
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        self._heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # nohup stays nohup
        old = {number: signal.signal(number, self._handle) for number in self._heard}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Hold the exception back while a write is under way."""
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
        if self._pending is not None:
            raise StopRequested(self._pending)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        for heard in self._heard:
            signal.signal(heard, signal.SIG_DFL)
        self._pending = number
        if not self._shielded:
            raise StopRequested(number)
