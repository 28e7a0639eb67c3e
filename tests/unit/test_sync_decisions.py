"""What sync decides, without a gateway or a table."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import polars as pl
import pytest
from v6kit.broker import ConnectionState
from v6kit.clock import FakeClock
from v6kit.contracts import (
    AccountPosition,
    ActiveContract,
    Instrument,
    PortfolioValue,
    PositionUpdate,
    Quality,
    Quote,
    Source,
)
from v6kit.errors import BrokerError, GatewayUnavailableError, LineLimitError, RequestFailedError
from v6kit.positions import BookRow, merge
from v6kit.queue import QueuedPosition, Status
from v6kit.sync import decisions
from v6kit.sync.freshness import Targets
from v6kit.sync.inflow import Inflow
from v6kit.sync.report import report

NOW = FakeClock().now()
LATER = NOW + timedelta(seconds=1)


def instrument(conid: int) -> Instrument:
    """Return a stock."""
    return Instrument(conid=conid, symbol=f"S{conid}", sec_type="STK", exchange="")


def quote(conid: int = 1, **fields: object) -> Quote:
    """Return a good quote."""
    good = Quote(
        conid=conid, source=Source.STREAM, requested_at=NOW, received_at=NOW, quality=Quality.OK, bid=1.0, ask=1.2
    )
    return replace(good, **fields)


def row(conid: int = 1, account: str = "DU1", **fields: object) -> BookRow:
    """Return a position as the book has it, refreshed by a snapshot just now."""
    opened = merge(None, PositionUpdate(account=account, instrument=instrument(conid), position=1.0, avg_cost=1.0))
    refreshed = {"source": "snapshot", "quality": "ok", "received_at": NOW, "requested_at": NOW} | fields
    return opened._replace(**refreshed)


def leg(conid: int) -> ActiveContract:
    """Return a leg that a strategy holds."""
    return ActiveContract(
        conid=conid, symbol=f"S{conid}", sec_type="STK", strategy_id="1", strategy="CUSTOM", added_at=NOW
    )


def item(conid: int = 1, attempt: int = 1, account: str = "DU1") -> QueuedPosition:
    """Return a claimed request."""
    return QueuedPosition(
        f"r{conid}",
        conid,
        "S",
        2,
        "PROCESSING",
        NOW,
        None,
        account,
        attempt,
        5,
        NOW,
        NOW,
        "claim",
        "me",
        LATER,
        "CLAIM",
    )


def test_active_contracts_stream_held_or_not():
    """The position knows its contract best; what was refused for this session is left out."""
    wanted = decisions.to_stream([row(1, exchange="ARCA"), row(2)], [leg(1), leg(3), leg(4)], parked={4})
    assert wanted.keys() == {1, 3}
    assert wanted[1].exchange == "ARCA"


def queued(
    *rows: BookRow, active: set[int] = frozenset(), now: datetime = NOW, lead: float = 0.0, **sets: object
) -> dict[int, tuple[int, float]]:
    """Return what is queued of these rows: conid to priority, and since how many seconds it is due."""
    chosen = {"streams": set(), "parked": set(), "in_vain": {}} | sets
    made = decisions.to_queue(
        rows,
        now=now,
        targets=Targets(active=15, other=60),
        is_active=active.__contains__,
        lead=timedelta(seconds=lead),
        **chosen,
    )
    return {each.row.conid: (each.priority, (now - each.due_at).total_seconds()) for each in made}


def ago(seconds: float) -> datetime:
    """Return an instant."""
    return NOW - timedelta(seconds=seconds)


def test_what_neither_streams_nor_is_fresh_is_queued():
    """Old, stale, refused and never quoted ones, valuations of the portfolio, quotes of streams that have ended."""
    rows = [
        row(1, received_at=ago(59)),
        row(2, received_at=ago(70), requested_at=ago(71)),
        row(3, quality="stale", received_at=ago(5), requested_at=ago(6)),
        row(4, quality="error", received_at=None, requested_at=None, updated_at=ago(4)),
        row(5, source=None, received_at=None, requested_at=None, quality=None, updated_at=ago(3)),
        row(6, source="portfolio", quality="partial", received_at=ago(2), requested_at=None),
        row(7, source="stream", received_at=ago(1), requested_at=ago(900)),
    ]
    assert queued(*rows) == {2: (2, 10), 3: (2, 5), 4: (2, 4), 5: (2, 3), 6: (2, 2), 7: (2, 1)}


def test_streams_and_parked_contracts_are_not_queued():
    """Neither needs a snapshot, however old its row is."""
    rows = row(1, received_at=None, updated_at=ago(9)), row(2, received_at=None, updated_at=ago(9))
    assert queued(*rows, streams={1}, parked={2}) == {}


def test_an_active_contract_without_a_stream_has_a_target_of_its_own_and_goes_first():
    """Within one target what is most overdue has the earliest due_at."""
    rows = [row(conid, received_at=ago(20 + conid), requested_at=ago(20 + conid)) for conid in (1, 2, 3)]
    assert queued(*rows, active={1, 2}) == {1: (1, 6), 2: (1, 7)}


def test_what_is_due_within_the_lead_is_queued_but_not_before_half_its_target():
    """So that it is refreshed by the time that it is due, and lines are left to those that need them."""
    rows = [row(conid, received_at=ago(60 - conid), requested_at=ago(60 - conid)) for conid in (3, 8, 31)]
    assert queued(*rows, lead=7) == {3: (2, -3)}
    assert queued(*rows, lead=600) == {3: (2, -3), 8: (2, -8)}


def test_a_request_in_vain_gives_its_position_a_rest_of_one_target():
    """Whether the request failed or came back without a price; news of the position ends the rest."""
    never = row(1, source=None, received_at=None, requested_at=None, quality=None, updated_at=ago(500))
    assert queued(never) == {1: (2, 500)}
    assert queued(never, in_vain={("DU1", 1): ago(10)}) == {}
    assert queued(never, in_vain={("DU1", 1): ago(70)}) == {1: (2, 10)}
    assert queued(never._replace(updated_at=ago(5), change="POSITION"), in_vain={("DU1", 1): ago(10)}) == {1: (2, 5)}
    closed = row(2, received_at=ago(3_000), requested_at=ago(10), updated_at=ago(9))
    assert queued(closed) == queued(closed._replace(quality="stale")) == {}
    assert queued(closed._replace(requested_at=ago(60))) == {2: (2, 0)}


def test_only_news_is_queued():
    """What waits already is queued again for a better priority or an earlier due_at; what is in flight never."""
    due = [decisions.Due(row(1), 1, NOW)]
    known = item()._replace(status="PENDING", priority=1, due_at=NOW)
    for live, is_news in [
        (known, False),
        (known._replace(priority=2), True),
        (known._replace(due_at=LATER), True),
        (known._replace(due_at=ago(1)), False),
        (known._replace(status="PROCESSING", priority=2, due_at=LATER), False),
    ]:
        assert bool(decisions.news(due, {("DU1", 1): live})) is is_news
    assert decisions.news(due, {}) == [decisions.Wanted(1, "S1", 1, "DU1", due_at=NOW)]


@pytest.mark.parametrize(
    ("batch_size", "lines", "waiting", "room", "low", "low_soon"),
    [
        (50, 50, 0, 50, True, True),
        (50, 50, 25, 25, True, False),
        (50, 50, 26, 24, False, False),
        (50, 4, 0, 8, True, True),
        (50, 4, 5, 3, False, False),
        (50, 4, 4, 4, True, False),
        (50, 0, 0, 2, True, True),
        (3, 60, 1, 2, True, False),
        (50, 60, 70, 0, False, False),
    ],
)
def test_a_worker_holds_as_much_as_its_lines_will_soon_take(batch_size, lines, waiting, room, low, low_soon):  # noqa: PLR0917
    """At most a batch, and two for each line; it claims again at half of that, or when nothing is left."""
    hand = decisions.Hand(batch_size, lines, waiting)
    assert (hand.room, hand.is_low(soon=False), hand.is_low(soon=True)) == (room, low, low_soon)


def test_requests_that_wait_for_what_streams_are_superseded():
    """Only those that wait: what is being refreshed or is done is left alone."""
    frame = pl.DataFrame(
        {
            "request_id": ["a", "b", "c", "d"],
            "conid": [1, 1, 2, 1],
            "status": ["PENDING", "SUCCESS", "PENDING", "PROCESSING"],
        }
    )
    assert decisions.superseded(frame, {1}) == ["a"]
    assert decisions.superseded(frame, set()) == []


def test_requests_of_accounts_are_found_while_they_wait():
    """What is being refreshed or is done is left alone, and so is what is for any account."""
    frame = pl.DataFrame(
        {
            "request_id": ["a", "b", "c", "d"],
            "account": ["DU1", "DU1", "DU2", ""],
            "status": ["PENDING", "PROCESSING", "PENDING", "PENDING"],
        }
    )
    assert decisions.of_accounts(frame, {"DU1"}) == ["a"]
    assert decisions.of_accounts(frame, {"DU1", "DU2"}) == ["a", "c"]
    assert decisions.of_accounts(frame, set()) == []


@pytest.mark.parametrize(
    "error",
    [
        GatewayUnavailableError("gone"),
        LineLimitError("none"),
        RequestFailedError("rate", code=100),
        RequestFailedError("lines", code=101),
        RequestFailedError("competing", code=10197),
    ],
)
def test_what_is_not_the_requests_fault_costs_no_attempt(error: BrokerError):
    """The claim is given back: no outcome, nothing for the book."""
    fetched = decisions.failed(item(), row(), error)
    assert (fetched.outcome, fetched.update, fetched.parked) == (None, None, "")


@pytest.mark.parametrize("code", sorted(decisions.PARKING_CODES))
def test_a_parking_code_ends_the_request_for_this_session(code: int):
    """The row gets the code, the contract its reason."""
    fetched = decisions.failed(item(), row(), RequestFailedError(f"refused: {code}", code=code))
    assert fetched.outcome.status == Status.FAILED
    assert (fetched.update.quality, fetched.update.error_code) == ("error", code)
    assert (fetched.update.request_id, fetched.update.attempt) == ("r1", 1)
    assert fetched.parked == f"refused: {code}"


@pytest.mark.parametrize("code", [None, 321, 162])
def test_any_other_error_is_tried_again(code: int | None):
    """A time-out has no code; the book keeps what it has."""
    fetched = decisions.failed(item(), row(), RequestFailedError("no answer", code=code))
    assert (fetched.outcome.status, fetched.outcome.error_message) == (Status.PENDING, "no answer")
    assert fetched.update is None


def test_a_quote_ends_its_request_well():
    """The update carries request and attempt, so that writing it twice is one row."""
    fetched = decisions.fetched(item(attempt=3), row(), quote())
    assert fetched.outcome.status == Status.SUCCESS
    assert (fetched.update.request_id, fetched.update.attempt, fetched.update.account) == ("r1", 3, "DU1")


def test_an_empty_answer_counts_only_while_the_gateway_is_well():
    """Without a price and with the link in doubt it says nothing; with a price it does."""
    empty = quote(bid=None, ask=None, quality=Quality.PARTIAL)
    assert decisions.fetched(item(), row(), empty).outcome.status == Status.SUCCESS
    assert decisions.fetched(item(), row(), empty, hold="degraded").outcome is None
    assert decisions.fetched(item(), row(), quote(), hold="degraded").outcome.status == Status.SUCCESS


def test_unforeseen_errors_cost_an_attempt():
    """So that they end at last; the message has the error's kind."""
    outcome = decisions.broken(item(), KeyError("x")).outcome
    assert (outcome.status, outcome.error_message) == (Status.PENDING, "KeyError: 'x'")


