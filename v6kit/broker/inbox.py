"""Where everything that the gateway sends is handed to whom it concerns.

Owns the dispatch, and the pause that a competing session asks for. Decides nothing about single requests.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from v6kit.broker.actions import Action, action_for
from v6kit.broker.instruments import portfolio_value_from
from v6kit.broker.requests import Refusal, RequestTable
from v6kit.broker.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ib_async import PortfolioItem, Ticker

    from v6kit.broker.account import AccountBook
    from v6kit.broker.connection import Connection
    from v6kit.broker.pacing import Pacer
    from v6kit.broker.session import Session
    from v6kit.broker.streams import Streams
    from v6kit.broker.timings import Timings
    from v6kit.clock import Clock
    from v6kit.contracts import AccountPosition

logger = logging.getLogger("v6kit.broker")

# The simulated gateway names its data farms so; IB's have names like usopt or ushmds.
SIMULATED_FARM = ":simulated"

NET_LIQUIDATION = "NetLiquidation"

CONCERNS_LINK = frozenset(
    {Action.LINK_BROKEN, Action.LINK_BACK_DATA_LOST, Action.LINK_BACK_DATA_KEPT, Action.SOCKET_RESET}
)


class Inbox:
    """The listener of all sessions.

    Args:
        connection: Told about the link.
        requests: Told what concerns a request.
        streams: Told when their data stops, and when it goes on after a loss of IB's servers or of a farm.
        account_book: Told about positions and portfolio.
        pacer: Told when the gateway finds us too fast.
        accounts: Whose positions and portfolio to take in; empty: everybody's.
        is_switching: Whether we are about to follow another account, which the gateway announces as a loss.
        timings: Durations.
        clock: The source of time.

    Attributes:
        noticed: Code and text of each message that concerns no single request.
        is_simulated: Whether the gateway said that it is the simulated one.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        requests: RequestTable,
        streams: Streams,
        account_book: AccountBook,
        pacer: Pacer,
        accounts: frozenset[str],
        is_switching: Callable[[], bool],
        timings: Timings,
        clock: Clock,
    ) -> None:
        self.noticed: Signal[[int, str]] = Signal()
        self.is_simulated = False
        self._connection = connection
        self._requests = requests
        self._streams = streams
        self._account_book = account_book
        self._pacer = pacer
        self._accounts = accounts
        self._is_switching = is_switching
        self._timings = timings
        self._clock = clock
        self._competing_until = -math.inf
        self._competing_warned_at = -math.inf
        self._refollowed: Session | None = None
        self._broken_farms: set[str] = set()

    @property
    def competing(self) -> float:
        """Seconds until it is worth trying again while another session takes the market data; 0 when none does."""
        return max(0.0, self._competing_until - self._clock.monotonic())

    def on_message(self, session: Session, req_id: int, code: int, text: str) -> None:
        """Hand a message with a code to whom it concerns."""
        is_market_data = req_id in self._requests
        action = action_for(code, ours=is_market_data or session.awaits(req_id), message=text)
        if action in CONCERNS_LINK:
            self._on_link(session, Refusal(action, code, text))
        elif action is Action.SLOW_DOWN:
            self._pacer.exceeded()
            logger.warning("The gateway asks for fewer messages: %s; sending %g/s now", text, self._pacer.rate)
        elif action is Action.COMPETING_SESSION:
            self._on_competing_session(text)
        elif action is Action.ACCOUNT_UPDATES_TAKEN:
            self._on_account_updates_taken(session, text)
        elif action in (Action.FARM_BROKEN, Action.FARM_BACK):
            self._on_farm(session, action, text, code)
        elif action is Action.NEW_REQUEST_ID:
            logger.error("Request id %d was used before, which must not happen: %s (code %d)", req_id, text, code)
        if is_market_data:
            self._requests.on_message(req_id, Refusal(action, code, text))
        elif not session.awaits(req_id):
            self.noticed.emit(code, text)

    def on_ticks(self, tickers: Iterable[Ticker]) -> None:
        """Hand prices to the requests that asked for them."""
        self._requests.on_ticks(tickers)

    def on_snapshot_end(self, req_id: int) -> None:
        """Hand the end of a snapshot to the request that asked for it."""
        self._requests.on_snapshot_end(req_id)

    def on_positions_begin(self) -> None:
        """Expect a complete list of positions."""
        self._account_book.begin_positions()

    def on_position_row(self, row: AccountPosition) -> None:
        """Keep a position."""
        if self._concerns(row.account):
            self._account_book.take_position(row)

    def on_position_unreadable(self, account: str, row: str) -> None:
        """Keep that a position is missing."""
        if self._concerns(account):
            self._account_book.take_unreadable(row)

    def on_positions_end(self) -> None:
        """Take the list as complete."""
        self._account_book.end_positions()

    def on_portfolio_row(self, item: PortfolioItem) -> None:
        """Keep a portfolio value."""
        if self._concerns(item.account):
            self._account_book.take_portfolio(portfolio_value_from(item, self._clock.now()))

    def on_portfolio_begin(self, account: str) -> None:
        """Expect an account's whole portfolio."""
        self._account_book.begin_portfolio(account, self._clock.now())

    def on_portfolio_end(self, account: str) -> None:
        """Take an account's portfolio as complete."""
        self._account_book.end_portfolio(account, self._clock.now())

    def on_portfolio_refused(self, account: str, reason: str) -> None:
        """Take note that an account's portfolio does not come, and say so once, not at every round."""
        if self._account_book.status(account).trouble is None:
            logger.warning("No portfolio of account %s; all else goes on: %s", account, reason)
        self._account_book.set_trouble(account, reason)

    def on_account_value(self, account: str, tag: str, value: str, currency: str) -> None:
        """Keep what an account is worth; the other values are nobody's concern here."""
        if tag == NET_LIQUIDATION and self._concerns(account) and (amount := _number(value)) is not None:
            self._account_book.take_net_liquidation(account, amount, currency)

    def _concerns(self, account: str) -> bool:
        return not self._accounts or account in self._accounts

    def _on_link(self, session: Session, news: Refusal) -> None:
        action, reason = news.action, f"{news.text} (code {news.code})"
        if action is Action.LINK_BROKEN:
            self._connection.servers_lost(reason)
            self._streams.mark_stale()
        elif action is Action.SOCKET_RESET:
            session.fail(reason)
        else:
            data_lost = action is Action.LINK_BACK_DATA_LOST
            self._connection.servers_back(data_lost=data_lost)
            if data_lost:
                self._requests.on_data_lost(news)
            else:
                self._streams.resume(session)

    def _on_farm(self, session: Session, action: Action, text: str, code: int) -> None:
        """Doubt the streamed quotes while a data farm is out; after it came back, ask for those that stay silent."""
        self.is_simulated = self.is_simulated or text.endswith(SIMULATED_FARM)
        logger.log(logging.WARNING if action is Action.FARM_BROKEN else logging.INFO, "%s (code %d)", text, code)
        farm = text.rpartition(":")[2]
        if action is Action.FARM_BROKEN:
            self._broken_farms.add(farm)
            self._streams.on_farm_broken()
        elif farm in self._broken_farms:  # the gateway also tells of farms that were never out, at each start
            self._broken_farms.remove(farm)
            self._streams.resume(session)

    def _on_competing_session(self, text: str) -> None:
        now = self._clock.monotonic()
        self._competing_until = now + self._timings.competing_hold
        if now - self._competing_warned_at >= self._timings.competing_warning:
            self._competing_warned_at = now
            logger.warning("Snapshots pause while another session of this login takes the market data: %s", text)

    def _on_account_updates_taken(self, session: Session, text: str) -> None:
        """Ask once more per session; two clients that both insist would take them from each other for ever."""
        if self._is_switching():
            return
        logger.warning("Another client took the account updates: %s", text)
        if self._refollowed is not session:
            self._refollowed = session
            session.refollow_account()


def _number(text: str) -> float | None:
    """Return a value of an account as a number; of a kind of its own, IB writes what is not there as nothing."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
