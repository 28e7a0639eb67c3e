"""Object stores that misbehave: lost requests, lost answers, throttling, silence, and death at the worst moment.

The faults happen on the wire, between deltalake and a real server (`stores.proxy`).
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest
from stores import COMMIT, DATA, OBJECT_STORES, Do
from stores.workers import assert_each_request_ended_once, assert_nothing_twice_and_nothing_lost, crew, history
from tallies import count, look
from v6kit.errors import StaleClaimError, StorageError
from v6kit.queue import Status

pytestmark = OBJECT_STORES

ANYTHING = {"method": ".*", "path": ".*", "times": float("inf")}
SLOW_SECONDS = 0.3
LOST = pytest.mark.parametrize("fault", [Do.LOSE_ANSWER, Do.THROTTLE_AFTERWARDS], ids=lambda fault: fault.name)


@pytest.fixture
def shaky(place, proxy, make_queue):
    """Make handles on the queue that go through the proxy."""
    return lambda **more: make_queue(storage_options=place.through(proxy.port).options, **more)


async def test_a_creation_that_comes_late_resets_nothing(shaky, make_queue, proxy):
    """Two make the same table, and one is slow: when its creation is refused, what the table was told since holds."""
    late, first = shaky(), make_queue()
    trouble = proxy.trouble(Do.HOLD_REQUEST)
    opening = asyncio.create_task(late.initialize())
    await asyncio.to_thread(trouble.wait)
    await first.insert(1, "SPY")
    await first.pause("market closed")
    known = first.ledger._store.table_id
    trouble.release()
    await opening
    assert late.ledger._store.table_id == known
    assert late.stats().paused == "market closed"
    assert late.stats().live == 1


@LOST
async def test_an_insert_whose_answer_was_lost_counts_once(shaky, make_queue, proxy, fault):
    """The commit went through and nobody said so: the insert returns, and is there once."""
    queue = await shaky().initialize()
    trouble = proxy.trouble(fault)
    known = await queue.insert(1, "SPY")
    assert trouble.hits == 1
    assert [seen.status for seen in proxy.seen() if seen.method == "PUT"].count(412) <= 1
    assert (await make_queue().initialize()).current()["request_id"].to_list() == [known]
    assert queue.stats().live == 1


@LOST
async def test_a_claim_whose_answer_was_lost_has_one_claimant(shaky, make_queue, proxy, fault):
    """The one who claimed gets the batch; another, who comes right behind, gets the rest."""
    queue, other = await shaky().initialize(), make_queue()
    await queue.insert_many([{"conid": conid, "symbol": "SPY"} for conid in range(1, 11)])
    trouble = proxy.trouble(fault)
    batch = await queue.get_batch(6)
    assert trouble.hits == 1
    rest = await other.get_batch()
    assert_nothing_twice_and_nothing_lost([[item.conid for item in batch], [item.conid for item in rest]], 10)
    await queue.mark_success(batch)
    await other.mark_success(rest)


@LOST
async def test_a_settlement_whose_answer_was_lost_ends_each_request_once(place, shaky, proxy, fault):
    """The outcome stands, is told as success, and is in the past once."""
    queue = await shaky().initialize()
    await queue.insert_many([{"conid": conid, "symbol": "SPY"} for conid in range(1, 6)])
    batch = await queue.get_batch()
    proxy.trouble(fault)
    await queue.mark_success(batch)
    assert queue.held_claims() == ()
    assert_each_request_ended_once(queue.uri, 5, place.options)


async def test_a_lost_race_whose_answer_was_lost_too_is_decided_again(shaky, make_queue, proxy):
    """Another claims first, and the refusal never arrives: the loser takes what is left, nothing twice."""
    queue, other = await shaky().initialize(), await make_queue().initialize()
    await queue.insert_many([{"conid": conid, "symbol": "SPY"} for conid in range(1, 11)])
    await other.refresh()
    trouble = proxy.trouble(Do.HOLD_REQUEST_LOSE_ANSWER)
    claiming = asyncio.create_task(queue.get_batch(6))
    await asyncio.to_thread(trouble.wait)
    first = await other.get_batch(6)
    trouble.release()
    second = await claiming
    assert len(first) == 6
    assert_nothing_twice_and_nothing_lost([[item.conid for item in first], [item.conid for item in second]], 10)


async def test_a_settlement_that_meets_a_reclaim_on_the_wire_is_stale(place, shaky, make_queue, proxy, clock):
    """It was decided in time and travels too long: the lease ends, another claims, and the late one changes nothing."""
    late, other = shaky(worker_id="late"), make_queue(worker_id="other")
    await late.insert(1, "SPY")
    (item,) = await late.get_batch(lease=timedelta(seconds=60))
    await other.initialize()
    trouble = proxy.trouble(Do.HOLD_REQUEST)
    settling = asyncio.create_task(late.mark_success(item))
    await asyncio.to_thread(trouble.wait)
    clock.advance(60)
    (again,) = await other.get_batch()
    rows = history(late.uri, place.options)
    trouble.release()
    with pytest.raises(StaleClaimError, match=item.request_id):
        await settling
    assert history(late.uri, place.options).equals(rows)
    await other.mark_success(again)
    assert_each_request_ended_once(late.uri, 1, place.options)


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", COMMIT), ("PUT", DATA), ("GET", ".*")], ids=["commit", "data", "reading"]
)
async def test_throttling_is_ridden_out(shaky, proxy, method, path):
    """Three times 503, wherever it hits: slower, and nothing else."""
    queue = await shaky().initialize()
    await queue.insert(1, "SPY")
    trouble = proxy.trouble(Do.THROTTLE, method=method, path=path, times=3)
    await queue.insert(2, "SPY")
    assert trouble.hits == 3
    assert len(await queue.get_batch()) == 2


@pytest.mark.parametrize(("method", "path"), [("PUT", DATA), ("GET", ".*")], ids=["data", "reading"])
async def test_a_connection_that_breaks_beside_the_commit_is_ridden_out(shaky, proxy, method, path):
    """What may be done twice is done twice; nobody hears of it."""
    queue = await shaky().initialize()
    trouble = proxy.trouble(Do.LOSE_REQUEST, method=method, path=path)
    await queue.insert(1, "SPY")
    assert trouble.hits == 1
    assert len(await queue.get_batch()) == 1


async def test_a_commit_that_never_arrived_changed_nothing_or_was_done_again(shaky, make_queue, proxy):
    """A break before the store heard of it: either the insert is there, or its caller knows that it is not."""
    queue = await shaky().initialize()
    trouble = proxy.trouble(Do.LOSE_REQUEST)
    (outcome,) = await asyncio.gather(queue.insert(1, "SPY"), return_exceptions=True)
    expected = [outcome] if isinstance(outcome, str) else []
    assert expected or (isinstance(outcome, StorageError) and "nothing was changed" in str(outcome))
    assert trouble.hits == 1
    assert (await make_queue().initialize()).current()["request_id"].to_list() == expected
    await queue.insert(2, "SPY")
    assert queue.stats().live == len(expected) + 1


async def test_a_commit_that_arrives_after_its_caller_gave_up_is_not_denied(place, proxy, make_queue):
    """Nobody may be told that nothing was changed while the request can still reach the store."""
    hasty = place.through(proxy.port, timeout="1s", retry_timeout="2s")
    queue = await make_queue(storage_options=hasty.options).initialize()
    trouble = proxy.trouble(Do.HOLD_REQUEST)
    inserting = asyncio.create_task(queue.insert(1, "SPY"))
    await asyncio.to_thread(trouble.wait)
    (outcome,) = await asyncio.gather(inserting, return_exceptions=True)
    trouble.release()
    await asyncio.to_thread(trouble.wait_until_done)
    stands = (await make_queue().initialize()).stats().live == 1
    assert isinstance(outcome, str) == stands or "is not known" in str(outcome)


@pytest.mark.parametrize("fault", [Do.THROTTLE, Do.LOSE_REQUEST], ids=lambda fault: fault.name)
def test_a_store_that_stays_away_is_an_error_in_time_and_the_ledger_goes_on_afterwards(
    place, proxy, make_ledger, fault
):
    """Bounded by the deadline, says what is known of the outcome; when the store is back the same object works."""
    hasty = place.through(proxy.port, retry_timeout="500ms")
    ledger = make_ledger(storage_options=hasty.options, deadline=timedelta(seconds=1))
    assert ledger.submit(count("SPY")).result() == 1
    trouble = proxy.trouble(fault, **ANYTHING)
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"nothing was changed|whether it went through is not known"):
        ledger.submit(count("SPY")).result(60)
    assert time.monotonic() - began < 30
    trouble.release()
    ledger.refresh().result()
    known = ledger.read(look)["SPY"]
    assert ledger.submit(count("SPY")).result() == known + 1


def test_a_ledger_that_may_not_write_says_so_and_changes_nothing(place, proxy, make_ledger):
    """403 for the commit: an error at once, no endless repetition, and the next change works."""
    ledger = make_ledger(storage_options=place.through(proxy.port).options)
    assert ledger.submit(count("SPY")).result() == 1
    trouble = proxy.trouble(Do.REFUSE, times=float("inf"))
    with pytest.raises(StorageError, match=r"403|AccessDenied|privileges|permission"):
        ledger.submit(count("SPY")).result(60)
    trouble.release()
    assert ledger.submit(count("SPY")).result() == 2


async def pause_while(doing) -> tuple[float, float]:
    """Run something and return the loop's longest pause and the whole time, in seconds."""
    longest, is_done = 0.0, asyncio.Event()

    async def turn() -> None:
        nonlocal longest
        last = time.monotonic()
        while not is_done.is_set():
            await asyncio.sleep(0.001)
            last, before = time.monotonic(), last
            longest = max(longest, last - before)

    turning = asyncio.create_task(turn())
    began = time.monotonic()
    await doing
    whole = time.monotonic() - began
    is_done.set()
    await turning
    return longest, whole


