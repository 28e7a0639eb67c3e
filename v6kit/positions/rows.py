"""What a position is in the table and in memory: the row and the table's columns. No decision, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

import polars as pl

from v6kit.contracts import Instrument, Right, label
from v6kit.display import Card, Printer, number, utc
from v6kit.ledger import INSTANT, NO_INSTANT, STAMP, TableSpec

Key = tuple[str, int]
INSTRUMENT = (
    "symbol", "sec_type", "right", "strike", "expiry", "multiplier", "exchange", "currency", "local_symbol",
    "trading_class",
)  # fmt: skip
GREEKS = ("delta", "gamma", "vega", "theta", "implied_vol", "underlying_price", "model_price")


class BookRow(NamedTuple):
    """One position as the table has it; prices per unit, values in the contract's currency.

    Attributes:
        account: Who holds it; the rest down to `trading_class` says of which contract, as `Instrument` does.
        position: Signed number of contracts or shares; 0 in the row that closes it.
        avg_cost: Per contract, multiplier included, as IB gives it.
        mark: The price that the position is valued at.
        mark_source: Which one that is: `mid`, `last`, `model`, `close` or `portfolio`.
        market_value: position × mark × multiplier.
        unrealized_pnl: market_value less position × avg_cost.
        realized_pnl: As the portfolio last told it.
        source: Where the newest prices came from: `stream`, `snapshot` or `portfolio`.
        market_data_type: 1 live, 2 frozen, 3 delayed, 4 delayed-frozen; of the newest quote, an empty one too.
        requested_at: When that was asked for, aware UTC.
        received_at: When the newest price that is here came in, aware UTC.
        quality: `ok`, `partial`, `stale` or `error`, see `Quality`; null before the first quote.
        error_code: IB's, of the newest quote or refusal.
        request_id: Of the request in the queue that asked last; null where none ever did.
        attempt: The attempt of that request.
        change: What the newest change was: `OPEN`, `POSITION`, `QUOTE`, `PORTFOLIO`, `STALE`, `ERROR` or `CLOSE`.
    """

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
        fields = {name: getattr(self, name) for name in INSTRUMENT}
        fields["right"] = Right(self.right) if self.right else None
        return Instrument(conid=self.conid, **fields)

    def label(self) -> str:
        """Return the contract as a trader writes it."""
        return label(self.symbol, self.expiry, self.right, self.strike)

    def _repr_html_(self) -> str:
        return self._card().html()

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:  # noqa: ARG002, FBT001 - IPython calls it so
        printer.text(self._card().text())

    def _card(self) -> Card:
        quoted = {"bid": self.bid, "ask": self.ask, "last": self.last, "close": self.close, "mark": self.mark}
        greeks = {name: getattr(self, name) for name in GREEKS}
        came = "" if self.received_at is None else f" at {utc(self.received_at)}"
        refused = "" if self.error_code is None else f", code {self.error_code}"
        facts = {
            "account": self.account,
            "conid": str(self.conid),
            "position": f"{self.position:+g}" + (f" at {self.avg_cost:,.2f}" if self.avg_cost is not None else ""),
            "prices": _told(quoted, ",.8g") + (f" ({self.mark_source})" if self.mark_source else ""),
            "value": f"{number(self.market_value)} {self.currency}" if self.market_value is not None else "",
            "unrealized": number(self.unrealized_pnl, "+,.2f"),
            "greeks": _told(greeks, ".6g"),
            "quality": f"{self.quality or 'no quote yet'}{refused}",
            "source": f"{self.source}{came}" if self.source else "",
            "every state": f'desk.history("position_updates").timeline("{self.account}", {self.conid})',
        }
        return Card(self.label(), facts={name: fact for name, fact in facts.items() if fact})


def _told(values: Mapping[str, float | None], form: str) -> str:
    return ", ".join(f"{name} {format(value, form)}" for name, value in values.items() if value is not None)


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
