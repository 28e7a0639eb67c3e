"""The queue's state in memory: every live request, the newest finished ones, and who is next.

A fold of the ledger's rows. "Next" is kept in heaps whose entries may be out of date: an entry counts only if its
request still is what it was, so nothing ever has to be removed from the middle of a heap. Heaps of ready requests hold
their turns: when they were due, and their ids, which sort by age.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeGuard

import polars as pl

from v6kit.ledger import Rows, newest_per_key
from v6kit.queue.bulk import BLOCK_ROWS, Bulk, split
from v6kit.queue.requests import ACTIVE_PRIORITY, LIVE, SPEC, QueuedPosition, QueueStats, Status, Turn, with_due

FINISHED_HELD = 10_000
_BULK_ROWS = 4 * BLOCK_ROWS  # from here on a frame is cheaper than rows
_ENTRIES_PER_LIVE, _ENTRIES_SPARE = 4, 4_096
_MINUTE = timedelta(minutes=1)
_NEVER = datetime.min.replace(tzinfo=UTC)
_BEFORE_ALL: Turn = (_NEVER, "")
_AFTER_ALL: Turn = (datetime.max.replace(tzinfo=UTC), "")


class QueueState:
    """What the decisions of the queue look at."""

    def __init__(self) -> None:
        self._items: dict[str, QueuedPosition] = {}
        self._bulks: list[Bulk] = []
        self._live: dict[str, dict[int, str]] = {}  # account → conid → request_id, without those of:
        self._unlisted: list[tuple[str, pl.DataFrame]] = []  # bulk inserts since which nobody has asked who is live
        self._finished: dict[str, None] = {}  # in the order in which they finished
        self._counts: Counter[tuple[str, int]] = Counter()
        self._retries = 0
        self._ready: dict[int, list[Turn]] = {}
        self._delayed: list[tuple[datetime, str]] = []
        self._leases: list[tuple[datetime, str]] = []
        self._expired: set[str] = set()  # leases that were seen to have ended, and went among what is ready

    # --- looking ------------------------------------------------------------------------------------------------

    def get(self, request_id: str) -> QueuedPosition | None:
        """Return a request that is held, or `None`."""
        item = self._items.get(request_id)
        if item is None and self._bulks:
            for bulk in self._bulks:
                self._spill(bulk.take_around(request_id))
            item = self._items.get(request_id)
        return item

    def live(self, account: str, conid: int) -> QueuedPosition | None:
        """Return the live request of this contract, or `None`."""
        self._list_live()
        request_id = self._live.get(account, {}).get(conid)
        return self.get(request_id) if request_id is not None else None

    def live_ids(self, account: str, conids: Iterable[int]) -> list[str | None] | None:
        """Return for each conid the live request of this account or `None`; or just `None` if none of them has one."""
        self._list_live()
        live = self._live.get(account, {})
        found = list(map(live.get, conids)) if live else []
        return found if any(found) else None

    def has_live(self, account: str) -> bool:
        """Tell whether this account has any live request."""
        self._list_live()
        return bool(self._live.get(account))

    def failed(self) -> list[QueuedPosition]:
        """Return the failed requests that are held, in the order in which they failed."""
        finished = (self._items[request_id] for request_id in self._finished)
        return [item for item in finished if item.status == Status.FAILED]

    def due(
        self, now: datetime, limit: int, *, priority: int | None = None, aging_after: timedelta | None = None
    ) -> list[QueuedPosition]:
        """Return up to `limit` requests that may be claimed now, best priority first, then what was due first.

        Args:
            now: Not before the newest row.
            limit: At most so many.
            priority: Only this one.
            aging_after: Requests that have been due for longer count as priority 1.
        """
        self._wake(now)
        aged = now - aging_after if aging_after is not None else _NEVER
        chosen: dict[str, QueuedPosition] = {}
        while len(chosen) < limit and (number := self._next_priority(priority, aged)) is not None:
            heap, end = self._ready[number], self._end_of_lead(number, aged)
            while True:
                turn = heapq.heappop(heap)
                request_id = turn[1]
                item = self.get(request_id)
                if item is not None and item.priority == number and item.turn == turn and item.status in LIVE:
                    if item.is_due(now):
                        chosen[request_id] = item
                    else:
                        self._delay(item)  # claimed since, or the clock went back
                if not heap or heap[0] >= end or len(chosen) == limit:
                    break
        for item in chosen.values():
            heapq.heappush(self._ready[item.priority], item.turn)  # still due until a commit says otherwise
        return list(chosen.values())

    def stats(self, now: datetime, paused: str) -> QueueStats:
        """Return the queue in numbers."""
        by_status = dict.fromkeys((str(status) for status in Status), 0)
        by_priority: Counter[int] = Counter()
        for (status, number), count in self._counts.items():
            by_status[status] += count
            if status in LIVE:
                by_priority[number] += count
        self._next_priority(None, _NEVER)  # brings the heads of bulk inserts among what is ready
        pending = list(filter(is_pending, map(self._first, [*self._ready])))
        pending += filter(is_pending, (self._items.get(request_id) for _, request_id in self._delayed))
        leased = self._expired.union(request_id for until, request_id in self._leases if until <= now)
        expired = [item for item in map(self._items.get, leased) if item is not None and not is_pending(item)]
        return QueueStats(
            by_status=by_status,
            by_priority={number: count for number, count in sorted(by_priority.items()) if count},
            oldest_pending=max(now - min(item.due_at for item in pending), timedelta(0)) if pending else None,
            expired_leases=sum(item.is_due(now) for item in expired),
            retries=self._retries,
            finished_last_minute=self._finished_since(now - _MINUTE),
            paused=paused,
        )

    def held(self) -> list[Rows[QueuedPosition]]:
        """Return every request that is held: what nobody has touched since its bulk insert as frames."""
        return [list(self._items.values()), *(frame for bulk in self._bulks for frame in bulk.rest())]

    # --- folding ------------------------------------------------------------------------------------------------

    def apply(self, rows: Rows[QueuedPosition]) -> Callable[[], None]:
        """Take rows in; return what takes exactly these back."""
        if not isinstance(rows, pl.DataFrame):
            return self._apply_rows(rows)
        rows = with_due(rows)
        if rows.height < _BULK_ROWS:
            return self._apply_rows(SPEC.to_rows(rows))
        inserted = pl.col("change") == "INSERT"
        if not rows.select(inserted.all()).item():
            rows = newest_per_key(rows, SPEC.key)
        if not self._items and not self._bulks:
            inserted = pl.lit(value=True)  # no request is known yet, so none can be a later state of a known one
        untouched = (pl.col("status") == Status.PENDING) & (pl.col("attempt") == 0)
        is_new = inserted & untouched & (pl.col("available_at") <= pl.col("created_at"))
        others = rows.filter(~is_new)
        undo_others = self._apply_rows(SPEC.to_rows(others))
        undo_bulks = [self._apply_bulk(bulk) for bulk in split(rows.filter(is_new) if others.height else rows)]

        def take_back() -> None:
            for undo in (*undo_bulks, undo_others):
                undo()

        return take_back

    def _apply_rows(self, rows: Sequence[QueuedPosition]) -> Callable[[], None]:
        self._list_live()
        before = [(row.request_id, self.get(row.request_id)) for row in rows]
        for row in rows:
            self._forget(row.request_id)
            self._hold(row)
        let_go = self._let_go()
        self._sweep()

        def take_back() -> None:
            for row in let_go:
                self._hold(row)
            for request_id, earlier in reversed(before):
                self._forget(request_id)
                if earlier is not None:
                    self._hold(earlier)
            if let_go or any(earlier is not None and earlier.status not in LIVE for _, earlier in before):
                # They were held again at the end, but belong where they were.
                self._finished = dict.fromkeys(sorted(self._finished, key=lambda finished: self._items[finished].seq))

        return take_back

    def _apply_bulk(self, bulk: Bulk) -> Callable[[], None]:
        (frame,) = bulk.rest()
        self._bulks.append(bulk)
        self._counts[Status.PENDING, bulk.priority] += len(bulk)
        self._unlisted.append((bulk.account, frame))

        def take_back() -> None:
            self._list_live()
            for request_id in frame["request_id"]:
                self.get(request_id)
                self._forget(request_id)
            if bulk in self._bulks:
                self._bulks.remove(bulk)

        return take_back

    def _list_live(self) -> None:
        """List what came in bulk; put off until it matters, since it costs a third of a bulk insert's fold."""
        for account, frame in self._unlisted:
            live = self._live.setdefault(account, {})
            live.update(zip(frame["conid"].to_list(), frame["request_id"].to_list(), strict=True))
        self._unlisted.clear()

    def _spill(self, rows: Sequence[QueuedPosition]) -> None:
        """Hold rows of a bulk insert one by one from now on."""
        for row in rows:
            self._items[row.request_id] = row
            self._index(row)

    def _hold(self, row: QueuedPosition) -> None:
        self._items[row.request_id] = row
        self._counts[row.status, row.priority] += 1
        self._retries += max(row.attempt - 1, 0)
        if row.status in LIVE:
            self._live.setdefault(row.account, {})[row.conid] = row.request_id
            self._index(row)
        else:
            self._finished[row.request_id] = None

    def _forget(self, request_id: str) -> None:
        row = self._items.pop(request_id, None)
        if row is None:
            return
        self._expired.discard(request_id)
        self._counts[row.status, row.priority] -= 1
        self._retries -= max(row.attempt - 1, 0)
        if row.status not in LIVE:
            del self._finished[request_id]
        elif self._live[row.account].get(row.conid) == request_id:
            del self._live[row.account][row.conid]

    def _let_go(self) -> list[QueuedPosition]:
        """Drop the oldest finished requests beyond what is held; they stay in the table."""
        surplus = max(len(self._finished) - FINISHED_HELD, 0)
        gone = [self._items[request_id] for request_id, _ in zip(self._finished, range(surplus), strict=False)]
        for row in gone:
            self._forget(row.request_id)
        return gone

    # --- who is next --------------------------------------------------------------------------------------------

    def _index(self, row: QueuedPosition) -> None:
        if row.status == Status.PENDING and row.available_at <= row.updated_at:
            heapq.heappush(self._ready.setdefault(row.priority, []), row.turn)
        else:
            self._delay(row)

    def _delay(self, row: QueuedPosition) -> None:
        if row.status == Status.PENDING:
            heapq.heappush(self._delayed, (row.available_at, row.request_id))
        else:
            heapq.heappush(self._leases, (row.lease_until or row.updated_at, row.request_id))

    def _sweep(self) -> None:
        """Drop entries that are out of date once they prevail; in a process that never claims, nothing else does."""
        live = sum(count for (status, _), count in self._counts.items() if status in LIVE)
        entries = len(self._delayed) + len(self._leases) + sum(map(len, self._ready.values()))
        if entries <= _ENTRIES_PER_LIVE * live + _ENTRIES_SPARE:
            return
        self._ready, self._delayed, self._leases = {}, [], []
        for item in self._items.values():
            if item.status in LIVE:
                self._index(item)

    def _wake(self, now: datetime) -> None:
        """Move what has become due since the last look among what is ready."""
        for heap in (self._delayed, self._leases):
            while heap and heap[0][0] <= now:
                item = self._items.get(heapq.heappop(heap)[1])
                if item is not None and item.is_due(now):
                    heapq.heappush(self._ready.setdefault(item.priority, []), item.turn)
                    if item.status == Status.PROCESSING:
                        self._expired.add(item.request_id)

    def _next_priority(self, only: int | None, aged: datetime) -> int | None:
        """Return which priority's first request is next; what was due before `aged` counts as priority 1."""
        for bulk in list(self._bulks):
            if bulk.head is None:
                self._bulks.remove(bulk)
                continue
            heap = self._ready.setdefault(bulk.priority, [])
            if not heap or bulk.head < heap[0]:
                self._spill(bulk.take_head())
        heads = {number: heap[0] for number, heap in self._ready.items() if heap and only in (None, number)}
        return min(heads, key=lambda n: (ACTIVE_PRIORITY if heads[n][0] < aged else n, heads[n]), default=None)

    def _end_of_lead(self, number: int, aged: datetime) -> Turn:
        """Return the turn before which all of the next priority come first; with aging, only the very next does."""
        if aged > _NEVER:
            return _BEFORE_ALL
        return min((bulk.head or _AFTER_ALL for bulk in self._bulks if bulk.priority == number), default=_AFTER_ALL)

    def _first(self, priority: int) -> QueuedPosition | None:
        """Return the first request of a priority that waits; entries that are out of date are dropped."""
        heap = self._ready[priority]
        while self._next_priority(priority, _NEVER) is not None:
            item = self._items.get(heap[0][1])
            if is_pending(item) and item.priority == priority and item.turn == heap[0]:
                return item
            if item is not None and item.status == Status.PROCESSING:
                self._index(item)  # its lease had ended; the next claim shall find it again
            heapq.heappop(heap)
        return None

    def _finished_since(self, instant: datetime) -> int:
        count = 0
        for request_id in reversed(self._finished):
            if self._items[request_id].updated_at < instant:
                break
            count += 1
        return count


def is_pending(item: QueuedPosition | None) -> TypeGuard[QueuedPosition]:
    """Tell whether this is a request that waits."""
    return item is not None and item.status == Status.PENDING
