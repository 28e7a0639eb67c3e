"""The gateway's model of IB's limits: pure, time is a number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from v6kit.gateway.limits import LineTable, MessageRate, SlidingWindow


def test_lines_run_out_and_come_back() -> None:
    """A line that is given back can be taken again, and the peak is remembered."""
    lines = LineTable(2)
    assert [lines.acquire(1, req_id) for req_id in (1, 2, 3)] == [True, True, False]
    lines.release(1, 1)
    assert lines.acquire(1, 3)
    assert (lines.in_use, lines.peak) == (2, 2)


def test_all_clients_share_the_lines() -> None:
    """One client's streams leave fewer lines to the next."""
    lines = LineTable(1)
    assert lines.acquire(1, 1)
    assert not lines.acquire(2, 1)


def test_each_client_has_its_own_lines_if_so_configured() -> None:
    """Per client, the limit holds for each of them alone."""
    lines = LineTable(1, per_client=True)
    assert lines.acquire(1, 1)
    assert lines.acquire(2, 1)
    assert not lines.acquire(1, 2)


def test_a_line_is_given_back_once() -> None:
    """Releasing what is not held, or twice, changes nothing."""
    lines = LineTable(1)
    lines.release(1, 1)
    lines.acquire(1, 1)
    lines.release(1, 1)
    lines.release(1, 1)
    assert lines.in_use == 0
    assert [lines.acquire(1, 1), lines.acquire(1, 2)] == [True, False]


@given(st.lists(st.floats(0, 0.5), max_size=60), st.integers(1, 8))
def test_no_sliding_second_admits_more_than_the_limit(gaps: list[float], limit: int) -> None:
    """However events are spread, each window of a second holds at most the limit."""
    window, now, admitted = SlidingWindow(limit), 0.0, []
    for gap in gaps:
        now += gap
        if window.admit(now):
            admitted.append(now)
    assert all(sum(start <= at < start + 1.0 for at in admitted) <= limit for start in admitted)
    assert window.peak <= limit


def test_a_window_without_a_limit_still_counts() -> None:
    """The peak is known even where nothing is refused."""
    window = SlidingWindow(None)
    assert all(window.admit(i / 8) for i in range(30))
    assert window.peak == 8


def test_a_burst_over_the_rate_is_one_strike() -> None:
    """Many messages too many within a second count once; the next second counts again."""
    rate = MessageRate(2)
    assert [rate.admit(0.0) for _ in range(4)] == [True, True, False, False]
    assert [rate.strike(0.0), rate.strike(0.1), rate.strike(1.0)] == [1, 0, 2]


def test_strikes_are_forgotten_after_a_minute() -> None:
    """A client that was too fast long ago starts anew."""
    rate = MessageRate(2)
    assert [rate.strike(0.0), rate.strike(30.0), rate.strike(61.0)] == [1, 2, 2]
