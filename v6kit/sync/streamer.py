"""`PositionStreamer`: keeps active contracts live, and everything else in the queue.

Reads all positions on start, every `sync_interval` and after each reconnect; follows the registry, position events and
portfolio pushes in between; writes streamed quotes at most once per second as one commit.

Belongs to the broker's event loop. The registry's callbacks come from another thread and are handed over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import TracebackType
from typing import Self

from v6kit.broker import Broker, ConnectionState
from v6kit.contracts import (
    AccountPosition,
    ActiveContract,
    Instrument,
    PortfolioValue,
    PositionUpdate,
    Quality,
    Quote,
    check_float,
)
from v6kit.errors import LineLimitError, RequestFailedError, V6KitError
from v6kit.positions import PositionBook
from v6kit.queue import ACTIVE_PRIORITY, PositionQueue
from v6kit.registry import StrategyRegistry
from v6kit.sync import decisions

FLUSH_SECONDS = 1.0
_log = logging.getLogger("v6kit.sync")


class PositionStreamer:
    """Routes every position: active ones to a stream, all others to the queue.

    Args:
        registry: Says what is active.
        queue: Takes what is not.
        broker: Streams, and knows the positions.
        book: Takes positions and quotes.
        sync_interval: Seconds between two readings of all positions; a quote older than this is to be refreshed.
        parked: Contracts not to ask for in this session, conid → reason; shared with the worker.
    """

    def __init__(
        self,
        registry: StrategyRegistry,
        queue: PositionQueue,
        broker: Broker,
        book: PositionBook,
        sync_interval: float = 60.0,
        *,
        parked: dict[int, str] | None = None,
    ) -> None:
        self.registry, self.queue, self.broker, self.book = registry, queue, broker, book
        self.sync_interval = check_float("sync_interval", sync_interval, above=0.0)
        self.parked = parked if parked is not None else {}
        self.demoted: set[int] = set()
        self.last_error: V6KitError | None = None
        self._streams: set[int] = set()
        self._quotes: dict[int, Quote] = {}
        self._events: list[PositionUpdate] = []
        self._stale: set[int] = set()
        self._wake = asyncio.Event()
        self._one_sync = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._disconnect: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        parts = [f"{len(self.streaming)} streaming"]
        parts += [f"{len(self.demoted)} without a line"] if self.demoted else []
        parts += [f"{len(self.parked)} parked"] if self.parked else []
        return f"PositionStreamer({', '.join(parts)})"

    @property
    def is_running(self) -> bool:
        """Whether it follows the account."""
        return bool(self._tasks)

    @property
    def streaming(self) -> frozenset[int]:
        """The conids that it streams."""
        return frozenset(self._streams)

    async def start(self) -> None:
        """Read all positions, route each, and follow what changes; does nothing when it runs already.

        Raises:
            BrokerError: The positions cannot be read; nothing is followed then.
        """
        if self.is_running:
            return
        self._connect()
        try:
            await self.sync()
        except BaseException:
            await self.stop()
            raise
        self._tasks = [
            asyncio.create_task(self._repeat(self._sync_when_due), name="v6kit position sync"),
            asyncio.create_task(self._repeat(self._flush_when_due), name="v6kit quote writer"),
        ]

    async def stop(self) -> None:
        """End all streams and stop following; what came in is written first."""
        for disconnect in self._disconnect:
            disconnect()
        self._disconnect.clear()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()
        await self._flush()
        for conid in list(self._streams):
            await self._end_stream(conid)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def sync(self) -> None:
        """Read all positions and route each: to a stream if it is active, to the queue otherwise.

        Raises:
            BrokerError: The list of positions did not come complete; the book stays as it was.
            StorageError: A commit failed.
        """
        async with self._one_sync:
            await self.book.sync(await self.broker.positions())
            self._events += [_of_portfolio(value) for value in await self.broker.portfolio()]
            await self._flush()
            await self._route()

    # --- routing ------------------------------------------------------------------------------------------------

    async def _route(self) -> None:
        rows, active = self.book.rows(), self.registry.active_legs()
        self.demoted &= {leg.conid for leg in active}
        wanted = decisions.to_stream(rows, active, self.parked)
        ended = self._streams - wanted.keys()
        for conid in ended:
            await self._end_stream(conid)
        await asyncio.gather(
            *(self._begin_stream(contract) for conid, contract in wanted.items() if conid not in self._streams)
        )
        await self.queue.insert_many(
            decisions.to_queue(
                rows,
                streams=self._streams,
                parked=self.parked,
                demoted=self.demoted,
                ended=ended,
                due_before=self.queue.clock.now() - timedelta(seconds=self.sync_interval),
            )
        )
        await self.queue.cancel(decisions.superseded(self.queue.current(), self._streams))

    async def _begin_stream(self, contract: Instrument) -> None:
        try:
            await self.broker.subscribe(contract)
        except LineLimitError as error:
            if contract.conid not in self.demoted:
                _log.warning("%s is active but goes to the queue at priority 1: %s", contract.label(), error)
            self.demoted.add(contract.conid)
        except RequestFailedError as error:
            self._park(contract.conid, str(error))
        else:
            self._streams.add(contract.conid)
            self.demoted.discard(contract.conid)

    async def _end_stream(self, conid: int) -> None:
        self._streams.discard(conid)
        self._quotes.pop(conid, None)
        await self.broker.unsubscribe(conid)

    def _park(self, conid: int, why: str) -> None:
        _log.warning("conid %d is not asked for again in this session: %s", conid, why)
        self.parked[conid] = why

    # --- following ----------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        loop = asyncio.get_running_loop()

        def on_registry(_added: list[ActiveContract], _removed: list[ActiveContract]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._wake.set)

        self._disconnect = [
            self.registry.on_change(on_registry),
            self.broker.on_state(self._on_state),
            self.broker.on_position(self._on_position),
            self.broker.on_portfolio(lambda value: self._events.append(_of_portfolio(value))),
            self.broker.on_quote(lambda quote: self._quotes.__setitem__(quote.conid, quote)),
            self.broker.on_stream_error(self._on_stream_error),
        ]

    def _on_state(self, _old: ConnectionState, new: ConnectionState, _reason: str) -> None:
        if decisions.goes_stale(new):
            self._quotes.clear()
            self._stale |= self._streams
        elif new is ConnectionState.LIVE:
            self.parked.clear()
            self._wake.set()

    def _on_position(self, position: AccountPosition) -> None:
        self._events.append(
            PositionUpdate(
                account=position.account,
                instrument=position.instrument,
                position=position.position,
                avg_cost=position.avg_cost,
            )
        )

    def _on_stream_error(self, conid: int, code: int, message: str) -> None:
        self._streams.discard(conid)
        if code in decisions.PARKING_CODES:
            self._park(conid, f"{code} {message}")
            self._events += [
                PositionUpdate(account=row.account, instrument=row.instrument(), quality=Quality.ERROR, error_code=code)
                for row in self.book.rows()
                if row.conid == conid
            ]
        else:
            _log.warning("the stream of conid %d ended (%d %s); the queue takes it at priority 1", conid, code, message)
            self.demoted.add(conid)
        self._wake.set()

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
                self.last_error = None
            except V6KitError as error:
                self.last_error = error
                _log.warning("position sync is put off: %s", error)
                await asyncio.sleep(FLUSH_SECONDS)

    async def _sync_when_due(self) -> None:
        try:
            async with asyncio.timeout(self.sync_interval):
                await self._wake.wait()
        except TimeoutError:
            pass  # nothing has happened, so it is time for the regular look
        self._wake.clear()
        if self.broker.state is ConnectionState.LIVE:
            await self.sync()

    async def _flush_when_due(self) -> None:
        await asyncio.sleep(FLUSH_SECONDS)
        await self._flush()

    async def _flush(self) -> None:
        """Write what came in since the last time: one commit."""
        stale, self._stale = self._stale, set()
        quotes, self._quotes = self._quotes, {}
        events, self._events = self._events, []
        rows = self.book.rows()
        updates = events + [
            PositionUpdate(account=row.account, instrument=row.instrument(), quote=quotes[row.conid])
            for row in rows
            if row.conid in quotes
        ]
        updates += [
            PositionUpdate(account=row.account, instrument=row.instrument(), quality=Quality.STALE)
            for row in rows
            if row.conid in stale and row.quality in (Quality.OK, Quality.PARTIAL)
        ]
        try:
            await self.book.record(updates)
        except V6KitError:
            self._events = events + self._events
            self._stale |= stale
            raise
        await self._queue_changed(events)

    async def _queue_changed(self, events: list[PositionUpdate]) -> None:
        """Let positions that have just changed be refreshed before the others, unless a stream does it."""
        changed = {(update.account, update.instrument.conid) for update in events if update.position}
        await self.queue.insert_many(
            [
                decisions.wanted(row, ACTIVE_PRIORITY)
                for row in self.book.rows()
                if (row.account, row.conid) in changed
                and row.conid not in self._streams
                and row.conid not in self.parked
            ]
        )


def _of_portfolio(value: PortfolioValue) -> PositionUpdate:
    return PositionUpdate(account=value.account, instrument=value.instrument, portfolio=value)
