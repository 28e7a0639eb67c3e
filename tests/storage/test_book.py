"""The book on real tables: which news wins, what is never overwritten, and what is not written at all."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from v6kit.clock import FakeClock
from v6kit.contracts import (
    AccountPosition,
    Instrument,
    PortfolioValue,
    PositionUpdate,
    Quality,
    Quote,
    Right,
    Source,
)
from v6kit.errors import StorageError
from v6kit.history import TableHistory
from v6kit.positions import BookRow, PositionBook

if TYPE_CHECKING:
    BookMaker = Callable[..., PositionBook]

NOW = FakeClock().now()
CALL = Instrument(
    conid=101, symbol="SPY", sec_type="OPT", right=Right.CALL, strike=595.0, expiry="20261218", multiplier=100.0
)
STOCK = Instrument(conid=7, symbol="SPY", sec_type="STK")
GOOD = Quote(
    conid=101,
    source=Source.SNAPSHOT,
    requested_at=NOW,
    received_at=NOW,
    quality=Quality.OK,
    bid=1.20,
    ask=1.24,
    last=1.21,
    close=1.10,
    bid_size=5,
    ask_size=7,
    delta=0.31,
    gamma=0.01,
    vega=0.2,
    theta=-0.05,
    implied_vol=0.14,
    underlying_price=594.2,
    model_price=1.22,
)
EMPTY = Quote(conid=101, source=Source.SNAPSHOT, requested_at=NOW, received_at=NOW, quality=Quality.PARTIAL)


@pytest.fixture
async def make_book(uri: str, clock: FakeClock) -> AsyncIterator[BookMaker]:
    """Make handles on one book, as several processes would have."""
    made: list[PositionBook] = []

    def make(**options: Any) -> PositionBook:
        made.append(PositionBook(uri, **({"clock": clock} | options)))
        return made[-1]

    yield make
    for book in made:
        await book.close()


@pytest.fixture
async def book(make_book: BookMaker) -> PositionBook:
    """An open book that holds two calls and a hundred shares, without prices."""
    opened = await make_book().initialize()
    await opened.sync([held(CALL, 2, 118.0), held(STOCK, 100, 590.0)])
    return opened


def held(instrument: Instrument, position: float, avg_cost: float = 1.0, account: str = "DU1") -> AccountPosition:
    """Return a position as the gateway lists it."""
    return AccountPosition(account=account, instrument=instrument, position=position, avg_cost=avg_cost)


def update(quote: Quote | None = None, **fields: Any) -> PositionUpdate:
    """Return news about the call."""
    return PositionUpdate(**({"account": "DU1", "instrument": CALL, "quote": quote} | fields))


def portfolio(mark: float | None = 1.30, at: datetime = NOW, realized: float | None = 5.0) -> PositionUpdate:
    """Return the gateway's own valuation of the call."""
    value = PortfolioValue(
        account="DU1",
        instrument=CALL,
        position=2,
        avg_cost=118.0,
        mark=mark,
        market_value=None if mark is None else 200 * mark,
        unrealized_pnl=None,
        realized_pnl=realized,
        received_at=at,
    )
    return update(portfolio=value)


def call(book: PositionBook) -> BookRow:
    """Return the call's row."""
    return next(row for row in book.rows() if row.conid == CALL.conid)


async def test_positions_open_rows_without_prices(book: PositionBook):
    """What the gateway lists is held, and nothing is made up."""
    row = call(book)
    assert (row.position, row.avg_cost, row.change) == (2.0, 118.0, "OPEN")
    assert (row.mark, row.market_value, row.unrealized_pnl, row.quality) == (None, None, None, None)
    assert row.instrument() == CALL
    assert row.label() == "SPY 261218 C 595"
    assert book.ledger.version == 1


async def test_a_quote_values_the_position(book: PositionBook):
    """Market value and P&L are position × mark × multiplier and less the cost; the mark says which price it is."""
    assert await book.record([update(GOOD)]) == 1
    row = call(book)
    assert (row.mark, row.mark_source, row.quality, row.source) == (pytest.approx(1.22), "mid", "ok", "snapshot")
    assert row.market_value == pytest.approx(2 * 1.22 * 100)
    assert row.unrealized_pnl == pytest.approx(244 - 2 * 118.0)
    assert (row.delta, row.theta, row.underlying_price, row.close) == (0.31, -0.05, 594.2, 1.10)