def test_a_request_without_account_takes_any_that_holds_the_contract():
    """One with an account takes that one only."""
    rows = [row(1, "A"), row(1, "B")]
    assert decisions.find_row(item(1, account=""), lambda: rows).account == "A"
    assert decisions.find_row(item(1, account="B"), lambda: rows).account == "B"
    assert decisions.find_row(item(1, account="C"), lambda: rows) is None
    assert "not held in account C" in decisions.not_held(item(1, account="C")).outcome.error_message


def test_only_the_first_attempt_after_a_redrive_is_asked_although_the_contract_is_parked():
    """An insert is available when it is made, and a retry is no first attempt."""
    again = item()._replace(available_at=LATER)
    assert decisions.is_redriven(again)
    assert not decisions.is_redriven(item())
    assert not decisions.is_redriven(again._replace(attempt=2))


def test_nothing_that_came_of_a_request_reaches_the_row_of_a_lost_account():
    """Neither quote nor error; what says nothing of the request is given back as ever."""
    good = decisions.fetched(item(), row(), quote())
    refused = decisions.failed(item(), row(), RequestFailedError("354 no", code=354))
    retried = decisions.failed(item(), row(), RequestFailedError("no answer"))
    for each in (good, refused, retried):
        assert decisions.unless_lost(each, frozenset({"DU2"})) is each
        lost = decisions.unless_lost(each, frozenset({"DU1"}))
        assert (lost.update, lost.outcome.status, lost.parked) == (None, Status.CANCELLED, "")
        assert "DU1 is no account of this login any more" in lost.outcome.error_message
    given_back = decisions.failed(item(), row(), GatewayUnavailableError("down"))
    assert decisions.unless_lost(given_back, frozenset({"DU1"})) is given_back
    anywhere = decisions.fetched(item(account=""), row(account="DU1"), quote())
    assert decisions.unless_lost(anywhere, frozenset({"DU1"})).update is None


