import os
import signal
from collections.abc import Callable

import pytest

from pairgrade.stop import PoliteStop, StopRequested


def _listen(stop: PoliteStop, work: Callable[[], None]) -> None:
    with stop.listening():
        work()
        pytest.fail("went on")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_at_once(number: signal.Signals) -> None:
    stop = PoliteStop()
    with pytest.raises(StopRequested, match=number.name):
        _listen(stop, lambda: os.kill(os.getpid(), number))


def test_a_write_is_finished_first() -> None:
    stop = PoliteStop()
    done = []

    def work() -> None:
        with stop.uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("written")
        done.append("went on")

    with pytest.raises(StopRequested):
        _listen(stop, work)
    assert done == ["written"]


@pytest.mark.parametrize(("first", "second"), [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_a_second_signal_of_either_kind_ends_the_process(first: signal.Signals, second: signal.Signals) -> None:
    found = []

    def work() -> None:
        try:
            os.kill(os.getpid(), first)
        finally:  # where a run cleans up
            found.append(signal.getsignal(second))

    with pytest.raises(StopRequested):
        _listen(PoliteStop(), work)
    assert found == [signal.SIG_DFL]


def test_handlers_are_put_back() -> None:
    def own(*_: object) -> None:
        """Be another handler than the system's, which a signal leaves behind in any case."""

    before, interrupt = signal.signal(signal.SIGTERM, own), signal.getsignal(signal.SIGINT)
    stop = PoliteStop()
    try:
        with pytest.raises(StopRequested):
            _listen(stop, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
