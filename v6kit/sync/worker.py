"""`QueueWorker`: refreshes queued positions by snapshots on lines that are free.

One cycle: claim (1 commit) → fetch → book (1 commit) → settle (1 commit). A request that outlasts its cycle is carried
into the next one under its lease, so the lines never wait for the slowest of a batch.

Belongs to the broker's event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from v6kit.broker import Broker
from v6kit.contracts import check_float, check_int
from v6kit.errors import BrokerError, V6KitError
from v6kit.positions import BookRow, PositionBook
from v6kit.queue import Outcome, PositionQueue, QueuedPosition, Status
from v6kit.sync import decisions
from v6kit.sync.decisions import Fetched

LEASE = timedelta(seconds=60)
_log = logging.getLogger("v6kit.sync")


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleReport:
    """What one cycle did.

    Attributes:
        cycle: Counted from 1.
        started_at: Aware UTC.
        seconds: How long it took.
        claimed: Requests that it took on.
        settled: Refreshed for good.
        retried: To be tried again later.
        failed: Ended without success.
        released: Given back untried, because the link or the lines failed them.
        in_flight: Still under way, carried into the next cycle.
        stale: Came too late: their lease had ended.
        versions: The queue's version before and after.
        held_back: Why nothing new was claimed, or an empty string.
        problems: How often which error message came, most frequent first.
    """

    cycle: int
    started_at: datetime
    seconds: float
    claimed: int
    settled: int
    retried: int
    failed: int
    released: int
    in_flight: int
    stale: int
    versions: tuple[int, int]
    held_back: str
    problems: dict[str, int]

    def __repr__(self) -> str:
        parts = [f"{self.claimed} claimed", f"{self.settled} refreshed"]
        parts += [
            f"{count} {name}"
            for name, count in (
                ("to retry", self.retried),
                ("failed", self.failed),
                ("given back", self.released),
                ("in flight", self.in_flight),
                ("too late", self.stale),
            )
            if count
        ]
        if self.held_back:
            parts.append(f"nothing new claimed: {self.held_back}")
        before, after = self.versions
        return f"Cycle {self.cycle}: {', '.join(parts)} in {self.seconds:.1f} s (queue v{before} → v{after})"


class QueueWorker:
    """Takes what is due from the queue and brings it up to date.

    Args:
        queue: Where the requests are.
        broker: Where the prices are.
        book: Where they are written.
        interval: Seconds between the starts of two cycles; also how long one may take.
        batch_size: How many requests it holds at once.
        parked: Contracts not to ask for in this session, conid → reason; shared with the streamer.
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
    ) -> None:
        self.queue, self.broker, self.book = queue, broker, book
        self.interval = check_float("interval", interval, above=0.0)
        self.batch_size = check_int("batch_size", batch_size)
        self.parked = parked if parked is not None else {}
        self.cycles = 0
        self.phase = "idle"
        self.last_report: CycleReport | None = None
        self.last_error: V6KitError | None = None
        self._flights: dict[str, asyncio.Task[Fetched]] = {}
        self._items: dict[str, QueuedPosition] = {}
        self._one_cycle = asyncio.Lock()
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

    async def run_cycle(self) -> CycleReport:
        """Run one cycle and return what it did; a second call waits for the first.

        Raises:
            StorageError: A commit failed. What was claimed comes back when its lease ends.
        """
        async with self._one_cycle:
            try:
                return await self._cycle()
            finally:
                self.phase = "idle"

    def start(self) -> None:
        """Run a cycle every `interval` seconds from now on; does nothing when it runs already."""
        if not self.is_running:
            self._running = asyncio.get_running_loop().create_task(self._run(), name="v6kit queue worker")

    async def stop(self) -> None:
        """Stop, and give back what is claimed; does nothing when it is stopped already."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait({running})
        async with self._one_cycle:
            await self._abandon()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- the cycle ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self.run_cycle()
                self.last_error = None
            except V6KitError as error:
                # The next cycle may find the storage in order; until then leases guard what was claimed.
                self.last_error = error
                _log.warning("cycle %d failed, the next one starts in %g s: %s", self.cycles, self.interval, error)
            await asyncio.sleep(max(0.0, began + self.interval - loop.time()))

    async def _cycle(self) -> CycleReport:
        self.cycles += 1
        clock = self.queue.clock
        started_at, began = clock.now(), clock.monotonic()
        version = self.queue.ledger.version
        deadline = asyncio.get_running_loop().time() + self.interval
        held_back = self.broker.hold or ""
        self.phase = "claim"
        claimed = [] if held_back else await self._claim()
        self.phase = "fetch"
        done = await self._fetch(deadline)
        self.phase = "book"
        await self.book.record([each.update for each in done if each.update is not None])
        self.phase = "settle"
        stale = await self._settle(done)
        report = self._report(
            done,
            stale,
            cycle=self.cycles,
            started_at=started_at,
            seconds=clock.monotonic() - began,
            claimed=len(claimed),
            versions=(version, self.queue.ledger.version),
            held_back=held_back,
        )
        self.last_report = report
        _log.debug("%r", report)
        return report

    async def _claim(self) -> Sequence[QueuedPosition]:
        free = self.batch_size - len(self._flights)
        if free <= 0:
            return []
        batch = await self.queue.get_batch(free, lease=LEASE)
        rows = {(row.account, row.conid): row for row in self.book.rows()} if batch else {}
        for item in batch:
            row = rows.get((item.account, item.conid)) or decisions.find_row(item, rows.values)
            self._items[item.request_id] = item
            self._flights[item.request_id] = asyncio.create_task(
                self._fetch_one(item, row), name=f"v6kit refresh {item.symbol}"
            )
        return batch

    async def _fetch_one(self, item: QueuedPosition, row: BookRow | None) -> Fetched:
        if row is None:
            return decisions.not_held(item)
        try:
            return decisions.fetched(item, row, await self.broker.snapshot(row.instrument()))
        except BrokerError as error:
            return decisions.failed(item, row, error)

    async def _fetch(self, deadline: float) -> list[Fetched]:
        """Wait for what is under way, at most until the deadline; return what has ended."""
        if self._flights:
            left = max(0.0, deadline - asyncio.get_running_loop().time())
            await asyncio.wait(self._flights.values(), timeout=left)
            await self._extend_leases()
        ended = [request_id for request_id, task in self._flights.items() if task.done()]
        return [self._flights[request_id].result() for request_id in ended]

    async def _extend_leases(self) -> None:
        soon = self.queue.clock.now() + max(LEASE / 2, 2 * timedelta(seconds=self.interval))
        late = [
            item
            for request_id, item in self._items.items()
            if not self._flights[request_id].done() and item.lease_until is not None and item.lease_until < soon
        ]
        if late:
            await self.queue.extend_lease(late, LEASE)
            until = self.queue.clock.now() + LEASE
            self._items.update((item.request_id, item._replace(lease_until=until)) for item in late)

    async def _settle(self, done: Sequence[Fetched]) -> int:
        """Settle what has ended, and forget it; returns how many claims were stale."""
        settled = await self.queue.settle([each.outcome for each in done if each.outcome is not None])
        untried = [each.item for each in done if each.outcome is None]
        if untried:
            await self.queue.release(untried)
        for each in done:
            del self._flights[each.item.request_id], self._items[each.item.request_id]
            if each.parked:
                self.parked[each.item.conid] = each.parked
        return len(settled.stale)

    async def _abandon(self) -> None:
        """Cancel what is under way and give its claims back."""
        for task in self._flights.values():
            task.cancel()
        if self._flights:
            await asyncio.wait(self._flights.values())
            await self.queue.release(list(self._items.values()))
        self._flights.clear()
        self._items.clear()

    def _report(self, done: Sequence[Fetched], stale: int, **facts: object) -> CycleReport:
        outcomes = [each.outcome for each in done if each.outcome is not None]
        ways = Counter(_way(each, outcome) for each in done if (outcome := each.outcome) is not None)
        problems = Counter(outcome.error_message for outcome in outcomes if outcome.error_message)
        return CycleReport(
            settled=ways[Status.SUCCESS] - stale,
            retried=ways[Status.PENDING],
            failed=ways[Status.FAILED],
            released=len(done) - len(outcomes),
            in_flight=len(self._flights),
            stale=stale,
            problems=dict(problems.most_common()),
            **facts,  # type: ignore[arg-type]  # the cycle's own facts, named as the report's fields
        )


def _way(each: Fetched, outcome: Outcome) -> Status:
    used_up = outcome.status == Status.PENDING and each.item.attempt >= each.item.max_attempts
    return Status.FAILED if used_up else outcome.status
