"""A worker process for the tests: claims and settles until the queue is empty, or holds a batch until it is killed.

Usage: python drainer.py URI WORKER_ID drain|hold|insert [SIZE]
Reads the storage options as one line of JSON: a command line is for everybody to read. Opens the queue, prints `ready`,
and begins at the next line. Prints one line per batch: the conids that it claimed.
"""

from __future__ import annotations

import asyncio
import json
import sys

from v6kit.queue import Outcome, PositionQueue, QueuedPosition, Status


def tell(batch: list[QueuedPosition]) -> None:
    """Tell the test what was claimed."""
    print(*(item.conid for item in batch), flush=True)  # noqa: T201 - the test reads it


async def drain(queue: PositionQueue, size: int) -> None:
    """Claim and settle until nothing is live any more."""
    while True:
        batch = await queue.get_batch(size)
        if batch:
            tell(batch)
            await queue.mark_success(batch)
        elif not queue.stats().by_status[Status.PENDING]:
            return


async def hold(queue: PositionQueue, size: int) -> None:
    """Claim one batch and keep it until somebody ends this process, or settle late and say how it went."""
    batch = await queue.get_batch(size)
    tell(batch)
    while await asyncio.to_thread(sys.stdin.readline):
        report = await queue.settle([Outcome.success(item) for item in batch])
        print(len(report.settled), len(report.stale), flush=True)  # noqa: T201 - the test reads it


async def main(uri: str, worker_id: str, task: str, size: str = "20") -> None:
    """Open the queue and do the task."""
    options = json.loads(sys.stdin.readline())
    async with PositionQueue(uri, worker_id=worker_id, storage_options=options) as queue:
        print("ready", flush=True)  # noqa: T201 - the test waits for it
        await asyncio.to_thread(sys.stdin.readline)
        await {"drain": drain, "hold": hold}[task](queue, int(size))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
