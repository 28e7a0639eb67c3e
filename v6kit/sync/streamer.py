"""`PositionStreamer`: keeps active contracts live, and everything else in the queue.

Reads all positions on start, every `sync_interval` and after each reconnect; follows the registry, position events and
portfolio pushes in between; has what came in written once per second. After a reconnect it says what reconciliation
finds, and leaves it to the trader.

Belongs to the broker's event loop; calls from elsewhere hop there and back, and so do the registry's callbacks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from types import TracebackType
from typing import Self

import polars as pl

from v6kit.broker import Broker, ConnectionState
from v6kit.contracts import AccountPosition, ActiveContract, check_float
from v6kit.display import counted
from v6kit.engine import at_home
from v6kit.errors import InvalidTransitionError, V6KitError
from v6kit.positions import BookRow, PositionBook
from v6kit.queue import PositionQueue
from v6kit.registry import StrategyRegistry
from v6kit.sync import decisions, reconcile
from v6kit.sync.feed import Feed
from v6kit.sync.freshness import Targets
from v6kit.sync.lineup import MINIMUM_HOLD_SECONDS, Lineup, Standing
from v6kit.sync.policy import Policy, default_policy
from v6kit.sync.writer import BookWriter

RETRY_SECONDS = 1.0
REGISTRY_SECONDS = 5.0
REASSESS_SECONDS = 15.0
_RETIRE_ROUNDS = 3
_log = logging.getLogger("v6kit.sync")


class PositionStreamer:
    """Routes every position: active ones to a stream, all others to the queue.

    When there are more active contracts than lines, the policy says who streams; who is better is looked at every few
    seconds, and no stream is displaced before its minimum hold.

    Args:
        registry: Says what is active.
        queue: Takes what is not.
        broker: Streams, and knows the positions.
        book: Takes positions and quotes.
        sync_interval: Seconds between two readings of all positions; a stream that was refused rests as long.
        parked: Contracts not to ask for in this session, conid → reason; shared with the worker.
        feed: Queues what is due, at each reading; default one of its own.
        writer: Writes the book; shared with the worker, so that one commit serves both. Default one of its own.
        policy: Gives each `Candidate` a sort key; the lowest stream. Default: priority, days to expiry, exposure.
        minimum_hold: Seconds for which a stream is not displaced by a better one.

    Attributes:
        home: The event loop that it belongs to: the one on which it was first used.
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
        feed: Feed | None = None,
        writer: BookWriter | None = None,
        policy: Policy = default_policy,
        minimum_hold: float = MINIMUM_HOLD_SECONDS,
    ) -> None:
        self.registry, self.queue, self.broker, self.book = registry, queue, broker, book
        self.sync_interval = check_float("sync_interval", sync_interval, above=0.0)
        self.parked = parked if parked is not None else {}
        self.feed = feed or Feed(registry, queue, broker, book, Targets(), parked=self.parked)
        self.home: asyncio.AbstractEventLoop | None = None
        self._writer = writer or BookWriter(queue, broker, book, parked=self.parked)
        self._lineup = Lineup(
            broker,
            queue.clock,
            policy=policy,
            minimum_hold=minimum_hold,
            rest_seconds=self.sync_interval,
            parked=self.parked,
            on_parked=self._on_parked,
        )
        self._wake = asyncio.Event()
        self._look_is_due = False  # the link was down, so more may have changed than its end tells
        self._last_look = pl.DataFrame(schema=reconcile.SCHEMA)
        self._one_sync = asyncio.Lock()
        self._errors: dict[str, Exception] = {}
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
        return bool(self._disconnect)

    @property
    def streaming(self) -> frozenset[int]:
        """The conids that it streams."""
        return frozenset(self._streams)

    @property
    def demoted(self) -> frozenset[int]:
        """Active contracts that have no stream now: the queue refreshes them, before the others."""
        return frozenset(self._lineup.demoted)

    @property
    def standing(self) -> Standing:
        """How the active contracts stood when they were last looked at: who was to stream, and why."""
        return self._lineup.standing

    @property
    def _streams(self) -> Collection[int]:
        return self._lineup.streams.keys()

    @property
    def last_error(self) -> Exception | None:
        """Why what it does by itself fails at present, or `None`."""
        return next(iter(self._errors.values()), None)

    @at_home
    async def start(self) -> None:
        """Read all positions, route each, and follow what changes; does nothing when it runs already.

        Raises:
            BrokerError: The positions cannot be read; nothing is followed then.
            StorageError: A commit failed; nothing is followed then.
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
            asyncio.create_task(self._repeat("position sync", self._sync_when_due), name="v6kit position sync"),
            asyncio.create_task(self._repeat("quote writer", self._writer.write_when_due), name="v6kit quote writer"),
            asyncio.create_task(self._repeat("registry", self._look_at_registry), name="v6kit registry look"),
            asyncio.create_task(self._repeat("line-up", self._reassess_when_due), name="v6kit line-up"),
        ]

    @at_home
    async def stop(self, *, unsubscribe: bool = True) -> None:
        """End all streams and stop following; what came in is written first.

        Args:
            unsubscribe: Whether to tell the gateway, in turn; not worth the time when the connection ends anyway.

        Raises:
            StorageError: What came in last could not be written.
        """
        for disconnect in self._disconnect:
            disconnect()
        self._disconnect.clear()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()
        async with self._one_sync:
            try:
                await self._writer.write()
            finally:
                await self._lineup.end_all(unsubscribe=unsubscribe)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @at_home
    async def sync(self) -> None:
        """Read all positions and route each: to a stream if it is active, to the queue otherwise.

        Raises:
            BrokerError: The list of positions did not come complete; the book stays as it was.
            StorageError: A commit failed.
        """
        async with self._one_sync:
            await asyncio.gather(self.registry.refresh(), self.queue.refresh(), self.book.refresh())
            positions, covered = await self._read_positions()
            await self.book.sync(positions, covered)
            await self._leave(self.broker.lost_accounts)
            if self._look_is_due:
                self._look(positions, covered)
            for value in await self.broker.portfolio():
                self._writer.inflow.add_portfolio(value)
            await self._writer.write(quotes=False)
            await self._route()

    @at_home
    async def reconcile(self) -> pl.DataFrame:
        """Compare a complete list of all positions with registry and book, and change neither.

        Returns:
            One row per finding, as `reconcile.findings`.

        Raises:
            BrokerError: The list of positions did not come complete.
            StorageError: The tables could not be read.
        """
        async with self._one_sync:
            await asyncio.gather(self.registry.refresh(), self.book.refresh())
            positions, covered = await self._read_positions()
            return reconcile.findings(positions, self.registry.active_legs(), self.book.rows(), covered)

    async def _read_positions(self) -> tuple[list[AccountPosition], set[str]]:
        """Return all positions, and the accounts for which they are complete."""
        await self._writer.write(quotes=False)  # events are older than the list, so they go before it
        positions = await self.broker.positions()
        return positions, {*self.broker.accounts, *(position.account for position in positions)}

    def _look(self, positions: Collection[AccountPosition], covered: Collection[str]) -> None:
        """Say what is found after a reconnect, once as long as it stays the same."""
        self._look_is_due = False
        others = [row for row in self.book.rows() if row.account not in covered]  # ours have just been synced
        found = reconcile.findings(positions, self.registry.active_legs(), others, covered)
        if not found.is_empty() and not found.equals(self._last_look):
            _log.log(
                logging.WARNING if reconcile.is_alarming(found) else logging.INFO,
                "reconciliation after the reconnect has %s (%s); nothing was changed, see them with "
                "await desk.reconcile()",
                counted(found.height, "finding"),
                reconcile.counted(found),
            )
        self._last_look = found

    # --- routing ------------------------------------------------------------------------------------------------

    def _rows(self) -> list[BookRow]:
        return decisions.of_login(self.book.rows(), self.broker.accounts, self.broker.lost_accounts)

    async def _leave(self, accounts: Collection[str]) -> None:
        """Mark what is known of accounts that the login has lost: not flat, but not to be trusted either."""
        if accounts:
            await self._cancel(lambda queue: decisions.of_accounts(queue, accounts))
            await self.book.mark_stale(accounts=accounts)

    async def _route(self) -> None:
        rows, active = self._rows(), self.registry.active_legs()
        ended, begun, failures = await self._lineup.arrange(rows, active)
        for conid in ended:
            self._writer.inflow.quotes.pop(conid, None)
        if begun:
            await self._retire(begun)
        await self.feed.fill()  # also if the link was lost over the streams
        if failures:
            raise failures[0]

    async def _retire(self, streams: Collection[int]) -> None:
        """Cancel the requests that wait although a stream keeps their contract fresh from now on."""
        await self._cancel(lambda queue: decisions.superseded(queue, streams))

    async def _cancel(self, choose: Callable[[pl.DataFrame], list[str]]) -> None:
        for _ in range(_RETIRE_ROUNDS):
            waiting = choose(await asyncio.to_thread(self.queue.current))
            try:
                await self.queue.cancel(waiting)
            except InvalidTransitionError:
                continue  # another worker has just finished one of them; the others are still to be cancelled
            return

    def _on_parked(self, conid: int, code: int) -> None:
        self._writer.inflow.errors[conid] = code

    # --- following ----------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        loop = asyncio.get_running_loop()

        def on_registry(_added: list[ActiveContract], _removed: list[ActiveContract]) -> None:
            try:
                loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:
                _log.debug("the registry changed after the streamer's loop had ended")

        self._disconnect = [
            self.registry.on_change(on_registry),
            self.broker.on_state(self._on_state),
            self.broker.on_position(self._writer.inflow.add_position),
            self.broker.on_portfolio(self._writer.inflow.add_portfolio),
            self.broker.on_quote(self._writer.inflow.add_quote),
            self.broker.on_stream_error(self._on_stream_error),
        ]

    def _on_state(self, _old: ConnectionState, new: ConnectionState, _reason: str) -> None:
        if decisions.goes_stale(new):
            self._writer.inflow.lose(self._streams)
        if new is ConnectionState.DOWN:
            self.parked.clear()  # the next session may be told otherwise
        if new is ConnectionState.LIVE:
            self._lineup.forgive()
            self._look_is_due = True
            self._wake.set()

    def _on_stream_error(self, conid: int, code: int, message: str) -> None:
        self._lineup.refuse(conid, code, f"{code} {message}")
        self._wake.set()

    async def _repeat(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except V6KitError as error:
                if str(error) != str(self._errors.get(name)):  # said once, not every second
                    _log.warning("%s is put off: %s", name, error)
                self._errors[name] = error
            except Exception as error:  # noqa: BLE001 - nobody awaits this task: it must neither end nor stay unheard
                _log.exception("%s failed, and goes on", name)
                self._errors[name] = error
            else:
                self._errors.pop(name, None)
                continue
            await asyncio.sleep(RETRY_SECONDS)

    async def _sync_when_due(self) -> None:
        try:
            async with asyncio.timeout(self.sync_interval):
                await self._wake.wait()
        except TimeoutError:
            pass  # nothing has happened, so it is time for the regular look
        self._wake.clear()
        if self.broker.state is not ConnectionState.LIVE:
            return
        try:
            await self.sync()
        except Exception:
            self._wake.set()  # what it was woken for is still to be done
            raise

    async def _look_at_registry(self) -> None:
        await asyncio.sleep(REGISTRY_SECONDS)
        await self.registry.refresh()  # what other processes did is heard through `on_change`

    async def _reassess_when_due(self) -> None:
        await asyncio.sleep(REASSESS_SECONDS)
        if self.broker.state is not ConnectionState.LIVE or self._one_sync.locked():
            return  # whoever syncs looks at it anyway
        if not self._lineup.is_settled(self._rows(), self.registry.active_legs()):
            async with self._one_sync:
                await self._route()
