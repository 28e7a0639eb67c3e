"""What the gateway said last of positions and portfolio; survives the loss of the link.

Owns which position messages are news. Asks for nothing: ib_async's own tables are emptied when the socket drops, which
must not be read as "flat".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from v6kit.broker.signals import Signal

if TYPE_CHECKING:
    from datetime import datetime

    from v6kit.contracts import AccountPosition, PortfolioValue


class AccountBook:
    """The newest row per account and conid, and the announcement of changes."""

    def __init__(self) -> None:
        self.position_changed: Signal[[AccountPosition]] = Signal()
        self.portfolio_changed: Signal[[PortfolioValue]] = Signal()
        self._positions: dict[tuple[str, int], AccountPosition] = {}
        self._portfolio: dict[tuple[str, int], PortfolioValue] = {}
        self._named: set[tuple[str, int]] | None = None  # while a list is being read: what it named so far

    def positions(self) -> list[AccountPosition]:
        """Return what is held, as of the newest message."""
        return list(self._positions.values())

    def portfolio(self) -> list[PortfolioValue]:
        """Return the newest row of each position that is held."""
        return list(self._portfolio.values())

    def begin_positions(self) -> None:
        """Expect a complete list."""
        self._named = set()

    def take_position(self, row: AccountPosition) -> None:
        """Take a position, as a part of a list or pushed; most rows of a list are no news."""
        key = (row.account, row.instrument.conid)
        if self._named is not None:
            self._named.add(key)
        known = self._positions.get(key)
        if row == known or (known is None and row.position == 0):
            return
        if row.position:
            self._positions[key] = row
        else:
            del self._positions[key]
        self.position_changed.emit(row)

    def end_positions(self) -> None:
        """Take the list as complete: what it did not name is not held any longer."""
        if self._named is not None:
            self._positions = {key: row for key, row in self._positions.items() if key in self._named}
            self._named = None

    def take_portfolio(self, row: PortfolioValue) -> None:
        """Take a row of the account updates."""
        key = (row.account, row.instrument.conid)
        if row.position:
            self._portfolio[key] = row
        else:
            self._portfolio.pop(key, None)
        self.portfolio_changed.emit(row)

    def forget_portfolio_before(self, instant: datetime) -> None:
        """Drop what a complete round of account updates that began at `instant` did not name again."""
        self._portfolio = {key: row for key, row in self._portfolio.items() if row.received_at >= instant}