def test_only_a_lost_link_makes_quotes_stale():
    """While it is being restored they already are, and when it is live they come again."""
    stale = {state for state in ConnectionState if decisions.goes_stale(state)}
    assert stale == {ConnectionState.DOWN, ConnectionState.DEGRADED}


def test_a_report_counts_each_request_once():
    """Stale claims count as such and as nothing else; a retry of the last attempt is a failure."""
    done = [
        decisions.fetched(item(1), row(1), quote(1)),
        decisions.fetched(item(2), row(2), quote(2)),
        decisions.failed(item(3), row(3), RequestFailedError("slow")),
        decisions.failed(item(4, attempt=5), row(4), RequestFailedError("slow")),
        decisions.failed(item(5), row(5), GatewayUnavailableError("gone")),
        decisions.failed(item(6), row(6), GatewayUnavailableError("gone")),
    ]
    made = report(
        done, ["r2", "r6"], cycle=1, started_at=NOW, seconds=0.5, claimed=6, in_flight=1, versions=(3, 5), held_back=""
    )
    assert (made.settled, made.retried, made.failed, made.released, made.stale) == (1, 1, 1, 1, 2)
    assert made.problems == {"slow": 2}
    assert repr(made) == (
        "Cycle 1: 6 claimed, 1 refreshed, 1 to retry, 1 failed, 1 given back, 1 in flight, 2 too late in 0.5 s "
        "(queue v3 → v5)"
    )


