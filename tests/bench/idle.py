"""Asking an idle queue for work: no commit, and little more than a bare look at the log."""

from __future__ import annotations

import asyncio

from deltalake import DeltaTable
from v6kit.queue import PositionQueue

from tests.bench.measure import Line, at_most, count_at_most, lake, medians, stopwatch

ROUNDS = 200


def run() -> list[Line]:
    """Measure."""
    return asyncio.run(_run())


async def _run() -> list[Line]:
    with lake() as folder:
        async with PositionQueue(folder / "queue") as queue:
            for conid in range(1, 51):
                await queue.insert(conid, "SPY")
            await queue.mark_success(await queue.get_batch())
            handle = DeltaTable(queue.uri)

            async def poll() -> float:
                with stopwatch() as seconds:
                    await queue.get_batch()
                    return seconds()

            async def look() -> float:
                with stopwatch() as seconds:
                    await asyncio.to_thread(handle.update_incremental)
                    return seconds()

            before = queue.ledger.version
            taken = await medians({"poll": poll, "look": look}, ROUNDS)
            commits = queue.ledger.version - before
    return [
        at_most("idle get_batch", taken["poll"], "bare update_incremental", taken["look"], 2),
        count_at_most(f"commits of {ROUNDS} idle polls", commits, 0),
    ]