async def test_a_short_position_gains_when_prices_fall(book: PositionBook):
    """Signs follow the position: a short one has a negative value."""
    await book.sync([held(CALL, -3, 150.0), held(STOCK, 100, 590.0)])
    await book.record([update(GOOD)])
    assert call(book).market_value == pytest.approx(-366)
    assert call(book).unrealized_pnl == pytest.approx(-366 + 450)


@pytest.mark.parametrize(
    ("quote", "mark", "source"),
    [
        (replace(GOOD, bid=None), 1.21, "last"),
        (replace(GOOD, bid=None, last=None), 1.22, "model"),
        (replace(GOOD, bid=None, last=None, model_price=None), 1.10, "close"),
    ],
)
async def test_the_mark_is_the_best_price_there_is(book: PositionBook, quote: Quote, mark: float, source: str):
    """Middle, else last, else model, else close."""
    await book.record([update(quote)])
    assert (call(book).mark, call(book).mark_source) == (mark, source)


async def test_an_empty_quote_never_overwrites_a_good_one(book: PositionBook, clock: FakeClock):
    """The prices stay, with their time and quality; only the time of the request moves on."""
    await book.record([update(GOOD)])
    before = call(book)
    clock.advance(60)
    later = clock.now()
    await book.record([update(replace(EMPTY, requested_at=later, received_at=later))])
    row = call(book)
    for name in ("bid", "ask", "last", "mark", "mark_source", "quality", "received_at", "market_value", "delta"):
        assert getattr(row, name) == getattr(before, name), name
    assert row.requested_at == later


async def test_a_models_price_does_not_replace_a_markets(book: PositionBook, clock: FakeClock):
    """After hours only model and close come: greeks are taken over, the good mark stays."""
    await book.record([update(GOOD)])
    later = clock.now() + timedelta(hours=3)
    after_hours = replace(EMPTY, received_at=later, requested_at=later, close=1.22, model_price=1.25, delta=0.33)
    await book.record([update(after_hours)])
    row = call(book)
    assert (row.mark, row.mark_source, row.quality, row.bid) == (pytest.approx(1.22), "mid", "ok", 1.20)
    assert (row.close, row.delta, row.model_price) == (1.22, 0.33, 1.25)


async def test_bid_and_ask_are_replaced_together(book: PositionBook):
    """A side that is not quoted now is not filled with an older one."""
    await book.record([update(GOOD)])
    await book.record([update(replace(EMPTY, bid=1.15, bid_size=3, model_price=1.2))])
    row = call(book)
    assert (row.bid, row.ask, row.bid_size, row.ask_size) == (1.15, None, 3.0, None)
    assert (row.quality, row.last, row.mark, row.mark_source) == ("partial", 1.21, 1.2, "model")


async def test_nothing_is_stored_of_an_empty_first_quote(book: PositionBook):
    """No prices are no prices: the row says partial, and no number is made up."""
    await book.record([update(EMPTY)])
    row = call(book)
    assert (row.quality, row.mark, row.source, row.received_at) == ("partial", None, None, None)
    frame = book.current()
    assert not any(frame[name].is_nan().any() for name in frame.columns if frame[name].dtype.is_float())


async def test_an_older_quote_does_not_overwrite_a_newer_one(book: PositionBook, clock: FakeClock):
    """A snapshot that waited for the end of its cycle comes after the stream's quote, and stays behind it."""
    newer = replace(GOOD, source=Source.STREAM, bid=1.30, ask=1.32, received_at=clock.now() + timedelta(seconds=3))
    await book.record([update(newer)])
    await book.record([update(GOOD, request_id="r", attempt=1)])
    assert (call(book).bid, call(book).source, call(book).request_id) == (1.30, "stream", "r")


