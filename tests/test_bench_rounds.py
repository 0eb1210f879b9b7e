from collections.abc import Sequence

import pytest

from pairgrade import ModelError
from pairgrade.bench.cell_records import BatchTime, CellRun
from pairgrade.bench.matrix import Rounds
from pairgrade.bench.rounds import measure_rounds
from pairgrade.stop import StopRequested


def run(seconds: float) -> CellRun:
    return CellRun(10, seconds, 0.0, 0.0, 1, batches=(BatchTime(10, seconds, 5),))


def test_a_run_crosses_a_process_unchanged() -> None:
    assert CellRun.from_dict(run(1.0).to_dict()) == run(1.0)


def test_cells_take_turns_and_rounds_end_when_every_interval_is_narrow() -> None:
    order: list[int] = []
    noise: dict[int, Sequence[float]] = {0: [1.0] * 99, 1: [1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0] + [1.0] * 99}

    def measure(place: int, round_: int) -> CellRun:
        order.append(place)
        return run(noise[place][round_])

    found = measure_rounds(["a", "b"], measure, Rounds(least=5, most=50))
    assert order[:6] == [0, 1, 1, 0, 0, 1]
    assert found.rounds == 8  # the first number of which the lowest and the highest may be left out
    assert "every interval" in found.stopped


def test_an_interval_that_stays_wide_is_named() -> None:
    found = measure_rounds(["steady", "noisy"], lambda p, r: run(1.0 + p * (r % 2)), Rounds(least=5, most=9))
    assert found.rounds == 9
    assert found.stopped.endswith(": noisy")


def test_a_cell_that_fails_is_left_out_with_the_reason() -> None:
    def measure(place: int, round_: int) -> CellRun:
        if place == 1 and round_ == 2:
            raise ModelError("it died")
        return run(1.0)

    found = measure_rounds(["a", "b"], measure, Rounds())
    assert found.failed == {1: "it died"}
    assert (len(found.runs[0]), len(found.runs[1])) == (5, 0)


def test_a_time_that_is_up_with_narrow_intervals_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairgrade.bench.rounds._narrow", lambda runs, width: True)
    found = measure_rounds(["a"], lambda place, round_: run(1.0), Rounds(least=100, most=200, minutes=1e-9))
    assert found.stopped == "the time was up; every interval is within 5% of its median"


def test_it_ends_where_nothing_can_be_measured() -> None:
    def measure(place: int, round_: int) -> CellRun:
        raise ModelError("no")

    assert measure_rounds(["a", "b"], measure, Rounds()).rounds == 1


def test_a_stop_keeps_the_rounds_that_are_whole() -> None:
    def measure(place: int, round_: int) -> CellRun:
        if (round_, place) == (last, 0):
            raise StopRequested(2)
        return run(1.0 + round_)

    last = 2
    found = measure_rounds(["a", "b"], measure, Rounds())
    assert (found.rounds, found.stopped, found.failed) == (2, "stopped by SIGINT", {})
    assert found.runs == ((run(1.0), run(2.0)),) * 2
    last = 9
    asked = iter((False, False, None))

    def narrow(runs: Sequence[CellRun], width: float) -> bool:
        answer = next(asked)
        if answer is None:
            raise StopRequested(15)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pairgrade.bench.rounds._narrow", narrow)  # a signal between two rounds
        found = measure_rounds(["a", "b"], measure, Rounds())
    assert (found.rounds, found.stopped) == (2, "stopped by SIGTERM")
    assert found.runs == ((run(1.0), run(2.0)),) * 2
    last = 0
    with pytest.raises(StopRequested):
        measure_rounds(["a", "b"], measure, Rounds())
