"""Streaming subscriptions: one per conid, kept across reconnects, with the newest quote of each.

Owns the subscriptions and their users' count. Does not choose what to stream.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from v6kit.broker.actions import ENDS_REQUEST, Action
from v6kit.broker.signals import Signal
from v6kit.contracts import Quality, Quote, Source
from v6kit.errors import GatewayUnavailableError, LineLimitError, RequestFailedError

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from datetime import datetime

    from v6kit.broker.requests import Means, Refusal, Request
    from v6kit.broker.session import Session

logger = logging.getLogger("v6kit.broker")


@dataclass(slots=True, eq=False)
class Stream:
    """One subscription.

    Attributes:
        exchange: Where it is asked for.
        request: On the current session, or `None` while there is none.
        latest: The newest quote, or `None` before the first tick.
        ticked: Set and cleared at each tick and at the end.
        repaired: Whether it was already asked for again because of a mistake in the request.
    """

    conid: int
    exchange: str
    request: Request | None = None
    latest: Quote | None = None
    ticked: asyncio.Event = field(default_factory=asyncio.Event)
    repaired: bool = False

    def doubt(self) -> None:
        """Mark the newest quote stale until the next tick."""
        if self.latest is not None:
            self.latest = replace(self.latest, quality=Quality.STALE)

    def wake(self) -> None:
        """Wake those who wait for a tick."""
        self.ticked.set()
        self.ticked.clear()


class Streams:
    """All subscriptions; the asker of their requests.

    Args:
        means: What they are made with.
    """

    def __init__(self, means: Means) -> None:
        self.quoted: Signal[[Quote]] = Signal()
        self.failed: Signal[[int, int, str]] = Signal()
        self._requests = means.requests
        self._lines = means.lines
        self._pacer = means.pacer
        self._native_exchange = means.native_exchange
        self._fresh_exchange = means.fresh_exchange
        self._check_servers = means.check_servers
        self._timings = means.timings
        self._clock = means.clock
        self._streams: dict[int, Stream] = {}
        self._leaving: dict[int, asyncio.Task[None]] = {}
        self._repairs: set[asyncio.Task[None]] = set()
        self._competition: asyncio.Task[None] | None = None
        self._is_competing = False  # another session was met since it was last waited for

    def __contains__(self, conid: int) -> bool:
        return conid in self._streams

    @property
    def conids(self) -> frozenset[int]:
        """The contracts that are subscribed to."""
        return frozenset(self._streams)

    def latest(self, conid: int) -> Quote | None:
        """Return the newest quote of a stream; `stale` while the link is down, `None` without stream or tick."""
        stream = self._streams.get(conid)
        return stream.latest if stream else None

    async def add(self, session: Session, conid: int, exchange: str) -> None:
        """Subscribe, or count one more user; one call of `add` or `remove` per conid at a time.

        Raises:
            LineLimitError: No line is to be had.
            GatewayUnavailableError: The link is down.
        """
        if leaving := self._leaving.get(conid):
            await asyncio.wait({leaving})  # whoever unsubscribed did not wait for it
        try:
            async with asyncio.timeout(self._timings.line_wait):
                is_new = await self._lines.acquire_stream(conid)
        except TimeoutError as error:
            raise LineLimitError(f"no market data line became free for a stream of conid {conid}") from error
        if not is_new:
            return
        stream = Stream(conid, exchange)
        try:
            await self._pacer.turn()
            self._check_servers()
            self._lines.asked(conid)
            stream.request = self._requests.send(session, conid, exchange, self, snapshot=False)
        except BaseException:
            self._lines.drop_stream(conid)
            raise
        self._streams[conid] = stream

    async def remove(self, conid: int) -> None:
        """Count one user less, and unsubscribe after the last; a conid that is not streamed does nothing."""
        stream = self._streams.get(conid)
        if stream is None:
            return
        if self._lines.references(conid) > 1:
            self._lines.release_stream(conid)
            return
        if stream.request is None:
            self._end(conid)
            return
        del self._streams[conid]
        stream.wake()
        task = self._requests.cancel(stream.request, lambda: self._lines.drop_stream(conid))
        if task is not None:
            self._leaving[conid] = task
            task.add_done_callback(lambda _: self._leaving.pop(conid))
            await asyncio.wait({task})

    async def quote(self, conid: int, *, seconds: float) -> Quote:
        """Return the streamed quote, as a snapshot of a contract that has a stream anyway.

        A stream that has just begun is given `seconds` from its start for bid and ask, or a trade.

        Raises:
            RequestFailedError: Nothing came, or the stream ended.
        """
        stream = self._streams[conid]
        try:
            async with asyncio.timeout(self._time_left(stream, seconds)):
                while stream.latest is None or stream.latest.quality is not Quality.OK:
                    await stream.ticked.wait()
                    if self._streams.get(conid) is not stream:
                        raise RequestFailedError(f"the stream of conid {conid} ended before its first quote")
        except TimeoutError as error:
            if stream.latest is None:
                raise RequestFailedError(f"the stream of conid {conid} sent nothing within {seconds:g} s") from error
        return stream.latest

    async def restore(self, session: Session) -> None:
        """Ask for every stream that this session, or IB behind it, does not know.

        Raises:
            GatewayUnavailableError: The link is down, or IB's servers are out again; the rest is not asked for.
        """
        for stream in tuple(self._streams.values()):
            stream.repaired = False
            if stream.request is None:
                await self._ask_again(session, stream)

    def resume(self, session: Session) -> None:
        """Wait a while after servers or a data farm came back, then ask again for the streams that stayed silent."""
        self._spawn(self._look_later(session))

    def on_lost(self) -> None:
        """Mark everything stale: the link is gone, the subscriptions are to be restored."""
        for task in self._repairs:
            task.cancel()
        for stream in self._streams.values():
            stream.request = None
        self.mark_stale()

    def mark_stale(self) -> None:
        """Mark every quote stale until its next tick: nobody says any longer that it still holds."""
        for stream in self._streams.values():
            stream.doubt()

    def on_farm_broken(self) -> None:
        """Mark every quote stale, and announce it; which contracts the farm serves, the gateway does not say."""
        for stream in self._streams.values():
            self._doubt(stream)

    async def close(self) -> None:
        """Give all lines back; the end of the connection tells the gateway."""
        await asyncio.gather(*self._repairs, return_exceptions=True)
        for conid in tuple(self._streams):
            self._end(conid)

    def on_ticks(self, request: Request) -> None:
        """Copy the prices of a stream, and announce them."""
        stream = self._streams.get(request.conid)
        if stream is None:
            return
        stream.latest = request.quote(Source.STREAM, now=self._clock.now())
        stream.wake()
        self.quoted.emit(stream.latest)

    def on_end(self, request: Request) -> None:
        """Nothing to do: a stream has no end."""

    def on_refusal(self, request: Request, refusal: Refusal) -> None:
        """Repair what can be repaired, once; otherwise the stream is over and its line free."""
        stream = self._streams.get(request.conid)
        if stream is None:
            return
        if refusal.action is Action.COMPETING_SESSION:
            self._doubt(stream)
            self._on_competition(request.session)
            return
        self._requests.forget(request)
        stream.request = None
        if refusal.action is Action.LINK_BACK_DATA_LOST:
            return  # restored with all others
        if refusal.action not in ENDS_REQUEST and not stream.repaired:
            stream.repaired = True
            self._spawn(self._repair(request.session, stream, refusal))
            return
        if refusal.action is Action.LINE_LIMIT:
            self._lines.refused(request.conid)
        self._give_up(stream, refusal)

    async def _repair(self, session: Session, stream: Stream, refusal: Refusal) -> None:
        try:
            if refusal.action is Action.FIX_EXCHANGE:
                stream.exchange = await self._native_exchange(session, stream.conid)
            elif refusal.action is Action.UNKNOWN_CONTRACT:
                exchange = await self._fresh_exchange(session, stream.conid)
                if exchange == stream.exchange:
                    self._give_up(stream, refusal)
                    return
                stream.exchange = exchange
            else:
                await asyncio.sleep(self._timings.snapshot_back_off)
            await self._ask_again(session, stream)
        except RequestFailedError:
            self._give_up(stream, refusal)
        except GatewayUnavailableError:
            return  # link or servers are out; every stream that is not asked for is restored with them

    def _doubt(self, stream: Stream) -> None:
        stream.doubt()
        if stream.latest is not None:
            self.quoted.emit(stream.latest)

    def _give_up(self, stream: Stream, refusal: Refusal) -> None:
        if not self._still(stream, None):
            return  # unsubscribed, or restored with all others, while its details were looked up
        # of a lack of lines the budget has said what is to be said, once for all of them
        level = logging.DEBUG if refusal.action is Action.LINE_LIMIT else logging.WARNING
        logger.log(level, "The stream of conid %d ended: %s", stream.conid, refusal)
        self._end(stream.conid)
        self.failed.emit(stream.conid, refusal.code, refusal.reason)

    def _end(self, conid: int) -> None:
        stream = self._streams.pop(conid, None)
        self._lines.drop_stream(conid)
        if stream is not None:
            stream.wake()

    async def _ask_again(self, session: Session, stream: Stream) -> None:
        await self._pacer.turn()
        self._check_servers()
        if not self._still(stream, None):
            return  # unsubscribed, or asked for by somebody else, while it waited for its turn
        self._lines.asked(stream.conid)
        stream.request = self._requests.send(session, stream.conid, stream.exchange, self, snapshot=False)

    def _on_competition(self, session: Session) -> None:
        self._is_competing = True
        if self._competition is None or self._competition.done():
            self._competition = self._spawn(self._outlast(session))

    async def _outlast(self, session: Session) -> None:
        """Wait for the end of another session, of which nobody tells: not every stream goes on by itself then."""
        while self._is_competing:
            met_at = self._clock.now()
            await asyncio.sleep(self._timings.competing_hold)
            self._is_competing = False
            await self._ask_for_quiet_ones(session, met_at)

    async def _look_later(self, session: Session) -> None:
        resumed_at = self._clock.now()
        await asyncio.sleep(self._timings.quiet_stream)
        await self._ask_for_quiet_ones(session, resumed_at)

    async def _ask_for_quiet_ones(self, session: Session, resumed_at: datetime) -> None:
        for stream in tuple(self._streams.values()):
            request = stream.request
            if self._is_competing:
                return  # they are asked for when that ends
            if request is None or request.requested_at > resumed_at:
                continue
            if request.received_at is None or request.received_at <= resumed_at:
                await self._pacer.turn()
                if not self._still(stream, request):
                    continue
                try:
                    self._check_servers()
                    session.cancel_market_data(request.req_id)
                    self._requests.forget(request)  # a second look must not cancel it again: 300 would end the stream
                    stream.request = None
                    await self._ask_again(session, stream)
                except GatewayUnavailableError:
                    return  # the servers or the link are out again; their return brings the streams another look

    def _still(self, stream: Stream, request: Request | None) -> bool:
        return self._streams.get(stream.conid) is stream and stream.request is request

    def _time_left(self, stream: Stream, seconds: float) -> float:
        if stream.request is None:
            return seconds
        return seconds - (self._clock.now() - stream.request.requested_at).total_seconds()

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._repairs.add(task)
        task.add_done_callback(self._repairs.discard)
        return task
