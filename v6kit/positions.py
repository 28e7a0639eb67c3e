"""`PositionBook`: what we knew about each position, when, and how we knew it.

A ledger on the table `position_updates`, keyed by (account, conid). A position leaves it only by a position of 0; a
lost connection makes rows stale, never flat. A good quote is never overwritten by an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

import polars as pl

from v6kit.contracts import (
    AccountPosition,
    Instrument,
    PortfolioValue,
    PositionUpdate,
    Quality,
    Quote,
    Right,
    Source,
    label,
)
from v6kit.ledger import INSTANT, NO_INSTANT, STAMP, Decision, LedgerTable, Moment, Rows, TableSpec

Key = tuple[str, int]
_INSTRUMENT = (
    "symbol", "sec_type", "right", "strike", "expiry", "multiplier", "exchange", "currency", "local_symbol",
    "trading_class",
)  # fmt: skip
# Two sources of one contract overlap by no more than this: the worker books its snapshots when its cycle ends, and a
# stream may have begun meanwhile. A quote that is older still means that somebody has set the clock back.
_OVERLAP = timedelta(minutes=5)
_MARKET = ("mid", "last")  # marks that the market itself made, not a model or yesterday
_GREEKS = ("delta", "gamma", "vega", "theta", "implied_vol", "underlying_price", "model_price")


class BookRow(NamedTuple):
    """One position as the table has it; prices per unit, values in the contract's currency."""

    account: str
    conid: int
    symbol: str
    sec_type: str
    right: str | None
    strike: float | None
    expiry: str | None
    multiplier: float
    exchange: str
    currency: str
    local_symbol: str
    trading_class: str
    position: float
    avg_cost: float | None
    bid: float | None
    ask: float | None
    last: float | None
    close: float | None
    bid_size: float | None
    ask_size: float | None
    mark: float | None
    mark_source: str | None
    market_value: float | None
    unrealized_pnl: float | None
    realized_pnl: float | None
    delta: float | None
    gamma: float | None
    vega: float | None
    theta: float | None
    implied_vol: float | None
    underlying_price: float | None
    model_price: float | None
    source: str | None
    market_data_type: int | None
    requested_at: datetime | None
    received_at: datetime | None
    quality: str | None
    error_code: int | None
    request_id: str | None
    attempt: int
    change: str
    seq: int = 0
    version: int = 0
    updated_at: datetime = NO_INSTANT
    updated_by: str = ""

    def instrument(self) -> Instrument:
        """Return the contract, ready for a request."""
        fields = {name: getattr(self, name) for name in _INSTRUMENT}
        fields["right"] = Right(self.right) if self.right else None
        return Instrument(conid=self.conid, **fields)

    def label(self) -> str:
        """Return the contract as a trader writes it."""
        return label(self.symbol, self.expiry, self.right, self.strike)


_TEXT = ("account", "symbol", "sec_type", "right", "expiry", "exchange", "currency", "local_symbol", "trading_class")
_TYPES: dict[str, pl.DataType] = {
    **dict.fromkeys(BookRow._fields, pl.Float64()),
    **dict.fromkeys((*_TEXT, "mark_source", "source", "quality", "request_id"), pl.String()),
    **dict.fromkeys(("requested_at", "received_at"), INSTANT),
    **dict.fromkeys(("market_data_type", "error_code", "attempt"), pl.Int32()),
    "conid": pl.Int64(),
    **STAMP,
}
SPEC: TableSpec[BookRow] = TableSpec(
    name="position_updates",
    key=("account", "conid"),
    columns=_TYPES,
    row=BookRow,
    finished="position = 0",
    not_restored="it says what the account holds now, and the account does not go back; look at the past with as_of(), "
    "and read the account anew with await desk.sync()",
)


class BookState:
    """The newest row of every position that is held."""

    def __init__(self) -> None:
        self.rows: dict[Key, BookRow] = {}
        self._order: list[Key] | None = None

    def in_order(self) -> list[BookRow]:
        """Return all rows by account and conid; the order is kept until a position comes or goes."""
        if self._order is None:
            self._order = sorted(self.rows)
        return [self.rows[key] for key in self._order]

    def held(self) -> list[Rows[BookRow]]:
        """Return all rows."""
        return [list(self.rows.values())]

    def apply(self, rows: Rows[BookRow]) -> Callable[[], None]:
        """Take rows in; return what takes exactly these back."""
        rows = SPEC.to_rows(rows) if isinstance(rows, pl.DataFrame) else rows
        before = [((row.account, row.conid), self.rows.get((row.account, row.conid))) for row in rows]
        if any(earlier is None or row.position == 0 for row, (_, earlier) in zip(rows, before, strict=True)):
            self._order = None
        for row in rows:
            if row.position == 0:
                self.rows.pop((row.account, row.conid), None)
            else:
                self.rows[row.account, row.conid] = row

        def take_back() -> None:
            self._order = None
            for key, earlier in reversed(before):
                self.rows.pop(key, None)
                if earlier is not None:
                    self.rows[key] = earlier

        return take_back


