"""The queue's promises, once for every place: a local path, S3, Azure. What differs there must not show here."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from stores import EVERYWHERE
from stores.workers import (
    assert_each_request_ended_once,
    assert_nothing_twice_and_nothing_lost,
    crew,
)
from v6kit.clock import FakeClock
from v6kit.errors import StorageError
from v6kit.ledger import Past, snapshot, upkeep
from v6kit.ledger.store import Store
from v6kit.queue import Status
from v6kit.queue.requests import SPEC

pytestmark = EVERYWHERE


def requests(count: int) -> list[dict]:
    """Return requests for the conids from 1."""
    return [{"conid": conid, "symbol": "SPY"} for conid in range(1, count + 1)]


async def test_many_that_open_a_new_table_at_once_make_one(make_queue):
    """Each of them finds the same table, and what one of them inserts the others take."""
    queues = [make_queue() for _ in range(6)]
    await asyncio.gather(*(queue.initialize() for queue in queues))
    assert len({queue.ledger._store.table_id for queue in queues}) == 1
    ids = await asyncio.gather(*(queue.insert(conid, "SPY") for conid, queue in enumerate(queues, 1)))
    taken = await queues[0].get_batch()
    assert {item.request_id for item in taken} == set(ids)


async def test_two_handles_that_race_never_claim_the_same_request(make_queue):
    """Put-if-absent keeps stale writers out: nothing twice, nothing lost, and a third handle sees the same."""
    one, two = make_queue(), make_queue()
    await asyncio.gather(one.initialize(), two.initialize())
    await one.insert_many(requests(100))
    batches = await asyncio.gather(*(queue.get_batch(5) for _ in range(10) for queue in (one, two)))
    assert_nothing_twice_and_nothing_lost([[item.conid for item in batch] for batch in batches], 100)
    for queue, batch in zip((one, two) * 10, batches, strict=True):
        await queue.mark_success(batch)
    three = await make_queue().initialize()
    await one.refresh()
    assert three.current().equals(one.current())
    assert three.stats().by_status[Status.SUCCESS] == 100


async def test_an_insert_of_many_is_one_version_and_all_or_nothing(queue, make_queue):
    """One wrong item refuses them all; the right ones are one commit."""
    before = queue.ledger.version
    with pytest.raises(ValueError, match="conid"):
        await queue.insert_many([*requests(5), {"conid": -1, "symbol": "SPY"}])
    ids = await queue.insert_many(requests(500))
    assert queue.ledger.version == before + 1
    assert (await make_queue().initialize()).current()["request_id"].to_list() == ids


async def test_what_was_inserted_twice_is_queued_once(queue, make_queue):
    """A live request for the same contract is found again, also by another handle."""
    known = await queue.insert(1, "SPY")
    assert await make_queue().insert(1, "SPY") == known
    assert (await make_queue().initialize()).stats().live == 1


async def test_processes_that_open_and_drain_together_take_nothing_twice(place, uri, make_queue):
    """Three processes make the table at the same moment, then drain it at the same moment."""
    with crew(uri, "one", "two", "three", size=10, options=place.options) as workers:
        for worker in workers:
            assert await asyncio.to_thread(worker.hear) == "ready"
        await make_queue(clock=None).insert_many(requests(120))
        for worker in workers:
            worker.tell()
        taken = [await asyncio.to_thread(worker.finish) for worker in workers]
    assert_nothing_twice_and_nothing_lost(taken, 120)
    assert_each_request_ended_once(uri, 120, place.options)


async def test_what_a_killed_process_held_comes_back_after_its_lease(place, queue, make_queue):
    """SIGKILL with a batch in hand: nobody gets it before the lease is over, somebody does afterwards."""
    ids = await queue.insert_many(requests(50))
    with crew(queue.uri, "doomed", task="hold", options=place.options) as (doomed,):
        await asyncio.to_thread(doomed.begin)
        held = await asyncio.to_thread(doomed.conids)
        doomed.kill()
    assert len(held) == 20

    clock = FakeClock(datetime.now(UTC))
    survivor = make_queue(clock=clock, worker_id="survivor")
    early = await survivor.get_batch(100)
    assert {item.conid for item in early} == set(range(1, 51)) - held
    await survivor.mark_success(early)

    clock.advance(61)
    late = await survivor.get_batch(100)
    assert {item.conid for item in late} == held
    assert {item.attempt for item in late} == {2}
    await survivor.mark_success(late)
    assert sorted(item.request_id for item in early + late) == ids
    assert_each_request_ended_once(queue.uri, 50, place.options)


async def test_a_process_that_wakes_up_late_settles_nothing(place, queue, make_queue):
    """Its lease is over and another process has the batch: the late one is told so, and the other's work stands."""
    await queue.insert_many(requests(20))
    with crew(queue.uri, "late", task="hold", options=place.options) as (late,):
        await asyncio.to_thread(late.begin)
        assert len(await asyncio.to_thread(late.conids)) == 20
        other = make_queue(clock=FakeClock(datetime.now(UTC) + timedelta(seconds=61)), worker_id="other")
        taken = await other.get_batch()
        before = other.ledger.version
        late.tell()
        assert await asyncio.to_thread(late.hear) == "0 20"  # settled, stale
        assert await other.refresh() is False
        assert other.ledger.version == before
        await other.mark_success(taken)
        late.tell()
        assert await asyncio.to_thread(late.hear) == "0 20"
    assert_each_request_ended_once(queue.uri, 20, place.options)


async def test_a_pause_holds_for_every_handle_and_over_a_restart(queue, make_queue):
    """The property is the table's: nobody claims until somebody resumes."""
    other = await make_queue().initialize()
    await queue.insert(1, "SPY")
    await queue.pause("market closed")
    assert await other.get_batch() == []
    assert (await make_queue().initialize()).stats().paused == "market closed"
    await other.resume()
    assert len(await queue.get_batch()) == 1


async def test_upkeep_keeps_every_row_and_a_second_compaction_is_refused(place, make_queue, monkeypatch):
    """Compaction, vacuum, checkpoint and snapshot; the past is as it was, for old handles and new ones."""
    monkeypatch.setattr(upkeep, "SMALL_FILES_DUE", 10)
    monkeypatch.setattr(upkeep, "is_due", lambda *_: False)  # the only turn is the one below
    queue, reader = make_queue(), Past(make_queue().uri, ["request_id"], storage_options=place.options)
    for conid in range(1, upkeep.SMALL_FILES_DUE + 5):
        await queue.insert(conid, "SPY")
    ninth = reader.versions()["version"][8]
    before = reader.as_of(ninth)
    one, two = (Store(queue.uri, place.options) for _ in range(2))
    two.open()
    upkeep.run(one, queue.ledger._write_snapshot)
    with pytest.raises(StorageError, match="compacting failed"):
        two.compact(upkeep.TARGET_BYTES)
    assert Store(queue.uri, place.options).files().height == 1
    start = snapshot.read(one, SPEC, place.options)
    assert start is not None
    assert start.seq == upkeep.SMALL_FILES_DUE + 4
    assert (await make_queue().initialize()).stats().live == upkeep.SMALL_FILES_DUE + 4
    assert reader.as_of(ninth).equals(before)
    assert before.height == 9
    await queue.mark_success(await queue.get_batch(5))
    assert reader.versions().row(-1, named=True)["changes"] == "SUCCESS 5"