async def test_a_clock_that_was_set_back_does_not_freeze_the_book(book: PositionBook):
    """A quote that seems to be an hour older is taken: then it is the row's time that is wrong."""
    await book.record([update(replace(GOOD, received_at=NOW + timedelta(hours=1)))])
    await book.record([update(replace(GOOD, bid=1.0, ask=1.02))])
    assert call(book).bid == 1.0


async def test_an_attempt_is_written_once(book: PositionBook):
    """The same (request_id, attempt) again is one row, whatever it brings; the next attempt is another."""
    assert await book.record([update(GOOD, request_id="r", attempt=1)]) == 1
    assert await book.record([update(replace(GOOD, bid=9.0), request_id="r", attempt=1)]) == 0
    assert await book.record([update(replace(GOOD, bid=1.21), request_id="r", attempt=2)]) == 1
    assert (call(book).bid, call(book).attempt) == (1.21, 2)


async def test_a_redriven_request_is_written_although_its_attempts_begin_again(book: PositionBook):
    """What failed at its first attempt and was redriven has a first attempt again; that one, too, is written once."""
    await book.record([update(quality=Quality.ERROR, error_code=354, request_id="r", attempt=1)])
    first = update(GOOD, request_id="r", attempt=1)
    assert await book.record([first]) == 1
    assert (call(book).quality, call(book).error_code, call(book).bid) == ("ok", None, 1.20)
    assert await book.record([first]) == 0
    await book.record([update(quality=Quality.ERROR, error_code=354, request_id="r", attempt=2)])
    later = NOW + timedelta(minutes=1)
    again = update(replace(GOOD, bid=1.30, requested_at=later, received_at=later), request_id="r", attempt=2)
    assert await book.record([again]) == 1
    assert await book.record([again]) == 0
    assert (call(book).quality, call(book).bid) == ("ok", 1.30)


async def test_what_says_nothing_new_is_not_written(book: PositionBook):
    """The same position, quote, valuation or quality again is no row and no commit, in whichever order they come."""
    news = [update(GOOD), portfolio(), update(position=2.0, avg_cost=118.0)]
    await book.record(news)
    version = book.ledger.version
    for _ in range(2):
        assert await book.record(news) == 0
        assert await book.sync([held(CALL, 2, 118.0), held(STOCK, 100, 590.0)]) == 0
    assert await book.record([]) == 0
    assert book.ledger.version == version


async def test_many_updates_are_one_commit(book: PositionBook):
    """One row per position, with the sum of what came."""
    version = book.ledger.version
    assert await book.record([update(position=3.0), update(GOOD), update(position=4.0, avg_cost=120.0)]) == 1
    assert book.ledger.version == version + 1
    assert (call(book).position, call(book).avg_cost, call(book).bid) == (4.0, 120.0, 1.20)
    assert call(book).market_value == pytest.approx(4 * 122)


async def test_a_position_of_zero_closes(book: PositionBook):
    """The row leaves the book, and its last state says that it was closed."""
    await book.record([update(GOOD)])
    await book.record([update(position=0.0), update(replace(GOOD, bid=1.5))])
    assert [row.conid for row in book.rows()] == [7]
    past = TableHistory(book.uri, book.SPEC.key).timeline("DU1", 101)
    assert past["change"].to_list() == ["OPEN", "QUOTE", "CLOSE"]
    assert past["position"].to_list() == [2.0, 2.0, 0.0]
    assert await book.record([update(GOOD), portfolio()]) == 0


async def test_a_position_may_come_back(book: PositionBook):
    """Closed and opened again is a new row without the old prices, in one commit or in two."""
    await book.record([update(GOOD)])
    await book.record([update(position=0.0)])
    await book.record([update(position=-1.0, avg_cost=99.0)])
    assert (call(book).change, call(book).position, call(book).bid) == ("OPEN", -1.0, None)
    await book.record([update(position=0.0), update(position=5.0)])
    assert call(book).position == 5.0


async def test_a_row_that_opens_with_a_quote_is_an_opening(book: PositionBook):
    """What is opened and quoted in one commit says `OPEN`, with its prices."""
    other = replace(CALL, conid=102, strike=600.0)
    quote = replace(GOOD, conid=102)
    await book.record([update(instrument=other, position=1.0), update(quote, instrument=other)])
    row = next(row for row in book.rows() if row.conid == 102)
    assert (row.change, row.bid) == ("OPEN", 1.20)


