"""What a session tells, and to whom: the seam between the socket and everything that is made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ib_async import PortfolioItem, Ticker

    from v6kit.broker.session import Session
    from v6kit.contracts import AccountPosition


class SessionListener(Protocol):
    """Who is told what comes in, on the session's loop."""

    def on_message(self, session: Session, req_id: int, code: int, text: str) -> None:
        """Take a message that carries a code; `req_id` is -1 when it belongs to no request."""

    def on_ticks(self, tickers: Iterable[Ticker]) -> None:
        """Take the tickers that one packet changed."""

    def on_snapshot_end(self, req_id: int) -> None:
        """Take the end of a snapshot."""

    def on_positions_begin(self) -> None:
        """Expect a complete list of positions."""

    def on_position_row(self, row: AccountPosition) -> None:
        """Take a position, whether asked for or pushed."""

    def on_position_unreadable(self, account: str, row: str) -> None:
        """Take note that a position came that could not be read."""

    def on_positions_end(self) -> None:
        """Take the end of the list."""

    def on_portfolio_begin(self, account: str) -> None:
        """Expect an account's whole portfolio."""

    def on_portfolio_row(self, item: PortfolioItem) -> None:
        """Take a row of the account updates."""

    def on_portfolio_end(self, account: str) -> None:
        """Take the end of an account's portfolio."""

    def on_portfolio_refused(self, account: str, reason: str) -> None:
        """Take note that an account's portfolio will not come now."""

    def on_account_value(self, account: str, tag: str, value: str, currency: str) -> None:
        """Take one of an account's values."""
