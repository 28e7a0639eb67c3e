"""One socket's life: an ib_async client whose messages are routed by request id.

Owns the socket, and with `router` the only use of ib_async's internals. Knows nothing of reconnecting, of lines, or of
what a code asks for: it tells its listener what came in.

Why the internals: `reqTickersAsync` and `reqMktData` share one ticker per contract between streams and snapshots, hide
the request id, end a snapshot at codes that are only warnings, never end it at others, and leave an entry in
`reqId2Ticker` per request; and what an event handler raises is lost (ib_async 2.1, `wrapper.py`; eventkit, `event.py`).
A `Wrapper` of our own, which is how IB's API means to be extended, has none of these.
"""
# Half of ib_async's methods carry no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from ib_async import IB, Position, RequestError, StartupFetchNONE, Ticker
from ib_async.client import Client

from v6kit.broker.instruments import contract_at
from v6kit.broker.router import Reader, Router
from v6kit.broker.wirelog import WireLog
from v6kit.errors import ClientIdInUseError, GatewayUnavailableError, RequestFailedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from v6kit.broker.listener import SessionListener

logger = logging.getLogger("v6kit.broker")

T = TypeVar("T")

CLIENT_ID_IN_USE = 326
# Invalid, and "subscribed to a different account": IB names no request id with them.
ACCOUNT_REFUSALS = frozenset({321, 2101})
NO_REQUEST = -1
MAX_ACCOUNTS = 50  # above which IB does not serve reqPositions (its documentation of that call)


