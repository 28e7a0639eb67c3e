"""Bulk: 100,000 positions into the queue and out of it by 1,000, against two queues on SQLite; and single operations.

Each is used as it is fastest while it loses nothing by a crash of the process. A power cut may cost each its last
seconds: persist-queue's `synchronous` is lowered from FULL to litequeue's NORMAL for that.

litequeue puts in and settles in one transaction; it claims one by one, and has no other way. As it comes, each claim
sorts the whole backlog (a line of its own). So it gets an `ANALYZE` after the filling, and a `prune` after each batch.
persist-queue commits each item; it reads on from the last one, since a look from the start passes over what is settled.

SQLite wins single operations by far: a commit to a Delta table is a file and a log entry, be it of one row or 100,000.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
from litequeue import LiteQueue
from persistqueue import SQLiteAckQueue
from v6kit.queue import PositionQueue

from tests.bench.measure import Line, lake, medians, stopwatch, times_faster, told

ITEMS = 100_000
BATCH = 1_000
FILLINGS = 3
SINGLES = 200
POSITIONS = [{"conid": number, "symbol": f"S{number % 500}", "priority": 2} for number in range(1, ITEMS + 1)]


class Ours:
    """`PositionQueue`."""

    def __init__(self, folder: Path) -> None:
        self._queue = PositionQueue(folder / "queue")

    async def open(self) -> None:
        """Be ready, so that nobody pays for it later."""
        await self._queue.initialize()

    async def put(self, positions: list[dict[str, Any]]) -> None:
        """Put in, given what the others are given."""
        await self._queue.insert_many(positions)

    async def claim(self, limit: int) -> list[Any]:
        """Take out."""
        return await self._queue.get_batch(limit)

    async def settle(self, batch: list[Any]) -> None:
        """End what was taken."""
        await self._queue.mark_success(batch)

    async def close(self) -> None:
        """Let go."""
        await self._queue.close()


class OursFromFrame(Ours):
    """The same, given a frame, as an account's positions come."""

    frame = pl.DataFrame(POSITIONS)

    async def put(self, positions: list[dict[str, Any]]) -> None:
        """Put all of them in; the frame is there before."""
        assert len(positions) == ITEMS
        await self._queue.insert_many(self.frame)


class Lite:
    """`litequeue`; payloads are JSON."""

    is_tuned = True

    def __init__(self, folder: Path) -> None:
        self._queue = LiteQueue(folder / "lite.db")

    async def open(self) -> None:
        """See that a commit waits for no disk."""
        assert self._queue.conn.execute("PRAGMA synchronous").fetchone()[0] == 1

    async def put(self, positions: list[dict[str, Any]]) -> None:
        """Put in, in one transaction."""
        with self._queue.transaction():
            for position in positions:
                self._queue.put(json.dumps(position))
        if self.is_tuned and len(positions) > 1:
            self._queue.conn.execute("ANALYZE")

    async def claim(self, limit: int) -> list[Any]:
        """Take out, one by one."""
        batch = [self._queue.pop() for _ in range(limit)]
        assert all(json.loads(message.data)["conid"] for message in batch)
        return batch

    async def settle(self, batch: list[Any]) -> None:
        """End what was taken, in one transaction."""
        with self._queue.transaction():
            for message in batch:
                self._queue.done(message.message_id)
        if self.is_tuned and len(batch) > 1:
            self._queue.prune()

    async def close(self) -> None:
        """Let go."""
        self._queue.close()


class LiteAsItComes(Lite):
    """The same without help."""

    is_tuned = False


class Persist:
    """`persist-queue`; payloads are pickled."""

    def __init__(self, folder: Path) -> None:
        self._queue = SQLiteAckQueue(str(folder / "persist"))
        self._last: int | None = None

    async def open(self) -> None:
        """Let commits wait for no disk either."""
        for connection in (self._queue._putter, self._queue._getter):
            connection.execute("PRAGMA synchronous = NORMAL")

    async def put(self, positions: list[dict[str, Any]]) -> None:
        """Put in, one by one."""
        for position in positions:
            self._queue.put(position)

    async def claim(self, limit: int) -> list[Any]:
        """Take out, one by one."""
        return [self._next() for _ in range(limit)]

    def _next(self) -> dict[str, Any]:
        place = {} if self._last is None else {"id": self._last, "next_in_order": True}
        item = self._queue.get(block=False, raw=True, **place)
        self._last = item["pqid"]
        return item

    async def settle(self, batch: list[Any]) -> None:
        """End what was taken, one by one."""
        for item in batch:
            self._queue.ack(id=item["pqid"])

    async def close(self) -> None:
        """Let go."""
        self._queue.close()


