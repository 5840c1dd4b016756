"""When checkpoints are written."""

import pytest

from transfer import checkpoint
from transfer.checkpoint import Interval


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    made = _Clock()
    monkeypatch.setattr(checkpoint, "time", made)
    return made


def _first_s(interval: Interval, clock: _Clock) -> int:
    """Whole seconds until it is over."""
    start = clock.now
    while not interval.is_over():
        clock.now += 1
    return round(clock.now - start)


def test_small_states_are_written_every_minute(clock: _Clock) -> None:
    interval = Interval(None, 10**6)
    assert _first_s(interval, clock) == 60
    interval.restart(0.5)
    assert _first_s(interval, clock) == 60


def test_large_states_take_a_twentieth_of_the_time_at_most(clock: _Clock) -> None:
    interval = Interval(None, 10**10)
    assert _first_s(interval, clock) == 400  # 20 s of writing are presumed
    interval.restart(10.0)
    assert _first_s(interval, clock) == 200
    interval.restart(1.0)
    assert _first_s(interval, clock) == 60


def test_an_interval_that_is_asked_for_is_kept(clock: _Clock) -> None:
    interval = Interval(7.0, 10**12)
    assert _first_s(interval, clock) == 7
    interval.restart(100.0)
    assert _first_s(interval, clock) == 7
