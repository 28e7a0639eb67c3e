"""What the children do: scenes on a real queue, told to the journal of the layer below them.

Usage: LD_PRELOAD=disk.so python scenes.py
Reads one JSON object per line: the scene, its folder, its journal, and at which step or after how many seconds to end
it. Answers with how it ended.

A child is a fork of a process that has imported everything and done nothing. The only threads that this process has are
those of the allocators, which are made for forks, and an idle one of polars.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import random
import select
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from v6kit.ledger import upkeep
from v6kit.queue import Outcome, PositionQueue, QueuedPosition

AT_ONCE = {
    "delta.deletedFileRetentionDuration": "interval 0 seconds",
    "delta.logRetentionDuration": "interval 0 seconds",
}
LAYER = ctypes.CDLL(None)
BACKLOG, LEASE = 50, timedelta(seconds=0.3)
ENDS: list[Callable[[QueuedPosition], Outcome]] = [
    Outcome.success,
    lambda item: Outcome.failed(item, "no such contract"),
    lambda item: Outcome.retry(item, "timed out", timedelta(0)),
]
WEIGHTS = [8, 1, 1]


def note(**facts: Any) -> None:
    """Tell the journal what has been acknowledged by now."""
    LAYER.disk_note(json.dumps(facts).encode())


async def did(queue: PositionQueue, change: Awaitable[Any], *, paused: bool = False) -> Any:
    """Wait for a change, then note that it was acknowledged, and as which version."""
    result = await change
    ids = [result] if isinstance(result, str) else []
    if isinstance(result, list):
        ids = [each for each in result if isinstance(each, str)]
    note(version=queue.ledger.version, paused=paused, ids=ids)
    return result


async def turn(queue: PositionQueue) -> None:
    """Do one turn of upkeep, as the ledger does it by itself every hundred commits."""
    ledger = queue.ledger
    step = partial(upkeep.run, write_snapshot=ledger._write_snapshot, forget=ledger._forget)
    await asyncio.wrap_future(ledger._upkeep.run(step))


async def every_change(queue: PositionQueue) -> None:
    """Make the table, and one change of each kind."""
    await did(queue, queue.initialize())
    ids = await did(queue, queue.insert_many([{"conid": conid, "symbol": "SPY"} for conid in range(1, 9)]))
    await did(queue, queue.insert(9, "QQQ", priority=1))
    batch = await did(queue, queue.get_batch(6))
    ends = [
        Outcome.success(batch[0]),
        Outcome.failed(batch[1], "no such contract"),
        Outcome.retry(batch[2], "timed out", timedelta(0)),
        Outcome.cancelled(batch[3], "closed meanwhile"),
    ]
    await did(queue, queue.settle(ends))
    await did(queue, queue.cancel([batch[4], ids[7]]))
    await did(queue, queue.redrive(batch[1]))
    await did(queue, queue.pause("a kill is coming"), paused=True)
    await did(queue, queue.resume())
    for name, value in AT_ONCE.items():  # the turns of upkeep to come find something to remove
        await did(queue, asyncio.wrap_future(queue.ledger.set_property(name, value)))


async def two_turns(queue: PositionQueue) -> None:
    """Two turns of upkeep with a change between them: the second one replaces what the first one wrote."""
    await did(queue, queue.initialize())
    await turn(queue)
    await did(queue, queue.insert(10, "IWM"))
    await turn(queue)


async def forgetting(queue: PositionQueue) -> None:
    """Prune all that is superseded or finished by now."""
    await did(queue, queue.initialize())
    await did(queue, queue.prune(datetime.now(UTC)))
    await turn(queue)


async def opening(queue: PositionQueue) -> None:
    """Open what is there, and make one change."""
    await did(queue, queue.initialize())
    await did(queue, queue.insert(11, "DIA"))


async def only_opening(queue: PositionQueue) -> None:
    """Open what is there."""
    await queue.initialize()


async def whole_life(queue: PositionQueue) -> None:
    """All of it in one process: changes, upkeep, changes."""
    for part in (every_change, two_turns, opening, forgetting, opening):
        await part(queue)


async def work_for_ever(queue: PositionQueue) -> None:
    """Insert, claim and settle, one after the other, until somebody ends it; note what was acknowledged."""
    await queue.initialize()
    chance = random.Random()
    while True:
        if queue.stats().by_status["PENDING"] < BACKLOG:
            items = [{"conid": chance.randrange(1, 2**31), "symbol": "SPY", "max_attempts": 10_000} for _ in range(10)]
            note(inserted=await queue.insert_many(items))
        batch = await queue.get_batch(5, lease=LEASE)
        ends = [chance.choices(ENDS, WEIGHTS)[0](item) for item in batch]
        settled = await queue.settle(ends)
        final = {end.item.request_id: end.status for end in ends if end.status != "PENDING"}
        note(settled={name: final[name] for name in settled.settled if name in final})


SCENES: dict[str, Callable[[PositionQueue], Awaitable[None]]] = {
    scene.__name__: scene
    for scene in (every_change, two_turns, forgetting, opening, only_opening, whole_life, work_for_ever)
}


async def play(scene: str, folder: str, durable: str | None = None) -> None:
    """Play a scene on the table below a folder."""
    upkeep.SMALL_FILES_DUE = 2  # so that a turn after a few commits has something to do
    upkeep.COMMITS_PER_TURN = 20 if scene == "work_for_ever" else 10_000  # by itself in the one, never in the others
    options = {} if durable is None else {"durable": durable}
    queue = PositionQueue(Path(folder, "queue"), worker_id="scene", **options)
    await SCENES[scene](queue)
    await queue.close()


def child(order: dict[str, Any]) -> None:
    """Arm the layer and play."""
    folder, journal = order.pop("folder"), order.pop("journal")
    moment, step = order.pop("moment", "never"), order.pop("step", 0)
    LAYER.disk_arm(folder.encode(), journal.encode(), moment.encode(), ctypes.c_long(step))
    asyncio.run(play(folder=folder, **order))


def end_of(pid: int, lifetime: float | None) -> int:
    """Wait until a child has ended, and end it when its time is over; return how it ended."""
    if lifetime is not None:
        handle = os.pidfd_open(pid)
        if not select.select([handle], [], [], lifetime)[0]:
            os.kill(pid, signal.SIGKILL)
        os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def serve() -> None:
    """Make a child per line of input, and tell how it ended."""
    for line in sys.stdin:
        order = json.loads(line)
        lifetime = order.pop("lifetime", None)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                child(order)
                status = 0
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(status)
        print(end_of(pid, lifetime), flush=True)  # noqa: T201 - the test reads it


if __name__ == "__main__":
    serve()
