"""What held at the end of a trading day: the book is the account, every outage was marked, nothing is stuck or leaked.

Owns the questions and how they are answered from the lake and the gateway. Changes nothing and prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

import polars as pl
import psutil

from v6kit.clock import Clock
from v6kit.contracts import Quality
from v6kit.desk import Desk
from v6kit.gateway import Fired, SimulatedGateway
from v6kit.queue import Status

LINK_LOST, LINK_BACK = 1100, (1101, 1102)
ENDS = {"begin_competing_session": "end_competing_session", "break_farm": "restore_farm"}
NAMES = {
    "begin_competing_session": "competing session (10197)",
    "break_farm": "data farm out (2103)",
    "broadcast": "servers lost (1100)",
    "refuse_connections_for": "no connection",
    "restart": "daily restart",
}
STUCK_AFTER = timedelta(minutes=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A time in which streams could not tell anything new.

    Attributes:
        what: In words.
        began_at: By the gateway's events.
        ended_at: When prices could be had again.
    """

    what: str
    began_at: datetime
    ended_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """How an outage shows in the book.

    Attributes:
        outage: Which one.
        contracts: Streamed contracts that were marked stale in it.
        missed: Streamed contracts that were not.
        marked_after: Seconds of the day until the last of them was marked.
        cleared_after: Seconds of the day from the end of the outage until the last of them was fresh again; `None`
            when the market was closed by then.
        cleared_early: Contracts that were called fresh before its end.
    """

    outage: Outage
    contracts: int
    missed: int
    marked_after: float
    cleared_after: float | None
    cleared_early: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the day was like; `--json` prints these fields.

    Attributes:
        gateway: What kind it was: simulated.
        speed: Seconds of the day per second.
        events: What happened, in words.
        failed_events: Those of them that the gateway could not carry out.
        outages: And how the book marked them.
        unexplained: Streamed contracts that were stale without an outage.
        positions: In the account at the end.
        differences: Where account and book disagree at the end.
        streamed: Contracts that stream at the end.
        refreshed: Requests that were refreshed by a snapshot.
        failed: Requests that ended without success, by message.
        stuck: Requests that are live and older than 15 minutes of the day.
        line_limit: Market data lines of the login.
        line_peak: The most that were in use at once, as the gateway counted them.
        lines_leaked: Lines that the gateway holds for us beyond those of our streams.
        refusals: Requests that the gateway refused, by IB's error code.
        book_commits: Of the whole day.
        memory: MiB at the end, and at the begin.
        lake: Where all of it is kept.
    """

    gateway: str = "simulated"
    speed: float
    events: list[str]
    failed_events: list[str]
    outages: list[Marked]
    unexplained: int
    positions: int
    differences: list[str]
    streamed: int
    refreshed: int
    failed: dict[str, int]
    stuck: int
    line_limit: int
    line_peak: int
    lines_leaked: int
    refusals: dict[int, int]
    book_commits: int
    memory: tuple[int, int]
    lake: str

    @property
    def held(self) -> bool:
        """Whether all that is promised of a day came true."""
        are_marked = all(not each.missed and not each.cleared_early for each in self.outages)
        wrong = self.differences or self.failed_events or self.unexplained or self.stuck or self.lines_leaked
        return are_marked and not wrong


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which the book called a contract's quote stale; without an end if it still does."""

    began_at: datetime
    ended_at: datetime | None


