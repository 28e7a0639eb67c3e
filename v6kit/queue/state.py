"""The queue's state in memory: every live request, the newest finished ones, and who is next.

A fold of the ledger's rows. Choosing what is due looks at the heads of heaps whose entries may be out of date; an
entry counts only if its request still is what it was, so nothing ever has to be removed from the middle of a heap.

A bulk insert stays a frame until its rows are needed: making 100,000 tuples would cost twice the write itself.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TypeGuard

import polars as pl

from v6kit.ledger import NO_INSTANT, Rows, newest_per_key
from v6kit.queue.requests import ACTIVE_PRIORITY, LIVE, SPEC, QueuedPosition, QueueStats, Status

FINISHED_HELD = 10_000
_BLOCK = 256  # rows of a bulk insert that are made at once when one of them is needed
_BULK = 1_000  # from here on a frame is cheaper than rows
_MINUTE = timedelta(minutes=1)
_MICROSECOND = timedelta(microseconds=1)

_Entry = tuple[int, str]  # microseconds since the epoch: a frame gives them 20 times faster than datetimes


class QueueState:
    """What the decisions of the queue look at."""

    def __init__(self) -> None:
        # A request is its row, or the number of its row among all bulk inserts.
        self._items: dict[str, QueuedPosition | int] = {}
        self._bulk: list[pl.DataFrame] = []
        self._bulk_starts: list[int] = []
        self._bulk_end = 0
        self._live: dict[str, dict[int, str]] = {}
        self._finished: dict[str, None] = {}  # in the order in which they finished
        self._counts: Counter[tuple[str, int]] = Counter()
        self._retries = 0
        self._ready: dict[int, list[_Entry]] = {}
        self._delayed: list[_Entry] = []
        self._leases: list[_Entry] = []

    # --- looking ------------------------------------------------------------------------------------------------

    def get(self, request_id: str) -> QueuedPosition | None:
        """Return a request that is held, or `None`."""
        item = self._items.get(request_id)
        return self._make_block(request_id, item) if isinstance(item, int) else item

    def live_ids(self, account: str, conids: Iterable[int]) -> list[str | None]:
        """Return for each conid the live request of this account, or `None`."""
        return list(map(self._live.get(account, {}).get, conids))

    def failed(self) -> list[QueuedPosition]:
        """Return the failed requests that are held, in the order in which they failed."""
        found = (self.get(request_id) for request_id in self._finished)
        return [item for item in found if item is not None and item.status == Status.FAILED]

    def due(
        self, now: datetime, limit: int, *, priority: int | None = None, aging_after: timedelta | None = None
    ) -> list[QueuedPosition]:
        """Return up to `limit` requests that may be claimed now, best priority first, then oldest.

        Args:
            priority: Only this one.
            aging_after: Requests that have waited longer count as priority 1.
        """
        self._wake(micros(now))
        heaps = {number: heap for number, heap in self._ready.items() if heap and priority in (None, number)}
        aged = micros(now - aging_after) if aging_after is not None else -1
        chosen: dict[str, QueuedPosition] = {}
        seen: list[tuple[list[_Entry], _Entry]] = []
        while heaps and len(chosen) < limit:
            number = min(heaps, key=lambda n: (ACTIVE_PRIORITY if heaps[n][0][0] <= aged else n, heaps[n][0]))
            heap = heaps[number]
            entry = heapq.heappop(heap)
            item = self.get(entry[1])
            if item is not None and item.is_due(now) and item.priority == number:
                chosen[item.request_id] = item
                seen.append((heap, entry))
            elif item is not None and item.status in LIVE and not item.is_due(now):
                self._index(item)  # the clock went back, or a lease was extended
            if not heap:
                del heaps[number]
        for heap, entry in seen:
            heapq.heappush(heap, entry)  # they are still due until a commit says otherwise
        return list(chosen.values())

    def stats(self, now: datetime, paused: str) -> QueueStats:
        """Return the queue in numbers."""
        by_status = dict.fromkeys((str(status) for status in Status), 0)
        by_priority: Counter[int] = Counter()
        for (status, number), count in self._counts.items():
            by_status[status] += count
            if status in LIVE:
                by_priority[number] += count
        pending = [created for created in map(self._oldest, self._ready.values()) if created is not None]
        pending += [item.created_at for item in map(self.get, {entry[1] for entry in self._delayed}) if is_pending(item)]
        expired = {entry[1] for entry in self._leases if entry[0] <= micros(now)}
        return QueueStats(
            by_status=by_status,
            by_priority={number: count for number, count in sorted(by_priority.items()) if count},
            oldest_pending=now - min(pending) if pending else None,
            expired_leases=sum(
                1 for item in map(self.get, expired) if item is not None and not is_pending(item) and item.is_due(now)
            ),
            retries=self._retries,
            finished_last_minute=self._finished_since(now - _MINUTE),
            paused=paused,
        )

    def held(self) -> list[Rows[QueuedPosition]]:
        """Return every request that is held: the rows of bulk inserts as frames, the others as one list."""
        numbers = [item for item in self._items.values() if isinstance(item, int)]
        batches: list[Rows[QueuedPosition]] = [[item for item in self._items.values() if not isinstance(item, int)]]
        for start, frame in zip(self._bulk_starts, self._bulk, strict=True):
            inside = [number - start for number in numbers if start <= number < start + frame.height]
            if inside:
                batches.append(frame[inside])
        return batches

    # --- folding ------------------------------------------------------------------------------------------------

    def apply(self, rows: Rows[QueuedPosition]) -> Callable[[], None]:
        """Take rows in; return what takes exactly these back."""
        if not isinstance(rows, pl.DataFrame):
            return self._apply_rows(rows)
        if rows.height >= _BULK:
            rows = newest_per_key(rows, SPEC.key)
            fresh = (pl.col("status") == Status.PENDING) & (pl.col("available_at") <= pl.col("created_at"))
            bulk, others = rows.filter(fresh), rows.filter(~fresh)
            if self._items.keys().isdisjoint(bulk["request_id"].to_list()):
                undo_others = self._apply_rows(SPEC.to_rows(others))
                undo_bulk = self._apply_bulk(bulk)

                def take_back() -> None:
                    undo_bulk()
                    undo_others()

                return take_back
        return self._apply_rows(SPEC.to_rows(rows))

    def _apply_rows(self, rows: Sequence[QueuedPosition]) -> Callable[[], None]:
        before = [(row.request_id, self.get(row.request_id)) for row in rows]
        for row in rows:
            self._forget(row.request_id)
            self._hold(row)
        let_go = self._let_go()

        def take_back() -> None:
            for row in let_go:
                self._hold(row)
            for request_id, row in reversed(before):
                self._forget(request_id)
                if row is not None:
                    self._hold(row)

        return take_back

    def _apply_bulk(self, frame: pl.DataFrame) -> Callable[[], None]:
        """Take in many new pending requests at once."""
        if frame.is_empty():
            return lambda: None
        ids = frame["request_id"].to_list()
        start, self._bulk_end = self._bulk_end, self._bulk_end + frame.height
        self._bulk.append(frame)
        self._bulk_starts.append(start)
        self._items.update(zip(ids, range(start, self._bulk_end), strict=True))
        for (account,), part in frame.group_by("account"):
            self._live.setdefault(str(account), {}).update(
                zip(part["conid"].to_list(), part["request_id"].to_list(), strict=True)
            )
        for (number,), part in frame.group_by("priority"):
            self._counts[Status.PENDING, int(str(number))] += part.height
            created = part["created_at"].dt.epoch("us").to_list()
            entries = sorted(zip(created, part["request_id"].to_list(), strict=True))
            heap = self._ready.setdefault(int(str(number)), [])
            ordered = not heap
            heap.extend(entries)
            if not ordered:
                heapq.heapify(heap)

        def take_back() -> None:
            for request_id in ids:
                self._forget(request_id)

        return take_back

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
        row = self.get(request_id)
        if row is None:
            return
        del self._items[request_id]
        self._counts[row.status, row.priority] -= 1
        self._retries -= max(row.attempt - 1, 0)
        if row.status not in LIVE:
            del self._finished[request_id]
        elif self._live[row.account].get(row.conid) == request_id:
            del self._live[row.account][row.conid]

    def _let_go(self) -> list[QueuedPosition]:
        """Drop the oldest finished requests beyond what is held; they stay in the table."""
        surplus = len(self._finished) - FINISHED_HELD
        gone = [self.get(request_id) for request_id, _ in zip(self._finished, range(surplus), strict=False)]
        for row in gone:
            if row is not None:
                self._forget(row.request_id)
        return [row for row in gone if row is not None]

    # --- heaps --------------------------------------------------------------------------------------------------

    def _index(self, row: QueuedPosition) -> None:
        if row.status == Status.PROCESSING:
            heapq.heappush(self._leases, (micros(row.lease_until or row.updated_at), row.request_id))
        elif row.available_at <= row.updated_at:
            heapq.heappush(self._ready.setdefault(row.priority, []), (micros(row.created_at), row.request_id))
        else:
            heapq.heappush(self._delayed, (micros(row.available_at), row.request_id))

    def _wake(self, now: int) -> None:
        """Move what has become due since the last look among what is ready; `now` in microseconds."""
        for heap in (self._delayed, self._leases):
            while heap and heap[0][0] <= now:
                item = self.get(heapq.heappop(heap)[1])
                if item is not None and item.status in LIVE:
                    heapq.heappush(
                        self._ready.setdefault(item.priority, []), (micros(item.created_at), item.request_id)
                    )

    def _oldest(self, heap: list[_Entry]) -> datetime | None:
        """Return when the oldest pending request of a heap was created; drop entries that are out of date."""
        while heap:
            item = self.get(heap[0][1])
            if is_pending(item):
                return item.created_at
            if item is not None and item.status in LIVE:
                self._index(item)
            heapq.heappop(heap)
        return None

    def _finished_since(self, instant: datetime) -> int:
        count = 0
        for request_id in reversed(self._finished):
            item = self.get(request_id)
            if item is None or item.updated_at < instant:
                break
            count += 1
        return count

    # --- rows of bulk inserts -----------------------------------------------------------------------------------

    def _make_block(self, request_id: str, number: int) -> QueuedPosition:
        """Turn the row with this number, and its neighbours, from a frame's into rows."""
        index = bisect_right(self._bulk_starts, number) - 1
        frame, start = self._bulk[index], self._bulk_starts[index]
        first = (number - start) // _BLOCK * _BLOCK
        for offset, row in enumerate(SPEC.to_rows(frame.slice(first, _BLOCK)), start + first):
            if self._items.get(row.request_id) == offset:
                self._items[row.request_id] = row
        item = self._items[request_id]
        if isinstance(item, int):
            raise TypeError(f"row {number} of a bulk insert is not that of {request_id}")
        return item


def micros(instant: datetime) -> int:
    """Return microseconds since the epoch."""
    return (instant - NO_INSTANT) // _MICROSECOND


def is_pending(item: QueuedPosition | None) -> TypeGuard[QueuedPosition]:
    """Tell whether this is a request that waits."""
    return item is not None and item.status == Status.PENDING