async def test_slow_answers_make_it_slow_and_never_stop_the_loop(shaky, proxy):
    """Insert, claim and settle are right, and the loop never waits for as much as one answer."""
    queue = await shaky().initialize()
    slow = proxy.trouble(Do.DAWDLE, delay=SLOW_SECONDS, **ANYTHING)

    async def work() -> None:
        await queue.insert(1, "SPY")
        await queue.mark_success(await queue.get_batch())

    longest, whole = await pause_while(work())
    slow.release()
    assert queue.stats().by_status[Status.SUCCESS] == 1
    assert whole > 3 * SLOW_SECONDS
    assert longest < SLOW_SECONDS, f"a pause of {longest:.3f} s in {whole:.3f} s"


async def test_slow_answers_in_a_lost_race_never_stop_the_loop(shaky, make_queue, proxy):
    """The same when another has committed in between, so that the log must be read."""
    queue, other = await shaky().initialize(), make_queue()
    await other.insert(1, "SPY")
    slow = proxy.trouble(Do.DAWDLE, delay=SLOW_SECONDS, **ANYTHING)
    longest, whole = await pause_while(queue.insert(2, "SPY"))
    slow.release()
    assert queue.stats().live == 2
    assert longest < SLOW_SECONDS, f"a pause of {longest:.3f} s in {whole:.3f} s"


