"""A worker process for the tests: claims a batch, asks for it, and is killed.

Usage: python sync_child.py LAKE PORT
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from v6kit.broker import Broker
from v6kit.positions import PositionBook
from v6kit.queue import PositionQueue
from v6kit.sync import QueueWorker


async def main(lake: Path, port: int) -> None:
    """Run one cycle, which takes longer than this process lives."""
    async with (
        PositionQueue(lake / "position_queue") as queue,
        PositionBook(lake / "position_updates") as book,
        Broker("127.0.0.1", port, client_id=99, requests_per_second=500) as broker,
    ):
        await QueueWorker(queue, broker, book, interval=15).run_cycle()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
