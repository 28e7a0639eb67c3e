"""One queue, many processes, loops and threads: nothing twice, nothing lost, and no Delta call on a loop."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from stores.workers import (
    assert_each_request_ended_once,
    assert_nothing_twice_and_nothing_lost,
    crew,
    history,
    shares,
    work_together,
)
from tests.patience import DEADLINE
from v6kit.clock import FakeClock
from v6kit.ledger.disk import Patience
from v6kit.ledger.store import Store
from v6kit.queue import PositionQueue, Status

BATCH, FAIR_BATCHES = 10, 40


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [4, 8])
async def test_processes_drain_one_queue_and_none_of_them_starves(queue, count):
    """Each request is claimed once and ends once; who gets the least gets at least a quarter of a fair share."""
    requests = count * FAIR_BATCHES * BATCH
    await queue.insert_many(pl.DataFrame({"conid": range(1, requests + 1), "symbol": "SPY"}))
    with crew(queue.uri, *(f"worker-{number}" for number in range(count)), size=BATCH) as workers:
        taken = await asyncio.to_thread(work_together, workers)

    assert_nothing_twice_and_nothing_lost(taken, requests)
    assert_each_request_ended_once(queue.uri, requests)
    claims = history(queue.uri).filter(pl.col("change") == "CLAIM")
    assert claims.height == requests
    assert claims["attempt"].unique().to_list() == [1]
    assert shares(taken)[0] >= 0.25, f"parts of a fair share: {shares(taken)}"


@pytest.mark.timeout(600)
async def test_workers_killed_in_the_middle_of_their_commits_lose_nothing(queue, make_queue):
    """Three busy workers are killed one after the other; a survivor ends what is left."""
    await queue.insert_many([{"conid": conid, "symbol": "SPY"} for conid in range(1, 1_001)])
    for number in range(3):
        with crew(queue.uri, f"doomed-{number}") as (doomed,):
            await asyncio.to_thread(doomed.begin)
            for _ in range(3 + number):
                assert await asyncio.to_thread(doomed.conids)
            doomed.kill()

    survivor = make_queue(clock=FakeClock(datetime.now(UTC) + timedelta(seconds=61)), worker_id="survivor")
    while batch := await survivor.get_batch(100):
        await survivor.mark_success(batch)
    assert survivor.stats().by_status[Status.SUCCESS] == 1_000
    assert_each_request_ended_once(queue.uri, 1_000)


async def test_one_object_serves_two_loops_and_plain_threads_at_once(queue):
    """Inserts from one loop, claims from another, statistics from a thread: all of them on the same object."""
    wanted, taken = 300, []
    is_done = threading.Event()

    async def insert() -> None:
        await asyncio.gather(*(queue.insert(conid, "SPY") for conid in range(1, wanted + 1)))

    async def take() -> None:
        while len(taken) < wanted:
            batch = await queue.get_batch(25)
            await queue.mark_success(batch)
            taken.extend(item.conid for item in batch)

    def look() -> None:
        while not is_done.is_set():
            stats = queue.stats()
            assert sum(stats.by_status.values()) <= wanted
            assert queue.current().height <= wanted

    watching = asyncio.create_task(asyncio.to_thread(look))
    try:
        await asyncio.gather(asyncio.to_thread(asyncio.run, insert()), asyncio.to_thread(asyncio.run, take()), insert())
    finally:
        is_done.set()
    await watching
    assert sorted(taken)[:wanted] == sorted(set(taken))[:wanted]
    assert set(taken) == set(range(1, wanted + 1))


async def test_no_call_to_delta_runs_on_an_event_loop(make_queue, monkeypatch):
    """Whatever is called: everything that touches storage runs on the ledger's own threads."""
    seen: set[tuple[str, str]] = set()

    def watched(name: str):
        real = getattr(Store, name)

        def call(*args, **kwargs):
            seen.add((name, threading.current_thread().name))
            return real(*args, **kwargs)

        return call

    calls = [name for name, value in vars(Store).items() if callable(value) and not name.startswith("__")]
    for name in calls:
        monkeypatch.setattr(Store, name, watched(name))

    queue = await make_queue().initialize()
    await queue.insert_many(pl.DataFrame({"conid": range(1, 2_001), "symbol": "SPY"}))
    batch = await queue.get_batch()
    await queue.mark_success(batch[:10])
    await queue.mark_retry(batch[10], "timed out")
    await queue.extend_lease(batch[11])
    await queue.release(batch[12])
    await queue.cancel(batch[13])
    await queue.prioritise(batch[14])
    await queue.pause()
    await queue.resume()
    await queue.refresh()
    queue.stats(), queue.current(), repr(queue)
    await queue.close()

    assert {"append", "refresh", "set_property", "open_or_create"} <= {name for name, _ in seen}
    strangers = {(name, thread) for name, thread in seen if not thread.startswith("v6kit-")}
    assert strangers == set()


