"""The pace after complaints, the durations and the callback lists: no socket, time from a fake clock."""

from __future__ import annotations

import asyncio

import pytest
from v6kit.broker import Timings
from v6kit.broker.pacing import Pacer
from v6kit.broker.signals import Signal
from v6kit.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """Time that stands still."""
    return FakeClock()


@pytest.fixture
def pacer(clock: FakeClock) -> Pacer:
    """Twenty messages per second."""
    return Pacer(20.0, slow_seconds=60.0, pause_seconds=60.0, clock=clock)


def test_error_100_halves_the_rate_for_a_minute(pacer: Pacer, clock: FakeClock):
    """One complaint is no pause."""
    pacer.exceeded()
    assert (pacer.rate, pacer.pause) == (10.0, 0.0)
    clock.advance(59)
    assert pacer.rate == 10.0
    clock.advance(1)
    assert pacer.rate == 20.0


def test_a_second_error_100_within_a_minute_pauses(pacer: Pacer, clock: FakeClock):
    """Repeated excess would cost the connection, so nothing is sent for a while."""
    pacer.exceeded()
    clock.advance(30)
    pacer.exceeded()
    assert pacer.pause == 60.0
    clock.advance(60)
    assert pacer.pause == 0.0


def test_one_overshoot_with_many_errors_is_one_complaint(pacer: Pacer, clock: FakeClock):
    """Each message too many brings its own error 100."""
    for _ in range(10):
        pacer.exceeded()
        clock.advance(0.05)
    assert pacer.pause == 0.0


def test_an_error_100_after_a_quiet_minute_is_a_first_one_again(pacer: Pacer, clock: FakeClock):
    """Old complaints are forgotten."""
    pacer.exceeded()
    clock.advance(61)
    pacer.exceeded()
    assert pacer.pause == 0.0


async def test_turns_are_given_in_the_order_in_which_they_were_asked_for():
    """Nobody overtakes."""
    pacer = Pacer(500.0, slow_seconds=60.0, pause_seconds=60.0, clock=FakeClock())
    order: list[int] = []

    async def take(number: int) -> None:
        await pacer.turn()
        order.append(number)

    await asyncio.gather(*(take(number) for number in range(20)))
    assert order == list(range(20))


async def test_a_callback_that_was_taken_out_is_not_called_any_more():
    """Not even for what was announced just before."""
    signal: Signal[[int]] = Signal()
    heard: list[int] = []
    disconnect = signal.connect(heard.append)
    signal.emit(1)
    await asyncio.sleep(0)
    signal.emit(2)
    disconnect()
    disconnect()
    await asyncio.sleep(0)
    assert heard == [1]


def test_a_duration_that_is_not_positive_is_refused():
    """The error names the setting."""
    with pytest.raises(ValueError, match="heartbeat must be"):
        Timings(heartbeat=0.0)
