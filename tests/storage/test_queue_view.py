"""The queue as one frame: brought up to date step by step, it is what a new look at the table gives."""

from __future__ import annotations

import asyncio

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from v6kit.queue import PositionQueue

MANY = 5_000  # enough that a bulk insert stays a frame in memory
FEW = 6  # finished requests that are held, where that matters


async def as_opened_anew(make_queue, queue: PositionQueue) -> pl.DataFrame:
    """Return the queue as another object finds it."""
    async with make_queue(uri=queue.uri) as other:
        return other.current()


async def test_after_every_kind_of_change_it_is_what_another_object_finds(make_queue, queue, clock):
    """Insert in bulk and one by one, claim, settle, fail, cancel, redrive, prioritise, run out of lease."""
    wanted = pl.DataFrame({"conid": range(1, MANY + 1), "symbol": ["SPY"] * MANY})
    ids = await queue.insert_many(wanted)
    assert queue.current()["request_id"].to_list() == ids

    async def look(rows: int) -> None:
        assert_frame_equal(queue.current(), await as_opened_anew(make_queue, queue))
        assert queue.current().height == rows

    await queue.prioritise(ids[40:60], 1)
    await look(MANY)
    batch = await queue.get_batch(30)
    await look(MANY)
    await queue.mark_success(batch[:10])
    for item in batch[10:20]:
        await queue.mark_failed(item, "no such contract")
    await look(MANY)
    await queue.cancel(ids[-3:])
    await queue.insert(MANY + 1, "QQQ", 1)
    await look(MANY + 1)
    await queue.redrive(batch[10])
    await look(MANY + 1)
    clock.advance(3600)
    await queue.get_batch(5)
    await look(MANY + 1)


async def test_what_is_no_longer_held_leaves_it(make_queue, queue, monkeypatch: pytest.MonkeyPatch):
    """Of what has finished, the newest stay, as in a queue that is opened anew."""
    monkeypatch.setattr("v6kit.queue.state.FINISHED_HELD", FEW)
    await queue.insert_many([{"conid": number, "symbol": "SPY"} for number in range(1, 31)])
    for _ in range(5):
        await queue.mark_success(await queue.get_batch(4))
        frame = queue.current()
        assert_frame_equal(frame, await as_opened_anew(make_queue, queue))
    assert frame["status"].value_counts().sort("status").rows() == [("PENDING", 10), ("SUCCESS", FEW)]


async def test_what_others_commit_comes_in_and_what_a_caller_changes_stays_out(make_queue, queue):
    """A frame belongs to its caller."""
    await queue.insert(1, "SPY")
    queue.current().insert_column(0, pl.Series("mine", [1]))
    other = await make_queue(uri=queue.uri).initialize()
    await other.insert(2, "QQQ")
    assert await queue.refresh()
    assert sorted(queue.current()["symbol"]) == ["QQQ", "SPY"]
    assert_frame_equal(queue.current(), other.current())


async def test_looks_from_many_threads_beside_changes_lose_nothing(make_queue, queue):
    """Whoever looks while others look and something changes, the last look has all of it."""
    ids = await queue.insert_many([{"conid": number, "symbol": "SPY"} for number in range(1, 201)])
    ended = asyncio.Event()

    async def look() -> None:
        while not ended.is_set():
            assert (await asyncio.to_thread(queue.current)).height == len(ids)

    looks = [asyncio.create_task(look()) for _ in range(4)]
    for number in range(20):
        await queue.prioritise(ids[number : number + 30], 1 + number % 3)
    ended.set()
    await asyncio.gather(*looks)
    assert_frame_equal(queue.current(), await as_opened_anew(make_queue, queue))
