"""The price of `durable="power"`: a commit that survives a power cut, against one that survives a crash of the process.

What it costs is the disk's to say: the name of the file system is in each line. On tmpfs a sync costs nothing, and
nothing there survives anyhow.
"""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path

import polars as pl
import psutil
from v6kit.queue import PositionQueue

from tests.bench.measure import Line, lake, medians, stopwatch, told

SIZES = {1: 60, 50: 60, 100_000: 5}
"""Rows of an insert → rounds."""


def run() -> list[Line]:
    """Measure."""
    return asyncio.run(_run())


async def _run() -> list[Line]:
    lines = []
    with lake() as folder:
        disk = file_system(folder)
        for rows, rounds in SIZES.items():
            async with (
                PositionQueue(folder / f"process-{rows}", durable="process") as process,
                PositionQueue(folder / f"power-{rows}", durable="power") as power,
            ):
                work = {"process": _inserting(process, rows), "power": _inserting(power, rows)}
                await medians(work, 1)  # warm
                taken = await medians(work, rounds)
            lines.append(
                told(f"insert of {rows:,}, power, {disk}", taken["power"], "process, the same", taken["process"])
            )
    return lines


def _inserting(queue: PositionQueue, rows: int):
    numbers = count(step=rows)

    async def once() -> float:
        first = next(numbers) + 1
        wanted = pl.DataFrame({"conid": range(first, first + rows), "symbol": "SPY"})
        with stopwatch() as seconds:
            await queue.insert_many(wanted)
            return seconds()

    return once


def file_system(folder: Path) -> str:
    """Return the name of the file system that a folder is on."""
    mounts = psutil.disk_partitions(all=True)
    above = [mount for mount in mounts if folder.resolve().is_relative_to(mount.mountpoint)]
    return max(above, key=lambda mount: len(mount.mountpoint)).fstype if above else "unknown file system"
