"""Putting requests in: 100,000 in one commit against a raw write of the same rows; 1,000 calls at once."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path

import polars as pl
from deltalake import write_deltalake
from v6kit.queue import PositionQueue

from tests.bench.measure import Line, at_most, count_at_most, lake, medians, stopwatch

ROWS = 100_000
CALLS = 1_000
ROUNDS = 7


def run() -> list[Line]:
    """Measure."""
    return asyncio.run(_run())


async def _run() -> list[Line]:
    with lake() as folder:
        wanted = pl.DataFrame({"conid": range(1, ROWS + 1), "symbol": [f"S{number % 500}" for number in range(ROWS)]})
        number = count()

        async def insert() -> float:
            async with PositionQueue(folder / f"queue-{next(number)}") as queue:
                with stopwatch() as seconds:
                    await queue.insert_many(wanted)
                    return seconds()

        await insert()
        async with PositionQueue(folder / "queue-0") as queue:
            rows = queue.current()

        async def raw() -> float:
            with stopwatch() as seconds:
                await asyncio.to_thread(write_deltalake, folder / f"raw-{next(number)}", rows)
                return seconds()

        await raw()
        taken = await medians({"insert": insert, "raw": raw}, ROUNDS)
        commits = await _commits_of_calls(folder / "calls")
    return [
        at_most(f"insert_many of {ROWS:,}", taken["insert"], "raw write of the same rows", taken["raw"], 2),
        count_at_most(f"commits of {CALLS:,} insert calls at once", commits, 25),
    ]


async def _commits_of_calls(uri: Path) -> int:
    async with PositionQueue(uri) as queue:
        before = queue.ledger.version
        await asyncio.gather(*(queue.insert(conid, "SPY") for conid in range(1, CALLS + 1)))
        return queue.ledger.version - before