class Session:
    """One connection to the gateway, from the handshake to the end of the socket; not used a second time.

    Args:
        host: Name or address of the gateway's machine.
        port: Its API port.
        client_id: Our id there, > 0.
        listener: Who is told what comes in.

    Attributes:
        lost: Done when the link is gone, with the reason.
    """

    def __init__(self, host: str, port: int, client_id: int, listener: SessionListener) -> None:
        self.host, self.port, self.client_id = host, port, client_id
        self._listener = listener
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ib = IB()
        # ib_async would subscribe to the account summary at code 1102, which nobody here reads
        self._ib.errorEvent -= self._ib._onError  # noqa: SLF001
        self._ib.wrapper = self._router = Router(self._ib, self, listener)
        self._ib.client = self._client = Client(self._router)
        self._client.decoder = Reader(self._router, listener)
        for part in (self._ib, self._router, self._client):
            part._logger = WireLog()  # type: ignore[assignment]  # noqa: SLF001 - an adapter does as a logger
        self._ib.RaiseRequestErrors = True
        self._client.apiStart += self._on_accepted
        self._client.conn.disconnected += self._on_socket_closed
        self._was_accepted = False
        self._socket_closed = asyncio.Event()
        self._accounts: tuple[str, ...] = ()
        self._followed = ""
        self._portfolio: asyncio.Future[None] | None = None
        self._was_refused = False
        self._asked: dict[int, asyncio.Future[list[Any]]] = {}
        self._positions: asyncio.Future[list[Position]] | None = None
        self._asking_positions = asyncio.Lock()
        self._asking_time = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return not self.lost.done() and self._client.isReady()

    @property
    def accounts(self) -> tuple[str, ...]:
        """The accounts that this login manages."""
        return self._accounts

    @property
    def server_version(self) -> int:
        """The protocol version that was agreed on."""
        return self._client.serverVersion()

    async def open(self, *, choose: Callable[[tuple[str, ...]], tuple[str, ...]], seconds: float) -> None:
        """Connect, and read the positions once, and the portfolio if one account is to be followed.

        Args:
            choose: Gets the accounts of this login and returns those to follow; what it raises is passed on.
            seconds: For all of it together.

        Raises:
            ClientIdInUseError: Another program has our client id.
            GatewayUnavailableError: Nobody answers, or the answers stay incomplete.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._start(seconds)
                accounts = choose(self.accounts)
                if len(accounts) == 1:
                    await self._follow_at_start(accounts[0])
        except BaseException as error:
            await self.close()
            if isinstance(error, TimeoutError):
                raise GatewayUnavailableError(self._silence(seconds)) from error
            if isinstance(error, OSError):
                raise GatewayUnavailableError(f"no gateway at {self._place()}: {error}. {_NEXT_STEP}") from error
            raise

    async def _follow_at_start(self, account: str) -> None:
        try:
            await self.follow_account(account, seconds=None)
        except RequestFailedError as error:  # another client is in the way; positions come nevertheless
            self._listener.on_portfolio_refused(account, str(error))

    async def close(self, *, seconds: float = 2.0) -> None:
        """End the socket, in order if that takes no longer than `seconds`; a second time does nothing."""
        self.fail("closed by us")
        transport = self._client.conn.transport
        if transport is None:
            return
        self._client.disconnect()
        try:
            async with asyncio.timeout(seconds):
                await self._socket_closed.wait()
        except TimeoutError:
            transport.abort()  # what could not be sent any more holds a normal close up
            await self._socket_closed.wait()
        self._router.reset()

    def fail(self, reason: str) -> None:
        """Give the link up; the first reason counts."""
        if not self.lost.done():
            self.lost.set_result(reason)
            self._end_portfolio(GatewayUnavailableError(f"the link to {self._place()} was lost: {reason}"))

    async def follow_account(self, account: str, *, seconds: float | None) -> None:
        """Subscribe to an account's updates, in place of another's, and wait until its portfolio is complete.

        Raises:
            GatewayUnavailableError: The link was lost meanwhile.
            RequestFailedError: The gateway refused, or the end did not come in time.
        """
        self._portfolio = asyncio.get_running_loop().create_future()
        self._followed = account
        self._subscribe()
        try:
            await self._in_time(self._portfolio, seconds, f"the portfolio of account {account}")
        finally:
            self._portfolio = None

    def refollow_account(self) -> None:
        """Subscribe again without waiting, after another client took the account updates over."""
        if self.is_open and self._followed:
            self._subscribe()

    def _subscribe(self) -> None:
        client = self._ready()
        self._listener.on_portfolio_begin(self._followed)
        client.reqAccountUpdates(True, self._followed)

    def on_portfolio_end(self, account: str) -> None:
        """End the wait for an account's portfolio; one that comes late is not taken for the next account's."""
        if account == self._followed and self._portfolio is not None and not self._portfolio.done():
            self._portfolio.set_result(None)

    def _end_portfolio(self, error: Exception) -> None:
        if self._portfolio is not None and not self._portfolio.done():
            self._portfolio.set_exception(error)

    def set_market_data_type(self, market_data_type: int) -> None:
        """Choose live (1), frozen (2), delayed (3) or delayed-frozen (4) data for the requests that follow."""
        self._ready().reqMarketDataType(market_data_type)

    async def read_positions(self, *, seconds: float) -> None:
        """Ask for all positions, and wait until the listener was told of the last one.

        Raises:
            GatewayUnavailableError: The link was lost meanwhile.
            RequestFailedError: The end did not come in time.
        """
        async with self._asking_positions:  # of two at once, ib_async forgets the first
            await self._late_positions(seconds)
            self._ready()
            self._listener.on_positions_begin()
            self._positions = asyncio.ensure_future(self._ib.reqPositionsAsync())
            await self._in_time(asyncio.shield(self._positions), seconds, "the positions")

    async def _late_positions(self, seconds: float) -> None:
        """Wait for the end of an answer that its caller gave up on: its rows look like those of the next one."""
        if self._positions is None or self._positions.done():
            return
        try:
            await self._in_time(asyncio.shield(self._positions), seconds, "the positions")
        except RequestFailedError:
            self.fail("the gateway never ended its list of positions")
            raise

    async def ask(self, send: Callable[[Client, int], object], *, seconds: float, what: str) -> list[Any]:
        """Send a request that is answered by rows and an end; return the rows.

        Args:
            send: Sends it, with a client and under an id.
            seconds: That the answer may take.
            what: What is asked for, for the errors.

        Raises:
            GatewayUnavailableError: The link was lost meanwhile.
            RequestFailedError: The gateway refused, or did not answer in time.
        """
        client = self._ready()
        req_id = client.getReqId()
        self._asked[req_id] = future = self._router.startReq(req_id)
        try:
            send(client, req_id)
            return await self._in_time(future, seconds, what)
        finally:
            del self._asked[req_id]
            self.forget(req_id)

    async def current_time(self, *, seconds: float) -> datetime:
        """Ask for the gateway's time.

        Raises:
            GatewayUnavailableError: The link was lost meanwhile.
            RequestFailedError: No answer in time.
        """
        async with self._asking_time:  # of two at once, ib_async forgets the first
            self._ready()
            try:
                return await self._in_time(self._ib.reqCurrentTimeAsync(), seconds, "its time")
            finally:
                self.forget("currentTime")

    def request_market_data(self, conid: int, exchange: str, *, snapshot: bool) -> tuple[int, Ticker]:
        """Ask for prices with the default ticks; return the request's id and a ticker that only this request fills.

        Raises:
            GatewayUnavailableError: The link is down.
        """
        client = self._ready()
        contract = contract_at(conid, exchange)
        req_id = client.getReqId()
        ticker = self._router.reqId2Ticker[req_id] = Ticker(contract=contract, defaults=self._router.defaults)
        # never a regulatory snapshot: each one costs money
        client.reqMktData(req_id, contract, "", snapshot, regulatorySnapshot=False, mktDataOptions=[])
        return req_id, ticker

    def cancel_market_data(self, req_id: int) -> None:
        """Tell the gateway to stop, if it still hears us."""
        if self.is_open:
            self._client.cancelMktData(req_id)

    def forget(self, req_id: int | str) -> None:
        """Drop what ib_async remembers of a request; it would keep it until the end of the connection."""
        router = self._router
        tables: tuple[dict[Any, Any], ...] = (
            router.reqId2Ticker,
            router._futures,  # noqa: SLF001
            router._results,  # noqa: SLF001
            router._reqId2Contract,  # noqa: SLF001
        )
        for table in tables:
            table.pop(req_id, None)

    def awaits(self, req_id: int) -> bool:
        """Return whether rows are awaited under this id."""
        return req_id in self._asked

    def remembered(self) -> int:
        """Return how many requests ib_async remembers; it must not grow with use."""
        router = self._router
        tables = (router.reqId2Ticker, router.tickers, router._futures, router._results, router._reqId2Contract)  # noqa: SLF001
        return sum(len(table) for table in tables)

    def on_error(self, req_id: int, code: int, text: str) -> None:
        """End what waits in here for an answer that will not come."""
        if code == CLIENT_ID_IN_USE:
            self._was_refused = True
            self.fail(
                f"client id {self.client_id} is in use at {self.host}:{self.port}: another program, or another kernel "
                "that was not closed, is connected under it. Close that one, or choose another client_id"
            )
        if req_id == NO_REQUEST and code in ACCOUNT_REFUSALS:
            self._end_portfolio(RequestError(req_id, code, text))
        future = self._asked.get(req_id)
        if future is not None and not future.done():
            future.set_exception(RequestError(req_id, code, text))

    async def _start(self, seconds: float) -> None:
        """Shake hands; ib_async alone would wait out the whole time when the gateway hangs up on us."""
        self._listener.on_positions_begin()  # ib_async reads them as a part of connecting
        attempt = asyncio.ensure_future(
            self._ib.connectAsync(
                self.host,
                self.port,
                self.client_id,
                timeout=seconds,
                readonly=True,
                raiseSyncErrors=True,
                fetchFields=StartupFetchNONE,
            )
        )
        try:
            await asyncio.wait({attempt, self.lost}, return_when=asyncio.FIRST_COMPLETED)
            if self.lost.done():
                raise (ClientIdInUseError if self._was_refused else GatewayUnavailableError)(self.lost.result())
            await attempt
        finally:
            attempt.cancel()
            await asyncio.gather(attempt, return_exceptions=True)

    def _on_accepted(self) -> None:
        self._was_accepted = True
        self._accounts = tuple(self._client.getAccounts())

    def _on_socket_closed(self, message: str) -> None:
        self._socket_closed.set()
        if self._was_accepted:
            self.fail(f"the gateway at {self._place()} closed the connection" + (f": {message}" if message else ""))
        else:
            self.fail(f"the gateway at {self._place()} hung up during the handshake. {_NEXT_STEP}")

    def _ready(self) -> Client:
        if not self.is_open:
            reason = self.lost.result() if self.lost.done() else "not connected"
            raise GatewayUnavailableError(f"there is no link to the gateway at {self._place()}: {reason}")
        return self._client

    async def _in_time(self, answer: Awaitable[T], seconds: float | None, what: str) -> T:
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError as error:
            raise RequestFailedError(
                f"the gateway did not answer within {seconds:g} s when asked for {what}"
            ) from error
        except ConnectionError as error:
            raise GatewayUnavailableError(f"the link to {self._place()} was lost: {error}") from error
        except RequestError as error:
            raise RequestFailedError(
                f"the gateway refused {what}: {error.code} {error.message}", code=error.code
            ) from error

    def _silence(self, seconds: float) -> str:
        if len(self.accounts) > MAX_ACCOUNTS:
            return (
                f"the gateway at {self._place()} did not send its positions within {seconds:g} s; nothing was read. "
                f"This login manages {len(self.accounts)} accounts, and above {MAX_ACCOUNTS} IB does not serve "
                "positions (reqPositions): use a login, or a user of it, that manages fewer"
            )
        if self._was_accepted:
            return (
                f"the gateway at {self._place()} took us in but did not send its positions and account within "
                f"{seconds:g} s; nothing was read. Raise connect_timeout if the account is very large"
            )
        return f"no answer from {self._place()} within {seconds:g} s. {_NEXT_STEP}"

    def _place(self) -> str:
        return f"{self.host}:{self.port} (client id {self.client_id})"


_NEXT_STEP = (
    "Is TWS or IB Gateway running, its API enabled (Configuration > API > Settings), and this the port? "
    "TWS listens on 7496 (paper: 7497), IB Gateway on 4001 (paper: 4002)"
)