@pytest.mark.parametrize("form", ["frame", "mappings"])
async def test_a_huge_insert_does_not_stall_the_loop(queue, form):
    """While 200,000 rows are checked, written and folded, the loop keeps turning: no pause is a large part of it."""
    frame = pl.DataFrame({"conid": range(1, 200_001), "symbol": "SPY"})
    items = frame if form == "frame" else frame.to_dicts()
    pauses = [0.0]

    async def turn() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.001)
            now = time.monotonic()
            pauses.append(now - last)
            last = now

    turning = asyncio.create_task(turn())
    await asyncio.sleep(0)
    began = time.monotonic()
    await queue.insert_many(items)
    whole = time.monotonic() - began
    turning.cancel()
    assert max(pauses) < whole / 2, f"a pause of {max(pauses):.3f} s in {whole:.3f} s"


async def test_a_call_that_is_cancelled_leaves_the_queue_whole(queue):
    """Interrupted cells: whether or not the change was made, the next calls work and nothing is half done."""
    await queue.insert_many([{"conid": conid, "symbol": "SPY"} for conid in range(1, 101)])
    for _ in range(20):
        claiming = asyncio.create_task(queue.get_batch(1))
        await asyncio.sleep(0)
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
    stats = queue.stats()
    rest = await queue.get_batch(200)
    assert len(rest) == queue.stats().by_status[Status.PROCESSING] - stats.by_status[Status.PROCESSING] or rest
    assert sum(queue.stats().by_status.values()) == 100
    await queue.mark_success(rest)


async def test_closing_finishes_what_was_called(make_queue):
    """close() right behind a burst of inserts: each of them is durable."""
    queue = make_queue()
    inserting = [asyncio.create_task(queue.insert(conid, "SPY")) for conid in range(1, 101)]
    await asyncio.sleep(0)
    await queue.close()
    ids = await asyncio.gather(*inserting)
    again: PositionQueue = await make_queue().initialize()
    assert sorted(again.current()["request_id"]) == sorted(ids)


async def test_a_worker_that_was_stopped_in_its_turn_holds_nobody_up_for_long(queue, make_queue):
    """A turn is a courtesy: a suspended process has it, and the others go on without it, and wait for it but once."""
    other = await make_queue().initialize()
    with queue.ledger._store.turn():
        for conid in range(1, 101):  # one wait each would take longer than this test may
            assert await asyncio.wait_for(other.insert(conid, "SPY"), DEADLINE)
    assert await queue.insert(101, "SPY")


class Watched(Patience):
    """The patience of one who waits, whose every look is hours after the last and sees that turns have gone round."""

    def __init__(self, lock: Path) -> None:
        super().__init__()
        self.looks, self.has_waited, self._lock = 0, threading.Event(), lock

    def is_used_up(self, turn: object, now: float) -> bool:
        """Let it be the next one's turn after this look."""
        self.looks += 1
        if self.looks == 5:
            self.has_waited.set()
        used_up = super().is_used_up(turn, now + 3_600 * self.looks)
        os.utime(self._lock, ns=(self.looks, self.looks))
        return used_up


async def test_a_writer_waits_for_its_turn_as_long_as_turns_go_round(queue, make_queue):
    """Who pushes in loses against all who are in turn: measured with eight, one got a fifth of a fair share."""
    other = await make_queue().initialize()
    disk = other.ledger._store._disk
    disk._patience = watched = Watched(Path(queue.uri) / "_turn.lock")
    with queue.ledger._store.turn():
        inserting = asyncio.create_task(other.insert(1, "SPY"))
        assert await asyncio.to_thread(watched.has_waited.wait, DEADLINE)
        assert not inserting.done()
    assert await inserting


async def test_a_lock_that_may_not_be_taken_holds_nobody_up(queue):
    """Where another user made the lock, or the file system has none, work goes on."""
    lock = Path(queue.uri) / "_turn.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    assert await queue.insert(1, "SPY")
