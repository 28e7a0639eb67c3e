"""The system's clock and the one that stands still."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from v6kit.clock import Clock, FakeClock, FastClock

NAIVE = datetime(2026, 11, 20, 14, 30)  # noqa: DTZ001 - on purpose


def test_the_systems_clock_is_aware_and_in_utc():
    """No guess about the zone, and the counter does not run backwards."""
    clock = Clock()
    before = datetime.now(UTC)
    assert before <= clock.now() <= datetime.now(UTC)
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() <= clock.monotonic()


def test_a_fake_clock_stands_still_until_it_is_moved():
    """Both of its times move together, by seconds or by a timedelta."""
    clock = FakeClock()
    assert clock.now() == clock.now() == datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
    clock.advance(1.5)
    clock.advance(timedelta(minutes=1))
    assert clock.now() == datetime(2026, 11, 20, 14, 31, 1, 500_000, tzinfo=UTC)
    assert clock.monotonic() == 61.5


def test_a_jump_moves_the_wall_clock_only():
    """As an operator or NTP would, forward or back."""
    clock = FakeClock()
    clock.advance(10)
    clock.jump(datetime(2020, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))))
    assert clock.now() == datetime(2020, 1, 1, tzinfo=UTC)
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() == 10


def test_what_a_clock_cannot_do_is_refused_with_the_value():
    """Naive instants are guesses, and time does not advance backwards."""
    with pytest.raises(ValueError, match="start must be an aware datetime, got the naive"):
        FakeClock(NAIVE)
    with pytest.raises(ValueError, match="to must be an aware datetime"):
        FakeClock().jump(NAIVE)
    with pytest.raises(ValueError, match="by must not be negative, got -1"):
        FakeClock().advance(-1)
    with pytest.raises(ValueError, match=r"speed must be 1 or more, got 0.5"):
        FastClock(0.5)
    with pytest.raises(ValueError, match="start must be an aware datetime"):
        FastClock(2, NAIVE)


def test_a_fast_clock_runs_ahead_of_the_systems():
    """Its two times move together, and faster than the system's by its speed."""
    outside, fast = Clock(), FastClock(1000, datetime(2026, 11, 20, 14, 30, tzinfo=UTC))
    first, began = fast.monotonic(), outside.monotonic()
    while outside.monotonic() - began < 0.002:
        pass
    assert fast.monotonic() - first >= 2
    assert fast.now() >= datetime(2026, 11, 20, 14, 30, 2, tzinfo=UTC)


def test_a_fast_clock_does_not_count_the_time_for_which_its_machine_was_away():
    """Of a pause in which nobody asked it, one second; a day in fast motion does not end while a laptop sleeps."""
    outside, fast = FakeClock(), FastClock(200)
    fast._outside, fast._asked_at, fast._passed = outside, outside.monotonic(), 0.0
    for seconds, passed in ((0.5, 100.0), (1.0, 300.0), (10.0, 500.0), (3_600.0, 700.0), (0.25, 750.0)):
        outside.advance(seconds)
        assert fast.monotonic() == pytest.approx(passed)
