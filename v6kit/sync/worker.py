"""`QueueWorker`: refreshes queued positions by snapshots on lines that are free.

One cycle: queue what is due (a commit if something is new) → claim (1 commit) → fetch → book (1) → settle (1).
A request that outlasts its cycle is carried into the next one under its lease, so the lines never wait for the slowest
of a batch. A worker that runs by itself begins the next cycle as soon as its lines would run out of work.

Belongs to the broker's event loop; calls from elsewhere hop there and back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from v6kit.broker import Broker
from v6kit.contracts import check_float, check_int
from v6kit.engine import at_home, submit
from v6kit.errors import BrokerError, StaleClaimError, StorageError, V6KitError
from v6kit.positions import BookRow, PositionBook
from v6kit.queue import PositionQueue, QueuedPosition
from v6kit.sync import decisions
from v6kit.sync.asking import Asker
from v6kit.sync.decisions import Fetched
from v6kit.sync.feed import Feed
from v6kit.sync.report import CycleReport, report
from v6kit.sync.writer import BookWriter

LEASE = timedelta(seconds=60)
_CYCLES_PER_LEASE = 3
_REPORTS_KEPT = 200  # a quarter of an hour
_SHORTEST_SHARE = 0.2  # of the interval: a cycle that ends sooner than that has run out of work
_log = logging.getLogger("v6kit.sync")
_T = TypeVar("_T")


class QueueWorker:
    """Takes what is due from the queue and brings it up to date.

    Args:
        queue: Where the requests are.
        broker: Where the prices are.
        book: Where they are written.
        interval: Seconds that a cycle may take, and between the starts of two when little is due.
        batch_size: How many requests it claims at once, and at most has waiting for a line.
        parked: Contracts not to ask for in this session, conid → reason; shared with the streamer. A request that is
            redriven is asked for nevertheless, and if there is an answer, so are all others of its contract.
        feed: Queues what is due before each claim; `None`: somebody else does.
        writer: Writes the book; shared with the streamer, so that one commit serves both. Default one of its own.

    Attributes:
        home: The event loop that it belongs to: the one on which it was made or first used.
        phase: What it does now: `idle`, `claim`, `fetch`, `book` or `settle`.
        reports: Of the last 200 cycles, oldest first; may be read from anywhere.
        last_error: Why the last cycle that ran by itself failed, or `None`.
    """

    def __init__(
        self,
        queue: PositionQueue,
        broker: Broker,
        book: PositionBook,
        interval: float = 5.0,
        batch_size: int = 50,
        *,
        parked: dict[int, str] | None = None,
        feed: Feed | None = None,
        writer: BookWriter | None = None,
    ) -> None:
        self.queue, self.broker, self.book = queue, broker, book
        self.interval = check_float("interval", interval, above=0.0)
        self.batch_size = check_int("batch_size", batch_size)
        self.parked = parked if parked is not None else {}
        self.feed = feed
        self._writer = writer or BookWriter(queue, broker, book, parked=self.parked)
        self.home = _running_loop()
        self.cycles = 0
        self.phase = "idle"
        self.reports: tuple[CycleReport, ...] = ()
        self.last_error: Exception | None = None
        self._lease = max(LEASE * queue.clock.speed, timedelta(seconds=_CYCLES_PER_LEASE * self.interval))
        self._asker = Asker(broker, queue.clock)
        self._goes_on = False  # the last cycle ended because more is to be claimed
        self._flights: dict[str, asyncio.Task[Fetched]] = {}
        self._items: dict[str, QueuedPosition] = {}
        self._one_cycle = asyncio.Lock()
        self._is_stopping = False
        self._running: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        how = f"every {self.interval:g} s" if self.is_running else "by hand"
        last = f"; last: {self.last_report!r}" if self.last_report else ""
        return f"QueueWorker({self.batch_size} at a time, {how}, {self.phase}{last})"

    @property
    def is_running(self) -> bool:
        """Whether it runs cycles by itself."""
        return self._running is not None and not self._running.done()

    @property
    def in_flight(self) -> int:
        """Requests that are under way."""
        return len(self._flights)

    @property
    def last_report(self) -> CycleReport | None:
        """What the last cycle did; `None` before the first."""
        return self.reports[-1] if self.reports else None

    @property
    def hold(self) -> float | None:
        """Seconds that a snapshot holds its line, averaged over the last ones; `None` before the first."""
        return self._asker.hold

    @at_home
    async def run_cycle(self) -> CycleReport:
        """Run one cycle and return what it did; a second call waits for the first.

        Cancelling it loses nothing: what is claimed is carried into the next cycle, or given back by `stop`.

        Raises:
            StorageError: A commit failed. What was claimed is carried on, or comes back when its lease ends.
        """
        return await self._one(by_itself=False)

    def start(self) -> None:
        """Keep the lines busy from now on, and look every `interval` seconds when nothing is due; idempotent."""
        here = _running_loop()
        self.home = self.home or here
        if self.home is None or self.home is here:
            self._start()
        else:
            submit(self._start_at_home(), self.home).result()

    @at_home
    async def stop(self) -> None:
        """Stop, settle what has ended, and give the rest back; does nothing when it is stopped already.

        Raises:
            StorageError: A commit failed; what was claimed comes back when its lease ends.
        """
        self._is_stopping = True
        try:
            running, self._running = self._running, None
            if running is not None:
                running.cancel()
                await asyncio.wait({running})
            self._cancel_flights()  # so that a cycle run by hand ends now
            async with self._one_cycle:
                await self._put_down()
        finally:
            self._is_stopping = False

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- running by itself --------------------------------------------------------------------------------------

    def _start(self) -> None:
        if not self.is_running:
            self._running = asyncio.get_running_loop().create_task(self._run(), name="v6kit queue worker")

    async def _start_at_home(self) -> None:
        self._start()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._one(by_itself=True)
                self.last_error = None
                if self._goes_on:
                    continue
            except V6KitError as error:
                # The next cycle may find the storage in order; until then leases guard what was claimed.
                self.last_error = error
                _log.warning("cycle %d failed, the next one starts in %g s: %s", self.cycles, self.interval, error)
            except Exception as error:  # noqa: BLE001 - nobody awaits this task: it must neither end nor stay unheard
                self.last_error = error
                _log.exception("cycle %d failed, the next one starts in %g s", self.cycles, self.interval)
            await asyncio.sleep(max(0.0, began + self.interval - loop.time()))

    # --- the cycle ----------------------------------------------------------------------------------------------

    async def _one(self, *, by_itself: bool) -> CycleReport:
        async with self._one_cycle:
            try:
                return await self._cycle(by_itself=by_itself)
            finally:
                self.phase = "idle"

    async def _cycle(self, *, by_itself: bool) -> CycleReport:
        if not self.queue.ledger.is_open or not self.book.ledger.is_open:
            await asyncio.gather(self.queue.initialize(), self.book.initialize())
        self.cycles += 1
        clock = self.queue.clock
        started_at, began = clock.now(), clock.monotonic()
        version = self.queue.ledger.version
        deadline = asyncio.get_running_loop().time() + self.interval
        held_back = self.broker.hold or ""
        self.phase = "claim"
        room = self._hand().room if by_itself else self.batch_size - len(self._flights)
        claimed = 0 if held_back else await _whole(self._claim(room))
        self.phase = "fetch"
        more = by_itself and not held_back and claimed >= room
        lost = await self._fetch(deadline, until_low=more)
        done = self._ended()
        # If all that ended was given back, something is wrong with link or lines: that is waited for, not hammered at.
        makes_progress = not done or any(each.outcome is not None for each in done)
        self._goes_on = more and makes_progress and asyncio.get_running_loop().time() < deadline
        stale = lost + await self._finish(done)
        made = report(
            done,
            stale,
            cycle=self.cycles,
            started_at=started_at,
            seconds=clock.monotonic() - began,
            claimed=claimed,
            in_flight=len(self._flights),
            versions=(version, self.queue.ledger.version),
            held_back=held_back,
        )
        self.reports = (*self.reports, made)[-_REPORTS_KEPT:]
        _log.debug("%r", made)
        return made

    def _hand(self) -> decisions.Hand:
        lines = self.broker.lines
        under_way = sum(not task.done() for task in self._flights.values())
        waiting = max(0, under_way - lines.snapshots)
        return decisions.Hand(self.batch_size, lines.capacity - lines.streams, waiting)

    async def _claim(self, room: int) -> int:
        """Queue what is due, claim as many as there is room for, and start refreshing them; returns how many."""
        if self.feed is not None:
            await self.feed.fill(self.interval + (self.hold or 0.0))
        batch = await self.queue.get_batch(room, lease=self._lease) if room > 0 else []
        lost = self.broker.lost_accounts  # theirs come last: a request for any account goes to another's if it can
        held = sorted(self.book.rows(), key=lambda row: row.account in lost) if batch else []
        rows = {(row.account, row.conid): row for row in held}
        for item in batch:
            if (outlived := self._flights.get(item.request_id)) is not None:
                outlived.cancel()  # it was ours, its lease had ended, and now it is ours again
            row = rows.get((item.account, item.conid)) or decisions.find_row(item, rows.values)
            self._items[item.request_id] = item
            self._flights[item.request_id] = asyncio.create_task(
                self._refresh(item, row), name=f"v6kit refresh {item.symbol}"
            )
        if self._is_stopping:
            self._cancel_flights()
        return len(batch)

    async def _refresh(self, item: QueuedPosition, row: BookRow | None) -> Fetched:
        if row is None:
            return decisions.not_held(item)
        if row.account in self.broker.lost_accounts:
            return decisions.of_lost_account(item, row.account)
        if (why := self.parked.get(item.conid)) and not decisions.is_redriven(item):
            return decisions.not_asked(item, why)
        try:
            quote = await self._asker.quote(row.instrument())
        except BrokerError as error:
            return decisions.failed(item, row, error)
        except Exception as error:  # noqa: BLE001 - one that cannot be refreshed must not hold up the others
            _log.exception("refreshing %s failed in an unforeseen way", item.symbol)
            return decisions.broken(item, error)
        return decisions.fetched(item, row, quote, hold=self.broker.hold)

    async def _fetch(self, deadline: float, *, until_low: bool) -> list[str]:
        """Wait for what is under way, at most until the deadline; return what is no longer ours, by id.

        Args:
            deadline: On the loop's clock.
            until_low: Go on as soon as the lines are about to run out of work.
        """
        if not self._flights:
            return []
        time = asyncio.get_running_loop().time
        soon = time() + self.interval * _SHORTEST_SHARE
        how = asyncio.FIRST_COMPLETED if until_low else asyncio.ALL_COMPLETED
        while (left := deadline - time()) > 0:
            under_way = [task for task in self._flights.values() if not task.done()]
            if not under_way or (until_low and self._hand().is_low(soon=time() < soon)):
                break
            await asyncio.wait(under_way, timeout=left, return_when=how)
        return await _whole(self._extend_leases())

    async def _extend_leases(self) -> list[str]:
        soon = self.queue.clock.now() + max(self._lease / 2, 2 * timedelta(seconds=self.interval))
        late = [
            item
            for request_id, item in self._items.items()
            if not self._flights[request_id].done() and item.lease_until is not None and item.lease_until < soon
        ]
        lost = await _all_but_stale(lambda items: self.queue.extend_lease(items, self._lease), late)
        until = self.queue.clock.now() + self._lease
        for item in late:
            if item.request_id not in lost:
                self._items[item.request_id] = item._replace(lease_until=until)
        for request_id in lost:  # somebody else refreshes it by now, or nobody wants it any more
            self._flights.pop(request_id).cancel()
            del self._items[request_id]
        return lost

    def _ended(self) -> list[Fetched]:
        """Return what has come of what is under way; nothing for the book from an account that was lost meanwhile."""
        ended = [_result(self._items[request_id], task) for request_id, task in self._flights.items() if task.done()]
        return [decisions.unless_lost(each, self.broker.lost_accounts) for each in ended]

    async def _finish(self, done: Sequence[Fetched]) -> list[str]:
        """Write what came of requests into book and queue, and forget them; return stale claims, by id."""
        self.phase = "book"
        await _whole(self._writer.write([each.update for each in done if each.update is not None]))
        self.phase = "settle"
        return await _whole(self._settle(done))

    async def _settle(self, done: Sequence[Fetched]) -> list[str]:
        settled = await self.queue.settle([each.outcome for each in done if each.outcome is not None])
        lost = await _all_but_stale(self.queue.release, [each.item for each in done if each.outcome is None])
        for each in done:
            del self._flights[each.item.request_id], self._items[each.item.request_id]
            if self.feed is not None and decisions.is_in_vain(each):
                self.feed.ended_in_vain(each.item)
            if each.parked:
                _log.warning("%s is not asked for again in this session: %s", each.item.symbol, each.parked)
                self.parked[each.item.conid] = each.parked
            elif each.item.conid in self.parked and each.update is not None and each.update.quote is not None:
                del self.parked[each.item.conid]
                _log.info("%s is answered again, and asked for like any other", each.item.symbol)
        return settled.stale + lost

    # --- stopping -----------------------------------------------------------------------------------------------

    def _cancel_flights(self) -> None:
        for task in self._flights.values():
            task.cancel()

    async def _put_down(self) -> None:
        """Settle what has ended, and give back what had to be cut short."""
        self._cancel_flights()
        try:
            if self._flights:
                await asyncio.wait(self._flights.values())
                await self._finish(self._ended())
        except StorageError:
            # What could not be booked must be refreshed again, sooner than when its lease ends.
            await _all_but_stale(self.queue.release, list(self._items.values()))
            raise
        finally:
            self._flights.clear()
            self._items.clear()
            self.phase = "idle"


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _result(item: QueuedPosition, task: asyncio.Task[Fetched]) -> Fetched:
    return Fetched(item, None, None) if task.cancelled() else task.result()


async def _whole(work: Coroutine[Any, Any, _T]) -> _T:
    """Let work come to its end even if its waiter is cancelled, so that a commit and our record of it stay together."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("a cycle was cancelled, and its last step failed: %s", error)
        raise


async def _all_but_stale(
    call: Callable[[Sequence[QueuedPosition]], Awaitable[None]], items: Sequence[QueuedPosition]
) -> list[str]:
    """Call for all at once; if claims among them are stale, for each alone. Returns the stale ones, by id."""
    if not items:
        return []
    try:
        await call(items)
    except StaleClaimError:
        answers = await asyncio.gather(*(call([item]) for item in items), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, StaleClaimError):
                raise answer from None
        return [item.request_id for item, answer in zip(items, answers, strict=True) if answer is not None]
    return []
