"""What is known of positions and portfolio: no socket, no sleep."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from v6kit.broker.account import AccountBook
from v6kit.broker.rounds import order_of
from v6kit.contracts import AccountPosition, Instrument, PortfolioValue

CAME_AT = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
SECOND = timedelta(seconds=1)
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
    assert book.portfolio(["DU1"]) == [VALUE]
    book.begin_portfolio("DU1", CAME_AT)
    assert book.portfolio(["DU1"]) == [VALUE]
    book.end_portfolio("DU1", CAME_AT)
    assert book.portfolio(["DU1"]) == [VALUE]
    book.begin_portfolio("DU1", CAME_AT + SECOND)
    book.end_portfolio("DU1", CAME_AT + SECOND)
    assert book.portfolio(["DU1"]) == []


def test_the_portfolio_of_one_account_says_nothing_of_another(book: AccountBook):
    """A complete round of DU2 leaves DU1's rows and their age, whatever was asked in between."""
    theirs = replace(VALUE, account="DU2")
    for row in (VALUE, theirs):
        book.take_portfolio(row)
    book.begin_portfolio("DU1", CAME_AT + SECOND)  # it never ends
    book.begin_portfolio("DU2", CAME_AT + SECOND)
    book.end_portfolio("DU2", CAME_AT + 2 * SECOND)
    assert book.portfolio(["DU1", "DU2"]) == [VALUE]
    assert book.portfolio(["DU2"]) == []
    assert book.status("DU1").portfolio_at is None
    assert book.status("DU2").portfolio_at == CAME_AT + 2 * SECOND


def test_an_end_that_nobody_waits_for_forgets_nothing(book: AccountBook):
    """IB repeats it; without a request it does not say since when the rows are complete."""
    book.take_portfolio(VALUE)
    book.end_portfolio("DU1", CAME_AT + SECOND)
    assert book.portfolio(["DU1"]) == [VALUE]
    assert book.status("DU1").portfolio_at is None


def test_a_whole_portfolio_ends_the_trouble_of_its_account(book: AccountBook):
    """What an account is worth stays known through it."""
    book.take_net_liquidation("DU1", 1e6, "USD")
    book.set_trouble("DU1", "silent")
    book.begin_portfolio("DU1", CAME_AT)
    assert book.status("DU1").trouble == "silent"
    book.end_portfolio("DU1", CAME_AT)
    status = book.status("DU1")
    assert (status.trouble, status.net_liquidation, status.currency) == (None, 1e6, "USD")


def test_silent_accounts_come_late_and_an_answering_one_is_followed_in_the_end():
    """Who answers never waits for who does not; the last of the round is followed until the next one."""
    assert order_of(("A", "B", "C", "D"), frozenset("B")) == ["C", "D", "B", "A"]
    assert order_of(("A", "B", "C"), frozenset("A")) == ["C", "A", "B"]
    assert order_of(("A", "B"), frozenset("AB")) == ["A", "B"]
    assert order_of(("A",), frozenset()) == ["A"]
