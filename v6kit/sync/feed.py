"""`Feed`: what is put into the queue, and when: each position in time to be no older than wanted.

Owns the reading of book, registry and streams for that. What is due is decided in `decisions` and `freshness`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from v6kit.broker import Broker, ConnectionState
from v6kit.positions import PositionBook
from v6kit.queue import PositionQueue, QueuedPosition, Wanted
from v6kit.registry import StrategyRegistry
from v6kit.sync import decisions, freshness
from v6kit.sync.freshness import Capacity, Freshness, Targets


class Feed:
    """Queues what is due.

    Args:
        registry: Says what is active.
        queue: Takes what is due.
        broker: Knows what streams.
        book: Knows how old each quote is.
        targets: How old it may become; may be changed at any time.
        parked: Contracts not to ask for in this session, conid → reason; shared with worker and streamer.
    """

    def __init__(
        self,
        registry: StrategyRegistry,
        queue: PositionQueue,
        broker: Broker,
        book: PositionBook,
        targets: Targets,
        *,
        parked: dict[int, str],
    ) -> None:
        self.registry, self.queue, self.broker, self.book = registry, queue, broker, book
        self.targets, self.parked = targets, parked
        self._in_vain: dict[tuple[str, int], datetime] = {}

    async def fill(self, lead: float = 0.0) -> int:
        """Queue what is due and not queued, in one commit; nothing due: no commit.

        Args:
            lead: Seconds from being queued to being in the book: what is due so soon is queued now.

        Returns:
            How many requests are new, or sooner than they were.

        Raises:
            StorageError: The book could not be read, or the commit failed.
        """
        if not self._news(lead):
            return 0
        await self.book.refresh()  # another process may have asked for it meanwhile
        news = self._news(lead)
        await self.queue.insert_many([item._asdict() for item in news])
        return len(news)

    def _news(self, lead: float) -> list[Wanted]:
        due = decisions.to_queue(
            decisions.of_login(self.book.rows(), self.broker.accounts, self.broker.lost_accounts),
            now=self.queue.clock.now(),
            targets=self.targets,
            is_active=self.registry.is_active,
            streams=self.broker.streaming,
            parked=self.parked,
            in_vain=self._in_vain,
            lead=timedelta(seconds=lead),
        )
        return decisions.news(due, self.queue.live((each.row.account, each.row.conid) for each in due))

    def ended_in_vain(self, item: QueuedPosition) -> None:
        """Take note that a request has ended without a quote, so that its position is left alone for a while."""
        self._in_vain[item.account, item.conid] = self.queue.clock.now()

    def freshness(self, hold: float | None) -> Freshness:
        """Return how fresh every position is; no I/O.

        Args:
            hold: Seconds that a snapshot holds its line; `None` if that is not known yet.
        """
        broker, lines = self.broker, self.broker.lines
        capacity = Capacity(lines=max(0, lines.capacity - lines.streams), pace=broker.pace, hold=hold)
        return freshness.look(
            self.book.rows(),
            now=self.queue.clock.now(),
            targets=self.targets,
            is_active=self.registry.is_active,
            streams=broker.streaming,
            is_live=broker.state is ConnectionState.LIVE,
            parked=dict(self.parked),
            lost=broker.lost_accounts,
            capacity=capacity,
            held_back=broker.hold or "",
        )
