"""The link's life: connect, watch, reconnect, and the state that everybody sees.

Owns which session is the current one, the connection's state, the heartbeat, and the reconnecting. Does not know what a
session is used for: what has to be asked for again after a loss is a function that it is given.

::

    DOWN ──connect──> SYNCING ──restored──> LIVE
      ^               ^    │                 │
      │      1101, 1102    │ 1100, 2110      │ 1100, 2110
      │               │    v                 │
      │              DEGRADED <──────────────┘
      └── socket closed, or silent for heartbeat_timeout, in any state; then reconnect by itself, until
          somebody else has the client id (326) for client_id_wait
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

from tenacity import AsyncRetrying, retry_if_exception, wait_exponential, wait_random

from v6kit.broker.signals import Signal
from v6kit.errors import ClientIdInUseError, GatewayUnavailableError, RequestFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from v6kit.broker.session import Session
    from v6kit.broker.timings import Timings

logger = logging.getLogger("v6kit.broker")

CLOSED = "closed"
"""The reason of the one loss that nobody needs to hear of."""


class ConnectionState(StrEnum):
    """How the link to the gateway, and the gateway's link to IB, stand."""

    DOWN = "down"
    """No link. What is known is stale, and never means that there are no positions."""
    SYNCING = "syncing"
    """The link is up; market data type, positions and streams are being restored."""
    LIVE = "live"
    """All is well."""
    DEGRADED = "degraded"
    """The gateway answers, but lost IB's servers: prices stand still."""


