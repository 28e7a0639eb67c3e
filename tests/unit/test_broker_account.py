"""What is known of positions and portfolio: no socket, no sleep."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from v6kit.broker.account import AccountBook
from v6kit.contracts import AccountPosition, Instrument, PortfolioValue

CAME_AT = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
SPY = Instrument(conid=1, symbol="SPY", sec_type="STK")
ROW = AccountPosition(account="DU1", instrument=SPY, position=1.0, avg_cost=2.0)
OTHER = replace(ROW, instrument=replace(SPY, conid=2))
VALUE = PortfolioValue(
    account="DU1",
    instrument=SPY,
    position=1.0,
    avg_cost=2.0,
    mark=3.0,
    market_value=3.0,
    unrealized_pnl=1.0,
    realized_pnl=None,
    received_at=CAME_AT,
)


@pytest.fixture
def book() -> AccountBook:
    """A book that knows one position from a complete list."""
    book = AccountBook()
    read(book, ROW)
    return book


def read(book: AccountBook, *rows: AccountPosition) -> None:
    """Feed a complete list."""
    book.begin_positions()
    for row in rows:
        book.take_position(row)
    book.end_positions()


async def test_only_changes_are_announced(book: AccountBook):
    """The same list again is no news; another size is, and so is the end of a position, once."""
    heard: list[AccountPosition] = []
    book.position_changed.connect(heard.append)
    read(book, ROW)
    changed, closed = replace(ROW, position=5.0), replace(ROW, position=0.0)
    for row in (changed, changed, closed, closed):
        book.take_position(row)
    await asyncio.sleep(0)
    assert heard == [changed, closed]
    assert book.positions() == []


def test_a_complete_list_ends_what_it_does_not_name(book: AccountBook):
    """A position that was closed while nobody listened is gone after the next list."""
    read(book, OTHER)
    assert book.positions() == [OTHER]


def test_a_list_that_broke_off_ends_nothing(book: AccountBook):
    """Without its end, a list only adds."""
    book.begin_positions()
    book.take_position(OTHER)
    assert book.positions() == [ROW, OTHER]


def test_an_end_without_a_list_ends_nothing(book: AccountBook):
    """A repeated end is not an empty account."""
    book.end_positions()
    assert book.positions() == [ROW]


def test_a_change_between_two_rows_of_a_list_counts(book: AccountBook):
    """The newest message about a position wins, and a position that is closed meanwhile is not held."""
    read(book, ROW, OTHER, replace(ROW, position=7.0), replace(OTHER, position=0.0))
    assert book.positions() == [replace(ROW, position=7.0)]


def test_a_portfolio_row_stays_until_it_is_closed_or_not_named_again(book: AccountBook):
    """Losing the link empties nothing; a complete later round does."""
    other = replace(VALUE, instrument=OTHER.instrument)
    book.take_portfolio(VALUE)
    book.take_portfolio(other)
    book.take_portfolio(replace(other, position=0.0))
    assert book.portfolio() == [VALUE]
    book.forget_portfolio_before(CAME_AT)
    assert book.portfolio() == [VALUE]
    book.forget_portfolio_before(CAME_AT + timedelta(seconds=1))
    assert book.portfolio() == []
