"""One cycle of the queue: claim 50 and settle 50, against raw appends, the original pattern, and a large backlog.

The original pattern reads the table, deletes the 50 rows one by one and appends them with their new status; twice.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import polars as pl
from deltalake import DeltaTable, PostCommitHookProperties, write_deltalake
from v6kit.queue import PositionQueue

from tests.bench.measure import Line, at_most, lake, medians, stopwatch, times_faster

BATCH = 50
ROUNDS = 15
SLOW_ROUNDS = 2
BARE = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


def run() -> list[Line]:
    """Measure."""
    return asyncio.run(_run())


async def _run() -> list[Line]:
    with lake() as folder:
        small, large = await _queue(folder / "small", 1_000), await _queue(folder / "large", 100_000)
        raw = _raw(folder / "raw", small.current())
        original = _original(folder / "original", small.current())
        for queue in (small, large):
            await _cycle(queue)
        quick = await medians({"small": lambda: _cycle(small), "raw": raw, "large": lambda: _cycle(large)}, ROUNDS)
        slow = await medians({"small": lambda: _cycle(small), "original": original}, SLOW_ROUNDS)
        await small.close()
        await large.close()
    ours = f"claim and settle of {BATCH} at 1,000 live"
    return [
        at_most(ours, quick["small"], f"two raw appends of {BATCH} rows", quick["raw"], 1.5),
        times_faster(ours, slow["small"], "original pattern, 500 rows", slow["original"], 40),
        at_most("the same at 100,000 live", quick["large"], "at 1,000 live", quick["small"], 1.3),
    ]


async def _queue(uri: Path, live: int) -> PositionQueue:
    queue = PositionQueue(uri)
    await queue.insert_many(pl.DataFrame({"conid": range(1, live + 1), "symbol": "SPY"}))
    return queue


async def _cycle(queue: PositionQueue) -> float:
    """Claim and settle; then queue as many again, outside of the measurement, so that the backlog keeps its size."""
    with stopwatch() as seconds:
        batch = await queue.get_batch(BATCH)
        await queue.mark_success(batch)
        taken = seconds()
    assert len(batch) == BATCH
    await queue.insert_many([{"conid": item.conid, "symbol": item.symbol} for item in batch])
    return taken


def _raw(uri: Path, rows: pl.DataFrame):
    batch = rows.head(BATCH)
    write_deltalake(uri, batch)
    handle = DeltaTable(uri)

    def append() -> None:
        write_deltalake(handle, batch, mode="append", post_commithook_properties=BARE)

    async def twice() -> float:
        with stopwatch() as seconds:
            await asyncio.to_thread(append)
            await asyncio.to_thread(append)
            taken = seconds()
        # The queue writes a third commit per round as well, so both logs grow alike.
        await asyncio.to_thread(append)
        return taken

    return twice


def _original(uri: Path, rows: pl.DataFrame):
    write_deltalake(uri, rows.head(500))

    def change(before: str, after: str) -> None:
        batch = pl.read_delta(str(uri)).filter(status=before).sort("priority", "created_at").head(BATCH)
        for request_id in batch["request_id"]:
            DeltaTable(uri).delete(f"request_id = '{request_id}'")
        write_deltalake(uri, batch.with_columns(status=pl.lit(after)), mode="append")

    async def once() -> float:
        with stopwatch() as seconds:
            await asyncio.to_thread(change, "PENDING", "PROCESSING")
            await asyncio.to_thread(change, "PROCESSING", "SUCCESS")
            return seconds()

    return once