async def test_a_complete_list_closes_what_it_does_not_name(book: PositionBook):
    """Only absence from a complete list closes; the others are untouched."""
    assert await book.sync([held(STOCK, 100, 590.0)]) == 1
    assert [row.conid for row in book.rows()] == [7]
    assert await book.sync([]) == 1
    assert book.rows() == []


async def test_a_list_says_nothing_about_accounts_that_it_does_not_cover(book: PositionBook):
    """Another login's positions stay, as long as the list is not said to cover them."""
    await book.sync([held(STOCK, 5, account="U9")], accounts=["U9"])
    assert [(row.account, row.conid) for row in book.rows()] == [("DU1", 7), ("DU1", 101), ("U9", 7)]
    await book.sync([], accounts=["U9"])
    assert [row.account for row in book.rows()] == ["DU1", "DU1"]


async def test_one_account_may_be_named_alone(book: PositionBook):
    """It is not taken for its letters, which would cover no account and close nothing in silence."""
    await book.record([update(GOOD)])
    assert await book.mark_stale(accounts="DU1") == 1
    assert await book.sync([held(STOCK, 100, 590.0)], accounts="DU1") == 1
    assert [row.conid for row in book.rows()] == [STOCK.conid]
    with pytest.raises(TypeError, match="account must be a string, got 5"):
        await book.sync([], accounts=[5])


async def test_an_error_marks_the_row_and_keeps_the_prices(book: PositionBook):
    """A refused request leaves what was known, with the code beside it; the next quote takes the code away."""
    await book.record([update(GOOD)])
    await book.record([update(quality=Quality.ERROR, error_code=354, request_id="r", attempt=1)])
    row = call(book)
    assert (row.quality, row.error_code, row.bid, row.change) == ("error", 354, 1.20, "ERROR")
    await book.record([update(EMPTY)])
    assert (call(book).quality, call(book).error_code) == ("error", 354)
    await book.record([update(replace(GOOD, bid=1.19))])
    assert (call(book).quality, call(book).error_code) == ("ok", None)


async def test_soft_codes_stay_beside_a_good_quote(book: PositionBook):
    """10090 came with data: the quote is good, and the code is kept."""
    await book.record([update(replace(GOOD, error_code=10090))])
    assert (call(book).quality, call(book).error_code) == ("ok", 10090)


async def test_quotes_become_stale_and_good_again(book: PositionBook):
    """Stale keeps the prices and their time; without prices there is nothing to become stale."""
    await book.record([update(GOOD)])
    assert await book.mark_stale(accounts=["U9"]) == 0
    assert await book.mark_stale([101, 7]) == 1
    assert (call(book).quality, call(book).bid, call(book).received_at) == ("stale", 1.20, NOW)
    assert await book.mark_stale() == 0
    await book.record([update(EMPTY)])
    assert call(book).quality == "stale"
    await book.record([update(replace(GOOD, received_at=NOW + timedelta(seconds=1)))])
    assert call(book).quality == "ok"


async def test_a_valuation_fills_in_where_there_is_no_quote(book: PositionBook):
    """The gateway's own price values a position that was never quoted, and newer ones replace it."""
    await book.record([portfolio(1.30)])
    row = call(book)
    assert (row.mark, row.mark_source, row.source, row.quality) == (1.30, "portfolio", "portfolio", "partial")
    assert (row.market_value, row.realized_pnl) == (pytest.approx(260), 5.0)
    await book.record([portfolio(1.35, NOW + timedelta(minutes=3))])
    assert call(book).mark == 1.35
    await book.record([portfolio(1.20, NOW)])
    assert call(book).mark == 1.35


