"""Between ib_async's contracts and ours: pure.

Owns the spelling of a contract on both sides, and where a request for it is routed to. Asks for nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ib_async import Contract, ContractDetails, OptionChain, PortfolioItem, Position

from v6kit.broker.quotes import usable
from v6kit.contracts import AccountPosition, Instrument, OptionSeries, PortfolioValue, Right

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

SMART = "SMART"

SMART_ROUTED = frozenset({"OPT", "STK"})
"""What may be asked for at SMART without looking further; the others need the exchange from the contract's details."""


def instrument_from(contract: Contract) -> Instrument:
    """Return our description of a contract as the gateway sent it."""
    return Instrument(
        conid=contract.conId,
        symbol=contract.symbol,
        sec_type=contract.secType,
        right=Right(contract.right[0]) if contract.right in ("C", "P", "CALL", "PUT") else None,
        strike=usable(contract.strike, missing=0.0),
        # a last trade date may carry a time and a zone behind the date
        expiry=contract.lastTradeDateOrContractMonth.partition(" ")[0] or None,
        multiplier=float(contract.multiplier or 1.0),
        exchange=contract.exchange,
        currency=contract.currency or "USD",
        local_symbol=contract.localSymbol,
        trading_class=contract.tradingClass,
    )


def instrument_from_details(details: ContractDetails) -> Instrument:
    """Return the instrument that contract details describe, with the exchange to ask for its prices at."""
    contract = details.contract or Contract()
    exchanges = [name for name in details.validExchanges.split(",") if name]
    if SMART in exchanges:
        contract.exchange = SMART
    elif not contract.exchange and exchanges:
        contract.exchange = exchanges[0]
    return instrument_from(contract)


def exchange_for(instrument: Instrument) -> str | None:
    """Return the exchange to ask at, or `None` when only the contract's details can tell."""
    if instrument.exchange:
        return instrument.exchange
    return SMART if instrument.sec_type in SMART_ROUTED else None


def contract_at(conid: int, exchange: str) -> Contract:
    """Return what identifies a contract in a request: its id and where to look."""
    return Contract(conId=conid, exchange=exchange)


def underlying_called(symbol: str, sec_type: str) -> Contract:
    """Return the question for what options are written on; an index is listed elsewhere than at SMART."""
    return Contract(secType=sec_type, symbol=symbol, exchange=SMART if sec_type == "STK" else "", currency="USD")


def options_on(symbol: str, expiry: str, trading_class: str) -> Contract:
    """Return the question for all options of one expiry: right and strike are left open."""
    return Contract(
        secType="OPT",
        symbol=symbol,
        lastTradeDateOrContractMonth=expiry,
        tradingClass=trading_class,
        exchange=SMART,
        currency="USD",
    )


def series_from(chains: Iterable[OptionChain]) -> list[OptionSeries]:
    """Return the series that the exchanges list, each once, soonest first; some exchanges list fewer than others."""
    found = {
        OptionSeries(expiry=expiry, trading_class=chain.tradingClass, multiplier=float(chain.multiplier or 1.0))
        for chain in chains
        for expiry in chain.expirations
    }
    return sorted(found)


def position_from(row: Position) -> AccountPosition:
    """Return a position as the gateway sent it; one of no finite size is none."""
    if not math.isfinite(row.position):
        raise ValueError(f"position must be finite, got {row.position}")
    return AccountPosition(
        account=row.account,
        instrument=instrument_from(row.contract),
        position=float(row.position),
        avg_cost=float(row.avgCost),
    )


def portfolio_value_from(item: PortfolioItem, received_at: datetime) -> PortfolioValue:
    """Return what the account updates said of a position."""
    return PortfolioValue(
        account=item.account,
        instrument=instrument_from(item.contract),
        position=float(item.position),
        avg_cost=float(item.averageCost),
        mark=usable(item.marketPrice),
        market_value=usable(item.marketValue, missing=float("nan")),  # a short position may well be worth -1
        unrealized_pnl=usable(item.unrealizedPNL, missing=float("nan")),
        realized_pnl=usable(item.realizedPNL, missing=float("nan")),
        received_at=received_at,
    )