class Connection:
    """Keeps one session alive, and replaces it when it is lost.

    Args:
        open_session: Makes a session and opens it.
        restore: Asks for everything again that a fresh session, or IB after a data loss, does not know.
        on_lost: Told when the session is gone, with the reason, before the next attempt.
        on_beat: Called at each heartbeat.
        timings: Durations.
    """

    def __init__(
        self,
        *,
        open_session: Callable[[], Awaitable[Session]],
        restore: Callable[[Session], Awaitable[None]],
        on_lost: Callable[[str], None],
        on_beat: Callable[[], None],
        timings: Timings,
    ) -> None:
        self.state = ConnectionState.DOWN
        self.reason = "not connected yet"
        self.changed: Signal[[ConnectionState, ConnectionState, str]] = Signal()
        self._open_session = open_session
        self._restore = restore
        self._on_lost = on_lost
        self._on_beat = on_beat
        self._timings = timings
        self._session: Session | None = None
        self._ended: Session | None = None
        self._servers_lost: str | None = None  # why IB's servers are out of the gateway's reach, while they are
        self._servers_back = asyncio.Event()
        self._scopes: set[asyncio.Timeout] = set()
        self._supervisor: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    @property
    def session(self) -> Session | None:
        """The current session, or `None` while there is no link."""
        return self._session

    async def connect(self) -> None:
        """Open a session; from then on the link is kept up until `close`. Kept up already: does nothing.

        Raises:
            GatewayUnavailableError: The first attempt failed; no further one is made.
            ValueError: The login does not manage the account that was named.
        """
        async with self._connecting:
            if self._supervisor is not None and not self._supervisor.done():
                return
            try:
                session = await self._establish()
            except GatewayUnavailableError as error:
                self._move(ConnectionState.DOWN, str(error))
                raise
            self._supervisor = asyncio.create_task(self._supervise(session), name="v6kit broker link")
            self._supervisor.add_done_callback(self._on_supervisor_done)

    async def close(self) -> None:
        """End the session and all attempts at a new one; a second time does nothing."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        await self._drop(CLOSED)
        if self._ended is not None:  # its end may have been interrupted together with the supervisor
            await self._ended.close(seconds=self._timings.shutdown)

    @asynccontextmanager
    async def link(self) -> AsyncIterator[Session]:
        """Give the session for a piece of work that ends with it.

        Raises:
            GatewayUnavailableError: There is no usable link now, or it was lost before the work was done.
        """
        session = self._session
        if session is None or self.state not in (ConnectionState.SYNCING, ConnectionState.LIVE):
            raise GatewayUnavailableError(f"the gateway is {self.state}: {self.reason}")
        # a time-out without a time: losing the link sets it to now, wherever the work waits at that moment
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scopes.add(scope)
                try:
                    yield session
                finally:
                    self._scopes.discard(scope)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise GatewayUnavailableError(f"the link to the gateway was lost: {self.reason}") from error

    def servers_lost(self, reason: str) -> None:
        """Take note that the gateway lost IB's servers."""
        self._servers_lost = reason
        if self.state is not ConnectionState.DOWN:
            self._move(ConnectionState.DEGRADED, reason)

    def servers_back(self, *, data_lost: bool) -> None:
        """Take note that IB's servers are back, with or without our subscriptions; what they lack is restored."""
        was_lost, self._servers_lost = self._servers_lost is not None, None
        if (was_lost or data_lost) and self.state is not ConnectionState.DOWN:
            self._servers_back.set()

    def check_servers(self) -> None:
        """Raise while the gateway has lost IB's servers: what is sent now is not answered.

        Raises:
            GatewayUnavailableError: With the gateway's words.
        """
        if self._servers_lost is not None:
            raise GatewayUnavailableError(f"the gateway is {ConnectionState.DEGRADED}: {self._servers_lost}")

    async def _establish(self) -> Session:
        self._servers_lost = None
        self._servers_back.clear()
        session = await self._open_session()
        self._session = session
        try:
            await self._sync(session, "connected; restoring subscriptions")
        except BaseException:
            await self._drop("connecting was given up")
            raise
        return session

    async def _sync(self, session: Session, reason: str) -> None:
        self._move(ConnectionState.SYNCING, reason)
        try:
            await self._restore(session)
        except GatewayUnavailableError:
            if self._servers_lost is None:
                raise
        if self._servers_lost is not None:
            self._move(ConnectionState.DEGRADED, self._servers_lost)
        elif not self._servers_back.is_set():  # else it begins anew at once
            self._move(ConnectionState.LIVE, "connected")

    async def _supervise(self, session: Session) -> None:
        while True:
            reason = await self._attend(session)
            await self._drop(reason)
            try:
                session = await self._reconnect()
            except ClientIdInUseError as error:
                # Two programs that both insist on an id would throw each other out for ever.
                self.reason = f"given up: {error}; then connect again: await desk.connect()"
                logger.critical("The link to the gateway is %s, and stays so: %s", self.state, self.reason)
                return

    async def _attend(self, session: Session) -> str:
        """Keep a session going; return why it ended."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._beat(session)), group.create_task(self._resync(session))]
            reason = await asyncio.shield(session.lost)  # our own end must not cancel it for others
            for task in tasks:
                task.cancel()
        return reason

    async def _beat(self, session: Session) -> None:
        while session.is_open:
            await asyncio.sleep(self._timings.heartbeat)
            try:
                await session.current_time(seconds=self._timings.heartbeat_timeout)
            except (RequestFailedError, GatewayUnavailableError) as error:
                session.fail(f"the link is stalled: {error}")
            self._on_beat()

    async def _resync(self, session: Session) -> None:
        while session.is_open:
            await self._servers_back.wait()
            self._servers_back.clear()
            try:
                await self._sync(session, "IB's servers are back; restoring subscriptions")
            except GatewayUnavailableError as error:
                session.fail(str(error))

    async def _reconnect(self) -> Session:
        """Try until it works: after 1, 2, 4, ... seconds, then every minute, with jitter.

        Raises:
            ClientIdInUseError: For so long that it cannot be our own former session, which the gateway notices late.
        """
        first = self._timings.reconnect_initial
        now = asyncio.get_running_loop().time
        in_use_since: float | None = None

        def is_worth_trying(error: BaseException) -> bool:
            nonlocal in_use_since
            if not isinstance(error, ClientIdInUseError):
                in_use_since = None
                return isinstance(error, GatewayUnavailableError)
            in_use_since = now() if in_use_since is None else in_use_since
            return now() - in_use_since < self._timings.client_id_wait

        async for attempt in AsyncRetrying(
            retry=retry_if_exception(is_worth_trying),
            wait=wait_exponential(multiplier=first, max=self._timings.reconnect_max) + wait_random(0, min(1.0, first)),
        ):
            with attempt:
                try:
                    return await self._establish()
                except GatewayUnavailableError as error:
                    self._move(
                        ConnectionState.DOWN,
                        f"attempt {attempt.retry_state.attempt_number} to reconnect failed: {error}",
                    )
                    raise
        raise AssertionError("without a limit, retrying never gives up")

    async def _drop(self, reason: str) -> None:
        session, self._session = self._session, None
        self._move(ConnectionState.DOWN, reason, expected=reason == CLOSED)
        now = asyncio.get_running_loop().time()
        for scope in self._scopes:
            scope.reschedule(now)
        self._scopes.clear()
        if session is not None:
            self._ended = session
            self._on_lost(reason)
            await session.close(seconds=self._timings.shutdown)

    def _move(self, state: ConnectionState, reason: str, *, expected: bool = False) -> None:
        before, self.state, self.reason = self.state, state, reason
        if before is state:
            return
        fine = expected or state in (ConnectionState.LIVE, ConnectionState.SYNCING)
        level = logging.INFO if fine else logging.WARNING
        logger.log(level, "The link to the gateway is %s: %s", state, reason)
        self.changed.emit(before, state, reason)

    def _on_supervisor_done(self, supervisor: asyncio.Task[None]) -> None:
        if not supervisor.cancelled() and (error := supervisor.exception()) is not None:
            logger.critical("The link to the gateway is not kept up any longer", exc_info=error)
            self._move(ConnectionState.DOWN, f"given up: {error!r}")
