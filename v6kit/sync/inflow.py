"""What came in from the gateway and is not in the book yet: the newest of each kind per position, no more.

Owns the collecting, and what a commit makes of it. Does no I/O. However long the book cannot be written, it does not
grow beyond the account.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from v6kit.contracts import AccountPosition, Instrument, PortfolioValue, PositionUpdate, Quality, Quote
from v6kit.positions import BookRow

Key = tuple[str, int]


@dataclass(slots=True)
class Inflow:
    """What came in since the last commit.

    Attributes:
        positions: Position events, by account and conid.
        portfolio: Portfolio values, by account and conid.
        quotes: Streamed quotes, by conid.
        stale: Conids whose stream was lost.
        errors: Conids whose stream was refused for this session, with IB's code.
    """

    positions: dict[Key, AccountPosition] = field(default_factory=dict)
    portfolio: dict[Key, PortfolioValue] = field(default_factory=dict)
    quotes: dict[int, Quote] = field(default_factory=dict)
    stale: set[int] = field(default_factory=set)
    errors: dict[int, int] = field(default_factory=dict)

    def add_position(self, position: AccountPosition) -> None:
        """Take a position event."""
        self.positions[position.account, position.instrument.conid] = position

    def add_portfolio(self, value: PortfolioValue) -> None:
        """Take a portfolio value."""
        self.portfolio[value.account, value.instrument.conid] = value

    def add_quote(self, quote: Quote) -> None:
        """Take a streamed quote."""
        self.quotes[quote.conid] = quote

    def lose(self, streams: Iterable[int]) -> None:
        """Take note that these streams were lost: what they said before is not worth a row any more."""
        self.quotes.clear()
        self.stale |= set(streams)

    def take(self, *, quotes: bool) -> Inflow:
        """Hand everything out and be empty again.

        Args:
            quotes: Whether quotes go along; otherwise they wait for their turn.
        """
        taken = Inflow(self.positions, self.portfolio, self.quotes if quotes else {}, self.stale, self.errors)
        self.positions, self.portfolio, self.stale, self.errors = {}, {}, set(), {}
        if quotes:
            self.quotes = {}
        return taken

    def put_back(self, taken: Inflow) -> None:
        """Take back what could not be written; what came in meanwhile is newer."""
        self.positions = taken.positions | self.positions
        self.portfolio = taken.portfolio | self.portfolio
        self.errors = taken.errors | self.errors
        self.quotes = {conid: quote for conid, quote in taken.quotes.items() if conid not in self.stale} | self.quotes
        self.stale |= taken.stale

    def changed(self) -> set[Key]:
        """Return the positions that a trade has changed and that are still held."""
        return {key for key, position in self.positions.items() if position.position}

    def updates(self, rows: Sequence[BookRow], latest: Callable[[int], Quote | None]) -> list[PositionUpdate]:
        """Return what the book shall take in, in one commit.

        Args:
            rows: The book as it is.
            latest: The newest quote of a conid that is streamed; a position that is new to the book starts with it,
                because a quiet stream may not say it again.
        """
        opened = {key: event.instrument for key, event in self.positions.items() if event.position}
        unquoted = {(row.account, row.conid) for row in rows if row.requested_at is None}
        if opened:
            unquoted |= opened.keys() - {(row.account, row.conid) for row in rows}
        first = {conid: quote for _, conid in unquoted if (quote := latest(conid)) and quote.quality != Quality.STALE}
        quotes = first | self.quotes
        held = {(row.account, row.conid): row.instrument() for row in rows if row.conid in quotes} | opened
        return [
            *map(_of_position, self.positions.values()),
            *map(_of_portfolio, self.portfolio.values()),
            *_of_quotes(held, quotes),
            *self._of_lost(rows),
        ]

    def _of_lost(self, rows: Sequence[BookRow]) -> list[PositionUpdate]:
        if not self.stale and not self.errors:
            return []
        trusted = [row for row in rows if row.quality in (Quality.OK, Quality.PARTIAL)]
        return [
            PositionUpdate(account=row.account, instrument=row.instrument(), quality=Quality.STALE)
            for row in trusted
            if row.conid in self.stale and row.conid not in self.quotes  # else the stream is back already
        ] + [
            PositionUpdate(
                account=row.account,
                instrument=row.instrument(),
                quality=Quality.ERROR,
                error_code=self.errors[row.conid],
            )
            for row in rows
            if row.conid in self.errors
        ]


def _of_position(event: AccountPosition) -> PositionUpdate:
    return PositionUpdate(
        account=event.account, instrument=event.instrument, position=event.position, avg_cost=event.avg_cost
    )


def _of_portfolio(value: PortfolioValue) -> PositionUpdate:
    return PositionUpdate(account=value.account, instrument=value.instrument, portfolio=value)


def _of_quotes(held: dict[Key, Instrument], quotes: dict[int, Quote]) -> list[PositionUpdate]:
    return [
        PositionUpdate(account=account, instrument=instrument, quote=quotes[conid])
        for (account, conid), instrument in held.items()
        if conid in quotes
    ]
