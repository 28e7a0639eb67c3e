"""Requests of a bulk insert that nobody has touched yet: a frame that gives up its rows block by block.

Making 100,000 rows in memory would cost twice as long as writing them, and most of them wait for hours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from v6kit.queue.requests import SPEC, QueuedPosition, Turn

BLOCK_ROWS = 256


class Bulk:
    """Pending requests of one account and one priority, those first that are due first.

    Args:
        frame: Columns as the table's, sorted by due_at and request_id.
    """

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame
        self._ids = frame["request_id"]
        self._rows: Sequence[int] = range(frame.height)  # where in the frame each of the sorted ids is
        if not self._ids.is_sorted():
            order = self._ids.arg_sort()
            self._ids, self._rows = self._ids.gather(order), order.to_list()
        self._firsts: list[Turn] = [row.turn for row in SPEC.to_rows(frame.gather_every(BLOCK_ROWS))]
        self._untouched = [True] * len(self._firsts)
        self._next = 0
        self.account = str(frame["account"][0])
        self.priority = int(frame["priority"][0])

    @property
    def head(self) -> Turn | None:
        """The first request that is still here, or `None`."""
        while self._next < len(self._untouched) and not self._untouched[self._next]:
            self._next += 1
        return self._firsts[self._next] if self._next < len(self._untouched) else None

    def take_head(self) -> list[QueuedPosition]:
        """Hand out the first block."""
        return self._take(self._next) if self.head is not None else []

    def take_around(self, request_id: str) -> list[QueuedPosition]:
        """Hand out the block that has this request; empty if it is not here (any more)."""
        at = self._ids.search_sorted(request_id)
        if at >= len(self._ids) or self._ids[at] != request_id:
            return []
        block = self._rows[at] // BLOCK_ROWS
        return self._take(block) if self._untouched[block] else []

    def rest(self) -> list[pl.DataFrame]:
        """Return what is still here, as frames."""
        if all(self._untouched):
            return [self._frame]
        return [self._frame[first : first + BLOCK_ROWS] for first in self._untouched_rows()]

    def __len__(self) -> int:
        return sum(min(BLOCK_ROWS, self._frame.height - first) for first in self._untouched_rows())

    def _untouched_rows(self) -> Iterator[int]:
        return (block * BLOCK_ROWS for block, untouched in enumerate(self._untouched) if untouched)

    def _take(self, block: int) -> list[QueuedPosition]:
        self._untouched[block] = False
        return SPEC.to_rows(self._frame.slice(block * BLOCK_ROWS, BLOCK_ROWS))


def split(frame: pl.DataFrame) -> list[Bulk]:
    """Return new pending requests as one `Bulk` per account and priority."""
    if frame.is_empty():
        return []
    if not (frame["due_at"].is_sorted() and frame["request_id"].is_sorted()):
        frame = frame.sort("due_at", "request_id")
    if frame["account"].n_unique() == frame["priority"].n_unique() == 1:
        return [Bulk(frame)]
    return [Bulk(part) for part in frame.partition_by("account", "priority", maintain_order=True)]
