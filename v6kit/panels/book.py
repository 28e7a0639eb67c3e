"""The book: every position, how fresh and how good what is known of it is; what needs a look comes first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from v6kit.contracts import Quality
from v6kit.ledger import LedgerTable
from v6kit.panels import formats, frames, parts
from v6kit.panels.actions import Action
from v6kit.panels.counted import CountedPanel
from v6kit.panels.grid import Column
from v6kit.panels.parts import Part
from v6kit.queue import ACTIVE_PRIORITY

NEVER = "never"
TONES: dict[str | None, str] = {
    Quality.ERROR.value: "bad",
    NEVER: "warn",
    Quality.STALE.value: "warn",
    Quality.PARTIAL.value: "busy",
    Quality.OK.value: "good",
}
_QUALITY = (
    "ok: a quote has come; partial: only some of it, such as a price without bid and ask; "
    "stale: the link has been down since; error: refused; never: no quote yet"
)


class BookPanel(CountedPanel):
    """Every position with its quote: how good, how old, where from; what needs a look comes first.

    panel = desk.panel("book")
    panel.words = "SPY 261218"
    panel.frame
    """

    name = "book"
    title = "Book"
    columns = (
        Column(name="contract", title="contract"),
        Column(name="account", title="account", if_several=True),
        Column(name="position", title="position", kind="number"),
        Column(name="mark", title="mark", kind="number", digits=2, hint="The price it is valued at"),
        Column(name="bid", title="bid", kind="number", digits=2),
        Column(name="ask", title="ask", kind="number", digits=2),
        Column(name="market_value", title="value", kind="number", digits=0),
        Column(name="unrealized_pnl", title="P&L", kind="signed", digits=0),
        Column(name="delta", title="Δ", kind="signed", digits=2),
        Column(name="known", title="quality", tones=TONES, hint=_QUALITY),
        Column(name="received_at", title="age", kind="age", hint="Since its quote came in"),
        Column(name="source", title="source", wide=True),
    )
    counted = "known"

    @property
    def tables(self) -> Sequence[LedgerTable[Any, Any]]:
        """The book, and the queue, to which its button adds."""
        return self.desk.positions, self.desk.queue

    def revision(self) -> int:
        """Return the book's version."""
        return self.desk.positions.ledger.version

    def read(self) -> pl.DataFrame:
        """Return the book."""
        return frames.book(self.desk, self.as_of)

    def parts(self) -> list[Part]:
        """Return the counts by quality, and how old the oldest quote is."""
        age = frames.oldest(self._grid.frame, "received_at", self._read_at)
        oldest = [] if age is None else [parts.note(f"oldest quote {formats.span(age)}")]
        return [self._chips(), *oldest]

    def actions(self) -> Sequence[Action]:
        """Return what queues the selected positions."""
        return (
            Action(
                name="refresh",
                label="Refresh",
                hint="Queue the selected positions before all others",
                run=self._refresh,
                applies=lambda: self.selected,
            ),
        )

    async def _refresh(self, keys: Sequence[str]) -> None:
        rows = frames.book(self.desk).filter(pl.col("key").is_in(keys))
        wanted = rows.select("conid", "account", symbol="contract", priority=pl.lit(ACTIVE_PRIORITY))
        await self.desk.queue.insert_many(wanted)
