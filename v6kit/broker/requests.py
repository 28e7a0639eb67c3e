"""The market data requests that are open on the wire, by request id.

Owns the way from a request id to whoever asked, and the cancelling. Does not decide when to ask, or what to do about a
refusal: that is `snapshots.py` and `streams.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from v6kit.broker.actions import Action, reason_of
from v6kit.broker.quotes import quote_from

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from datetime import datetime

    from ib_async import Ticker

    from v6kit.broker.lines import LineBudget
    from v6kit.broker.onerequest import OneRequest
    from v6kit.broker.pacing import Pacer
    from v6kit.broker.session import Session
    from v6kit.broker.timings import Timings
    from v6kit.clock import Clock
    from v6kit.contracts import Quote, Source


class Asker(Protocol):
    """Who asked, and is told what came of it."""

    def on_ticks(self, request: Request) -> None:
        """Prices came in."""

    def on_end(self, request: Request) -> None:
        """The snapshot is complete."""

    def on_refusal(self, request: Request, refusal: Refusal) -> None:
        """The gateway refused it, or stopped serving it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the gateway said, and what that asks for."""

    action: Action
    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.reason}"

    @property
    def reason(self) -> str:
        """The text, and the next step if there is one."""
        return reason_of(self.action, self.text)


@dataclass(slots=True, eq=False)
class Request:
    """One request for market data.

    Attributes:
        session: The session that it went out on; its id means nothing on another one.
        ticker: Filled by this request alone.
        requested_at: When it went out, aware UTC.
        received_at: When its newest tick came in, or `None` before the first.
        soft_code: The code of partial or delayed data, if one came.
    """

    session: Session
    req_id: int
    conid: int
    asker: Asker
    ticker: Ticker
    requested_at: datetime
    received_at: datetime | None = None
    soft_code: int | None = None

    def quote(self, source: Source, *, now: datetime) -> Quote:
        """Copy what has come so far."""
        return quote_from(
            self.ticker,
            conid=self.conid,
            source=source,
            requested_at=self.requested_at,
            received_at=self.received_at or now,
            error_code=self.soft_code,
        )


class RequestTable:
    """All open requests of the current session.

    Args:
        pacer: Gives the turns for cancels.
        clock: The source of time.
    """

    def __init__(self, pacer: Pacer, clock: Clock) -> None:
        self._pacer = pacer
        self._clock = clock
        self._by_id: dict[int, Request] = {}
        self._by_ticker: dict[Ticker, Request] = {}
        self._cancels: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, req_id: int) -> bool:
        return req_id in self._by_id

    def send(self, session: Session, conid: int, exchange: str, asker: Asker, *, snapshot: bool) -> Request:
        """Ask now; the caller has waited for its line and its turn.

        Raises:
            GatewayUnavailableError: The link is down.
        """
        req_id, ticker = session.request_market_data(conid, exchange, snapshot=snapshot)
        request = Request(session, req_id, conid, asker, ticker, requested_at=self._clock.now())
        self._by_id[req_id] = request
        self._by_ticker[ticker] = request
        return request

    def forget(self, request: Request) -> None:
        """Take out a request that the gateway does not serve any longer."""
        if self._by_id.get(request.req_id) is request:
            del self._by_id[request.req_id]
        self._by_ticker.pop(request.ticker, None)
        request.session.forget(request.req_id)

    def cancel(self, request: Request, release: Callable[[], None]) -> asyncio.Task[None] | None:
        """Take out a request that the gateway may still serve, and tell it to stop, in turn.

        Args:
            request: One of ours; what still comes for it is ignored from now on.
            release: Frees its line; called after the gateway was told, so that the next request finds the line free.

        Returns:
            The task that waits for the turn, or `None` when there was nobody to tell.
        """
        self.forget(request)
        if not request.session.is_open:
            release()
            return None
        task = asyncio.create_task(self._cancel_in_turn(request, release))
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)
        return task

    async def close(self) -> None:
        """Stop telling the gateway anything, because the connection ends."""
        tasks = tuple(self._cancels)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def clear(self) -> None:
        """Forget all requests, because their session is gone."""
        for request in tuple(self._by_id.values()):
            self.forget(request)

    def on_ticks(self, tickers: Iterable[Ticker]) -> None:
        """Hand a packet's ticks to those who asked for them."""
        now = self._clock.now()
        for ticker in tickers:
            request = self._by_ticker.get(ticker)
            if request is not None:
                request.received_at = now
                request.asker.on_ticks(request)

    def on_snapshot_end(self, req_id: int) -> None:
        """Tell who asked that the snapshot is complete."""
        request = self._by_id.get(req_id)
        if request is not None:
            request.asker.on_end(request)

    def on_message(self, req_id: int, refusal: Refusal) -> None:
        """Tell who asked what the gateway said; a soft code only marks the data that follows."""
        request = self._by_id[req_id]
        if refusal.action is Action.SOFT:
            request.soft_code = refusal.code
        elif refusal.action is not Action.LOG:
            request.asker.on_refusal(request, refusal)

    def on_data_lost(self, refusal: Refusal) -> None:
        """Tell all who asked that IB's servers came back without knowing their requests."""
        for request in tuple(self._by_id.values()):
            request.asker.on_refusal(request, refusal)

    async def _cancel_in_turn(self, request: Request, release: Callable[[], None]) -> None:
        try:
            await self._pacer.turn()
            request.session.cancel_market_data(request.req_id)
        finally:
            release()


@dataclass(frozen=True, slots=True)
class Means:
    """What snapshots and streams are made with.

    Attributes:
        native_exchange: Looks the exchange of a conid up at the gateway, once per session.
        fresh_exchange: The same, whatever was looked up before.
        check_servers: Raises `GatewayUnavailableError` while the gateway has lost IB's servers: nothing new is to be
            sent then.
    """

    requests: RequestTable
    one_request: OneRequest
    lines: LineBudget
    pacer: Pacer
    native_exchange: Callable[[Session, int], Awaitable[str]]
    fresh_exchange: Callable[[Session, int], Awaitable[str]]
    check_servers: Callable[[], None]
    timings: Timings
    clock: Clock
