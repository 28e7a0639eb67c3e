"""The broker's face: one connection to Interactive Brokers, and what may be asked over it.

Owns the putting together of this room. It reads only: no order is ever placed, changed or cancelled. All methods belong
to one event loop; callbacks are called there.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Self

from v6kit.broker.account import AccountBook, AccountStatus
from v6kit.broker.connection import Connection, ConnectionState
from v6kit.broker.inbox import Inbox
from v6kit.broker.lines import LineBudget
from v6kit.broker.login import Login
from v6kit.broker.onerequest import OneRequest
from v6kit.broker.pacing import Pacer
from v6kit.broker.reference import Reference
from v6kit.broker.requests import Means, RequestTable
from v6kit.broker.rounds import PortfolioRounds
from v6kit.broker.session import Session
from v6kit.broker.snapshots import Snapshots
from v6kit.broker.streams import Streams
from v6kit.broker.timings import Timings
from v6kit.clock import Clock
from v6kit.contracts import (
    AccountPosition,
    Instrument,
    OptionSeries,
    PortfolioValue,
    Quote,
    check_accounts,
    check_float,
    check_int,
    check_text,
)
from v6kit.errors import RequestFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime
    from types import TracebackType

logger = logging.getLogger("v6kit.broker")

MARKET_DATA_TYPES = range(1, 5)


class Broker:
    """One connection to TWS, IB Gateway or the simulated gateway, kept up until `close`.

    Args:
        host: Name or address of the gateway's machine.
        port: Its API port: TWS 7496 (paper 7497), IB Gateway 4001 (paper 4002).
        client_id: Our id there, > 0 (id 0 would take over the orders that were placed by hand) and unique.
        account: Work with this account only, or with these; empty: with all of the login.
        market_data_type: 1 live, 2 frozen, 3 delayed, 4 delayed-frozen.
        lines: The market data lines. Default: 100, with 10 in reserve.
        requests_per_second: How fast messages go out, evenly; IB takes 50.
        snapshot_timeout: Seconds that a snapshot may take from when it was sent; IB documents up to 11.
        connect_timeout: Seconds for connecting, the first positions and the first account update together.
        clock: The source of time.
        timings: All other durations.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        client_id: int,
        account: str | Collection[str] = "",
        market_data_type: int = 1,
        lines: LineBudget | None = None,
        requests_per_second: float = 20.0,
        snapshot_timeout: float = 15.0,
        connect_timeout: float = 8.0,
        clock: Clock | None = None,
        timings: Timings | None = None,
    ) -> None:
        self.host = check_text("host", host)
        self.port = check_int("port", port)
        self.client_id = check_int("client_id", client_id)
        only = check_accounts(account)
        if market_data_type not in MARKET_DATA_TYPES:
            raise ValueError(f"market_data_type must be 1, 2, 3 or 4, got {market_data_type!r}")
        self.market_data_type = market_data_type
        clock = clock or Clock()
        self.connect_timeout = check_float("connect_timeout", connect_timeout, above=0.0) * clock.speed
        self.snapshot_timeout = check_float("snapshot_timeout", snapshot_timeout, above=0.0) * clock.speed
        self.server_version: int | None = None
        self._timings = timings = (timings or Timings()).at_speed(clock.speed)
        self.lines = lines = LineBudget(clock=clock) if lines is None else lines
        self._pacer = Pacer(
            requests_per_second, slow_seconds=timings.slow_pace, pause_seconds=timings.pace_hold, clock=clock
        )
        self._connection = Connection(
            open_session=self._open_session,
            restore=self._restore,
            on_lost=self._on_lost,
            on_beat=lines.admit,
            timings=timings,
        )
        self._reference = reference = Reference(self._pacer, seconds=timings.request_timeout)
        requests = RequestTable(self._pacer, clock)
        self._one_request = one_request = OneRequest()
        means = Means(
            requests,
            one_request,
            lines,
            self._pacer,
            reference.native_exchange,
            reference.fresh_exchange,
            self._connection.check_servers,
            timings,
            clock,
        )
        self._requests = requests
        self._snapshots = Snapshots(means, timeout=self.snapshot_timeout)
        self._streams = Streams(means)
        self._account_book = AccountBook()
        self._login = Login(only, self._account_book)
        self._inbox = Inbox(
            connection=self._connection,
            requests=requests,
            streams=self._streams,
            account_book=self._account_book,
            pacer=self._pacer,
            accounts=frozenset(only),
            is_switching=lambda: self._rounds.is_switching,
            timings=timings,
            clock=clock,
        )
        self._rounds = PortfolioRounds(
            connection=self._connection,
            account_book=self._account_book,
            on_refused=self._inbox.on_portfolio_refused,
            pacer=self._pacer,
            timings=timings,
        )

    def __repr__(self) -> str:
        kind = "simulated gateway" if self.is_simulated else "gateway"
        return (
            f"<Broker {self.state} at {kind} {self.host}:{self.port}, client id {self.client_id}: {self.state_reason}>"
        )

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def state(self) -> ConnectionState:
        """How the link stands."""
        return self._connection.state

    @property
    def state_reason(self) -> str:
        """Why, in words."""
        return self._connection.reason

    @property
    def accounts(self) -> tuple[str, ...]:
        """Those that it works with: of the login, and not left out by `account`."""
        return self._login.accounts

    @property
    def lost_accounts(self) -> frozenset[str]:
        """Those that it worked with before a reconnect, and that the login does not manage now.

        Nothing is known of them any more, least of all that they are flat.
        """
        return self._login.lost

    @property
    def hold(self) -> str | None:
        """Why no new snapshot should start now, or `None` when nothing speaks against it."""
        if self.state is not ConnectionState.LIVE:
            return f"the gateway is {self.state}: {self.state_reason}"
        if (pause := self._pacer.pause) > 0:
            return f"the gateway complained twice about too many messages; paused for {pause:.0f} s more (code 100)"
        if (left := self._inbox.competing) > 0:
            return f"another session of this login takes the market data; next try in {left:.0f} s (code 10197)"
        return None

    @property
    def pace(self) -> float:
        """Messages per second that go out at most: fewer than asked for a while after error 100."""
        return self._pacer.rate

    @property
    def is_simulated(self) -> bool:
        """Whether the gateway said that it is the simulated one."""
        return self._inbox.is_simulated

    @property
    def streaming(self) -> frozenset[int]:
        """The conids that are subscribed to; during a loss of the link they wait to be restored."""
        return self._streams.conids

    async def connect(self) -> None:
        """Connect, and keep the link up from then on. Connected already: does nothing.

        Raises:
            ClientIdInUseError: Another program has our client id.
            GatewayUnavailableError: Nobody answers, or the answers stay incomplete; the message says what to do next.
            ValueError: The login does not manage `account`.
        """
        await self._connection.connect()

    async def close(self) -> None:
        """End the link and give everything back; a second time does nothing.

        Requests that are open raise `GatewayUnavailableError`.
        """
        await self._rounds.close()
        await self._requests.close()
        await self._connection.close()
        await self._streams.close()

    async def positions(self) -> list[AccountPosition]:
        """Ask for all positions of all accounts of this login; complete, or an error, never a part of them.

        Raises:
            GatewayUnavailableError: The link is down, or was lost before the end of the list.
            RequestFailedError: The end of the list did not come in time, or a row of it cannot be read.
        """
        async with self._connection.link() as session:
            await self._pacer.turn()
            await session.read_positions(seconds=self._timings.request_timeout)
            if (row := self._account_book.unreadable) is not None:
                raise RequestFailedError(f"the gateway's list of positions is not complete, one cannot be read: {row}")
            return self._account_book.positions()

    async def portfolio(self) -> list[PortfolioValue]:
        """Return what the account updates said last, which cost no line; `received_at` tells how old each row is.

        IB sends them on a trade and every three minutes, for one account at a time. With several accounts this call
        begins a round in which one after the other is asked; what comes is told to `on_portfolio`. An account that does
        not answer keeps its old rows, and `status_of` says why.
        """
        self._rounds.start()
        return self._account_book.portfolio(self.accounts)

    def status_of(self, account: str) -> AccountStatus:
        """Return what is known of an account besides its positions, and what troubles it."""
        return self._account_book.status(account)

    async def contract_details(self, conid: int) -> Instrument:
        """Ask what a contract is and at which exchange its prices are to be had; asked once per session.

        Raises:
            GatewayUnavailableError: The link is down.
            RequestFailedError: No such contract (`code` 200), refused, or no answer in time (`code` is `None`).
        """
        async with self._connection.link() as session:
            return await self._reference.instrument(session, check_int("conid", conid))

    async def underlying(self, symbol: str) -> Instrument:
        """Ask what options of this symbol are written on: the stock, or else the index.

        Raises:
            GatewayUnavailableError, RequestFailedError: As in `contract_details`.
        """
        symbol = check_text("symbol", symbol).upper()
        async with self._connection.link() as session:
            return await self._reference.underlying(session, symbol)

    async def option_series(self, symbol: str) -> list[OptionSeries]:
        """Ask which expiries and classes of options are listed on a symbol, soonest first; none if there are none.

        Raises:
            GatewayUnavailableError, RequestFailedError: As in `contract_details`.
        """
        underlying = await self.underlying(symbol)
        async with self._connection.link() as session:
            return await self._reference.series(session, underlying)

    async def option_chain(self, symbol: str, series: OptionSeries) -> list[Instrument]:
        """Ask for all options of one series, by strike, each call before its put.

        One series, and not a whole symbol: IB takes minutes to list thousands of contracts, and holds others up
        meanwhile (its documentation of contract details).

        Raises:
            GatewayUnavailableError, RequestFailedError: As in `contract_details`.
        """
        symbol = check_text("symbol", symbol).upper()
        async with self._connection.link() as session:
            return await self._reference.chain(session, symbol, series)

    async def current_time(self) -> datetime:
        """Ask for the gateway's time, aware UTC.

        Raises:
            GatewayUnavailableError: The link is down.
            RequestFailedError: No answer in time.
        """
        async with self._connection.link() as session:
            await self._pacer.turn()
            return await session.current_time(seconds=self._timings.request_timeout)

    async def snapshot(self, instrument: Instrument) -> Quote:
        """Ask for the prices of one contract once; of a contract that is streamed, return the streamed quote.

        Waits for a market data line and for its turn; the time-out counts from when the request was sent.

        Raises:
            GatewayUnavailableError: The link is down.
            LineLimitError: No line became free in time.
            RequestFailedError: The gateway refused (`code`), or did not answer in time (`code` is `None`).
        """
        conid = check_int("conid", instrument.conid)
        async with self._connection.link() as session:
            while conid not in self._streams:
                exchange = await self._reference.exchange(session, instrument)
                if (quote := await self._snapshots.take(session, conid, exchange)) is not None:
                    return quote
                async with self._one_request.of(conid):
                    pass  # whoever was first is done, and has left a stream, or nothing
            return await self._streams.quote(conid, seconds=self.snapshot_timeout)

    async def subscribe(self, instrument: Instrument) -> None:
        """Stream a contract's prices from now on, across reconnects; each call is one user more.

        A refusal comes later, through `on_stream_error`.

        Raises:
            GatewayUnavailableError: The link is down.
            LineLimitError: Streams hold all the lines that they may have, or none became free in time.
            RequestFailedError: The contract's exchange could not be found out.
        """
        conid = check_int("conid", instrument.conid)
        async with self._connection.link() as session, self._one_request.of(conid):
            exchange = "" if conid in self._streams else await self._reference.exchange(session, instrument)
            await self._streams.add(session, conid, exchange)

    async def unsubscribe(self, conid: int) -> None:
        """Take one user of a stream away; after the last one it ends. A conid that is not streamed does nothing."""
        async with self._one_request.of(conid):
            await self._streams.remove(conid)

    def latest(self, conid: int) -> Quote | None:
        """Return the newest quote of a stream; `stale` since the link went down, `None` without a stream or a tick."""
        return self._streams.latest(conid)

    def on_state(self, callback: Callable[[ConnectionState, ConnectionState, str], object]) -> Callable[[], None]:
        """Call back with the old state, the new one and the reason. Returns the function that takes it out again."""
        return self._connection.changed.connect(callback)

    def on_position(self, callback: Callable[[AccountPosition], object]) -> Callable[[], None]:
        """Call back with each position that changed, size 0 included. Returns the function that takes it out again."""
        return self._account_book.position_changed.connect(callback)

    def on_portfolio(self, callback: Callable[[PortfolioValue], object]) -> Callable[[], None]:
        """Call back with each row of the account updates. Returns the function that takes it out again."""
        return self._account_book.portfolio_changed.connect(callback)

    def on_quote(self, callback: Callable[[Quote], object]) -> Callable[[], None]:
        """Call back with each streamed quote. Returns the function that takes it out again."""
        return self._streams.quoted.connect(callback)

    def on_stream_error(self, callback: Callable[[int, int, str], object]) -> Callable[[], None]:
        """Call back with conid, code and text when a stream ended by itself. Returns the function that takes it out."""
        return self._streams.failed.connect(callback)

    def on_notice(self, callback: Callable[[int, str], object]) -> Callable[[], None]:
        """Call back with code and text of what concerns no single request. Returns the function that takes it out."""
        return self._inbox.noticed.connect(callback)

    async def _open_session(self) -> Session:
        session = Session(self.host, self.port, self.client_id, self._inbox)
        await session.open(choose=self._login.choose, seconds=self.connect_timeout)
        self.server_version = session.server_version
        self._rounds.accounts = self._login.take(session.accounts)
        self._reference.forget()
        return session

    async def _restore(self, session: Session) -> None:
        """Ask again for what a new session, or IB after a data loss, has forgotten."""
        await self._pacer.turn()
        session.set_market_data_type(self.market_data_type)
        self._rounds.start()
        await self._streams.restore(session)

    def _on_lost(self, reason: str) -> None:
        logger.debug("%d requests end with the link: %s", len(self._requests), reason)
        self._streams.on_lost()
        self._requests.clear()