class PositionBook(LedgerTable[BookRow, BookState]):
    """What is known about every position, on the Delta table `position_updates`.

    Args:
        uri: A local path, or any URI that deltalake takes.
        storage_options: For object stores; never shown.
        clock: Tells the time; default the system's.
        durable: `process` or `power`; as in `LedgerTable`.
        history_days: How long to remember; as in `LedgerTable`.
    """

    SPEC = SPEC

    def _new_state(self) -> BookState:
        return BookState()

    async def record(self, updates: Iterable[PositionUpdate]) -> int:
        """Write what became known, in one commit.

        What changes nothing is not written: a position as it was, a (request_id, attempt) that is there already, a
        quote for a position that is not held.

        Returns:
            How many rows were written.
        """
        wanted = list(updates)
        if not wanted:
            return 0
        return await self._change(partial(_record, updates=wanted))

    async def sync(self, positions: Iterable[AccountPosition], accounts: Collection[str] | None = None) -> int:
        """Make the book hold exactly these positions, in one commit; what is missing from them is closed.

        Args:
            positions: The complete answer of one session, never half of one.
            accounts: Those that the answer is complete for, the ones of its login; default all accounts of the book.

        Returns:
            How many rows were written.
        """
        covered = None if accounts is None else frozenset(accounts)
        return await self._change(partial(_sync, positions=list(positions), accounts=covered))

    async def mark_stale(self, conids: Iterable[int] | None = None, *, accounts: Iterable[str] | None = None) -> int:
        """Say of quotes that they may be out of date, of all or of some. Returns how many rows changed.

        Args:
            conids: Only of these contracts.
            accounts: Only of these accounts.
        """
        contracts = None if conids is None else frozenset(conids)
        holders = None if accounts is None else frozenset(accounts)
        return await self._change(partial(_mark_stale, conids=contracts, accounts=holders))

    def rows(self) -> list[BookRow]:
        """Return every position that is held, as this process knows it, by account and conid; no I/O."""
        return self.ledger.read(lambda state: state.in_order())

    def current(self) -> pl.DataFrame:
        """Return every position that is held: one row each, columns as the table's, by account and conid; no I/O."""
        return SPEC.to_frame(self.rows())

    def _summary(self) -> str:
        rows = self.rows()
        return f"{len(rows)} positions, {sum(row.quality == Quality.OK for row in rows)} with a good quote"


def _record(state: BookState, _moment: Moment, *, updates: list[PositionUpdate]) -> Decision[BookRow, int]:
    rows: dict[Key, BookRow] = {}
    for update in updates:
        key = update.account, update.instrument.conid
        known = rows.get(key) or state.rows.get(key)
        row = merge(known, update)
        if row is not None:
            rows[key] = row
    return Decision(list(rows.values()), len(rows))


def _sync(
    state: BookState, moment: Moment, *, positions: list[AccountPosition], accounts: frozenset[str] | None
) -> Decision[BookRow, int]:
    held = {(position.account, position.instrument.conid): position for position in positions}
    updates = [
        PositionUpdate(
            account=position.account,
            instrument=position.instrument,
            position=position.position,
            avg_cost=position.avg_cost,
        )
        for position in held.values()
    ]
    updates += [
        PositionUpdate(account=row.account, instrument=row.instrument(), position=0.0)
        for key, row in state.rows.items()
        if key not in held and (accounts is None or row.account in accounts)
    ]
    return _record(state, moment, updates=updates)


def _mark_stale(
    state: BookState, _moment: Moment, *, conids: frozenset[int] | None, accounts: frozenset[str] | None
) -> Decision[BookRow, int]:
    rows = [
        row._replace(quality=Quality.STALE.value, change="STALE")
        for row in state.rows.values()
        if row.quality in (Quality.OK, Quality.PARTIAL)
        and (conids is None or row.conid in conids)
        and (accounts is None or row.account in accounts)
    ]
    return Decision(rows, len(rows))


def merge(known: BookRow | None, update: PositionUpdate) -> BookRow | None:
    """Return the row that an update makes of what was known, or `None` if it tells nothing new."""
    if (known is None or known.position == 0) and not update.position:
        return None  # not held, and nobody says that it is
    before = _new_row(update) if known is None else known
    if update.request_id is not None and (before.request_id, before.attempt) == (update.request_id, update.attempt):
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


def _new_row(update: PositionUpdate) -> BookRow:
    instrument = update.instrument
    blank = dict.fromkeys(BookRow._fields[: -len(STAMP)])
    fields = {name: getattr(instrument, name) for name in _INSTRUMENT}
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
        # The valuation may itself be made of prices from before the outage: only a quote says that it is over.
        quality=(Quality.STALE if row.quality == Quality.STALE else Quality.PARTIAL).value,
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
        fields |= {name: getattr(quote, name) for name in _GREEKS}
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
