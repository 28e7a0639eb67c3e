"""A whole trading day in fast motion: what is promised of a desk holds at its end, whatever happened in it."""

from __future__ import annotations

import gc
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import ib_async
import polars as pl
import pytest
from v6kit.cli.day_pass import Settings, opened
from v6kit.cli.day_report import Outage, Span, marked, outages, stale_spans, unexplained
from v6kit.gateway import Fired, Scenario

if TYPE_CHECKING:
    from pathlib import Path

SPEED = 200.0  # the shortest outage lasts 3 s of ours; however long a machine is away, one second of it counts
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    """Return an instant of a day."""
    return NOON + timedelta(minutes=minutes)


def live_tickers() -> int:
    """Return how many tickers of ib_async this process holds."""
    gc.collect()
    return sum(isinstance(each, ib_async.Ticker) for each in gc.get_objects())


@pytest.mark.timeout(600)
async def test_a_trading_day_leaves_the_book_equal_to_the_account_and_every_outage_marked(tmp_path: Path):
    """Fills, a halt, outages, a shortage of lines, a split, expiry, a restart: nothing is lost, stuck or leaked."""
    before = live_tickers()  # of other tests; one that failed keeps its own
    async with opened(str(tmp_path), Settings(speed=SPEED)) as day:
        happened = [event async for event in day.events()]
        desk, gateway = day.desk, day.gateway
        report = await day.report()
        session = desk.broker._connection.session
        assert session is not None
        remembered, streaming = session.remembered(), len(desk.streamer.streaming)
        lines = desk.lines
        left = desk.queue.current().filter(pl.col("status").is_in(["PENDING", "PROCESSING"]))
        tickers = live_tickers() - before
    planned = Scenario.load("trading_day").schedule(NOON)
    assert [event.action for event in happened] == [each.action for each in planned]
    assert report.failed_events == []
    assert report.differences == []
    assert len(report.outages) == 6
    assert [(each.outage.what, each.missed, each.cleared_early) for each in report.outages if each.missed] == []
    assert [each.contracts for each in report.outages] == [streaming] * 6
    assert report.unexplained == 0
    assert report.held
    assert 0 < report.refusals[101] < 100, "TWS took lines away"
    assert not {100, 321} & report.refusals.keys()
    assert gateway.line_peak <= lines.limit - 5
    assert (report.stuck, report.lines_leaked, lines.used) == (0, 0, streaming)
    assert left.filter(pl.col("attempt") > 1).is_empty()
    assert remembered == streaming, "ib_async remembers a request that is over"
    assert tickers <= lines.limit < report.refreshed, "a ticker was made for each of these requests"
    assert report.memory[0] < report.memory[1] + 250


def test_outages_are_read_from_what_the_gateway_did():
    """Each kind has its own end; notices that end nothing are none."""
    events = [
        Fired(at(0), "break_farm", {"farm": "usopt"}),
        Fired(at(5), "restore_farm", {"farm": "usopt"}),
        Fired(at(10), "broadcast", {"code": 2104}),
        Fired(at(20), "broadcast", {"code": 1100}),
        Fired(at(24), "broadcast", {"code": 1101}),
        Fired(at(30), "restart", {"seconds": 120.0}),
        Fired(at(40), "refuse_connections_for", {"seconds": 60.0}),
        Fired(at(40), "drop_clients", {}),
    ]
    assert [(each.began_at, each.ended_at) for each in outages(events)] == [
        (at(0), at(5)),
        (at(20), at(24)),
        (at(30), at(32)),
        (at(40), at(41)),
    ]


def test_a_row_is_stale_from_the_commit_that_says_so_until_the_next_that_does_not():
    """Several stale states in a row are one span; one that goes on has no end."""
    timeline = pl.DataFrame(
        {
            "updated_at": [at(minute) for minute in range(7)],
            "quality": ["ok", "stale", "stale", "partial", "ok", "error", "stale"],
        }
    )
    assert stale_spans(timeline) == [Span(at(1), at(3)), Span(at(6), None)]


@pytest.mark.parametrize(
    ("spans", "missed", "cleared_early"),
    [
        ([Span(at(1), at(6))], 0, 0),
        ([], 1, 0),
        ([Span(at(1), at(2)), Span(at(3), at(6))], 1, 1),
        ([Span(at(1), at(4))], 0, 1),
        ([Span(at(1), None)], 0, 1),
        ([Span(at(-1), at(6))], 1, 0),
        ([Span(at(1), at(6)), Span(at(31), at(32))], 0, 0),
    ],
)
def test_a_contract_must_be_stale_once_and_until_the_end_of_an_outage(
    spans: list[Span], missed: int, cleared_early: int
):
    """Not at all, twice, too short, for ever, or from before: each is found."""
    outage = Outage(what="test", began_at=at(0), ended_at=at(5))
    found = marked(outage, at(30), [spans, [Span(at(2), at(7))]], None)
    assert (found.missed, found.cleared_early) == (missed, cleared_early)
    assert found.cleared_after == 120.0


def test_what_stays_stale_in_a_closed_market_is_not_held_against_it():
    """No quote can say that it is over before the next open."""
    outage = Outage(what="test", began_at=at(0), ended_at=at(5))
    found = marked(outage, None, [[Span(at(1), None)]], at(-10))
    assert (found.missed, found.cleared_early, found.cleared_after) == (0, 0, None)


def test_a_contract_that_was_stale_before_any_outage_is_reported():
    """Nothing explains it."""
    outage = Outage(what="test", began_at=at(0), ended_at=at(5))
    assert unexplained([outage], [[Span(at(-3), at(-2))], [Span(at(1), at(6))]]) == 1
    assert unexplained([], [[Span(at(1), at(6))]]) == 1
    assert unexplained([outage], [[]]) == 0
