"""`BookWriter`: writes what came in into the book, in as few commits as can be.

Whoever commits takes along what all others have brought: a cycle of the worker, a reading of the account, or a second
that has passed. Belongs to the broker's event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable

from v6kit.broker import Broker
from v6kit.contracts import PositionUpdate
from v6kit.positions import BookRow, PositionBook
from v6kit.queue import ACTIVE_PRIORITY, PositionQueue
from v6kit.sync import decisions
from v6kit.sync.inflow import Inflow

WRITE_SECONDS = 1.0
_MOST_SECONDS_TO_WAIT = 5  # else a busy process beside this one would keep quotes from being written


class BookWriter:
    """Writes the book for streamer and worker.

    Args:
        queue: Takes the positions that a trade has changed, to be refreshed before the others.
        broker: Knows what streams.
        book: Where it writes.
        parked: Contracts not to ask for in this session, conid → reason; shared with worker and streamer.

    Attributes:
        inflow: What came in and is not in the book yet.
    """

    def __init__(self, queue: PositionQueue, broker: Broker, book: PositionBook, *, parked: dict[int, str]) -> None:
        self.inflow = Inflow()
        self._queue, self._broker, self._book = queue, broker, book
        self._parked = parked
        self._one_commit = asyncio.Lock()
        self._paid_version: int | None = None  # of the book, up to which a second was waited for each commit
        self._written_at = -math.inf  # on the loop's clock

    async def write(self, updates: Iterable[PositionUpdate] = (), *, quotes: bool = True) -> bool:
        """Write what came in and these updates, in one commit; nothing new is no commit.

        What cannot be written stays to be written next time, except for the updates, which stay the caller's.

        Args:
            updates: What else became known.
            quotes: Whether streamed quotes go along; otherwise they wait for their turn.

        Returns:
            Whether the book has one commit more by it.

        Raises:
            StorageError: The commit to book or queue failed.
        """
        async with self._one_commit:
            taken = self.inflow.take(quotes=quotes)
            try:
                news = [*taken.updates(self._rows(), self._broker.latest), *updates]
                written = await self._book.record(news)
                await self._queue_changed(taken)
            except BaseException:
                self.inflow.put_back(taken)  # writing it twice changes nothing
                raise
            if quotes:
                self._written_at = asyncio.get_running_loop().time()
        return written > 0

    async def write_when_due(self) -> None:
        """Wait for a second, and for one more for each commit of others meanwhile; then write.

        So the book gets one commit per second at most, from this process. For other processes it waits a few seconds
        and not longer.
        """
        time = asyncio.get_running_loop().time
        began, owed = time(), 1
        if self._paid_version is None:
            self._paid_version = self._book.ledger.version
        while owed and time() - max(began, self._written_at) < _MOST_SECONDS_TO_WAIT:
            await asyncio.sleep(WRITE_SECONDS)
            version = self._book.ledger.version
            owed, self._paid_version = owed - 1 + version - self._paid_version, version
        self._paid_version += await self.write()

    def _rows(self) -> list[BookRow]:
        return decisions.of_login(self._book.rows(), self._broker.accounts, self._broker.lost_accounts)

    async def _queue_changed(self, taken: Inflow) -> None:
        """Have what a trade has changed refreshed before the others, unless a stream tells it anyway."""
        changed = taken.changed()
        if not changed:
            return
        await self._queue.insert_many(
            [
                decisions.wanted(row, ACTIVE_PRIORITY)
                for row in self._rows()
                if (row.account, row.conid) in changed
                and row.conid not in self._broker.streaming
                and row.conid not in self._parked
            ]
        )
