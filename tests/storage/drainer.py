"""A worker process for the tests: claims and settles until the queue is empty, or holds a batch until it is killed.

Usage: python drainer.py URI WORKER_ID drain|hold
Prints one line per batch: the conids that it claimed.
"""

from __future__ import annotations

import asyncio
import sys

from v6kit.queue import PositionQueue, QueuedPosition, Status


def tell(batch: list[QueuedPosition]) -> None:
    """Tell the test what was claimed."""
    print(*(item.conid for item in batch), flush=True)  # noqa: T201 - the test reads it


async def drain(queue: PositionQueue) -> None:
    """Claim and settle until nothing is live any more."""
    while True:
        batch = await queue.get_batch(20)
        if batch:
            tell(batch)
            await queue.mark_success(batch)
        elif not queue.stats().by_status[Status.PENDING]:
            return


async def hold(queue: PositionQueue) -> None:
    """Claim one batch and keep it until somebody ends this process."""
    batch = await queue.get_batch(20)
    tell(batch)
    await asyncio.to_thread(sys.stdin.read)


async def main(uri: str, worker_id: str, task: str) -> None:
    """Open the queue and do the task."""
    async with PositionQueue(uri, worker_id=worker_id) as queue:
        await {"drain": drain, "hold": hold}[task](queue)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