Contender = Ours | Lite | Persist
KINDS: dict[str, type[Contender]] = {"ours": Ours, "litequeue": Lite, "persist-queue": Persist}
OTHERS = ("litequeue", "persist-queue")


def run() -> list[Line]:
    """Measure."""
    return asyncio.run(_run())


async def _run() -> list[Line]:
    with lake() as folder:
        filled, lines = await _filling(folder)
        lines += await _draining(filled)
        for queue in filled.values():
            await queue.close()
        return lines + await _single(folder)


async def _filling(folder: Path) -> tuple[dict[str, Contender], list[Line]]:
    """Fill new queues; return the last ones, full."""
    filled: dict[str, Contender] = {}
    number = count()

    def filling(name: str, kind: type[Contender]):
        async def once() -> float:
            if name in filled:
                await filled[name].close()
            queue = filled[name] = kind(_new_folder(folder, f"filling-{next(number)}"))
            await queue.open()
            with stopwatch() as seconds:
                await queue.put(POSITIONS)
                return seconds()

        return once

    kinds = KINDS | {"frame": OursFromFrame, "as it comes": LiteAsItComes}
    taken = await medians({name: filling(name, kind) for name, kind in kinds.items()}, FILLINGS)
    what = {"ours": f"enqueue {ITEMS:,}", "frame": f"enqueue {ITEMS:,} from a frame"}
    return filled, [
        times_faster(f"{text}, {ITEMS / taken[name]:,.0f}/s", taken[name], other, taken[other], 1)
        for name, text in what.items()
        for other in OTHERS
    ]


async def _draining(filled: dict[str, Contender]) -> list[Line]:
    """Drain the queues batch by batch, in turns."""

    def one_batch(queue: Contender):
        async def once() -> float:
            with stopwatch() as seconds:
                batch = await queue.claim(BATCH)
                await queue.settle(batch)
                taken = seconds()
            assert len(batch) == BATCH
            return taken

        return once

    first = await _each_of_the_first(filled)
    taken = await medians({name: one_batch(filled[name]) for name in KINDS}, ITEMS // BATCH - 1)
    ours = taken["ours"]
    return [
        *(
            times_faster(f"drain {ITEMS:,} by {BATCH:,}, {BATCH / ours:,.0f}/s", ours, name, taken[name], 1)
            for name in OTHERS
        ),
        told(f"claim of one, in a batch, out of {ITEMS:,}", first["ours"], "litequeue as it comes", first["lite"]),
    ]


async def _each_of_the_first(filled: dict[str, Contender]) -> dict[str, float]:
    """Take what claims one item costs out of a full queue, seconds each; drains a batch of ours."""

    def claiming(name: str, limit: int):
        async def once() -> float:
            with stopwatch() as seconds:
                batch = await filled[name].claim(limit)
                taken = seconds()
            await filled[name].settle(batch)
            return taken / limit

        return once

    return await medians({"ours": claiming("ours", BATCH), "lite": claiming("as it comes", 20)}, 1)


async def _single(folder: Path) -> list[Line]:
    """Insert, claim and settle one item at a time, beside 1,000 others."""
    place, number = _new_folder(folder, "single"), count(BATCH)
    queues = {name: kind(place) for name, kind in KINDS.items()}
    for queue in queues.values():
        await queue.open()
        await queue.put(POSITIONS[:BATCH])
    batches: dict[str, list[Any]] = {}

    async def insert(name: str) -> None:
        await queues[name].put([POSITIONS[next(number)]])

    async def claim(name: str) -> None:
        batches[name] = await queues[name].claim(1)

    async def settle(name: str) -> None:
        await queues[name].settle(batches[name])

    steps = {"insert": insert, "claim": claim, "settle": settle}
    taken = await medians({(step, name): _timed(steps[step], name) for step in steps for name in KINDS}, SINGLES)
    for queue in queues.values():
        await queue.close()
    return [told(f"{step} one", taken[step, "ours"], other, taken[step, other]) for step in steps for other in OTHERS]


def _timed(step: Callable[[str], Any], name: str):
    async def once() -> float:
        with stopwatch() as seconds:
            await step(name)
            return seconds()

    return once


def _new_folder(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir()
    return place
