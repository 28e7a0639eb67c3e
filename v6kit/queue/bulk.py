"""Requests of a bulk insert that nobody has touched yet: a frame that gives up its rows block by block.

Making 100,000 rows in memory would cost twice as long as writing them, and most of them wait for hours.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from v6kit.queue.requests import SPEC, QueuedPosition

BLOCK_ROWS = 256


class Bulk:
    """Pending requests of one account and one priority, oldest first.

    Args:
        frame: Columns as the table's, sorted by request_id.
    """

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame
        self._ids = frame["request_id"]
        self._first_ids = self._ids.gather_every(BLOCK_ROWS).to_list()
        self._untouched = [True] * len(self._first_ids)
        self._next = 0
        self.account = str(frame["account"][0])
        self.priority = int(frame["priority"][0])

    @property
    def head(self) -> str | None:
        """The oldest request that is still here, or `None`."""
        while self._next < len(self._untouched) and not self._untouched[self._next]:
            self._next += 1
        return self._first_ids[self._next] if self._next < len(self._untouched) else None

    def take_head(self) -> list[QueuedPosition]:
        """Hand out the oldest block."""
        return self._take(self._next) if self.head is not None else []

    def take_around(self, request_id: str) -> list[QueuedPosition]:
        """Hand out the block that has this request; empty if it is not here (any more)."""
        row = self._ids.search_sorted(request_id)
        if row >= len(self._ids) or self._ids[row] != request_id or not self._untouched[row // BLOCK_ROWS]:
            return []
        return self._take(row // BLOCK_ROWS)

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
    if not frame["request_id"].is_sorted():
        frame = frame.sort("request_id")
    if frame["account"].n_unique() == frame["priority"].n_unique() == 1:
        return [Bulk(frame)]
    return [Bulk(part) for part in frame.partition_by("account", "priority", maintain_order=True)]
