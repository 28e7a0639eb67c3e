"""What an update makes of what was known of a position: pure functions of row and update.

A good quote is never overwritten by an empty one, nor a newer one by one that came late.
"""

from __future__ import annotations

from datetime import timedelta

from v6kit.contracts import PortfolioValue, PositionUpdate, Quality, Quote, Source
from v6kit.ledger import STAMP
from v6kit.positions.rows import GREEKS, INSTRUMENT, BookRow

# Two sources of one contract overlap by no more than this: the worker books its snapshots when its cycle ends, and a
# stream may have begun meanwhile. A quote that is older still means that somebody has set the clock back.
_OVERLAP = timedelta(minutes=5)
_MARKET = ("mid", "last")  # marks that the market itself made, not a model or yesterday


def merge(known: BookRow | None, update: PositionUpdate) -> BookRow | None:
    """Return the row that an update makes of what was known, or `None` if it tells nothing new."""
    if (known is None or known.position == 0) and not update.position:
        return None  # not held, and nobody says that it is
    before = _new_row(update) if known is None else known
    if _is_written(before, update):
        return None
    row = before
    if update.position is not None:
        row = _with_position(row, update.position, update.avg_cost)
    if update.portfolio is not None:
        row = _with_portfolio(row, update.portfolio)
    if update.quote is not None:
        row = _with_quote(row, update.quote)
    if update.request_id is not None:
        row = row._replace(request_id=update.request_id, attempt=update.attempt)
    if update.quality is not None:
        row = row._replace(quality=update.quality.value, error_code=update.error_code, change=update.quality.upper())
    if known is not None and row._replace(change=known.change) == known:
        return None
    if before.change == "OPEN" and before.seq == 0 and row.position:
        row = row._replace(change="OPEN")  # opened by this very commit, whatever else it tells
    return _valued(row)


def _is_written(row: BookRow, update: PositionUpdate) -> bool:
    """Tell whether a row has this attempt of its request already.

    A redriven request counts its attempts from 1 again: a quote that was asked for later is of another such attempt.
    """
    if update.request_id is None or (row.request_id, row.attempt) != (update.request_id, update.attempt):
        return False
    return update.quote is None or (row.requested_at is not None and row.requested_at >= update.quote.requested_at)


def _new_row(update: PositionUpdate) -> BookRow:
    instrument = update.instrument
    blank = dict.fromkeys(BookRow._fields[: -len(STAMP)])
    fields = {name: getattr(instrument, name) for name in INSTRUMENT}
    return BookRow(
        **{
            **blank,
            **fields,
            "account": update.account,
            "conid": instrument.conid,
            "position": update.position,
            "avg_cost": update.avg_cost,
            "attempt": 0,
            "change": "OPEN",
        }
    )


def _with_position(row: BookRow, position: float, avg_cost: float | None) -> BookRow:
    cost = row.avg_cost if avg_cost is None else avg_cost
    if (row.position, row.avg_cost) == (position, cost):
        return row
    return row._replace(position=position, avg_cost=cost, change="CLOSE" if position == 0 else "POSITION")


def _with_portfolio(row: BookRow, value: PortfolioValue) -> BookRow:
    if value.realized_pnl is not None:
        row = row._replace(realized_pnl=value.realized_pnl, change="PORTFOLIO")
    # A quote of our own says more than a valuation that may be three minutes old.
    is_quoted = row.mark is not None and row.source != Source.PORTFOLIO and row.quality in (Quality.OK, Quality.PARTIAL)
    is_newer = row.received_at is not None and row.received_at > value.received_at
    if value.mark is None or is_quoted or is_newer:
        return row
    return row._replace(
        mark=value.mark,
        mark_source="portfolio",
        source=Source.PORTFOLIO.value,
        received_at=value.received_at,
        # It may itself be made of prices from before the outage: that this is over, or a refusal, only a quote says.
        quality=row.quality if row.quality in (Quality.STALE, Quality.ERROR) else Quality.PARTIAL.value,
        change="PORTFOLIO",
    )


def _with_quote(row: BookRow, quote: Quote) -> BookRow:
    if _is_late(row, quote):
        return row
    mark, mark_source = quote.mark()
    fields: dict[str, object] = {
        "requested_at": quote.requested_at,
        "market_data_type": quote.market_data_type,
        "change": "QUOTE",
    }
    if quote.error_code is not None:
        fields["error_code"] = quote.error_code
    if _says_less(row, quote):
        if row.mark is None:
            fields["quality"] = Quality.PARTIAL.value
    else:
        fields |= {
            "source": quote.source.value,
            "received_at": quote.received_at,
            "quality": quote.quality.value,
            "mark": mark,
            "mark_source": mark_source,
            "error_code": quote.error_code,
        }
        # Bid and ask belong together: a side that is not quoted now must not be filled with an older one.
        if quote.bid is not None or quote.ask is not None:
            fields |= {name: getattr(quote, name) for name in ("bid", "ask", "bid_size", "ask_size")}
    fields |= {name: value for name in ("last", "close") if (value := getattr(quote, name)) is not None}
    if quote.delta is not None:
        fields |= {name: getattr(quote, name) for name in GREEKS}
    return row._replace(**fields)  # type: ignore[arg-type]  # the names are the row's own


def _is_late(row: BookRow, quote: Quote) -> bool:
    """Tell whether a newer quote of our own has come in before this one."""
    if row.received_at is None or row.source == Source.PORTFOLIO:
        return False
    return timedelta(0) < row.received_at - quote.received_at <= _OVERLAP


def _says_less(row: BookRow, quote: Quote) -> bool:
    """Tell whether a quote must leave the prices alone: it has none, or only a model's beside a good one's."""
    if quote.mark()[0] is None:
        return True
    is_market = quote.bid is not None or quote.ask is not None or quote.last is not None
    return not is_market and row.quality == Quality.OK and row.mark_source in _MARKET


def _valued(row: BookRow) -> BookRow:
    if row.mark is None:
        return row
    value = row.position * row.mark * row.multiplier
    cost = None if row.avg_cost is None else row.position * row.avg_cost
    return row._replace(market_value=value, unrealized_pnl=None if cost is None else value - cost)