def report_of(desk: Desk, gateway: SimulatedGateway, clock: Clock, memory_before: int) -> Report:
    """Answer all questions; the worker must have stopped and the book must have been synced."""
    events, streaming = gateway.events, desk.streamer.streaming
    found = outages(events)
    closes_at = next((each.at for each in events if each.action == "close_market"), None)
    history = desk.history("position_updates")
    rows = [row for row in desk.positions.rows() if row.conid in streaming]
    spans = [stale_spans(history.timeline(row.account, row.conid)) for row in rows]
    queue = desk.queue.current()
    live = queue.filter(pl.col("status").is_in([Status.PENDING, Status.PROCESSING]))
    failures = queue.filter(pl.col("status") == Status.FAILED).group_by("error_message").len().sort("len")
    return Report(
        speed=clock.speed,
        events=[str(each) for each in events],
        failed_events=[str(each) for each in events if each.error],
        outages=[marked(each, until, spans, closes_at) for each, until in _with_next(found)],
        unexplained=unexplained(found, spans),
        positions=sum(len(account.positions) for account in gateway.accounts.values()),
        differences=differences(desk, gateway),
        streamed=len(streaming),
        refreshed=queue.filter(pl.col("status") == Status.SUCCESS).height,
        failed={message or "": count for message, count in failures.rows()},
        stuck=live.filter(pl.col("created_at") < clock.now() - STUCK_AFTER).height,
        line_limit=desk.lines.limit,
        line_peak=gateway.line_peak,
        lines_leaked=gateway.lines_in_use - len(streaming),
        refusals=dict(sorted(gateway.log.refused.items())),
        book_commits=desk.positions.ledger.version,
        memory=(psutil.Process().memory_info().rss // 2**20, memory_before // 2**20),
        lake=desk.lake,
    )


def outages(events: Iterable[Fired]) -> list[Outage]:
    """Return the times in which streams could not tell anything new, in the order of their begin."""
    found: list[Outage] = []
    open_ones: dict[str, Fired] = {}
    for event in events:
        code = event.arguments.get("code")
        if event.action in ENDS:
            open_ones[ENDS[event.action]] = event
        elif event.action == "broadcast" and code == LINK_LOST:
            open_ones["broadcast"] = event
        elif event.action in open_ones and (event.action != "broadcast" or code in LINK_BACK):
            began = open_ones.pop(event.action)
            found.append(Outage(what=NAMES[began.action], began_at=began.at, ended_at=event.at))
        elif event.action in ("refuse_connections_for", "restart"):
            closed = timedelta(seconds=float(str(event.arguments["seconds"])))
            found.append(Outage(what=NAMES[event.action], began_at=event.at, ended_at=event.at + closed))
    return sorted(found, key=lambda each: each.began_at)


def stale_spans(timeline: pl.DataFrame) -> list[Span]:
    """Return when a position's quote was called stale, from all states that its row had."""
    spans: list[Span] = []
    began: datetime | None = None
    for at, quality in timeline.select("updated_at", "quality").iter_rows():
        if quality == Quality.STALE and began is None:
            began = at
        elif quality != Quality.STALE and began is not None:
            spans.append(Span(began, at))
            began = None
    return spans if began is None else [*spans, Span(began, None)]


def marked(
    outage: Outage, next_began_at: datetime | None, spans: Sequence[Sequence[Span]], closes_at: datetime | None
) -> Marked:
    """Return how an outage shows: each contract must be called stale once, after its begin and until its end."""
    own = [span for contract in spans for span in _within(contract, outage.began_at, next_began_at)]
    missed = sum(len(_within(contract, outage.began_at, next_began_at)) != 1 for contract in spans)
    ends = [span.ended_at for span in own if span.ended_at is not None]
    is_closed = closes_at is not None and outage.ended_at >= closes_at
    return Marked(
        outage=outage,
        contracts=len(own),
        missed=missed,
        marked_after=max(((span.began_at - outage.began_at).total_seconds() for span in own), default=0.0),
        cleared_after=None if is_closed or not ends else (max(ends) - outage.ended_at).total_seconds(),
        cleared_early=sum(each < outage.ended_at for each in ends) + (0 if is_closed else len(own) - len(ends)),
    )


def unexplained(found: Sequence[Outage], spans: Iterable[Iterable[Span]]) -> int:
    """Return how many times a contract was called stale before any outage."""
    first = min((each.began_at for each in found), default=None)
    return sum(first is None or span.began_at < first for contract in spans for span in contract)


def differences(desk: Desk, gateway: SimulatedGateway) -> list[str]:
    """Return where book and account disagree on what is held, in words."""
    held = {
        (name, position.instrument.conid): position.quantity
        for name, account in gateway.accounts.items()
        for position in account.positions
    }
    booked = {(row.account, row.conid): row.position for row in desk.positions.rows()}
    return [
        f"{account} conid {conid}: the account holds {held.get((account, conid), 0):g}, "
        f"the book {booked.get((account, conid), 0):g}"
        for account, conid in sorted(held.keys() | booked.keys())
        if held.get((account, conid)) != booked.get((account, conid))
    ]


def _within(spans: Iterable[Span], began_at: datetime, until: datetime | None) -> list[Span]:
    return [span for span in spans if began_at <= span.began_at and (until is None or span.began_at < until)]


def _with_next(found: Sequence[Outage]) -> list[tuple[Outage, datetime | None]]:
    nexts = [later.began_at for _, later in pairwise(found)]
    return list(zip(found, [*nexts, None], strict=False))