@pytest.mark.parametrize("fault", [Do.HOLD_REQUEST, Do.HOLD_ANSWER], ids=lambda fault: fault.name)
async def test_a_process_killed_at_its_commit_leaves_a_whole_claim_or_none(place, proxy, queue, make_queue, fault):
    """SIGKILL with the commit on its way: the claim counts as a whole, nobody else gets it before its lease is over."""
    await queue.insert_many([{"conid": conid, "symbol": "SPY"} for conid in range(1, 31)])
    with crew(queue.uri, "doomed", task="hold", options=place.through(proxy.port).options) as (doomed,):
        trouble = proxy.trouble(fault)
        await asyncio.to_thread(doomed.begin)
        await asyncio.to_thread(trouble.wait)
        doomed.kill()
    trouble.release()
    await asyncio.to_thread(trouble.wait_until_done)
    survivor = make_queue(clock=None, worker_id="survivor")
    batch = await survivor.get_batch(100)
    assert len(batch) == 10
    assert survivor.stats().by_status[Status.PROCESSING] == 30
    await survivor.mark_success(batch)


async def test_a_commit_of_a_dead_process_that_arrives_late_is_refused(place, proxy, queue, make_queue):
    """It was killed with its claim on the wire; another has claimed the same since, and keeps it."""
    await queue.insert_many([{"conid": conid, "symbol": "SPY"} for conid in range(1, 31)])
    with crew(queue.uri, "doomed", task="hold", options=place.through(proxy.port).options) as (doomed,):
        trouble = proxy.trouble(Do.HOLD_REQUEST)
        await asyncio.to_thread(doomed.begin)
        await asyncio.to_thread(trouble.wait)
        doomed.kill()
    survivor = make_queue(clock=None, worker_id="survivor")
    batch = await survivor.get_batch(100)
    trouble.release()
    await asyncio.to_thread(trouble.wait_until_done)
    (refused,) = [seen.status for seen in proxy.seen() if seen.method == "PUT" and "_delta_log" in seen.path]
    assert refused in (409, 412)
    await survivor.mark_success(batch)
    assert_each_request_ended_once(queue.uri, 30, place.options)