def event(conid: int, position: float, account: str = "DU1") -> AccountPosition:
    """Return a position event."""
    return AccountPosition(account=account, instrument=instrument(conid), position=position, avg_cost=1.0)


def none_streams(_conid: int) -> Quote | None:
    """Answer for a desk without streams."""
    return None


def test_the_newest_of_each_kind_is_kept():
    """However long the book cannot be written, the inflow stays as large as the account."""
    inflow = Inflow()
    for number in range(100):
        inflow.add_position(event(1, number))
        inflow.add_quote(quote(1, bid=float(number)))
        inflow.add_portfolio(
            PortfolioValue(
                account="DU1", instrument=instrument(1), position=1, avg_cost=1, mark=1.0, market_value=1.0,
                unrealized_pnl=0.0, realized_pnl=0.0, received_at=NOW,
            )
        )  # fmt: skip
    updates = inflow.updates([row(1)], none_streams)
    assert [each.position for each in updates if each.position is not None] == [99]
    assert [each.quote.bid for each in updates if each.quote] == [99.0]
    assert len(updates) == 3


def test_what_was_taken_can_be_put_back_behind_what_is_newer():
    """A commit that failed loses nothing, and overwrites nothing that came meanwhile."""
    inflow = Inflow()
    inflow.add_position(event(1, 5))
    inflow.add_position(event(2, 6))
    inflow.add_quote(quote(1))
    inflow.errors[9] = 354
    taken = inflow.take(quotes=True)
    assert inflow == Inflow()
    assert taken.changed() == {("DU1", 1), ("DU1", 2)}
    inflow.add_position(event(1, 0))
    inflow.add_quote(quote(1, bid=1.1))
    inflow.put_back(taken)
    assert {key: each.position for key, each in inflow.positions.items()} == {("DU1", 1): 0, ("DU1", 2): 6}
    assert inflow.quotes[1].bid == 1.1
    assert inflow.errors == {9: 354}


def test_quotes_wait_for_their_turn():
    """Events may be written between two commits of quotes."""
    inflow = Inflow()
    inflow.add_quote(quote(1))
    inflow.add_position(event(1, 5))
    taken = inflow.take(quotes=False)
    assert (taken.quotes, len(taken.positions)) == ({}, 1)
    assert inflow.quotes.keys() == {1}


def test_a_lost_stream_makes_rows_stale_unless_it_is_back():
    """Quotes from before the loss are dropped, also those of a commit that failed over it."""
    inflow = Inflow()
    inflow.add_quote(quote(1))
    taken = inflow.take(quotes=True)
    inflow.add_quote(quote(2))
    inflow.lose({1, 2, 3})
    inflow.put_back(taken)
    assert inflow.quotes == {}
    inflow.add_quote(quote(2))
    updates = inflow.updates([row(1), row(2), row(3, quality="error"), row(4)], none_streams)
    assert [(each.instrument.conid, each.quality, bool(each.quote)) for each in updates] == [
        (2, None, True),
        (1, "stale", False),
    ]


def test_a_position_that_is_new_to_the_book_starts_with_the_streams_quote():
    """A quiet stream may not say it again; a stale one is not used."""
    inflow = Inflow()
    inflow.add_position(event(1, 5))
    (opened, quoted) = inflow.updates([row(2)], {1: quote(1)}.get)
    assert (opened.position, quoted.quote.bid) == (5, 1.0)
    assert len(inflow.updates([], {1: quote(1, quality=Quality.STALE)}.get)) == 1
    (first,) = Inflow().updates([row(3, requested_at=None)], {3: quote(3)}.get)
    assert first.quote.conid == 3
