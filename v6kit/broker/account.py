"""What the gateway said last of positions and portfolio; survives the loss of the link.

Owns which position messages are news, and what is known of each account. Asks for nothing: ib_async's own tables are
emptied when the socket drops, which must not be read as "flat".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from v6kit.broker.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from v6kit.contracts import AccountPosition, PortfolioValue

NOT_MANAGED = "no account of this login any more"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStatus:
    """What is known of one account, besides its positions.

    Attributes:
        account: IB's id.
        portfolio_at: When its portfolio last came in as a whole, aware UTC; `None`: never.
        net_liquidation: What it is worth, in `currency`; `None` until the gateway has said so.
        currency: Of `net_liquidation`.
        trouble: What keeps its portfolio from coming, in words; `None` when nothing does.
    """

    account: str
    portfolio_at: datetime | None = None
    net_liquidation: float | None = None
    currency: str | None = None
    trouble: str | None = None


class AccountBook:
    """The newest row per account and conid, the announcement of changes, and the status of each account.

    Attributes:
        unreadable: A row of the newest list that could not be read, without which it is not complete; or `None`.
    """

    def __init__(self) -> None:
        self.position_changed: Signal[[AccountPosition]] = Signal()
        self.portfolio_changed: Signal[[PortfolioValue]] = Signal()
        self.unreadable: str | None = None
        self._positions: dict[tuple[str, int], AccountPosition] = {}
        self._portfolio: dict[tuple[str, int], PortfolioValue] = {}
        self._named: set[tuple[str, int]] | None = None  # while a list is being read: what it named so far
        self._asked_at: dict[str, datetime] = {}  # of each portfolio that is being read: since when
        self._statuses: dict[str, AccountStatus] = {}

    def positions(self) -> list[AccountPosition]:
        """Return what is held, as of the newest message."""
        return list(self._positions.values())

    def portfolio(self, accounts: Iterable[str]) -> list[PortfolioValue]:
        """Return the newest row of each position that these accounts hold."""
        wanted = frozenset(accounts)
        return [row for row in self._portfolio.values() if row.account in wanted]

    def status(self, account: str) -> AccountStatus:
        """Return what is known of an account."""
        return self._statuses.get(account) or AccountStatus(account=account)

    def begin_positions(self) -> None:
        """Expect a complete list."""
        self._named, self.unreadable = set(), None

    def take_unreadable(self, row: str) -> None:
        """Take note of a row that could not be read."""
        self.unreadable = row

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
        """Take the list as complete, if all of it could be read: what it did not name is not held any longer."""
        if self._named is not None and self.unreadable is None:
            self._positions = {key: row for key, row in self._positions.items() if key in self._named}
        self._named = None

    def begin_portfolio(self, account: str, instant: datetime) -> None:
        """Expect an account's whole portfolio from now on."""
        self._asked_at[account] = instant

    def take_portfolio(self, row: PortfolioValue) -> None:
        """Take a row of the account updates."""
        key = (row.account, row.instrument.conid)
        if row.position:
            self._portfolio[key] = row
        else:
            self._portfolio.pop(key, None)
        self.portfolio_changed.emit(row)

    def end_portfolio(self, account: str, instant: datetime) -> None:
        """Take an account's portfolio as complete: what has not been named since it was asked for is gone."""
        asked_at = self._asked_at.pop(account, None)
        if asked_at is None:
            return
        self._portfolio = {
            key: row for key, row in self._portfolio.items() if row.account != account or row.received_at >= asked_at
        }
        self._statuses[account] = replace(self.status(account), portfolio_at=instant, trouble=None)

    def take_net_liquidation(self, account: str, value: float, currency: str) -> None:
        """Take what an account is worth."""
        self._statuses[account] = replace(self.status(account), net_liquidation=value, currency=currency)

    def set_trouble(self, account: str, trouble: str | None) -> None:
        """Take note of what keeps an account's portfolio from coming, or of its end."""
        self._statuses[account] = replace(self.status(account), trouble=trouble)