async def test_a_valuation_never_replaces_a_quote_of_our_own(book: PositionBook):
    """It may be three minutes old; only the realized P&L is taken from it. A quote replaces a valuation at once."""
    await book.record([portfolio(1.30, NOW + timedelta(seconds=2))])
    await book.record([update(GOOD)])
    assert (call(book).mark, call(book).source) == (pytest.approx(1.22), "snapshot")
    await book.record([portfolio(1.40, NOW + timedelta(minutes=1), realized=7.0)])
    assert (call(book).mark, call(book).realized_pnl) == (pytest.approx(1.22), 7.0)
    await book.record([portfolio(None, realized=None)])
    assert call(book).realized_pnl == 7.0


async def test_a_valuation_does_not_hide_a_refusal(book: PositionBook):
    """It gives a price, and says nothing of whether the gateway sends quotes; a quote does."""
    await book.record([update(quality=Quality.ERROR, error_code=354)])
    await book.record([portfolio(1.30)])
    row = call(book)
    assert (row.mark, row.source, row.quality, row.error_code) == (1.30, "portfolio", "error", 354)
    await book.record([update(GOOD)])
    assert (call(book).source, call(book).quality, call(book).error_code) == ("snapshot", "ok", None)


async def test_a_valuation_takes_over_from_stale_quotes(book: PositionBook):
    """While the stream is down a valuation that is newer is better than nothing; that it is back, only a quote says."""
    await book.record([update(GOOD)])
    await book.mark_stale()
    await book.record([portfolio(1.40, NOW - timedelta(minutes=1))])
    assert call(book).mark == pytest.approx(1.22)
    await book.record([portfolio(1.40, NOW + timedelta(minutes=1))])
    assert (call(book).mark, call(book).source, call(book).quality) == (1.40, "portfolio", "stale")
    await book.record([update(replace(GOOD, received_at=NOW + timedelta(minutes=2)))])
    assert (call(book).mark, call(book).source, call(book).quality) == (pytest.approx(1.22), "snapshot", "ok")


async def test_the_book_survives_a_restart(book: PositionBook, make_book: BookMaker):
    """Every field comes back as it was, instants and absent numbers included."""
    await book.record([update(GOOD, request_id="r", attempt=1)])
    rows = book.rows()
    await book.close()
    again = await make_book().initialize()
    assert again.rows() == rows
    assert again.current().columns == list(again.SPEC.columns)


async def test_two_processes_share_the_book(book: PositionBook, make_book: BookMaker):
    """A change is decided on what the other one has written."""
    other = await make_book().initialize()
    await book.record([update(GOOD, request_id="r", attempt=1)])
    assert await other.record([update(GOOD, request_id="r", attempt=1)]) == 0
    await other.record([update(position=9.0)])
    await book.refresh()
    assert (call(book).position, call(book).bid) == (9.0, 1.20)


async def test_the_past_of_a_position_can_be_looked_at(book: PositionBook, clock: FakeClock):
    """What did we know at a moment, and how did one position come to be what it is."""
    await book.record([update(GOOD)])
    then = clock.now()
    clock.advance(60)
    await book.record([update(replace(GOOD, bid=2.0, ask=2.1, received_at=clock.now()))])
    history = TableHistory(book.uri, book.SPEC.key, clock=clock)
    assert history.as_of(then)["bid"].drop_nulls().to_list() == [1.20]
    assert history.as_of(book.ledger.version)["bid"].drop_nulls().to_list() == [2.0]
    timeline = history.timeline("DU1", 101)
    assert timeline["bid"].to_list() == [None, 1.20, 2.0]
    assert timeline["lasted"].to_list() == [timedelta(0), timedelta(seconds=60), None]
    assert history.diff(2, 3)["bid", "bid_old"].rows() == [(2.0, 1.20)]


async def test_repr_counts_positions_and_good_quotes(book: PositionBook):
    """Closed it says so, and refuses to be read."""
    await book.record([update(GOOD)])
    assert repr(book).endswith("2 positions, 1 with a good quote)")
    await book.close()
    assert repr(book).endswith("not open)")
    with pytest.raises(StorageError, match="is not open"):
        book.rows()


def test_no_arithmetic_with_what_is_not_there():
    """A mark is never made of a missing side."""
    assert replace(GOOD, ask=None, last=None, model_price=None, close=None).mark() == (None, None)
    assert not math.isnan(GOOD.mark()[0] or 0.0)
