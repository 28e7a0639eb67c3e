"""From ib_async's tickers to quotes: pure, scalars only.

Owns which of IB's numbers mean "there is none", and when a quote is complete. Asks for nothing and keeps nothing.

Source: https://interactivebrokers.github.io/tws-api/tick_types.html: -1 is "no price", -2 "greek not computed";
ib_async starts every field with NaN, and an unset double of the wire is the largest one.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from v6kit.contracts import Quality, Quote, Source

if TYPE_CHECKING:
    from datetime import datetime

    from ib_async import OptionComputation, Ticker

NO_PRICE = -1.0
NO_GREEK = -2.0


def usable(value: float | None, *, missing: float = NO_PRICE) -> float | None:
    """Return a number as a float, or `None` when IB means that there is none.

    Args:
        value: As it came.
        missing: The number that stands for "none" in this field.
    """
    if value is None or not math.isfinite(value) or value == missing or abs(value) == sys.float_info.max:
        return None
    return float(value)


def quality_of(bid: float | None, ask: float | None, last: float | None) -> Quality:
    """Return `ok` when the market can be seen, from both sides or from a trade; otherwise `partial`."""
    return Quality.OK if (bid is not None and ask is not None) or last is not None else Quality.PARTIAL


def quote_from(
    ticker: Ticker,
    *,
    conid: int,
    source: Source,
    requested_at: datetime,
    received_at: datetime,
    error_code: int | None = None,
) -> Quote:
    """Copy what a ticker holds now.

    Args:
        ticker: One that was made for this request alone, so that every value in it came after the request.
        conid: The contract.
        source: `stream` or `snapshot`.
        requested_at: When the request went out.
        received_at: When the newest of the ticks came in.
        error_code: The soft code that came with them, if any.
    """
    bid, ask, last = usable(ticker.bid), usable(ticker.ask), usable(ticker.last)
    greeks = _greeks_of(ticker)
    return Quote(
        conid=conid,
        source=source,
        requested_at=requested_at,
        received_at=received_at,
        quality=quality_of(bid, ask, last),
        bid=bid,
        ask=ask,
        last=last,
        close=usable(ticker.close),
        bid_size=usable(ticker.bidSize),
        ask_size=usable(ticker.askSize),
        delta=usable(greeks.delta, missing=NO_GREEK) if greeks else None,
        gamma=usable(greeks.gamma, missing=NO_GREEK) if greeks else None,
        vega=usable(greeks.vega, missing=NO_GREEK) if greeks else None,
        theta=usable(greeks.theta, missing=NO_GREEK) if greeks else None,
        implied_vol=usable(greeks.impliedVol) if greeks else None,
        underlying_price=usable(greeks.undPrice) if greeks else None,
        model_price=usable(ticker.modelGreeks.optPrice) if ticker.modelGreeks else None,
        market_data_type=ticker.marketDataType,
        error_code=error_code,
    )


def _greeks_of(ticker: Ticker) -> OptionComputation | None:
    """Return IB's model greeks, or else those of the first price that has a delta."""
    for greeks in (ticker.modelGreeks, ticker.bidGreeks, ticker.askGreeks, ticker.lastGreeks):
        if greeks is not None and usable(greeks.delta, missing=NO_GREEK) is not None:
            return greeks
    return None
