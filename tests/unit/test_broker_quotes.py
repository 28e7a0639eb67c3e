"""From tickers and contracts to the domain's types: pure."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime, timedelta

import pytest
from ib_async import Contract, ContractDetails, OptionComputation, PortfolioItem, Position, Ticker
from v6kit.broker.instruments import (
    exchange_for,
    instrument_from,
    instrument_from_details,
    portfolio_value_from,
    position_from,
)
from v6kit.broker.quotes import quality_of, quote_from, usable
from v6kit.contracts import Instrument, Quality, Quote, Right, Source

ASKED_AT = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
CAME_AT = ASKED_AT + timedelta(milliseconds=250)
GREEKS = OptionComputation(0, 0.2, 0.5, 1.25, 0.0, 0.01, 0.3, -0.05, 600.0)


def quoted(ticker: Ticker, error_code: int | None = None) -> Quote:
    """Return the quote of a ticker."""
    return quote_from(
        ticker, conid=1, source=Source.SNAPSHOT, requested_at=ASKED_AT, received_at=CAME_AT, error_code=error_code
    )


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, -math.inf, -1.0, -1, sys.float_info.max])
def test_what_ib_means_as_nothing_is_none(nothing: float | None):
    """No sentinel ever becomes a price."""
    assert usable(nothing) is None


@pytest.mark.parametrize("number", [0.0, 0.05, 5976.25, -37.63])
def test_a_real_number_stays_even_when_it_is_negative(number: float):
    """Futures did trade below zero."""
    assert usable(number) == number


@pytest.mark.parametrize(
    ("prices", "quality"),
    [
        ((1.0, 1.1, 1.05), Quality.OK),
        ((1.0, 1.1, None), Quality.OK),
        ((None, None, 1.05), Quality.OK),
        ((0.0, 0.05, None), Quality.OK),
        ((1.0, None, None), Quality.PARTIAL),
        ((None, 1.1, None), Quality.PARTIAL),
        ((None, None, None), Quality.PARTIAL),
    ],
)
def test_a_quote_is_ok_when_both_sides_or_a_trade_are_seen(
    prices: tuple[float | None, float | None, float | None], quality: Quality
):
    """Anything less is partial."""
    assert quality_of(*prices) is quality


def test_a_fresh_ticker_is_an_empty_partial_quote():
    """Every field that did not come is None."""
    quote = quoted(Ticker())
    assert quote == Quote(
        conid=1, source=Source.SNAPSHOT, requested_at=ASKED_AT, received_at=CAME_AT, quality=Quality.PARTIAL
    )
    assert quote.mark() == (None, None)


def test_prices_sizes_and_model_greeks_are_copied():
    """All numbers of an option arrive under their names."""
    ticker = Ticker(marketDataType=3)
    ticker.bid, ticker.ask, ticker.last, ticker.close, ticker.bidSize, ticker.askSize = 1.2, 1.3, 1.25, 1.1, 10.0, 20.0
    ticker.modelGreeks = GREEKS
    quote = quoted(ticker, error_code=10167)
    assert (quote.bid, quote.ask, quote.last, quote.close) == (1.2, 1.3, 1.25, 1.1)
    assert (quote.bid_size, quote.ask_size) == (10.0, 20.0)
    assert (quote.delta, quote.gamma, quote.vega, quote.theta) == (0.5, 0.01, 0.3, -0.05)
    assert (quote.implied_vol, quote.underlying_price, quote.model_price) == (0.2, 600.0, 1.25)
    assert (quote.market_data_type, quote.error_code, quote.quality) == (3, 10167, Quality.OK)


def test_greeks_that_were_not_computed_are_none():
    """IB's -2 is no greek, and ib_async lets it through for vega and theta."""
    ticker = Ticker(modelGreeks=OptionComputation(0, None, 0.5, None, None, None, -2.0, -2.0, math.inf))
    quote = quoted(ticker)
    assert (quote.vega, quote.theta, quote.gamma, quote.underlying_price, quote.implied_vol) == (None,) * 5


def test_without_a_model_the_greeks_of_a_price_are_taken():
    """The first of bid, ask and last that has a delta; the model's price stays empty."""
    ticker = Ticker(bidGreeks=OptionComputation(0, 0.1), askGreeks=GREEKS)
    quote = quoted(ticker)
    assert (quote.delta, quote.model_price) == (0.5, None)


def test_a_quote_does_not_change_with_its_ticker():
    """Scalars are copied, so later ticks do not reach back."""
    ticker = Ticker(bid=1.0, created=True)
    quote = quoted(ticker)
    ticker.bid = 2.0
    assert quote.bid == 1.0


def test_an_option_contract_becomes_an_instrument():
    """Field by field, with a numeric multiplier and a right of our own."""
    contract = Contract(
        conId=7,
        symbol="SPY",
        secType="OPT",
        lastTradeDateOrContractMonth="20261218 16:00:00 EST",
        strike=595.0,
        right="C",
        multiplier="100",
        currency="USD",
        localSymbol="SPY   261218C00595000",
        tradingClass="SPY",
    )
    assert instrument_from(contract) == Instrument(
        conid=7,
        symbol="SPY",
        sec_type="OPT",
        right=Right.CALL,
        strike=595.0,
        expiry="20261218",
        multiplier=100.0,
        local_symbol="SPY   261218C00595000",
        trading_class="SPY",
    )


def test_a_stock_contract_has_none_of_the_option_fields():
    """IB sends strike 0, an empty right and an empty multiplier."""
    instrument = instrument_from(Contract(conId=7, symbol="SPY", secType="STK", right="0"))
    assert (instrument.right, instrument.strike, instrument.expiry, instrument.multiplier) == (None, None, None, 1.0)


@pytest.mark.parametrize(
    ("sec_type", "exchange", "wanted"),
    [
        ("OPT", "", "SMART"),
        ("STK", "", "SMART"),
        ("STK", "ARCA", "ARCA"),
        ("FUT", "", None),
        ("FUT", "CME", "CME"),
        ("IND", "", None),
    ],
)
def test_where_a_contract_is_asked_for(sec_type: str, exchange: str, wanted: str | None):
    """Options and stocks at SMART, the others where their details say, and a given exchange is respected."""
    assert exchange_for(Instrument(conid=1, symbol="X", sec_type=sec_type, exchange=exchange)) == wanted


@pytest.mark.parametrize(
    ("exchange", "valid", "wanted"),
    [("CME", "CME,QBALGO", "CME"), ("", "CME,QBALGO", "CME"), ("AMEX", "SMART,AMEX", "SMART")],
)
def test_contract_details_tell_the_exchange(exchange: str, valid: str, wanted: str):
    """SMART where it is valid, otherwise the contract's own or the first valid one."""
    details = ContractDetails(contract=Contract(conId=1, exchange=exchange), validExchanges=valid)
    assert instrument_from_details(details).exchange == wanted


def test_positions_and_portfolio_rows_are_copied():
    """A market value or a P&L of exactly -1 is a number there, not a sentinel."""
    contract = Contract(conId=7, symbol="SPY", secType="STK")
    row = position_from(Position("DU1", contract, -3, 100.5))
    assert (row.account, row.instrument.conid, row.position, row.avg_cost) == ("DU1", 7, -3.0, 100.5)
    value = portfolio_value_from(PortfolioItem(contract, 1, 1.0, -1.0, 100.5, -1.0, sys.float_info.max, "DU1"), CAME_AT)
    assert (value.mark, value.market_value, value.unrealized_pnl, value.realized_pnl) == (1.0, -1.0, -1.0, None)
    assert value.received_at == CAME_AT
