"""Taking out and settling: order, leases, fencing, attempts, and what survives a restart."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from deltalake import DeltaTable
from v6kit.errors import InvalidTransitionError, RequestNotFoundError, StaleClaimError
from v6kit.queue import Backoff, Outcome, PositionQueue, Status
from v6kit.queue import state as state_module

LEASE = timedelta(seconds=60)


async def fill(queue: PositionQueue, count: int, **fields) -> list[str]:
    """Insert requests with conids from 1."""
    return await queue.insert_many([{"conid": conid, "symbol": f"S{conid}", **fields} for conid in range(1, count + 1)])


def version(queue: PositionQueue) -> int:
    """Return the table's version as a stranger sees it."""
    return DeltaTable(queue.uri).version()


def row(queue: PositionQueue, request_id: str) -> dict:
    """Return one request as it stands."""
    return queue.current().filter(request_id=request_id).row(0, named=True)


# --- claiming -----------------------------------------------------------------------------------------------------


async def test_the_best_priority_comes_first_then_the_oldest(queue, clock):
    """Priority 1 before 2 before 3; within one, in the order of insertion."""
    for conid, priority in ((1, 2), (2, 1), (3, 3), (4, 2), (5, 1)):
        await queue.insert(conid, "SPY", priority)
        clock.advance(1)
    assert [item.conid for item in await queue.get_batch(3)] == [2, 5, 1]
    assert [item.conid for item in await queue.get_batch()] == [4, 3]


async def test_a_claim_is_one_commit_and_returns_what_the_table_holds(queue, clock):
    """Attempt, claim, worker, lease and stamp are those of the new row; each claim_id is fresh."""
    await fill(queue, 3)
    before = version(queue)
    clock.advance(5)
    batch = await queue.get_batch(2, lease=timedelta(seconds=30))
    assert version(queue) == before + 1
    for item in batch:
        assert item._asdict() == row(queue, item.request_id)
        assert (item.status, item.attempt, item.worker_id) == ("PROCESSING", 1, queue.worker_id)
        assert item.lease_until == clock.now() + timedelta(seconds=30)
    assert len({item.claim_id for item in batch}) == 2
    assert queue.held_claims() == tuple(item.request_id for item in batch)


async def test_nothing_due_commits_nothing(queue):
    """An idle poll leaves no version behind."""
    before = version(queue)
    for _ in range(5):
        assert await queue.get_batch() == []
    assert version(queue) == before


async def test_a_batch_can_be_limited_to_one_priority(queue):
    """The others wait."""
    await queue.insert(1, "SPY", 1)
    await queue.insert(2, "QQQ", 2)
    assert [item.conid for item in await queue.get_batch(priority=2)] == [2]
    assert await queue.get_batch(priority=2) == []
    assert [item.conid for item in await queue.get_batch(priority=1)] == [1]


async def test_two_handles_never_claim_the_same_request(make_queue):
    """What one has, the other does not get, however the two interleave."""
    one, two = make_queue(), make_queue()
    await fill(one, 200)
    batches = await asyncio.gather(*(queue.get_batch(7) for _ in range(15) for queue in (one, two)))
    taken = [item.conid for batch in batches for item in batch]
    assert sorted(taken) == list(range(1, 201))


async def test_an_old_request_is_claimed_as_if_it_were_urgent(make_queue, clock):
    """With aging_after, nothing starves behind priority 1."""
    queue = make_queue(aging_after=timedelta(minutes=10))
    await queue.insert(1, "OLD", 3)
    clock.advance(601)
    await queue.insert(2, "NEW", 1)
    assert [item.conid for item in await queue.get_batch()] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"limit": 0}, ValueError, "limit must be at least 1, got 0"),
        ({"limit": 1.5}, TypeError, "limit must be an integer, got 1.5"),
        ({"priority": 0}, ValueError, "priority must be at least 1, got 0"),
        ({"lease": timedelta(0)}, ValueError, "lease must be longer than nothing"),
        ({"lease": timedelta.max}, ValueError, "lease must be at most 36,500 days"),
        ({"lease": 60}, TypeError, "lease must be a timedelta, got 60"),
    ],
)
async def test_wrong_arguments_of_get_batch_are_named(queue, arguments, error, text):
    """The argument and the value stand in the message."""
    with pytest.raises(error, match=text):
        await queue.get_batch(**arguments)


async def test_wrong_arguments_of_the_queue_are_named(uri):
    """At the constructor, before anything is opened."""
    with pytest.raises(TypeError, match="aging_after must be a timedelta, got 60"):
        PositionQueue(uri, aging_after=60)
    with pytest.raises(ValueError, match="worker_id must not be empty"):
        PositionQueue(uri, worker_id=" ")


# --- leases and fencing -------------------------------------------------------------------------------------------


async def test_an_expired_lease_is_claimed_again_with_the_next_attempt(make_queue, clock):
    """Another worker gets it, with a fresh claim, exactly when the lease is over."""
    dead, survivor = make_queue(worker_id="dead"), make_queue(worker_id="survivor")
    await fill(dead, 1)
    (first,) = await dead.get_batch(lease=LEASE)
    clock.advance(LEASE - timedelta(microseconds=1))
    assert await survivor.get_batch() == []
    clock.advance(timedelta(microseconds=1))
    await survivor.refresh()
    assert survivor.stats().expired_leases == 1
    (second,) = await survivor.get_batch()
    assert (second.request_id, second.attempt, second.worker_id) == (first.request_id, 2, "survivor")
    assert second.claim_id != first.claim_id


async def test_a_request_whose_worker_died_too_often_fails_in_the_next_claim(queue, clock):
    """Attempts used up: FAILED with the reason, in the commit that claims others."""
    await queue.insert(1, "SPY", max_attempts=2)
    for _ in range(2):
        assert len(await queue.get_batch(lease=LEASE)) == 1
        clock.advance(LEASE)
    await queue.insert(2, "QQQ")
    before = version(queue)
    assert [item.conid for item in await queue.get_batch()] == [2]
    assert version(queue) == before + 1
    failed = queue.current().filter(conid=1).row(0, named=True)
    assert (failed["status"], failed["change"], failed["lease_until"]) == ("FAILED", "EXHAUST", None)
    assert "attempts used up (2 of 2)" in failed["error_message"]


async def test_a_limit_is_filled_past_those_that_are_out_of_attempts(queue, clock):
    """Exhausted requests do not eat the places of the others."""
    await fill(queue, 30, max_attempts=1)
    await queue.get_batch(30, lease=LEASE)
    clock.advance(LEASE)
    await queue.insert_many([{"conid": 100 + number, "symbol": "SPY"} for number in range(10)])
    assert len(await queue.get_batch(5)) == 5
    assert queue.stats().by_status == {"PENDING": 5, "PROCESSING": 5, "SUCCESS": 0, "FAILED": 30, "CANCELLED": 0}


async def late_after_lease(queue, other, item, clock):  # noqa: ARG001 - all have one signature
    """Let the lease end; nobody has claimed it since."""
    clock.advance(LEASE)


async def late_after_reclaim(queue, other, item, clock):  # noqa: ARG001 - all have one signature
    """Let another worker have it."""
    clock.advance(LEASE)
    await other.get_batch()


async def late_after_other_success(queue, other, item, clock):  # noqa: ARG001 - all have one signature
    """Let another worker finish it."""
    clock.advance(LEASE)
    await other.mark_success(await other.get_batch())


async def late_after_cancel(queue, other, item, clock):  # noqa: ARG001 - all have one signature
    """Let a user cancel it."""
    await other.cancel(item.request_id)


async def late_after_redrive(queue, other, item, clock):  # noqa: ARG001 - all have one signature
    """Let it fail elsewhere and be redriven."""
    clock.advance(LEASE)
    (again,) = await other.get_batch()
    await other.mark_failed(again, "no such contract")
    await other.redrive(again)


async def late_after_release(queue, other, item, clock):  # noqa: ARG001 - all have one signature
    """Let the claim be given back, and taken by somebody else."""
    await queue.release(item)
    await other.get_batch()


LATE = [
    late_after_lease, late_after_reclaim, late_after_other_success,
    late_after_cancel, late_after_redrive, late_after_release,
]  # fmt: skip
CHANGES = {
    "mark_success": lambda queue, item: queue.mark_success(item),
    "mark_failed": lambda queue, item: queue.mark_failed(item, "too late"),
    "mark_retry": lambda queue, item: queue.mark_retry(item, "too late"),
    "extend_lease": lambda queue, item: queue.extend_lease(item),
    "release": lambda queue, item: queue.release(item),
}


@pytest.mark.parametrize("late", LATE, ids=lambda late: late.__name__)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("by_id", [False, True], ids=["by item", "by id"])
async def test_a_late_worker_changes_nothing(make_queue, clock, late, change, by_id):
    """Whatever happened to its claim meanwhile: `StaleClaimError`, and no new version."""
    queue, other = make_queue(worker_id="late"), make_queue(worker_id="other")
    await fill(queue, 1)
    (item,) = await queue.get_batch(lease=LEASE)
    await late(queue, other, item, clock)
    await other.refresh()
    before, content = version(queue), other.current()

    with pytest.raises(StaleClaimError, match=item.request_id):
        await CHANGES[change](queue, item.request_id if by_id else item)

    await other.refresh()
    assert version(queue) == before
    assert other.current().equals(content)


async def test_one_stale_claim_refuses_the_whole_of_mark_success(make_queue):
    """All or none: the good ones stay claimed."""
    queue, other = make_queue(), make_queue()
    await fill(queue, 3)
    batch = await queue.get_batch()
    await other.cancel(batch[1].request_id)
    with pytest.raises(StaleClaimError):
        await queue.mark_success(batch)
    assert queue.stats().by_status[Status.PROCESSING] == 2
    await queue.mark_success([batch[0], batch[2]])


async def test_settle_leaves_stale_claims_alone_and_returns_them(make_queue):
    """A mixed batch in one commit: what is stale is told, the others stand."""
    queue, other = make_queue(), make_queue()
    await fill(queue, 4)
    first, second, third, fourth = await queue.get_batch()
    await other.cancel(second.request_id)
    before = version(queue)
    settled = await queue.settle(
        [
            Outcome.success(first),
            Outcome.success(second),
            Outcome.failed(third.request_id, "no such contract"),
            Outcome.retry(fourth, "timed out", timedelta(seconds=5)),
        ]
    )
    assert version(queue) == before + 1
    assert settled.settled == [first.request_id, third.request_id, fourth.request_id]
    assert settled.stale == [second.request_id]
    statuses = dict(queue.current().select("conid", "status").rows())
    assert statuses == {1: "SUCCESS", 2: "CANCELLED", 3: "FAILED", 4: "PENDING"}
    assert queue.held_claims() == ()


@pytest.mark.parametrize("by_id", [False, True], ids=["by item", "by id"])
@pytest.mark.parametrize(
    "outcome",
    [Outcome.success, lambda item: Outcome.failed(item, "why"), lambda item: Outcome.retry(item, "why")],
    ids=["success", "failed", "retry"],
)
async def test_settling_twice_with_the_same_outcome_is_harmless(queue, outcome, by_id):
    """The second time changes nothing and raises nothing, so a caller may repeat what it is not sure of."""
    await fill(queue, 1)
    (item,) = await queue.get_batch()
    name = item.request_id if by_id else item
    await queue.settle([outcome(name)])
    before = version(queue)
    again = await queue.settle([outcome(name)])
    assert (again.settled, again.stale) == ([item.request_id], [])
    assert version(queue) == before


async def test_settling_again_with_another_outcome_is_stale(queue):
    """A request ends exactly once."""
    await fill(queue, 1)
    (item,) = await queue.get_batch()
    await queue.mark_success(item)
    with pytest.raises(StaleClaimError, match="it is SUCCESS by now"):
        await queue.mark_failed(item, "changed my mind")
    assert row(queue, item.request_id)["status"] == "SUCCESS"


async def test_the_same_item_twice_in_one_batch_is_settled_once(queue):
    """One row, one transition; another outcome for the same item is stale."""
    await fill(queue, 1)
    (item,) = await queue.get_batch()
    settled = await queue.settle([Outcome.success(item), Outcome.success(item), Outcome.failed(item, "why")])
    assert settled.settled == [item.request_id] * 2
    assert settled.stale == [item.request_id]
    assert row(queue, item.request_id)["status"] == "SUCCESS"


async def test_an_id_is_fenced_by_the_claims_of_this_object(make_queue):
    """A queue object that never claimed a request cannot settle it by its id."""
    holder, stranger = make_queue(worker_id="holder"), make_queue()
    await fill(holder, 1)
    (item,) = await holder.get_batch()
    with pytest.raises(StaleClaimError, match="this queue object does not hold it; holder does"):
        await stranger.mark_success(item.request_id)
    await holder.mark_success(item.request_id)


async def test_a_request_that_never_was_is_not_found(queue):
    """Every change by id says so."""
    nobody = "00000000-0000-7000-8000-000000000000"
    for change in (
        queue.mark_success(nobody), queue.mark_failed(nobody, "why"), queue.mark_retry(nobody, "why"),
        queue.cancel(nobody), queue.redrive(nobody), queue.prioritise(nobody), queue.release(nobody),
        queue.extend_lease(nobody),
    ):  # fmt: skip
        with pytest.raises(RequestNotFoundError, match=nobody):
            await change


# --- retries ------------------------------------------------------------------------------------------------------


async def test_a_retry_comes_back_after_its_backoff(make_queue, clock):
    """After base × 2^(attempt − 1), no sooner."""
    queue = make_queue(backoff=Backoff(base=timedelta(seconds=10), jitter=0.0))
    await fill(queue, 1)
    for attempt, wait in ((1, 10), (2, 20), (3, 40)):
        (item,) = await queue.get_batch()
        assert item.attempt == attempt
        await queue.mark_retry(item, "timed out")
        clock.advance(wait - 0.001)
        assert await queue.get_batch() == []
        clock.advance(0.001)
    assert queue.current()["error_message"].to_list() == ["timed out"]
    assert queue.stats().retries == 2


async def test_a_retry_may_name_its_own_delay(queue, clock):
    """The delay of the call goes before the backoff; nothing means at once."""
    await fill(queue, 1)
    await queue.mark_retry((await queue.get_batch())[0], "pacing", timedelta(seconds=3))
    clock.advance(3)
    await queue.mark_retry((await queue.get_batch())[0], "pacing", timedelta(0))
    assert len(await queue.get_batch()) == 1


async def test_a_retry_without_attempts_left_fails(queue):
    """The last attempt's error is kept."""
    await queue.insert(1, "SPY", max_attempts=1)
    (item,) = await queue.get_batch()
    await queue.mark_retry(item, "timed out")
    found = row(queue, item.request_id)
    assert found["status"] == "FAILED"
    assert found["error_message"] == "attempts used up (1 of 1): timed out"
    await queue.mark_retry(item, "timed out")


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda item: Outcome.retry(item, "why", 5), TypeError, "delay must be a timedelta, got 5"),
        (lambda item: Outcome.retry(item, "why", timedelta(-1)), ValueError, "delay must not be negative"),
        (lambda item: Outcome.retry(item, "why", timedelta.max), ValueError, "delay must be at most 36,500 days"),
        (lambda item: Outcome.failed(item, ""), ValueError, "error_message must not be empty"),
        (lambda item: Outcome.failed(item, None), TypeError, "error_message must be a string, got None"),
    ],
)
def test_a_wrong_outcome_is_refused_where_it_is_made(make, error, text):
    """Before anything reaches the queue."""
    with pytest.raises(error, match=text):
        make("an id")


async def test_only_outcomes_are_settled(queue):
    """A request alone does not say what became of it."""
    await queue.insert(1, "SPY")
    batch = await queue.get_batch()
    with pytest.raises(TypeError, match=r"outcomes must be made by Outcome.success\(item\) and the like, got Queued"):
        await queue.settle(batch)
    with pytest.raises(TypeError, match=r"outcomes must be several, e.g. \[Outcome.success\(item\)\], got Outcome"):
        await queue.settle(Outcome.success(batch[0]))
    assert await queue.settle([Outcome.success(batch[0])]) == ([batch[0].request_id], [])


# --- giving back, extending, steering -----------------------------------------------------------------------------


async def test_a_released_request_is_pending_again_and_the_attempt_not_counted(queue):
    """It was not tried, so it costs nothing."""
    await fill(queue, 2)
    batch = await queue.get_batch()
    await queue.release(batch)
    assert queue.held_claims() == ()
    again = await queue.get_batch()
    assert [item.attempt for item in again] == [1, 1]
    assert [item.request_id for item in again] == [item.request_id for item in batch]


async def test_an_extended_lease_lasts_from_now(queue, clock):
    """A slow worker keeps what it holds as long as it says so in time."""
    await fill(queue, 1)
    (item,) = await queue.get_batch(lease=LEASE)
    clock.advance(50)
    await queue.extend_lease(item, LEASE)
    clock.advance(50)
    assert await queue.get_batch() == []
    await queue.mark_success(item)


async def test_cancelling_ends_what_is_live_and_nothing_else(queue):
    """Pending and claimed requests are cancelled; twice is harmless; a finished one is refused, with all others."""
    ids = await fill(queue, 4)
    batch = await queue.get_batch(2)
    await queue.cancel([ids[0], ids[2]])
    await queue.cancel(ids[0])
    assert queue.held_claims() == (ids[1],)
    await queue.mark_success(batch[1])
    with pytest.raises(InvalidTransitionError, match="is SUCCESS and cannot be cancelled"):
        await queue.cancel([ids[3], ids[1]])
    statuses = dict(queue.current().select("conid", "status").rows())
    assert statuses == {1: "CANCELLED", 2: "SUCCESS", 3: "CANCELLED", 4: "PENDING"}


async def test_redriving_gives_failed_requests_fresh_attempts(queue):
    """All failed ones by default; those whose contract is live again are left out; only FAILED ones by id."""
    ids = await fill(queue, 3, max_attempts=1)
    for item in await queue.get_batch():
        await queue.mark_failed(item, "no such contract")
    await queue.insert(2, "S2")
    redriven = await queue.redrive()
    assert sorted(item.request_id for item in redriven) == [ids[0], ids[2]]
    assert {(item.status, item.attempt, item.claim_id) for item in redriven} == {("PENDING", 0, None)}
    assert await queue.redrive(ids[0]) == [], "it is live already"
    (item,) = await queue.get_batch(1)
    await queue.mark_success(item)
    with pytest.raises(InvalidTransitionError, match="only FAILED ones are redriven"):
        await queue.redrive(item)


async def test_priorities_can_be_changed_while_a_request_lives(queue):
    """All or none; a finished request has no priority any more."""
    ids = await fill(queue, 3)
    await queue.prioritise([ids[2]])
    assert [item.request_id for item in await queue.get_batch(1)] == [ids[2]]
    await queue.mark_success(ids[2])
    with pytest.raises(InvalidTransitionError, match="only live ones have a priority"):
        await queue.prioritise([ids[0], ids[2]])
    assert queue.stats().by_priority == {2: 2}
    with pytest.raises(ValueError, match="priority must be below"):
        await queue.prioritise(ids[0], 2**31)


async def test_a_pause_holds_for_everybody_and_over_a_restart(make_queue):
    """Nobody claims while it lasts; what is claimed may still be settled."""
    one, two = make_queue(), make_queue()
    await fill(one, 3)
    (item,) = await one.get_batch(1)
    await two.pause("earnings")
    assert await one.get_batch() == []
    assert one.stats().paused == "earnings"
    await one.mark_success(item)
    three = await make_queue().initialize()
    assert three.stats().paused == "earnings"
    assert await three.get_batch() == []
    await three.resume()
    assert len(await one.get_batch()) == 2
    assert one.stats().paused == ""
    with pytest.raises(ValueError, match="reason must not be empty"):
        await one.pause("")


# --- looking ------------------------------------------------------------------------------------------------------


async def test_stats_are_the_queue_in_numbers(queue, clock):
    """Counts by status and priority, ages, expired leases, retries and throughput."""
    await fill(queue, 6)
    await queue.insert(100, "SPY", 1)
    clock.advance(30)
    batch = await queue.get_batch(4, lease=LEASE)
    await queue.mark_success(batch[:2])
    await queue.mark_retry(batch[2], "timed out", timedelta(0))
    stats = queue.stats()
    assert stats.by_status == {"PENDING": 4, "PROCESSING": 1, "SUCCESS": 2, "FAILED": 0, "CANCELLED": 0}
    assert stats.by_priority == {2: 5}
    assert stats.live == 5
    assert stats.oldest_pending == timedelta(seconds=30)
    assert (stats.expired_leases, stats.retries, stats.finished_last_minute) == (0, 0, 2)
    clock.advance(61)
    stats = queue.stats()
    assert (stats.expired_leases, stats.finished_last_minute) == (1, 0)
    assert len(await queue.get_batch()) == 5
    assert queue.stats().retries == 2


async def test_the_state_survives_a_restart(make_queue, clock):
    """A new object sees exactly the same requests, and the claims of the old one still hold."""
    old = make_queue()
    await fill(old, 2_000)
    batch = await old.get_batch(300)
    await old.mark_success(batch[:100])
    await old.mark_retry(batch[100], "timed out")
    await old.mark_failed(batch[101], "no such contract")
    await old.release(batch[102])
    await old.cancel(batch[103])
    await old.close()

    new = await make_queue().initialize()
    assert new.current().equals(old_current(old))
    assert new.stats() == old.ledger._fold.read(lambda state: state.stats(clock.now(), ""))
    await new.mark_success(batch[104:110])
    clock.advance(LEASE)
    assert len(await new.get_batch(3_000)) == 2_000 - 100 - 2 - 6


def old_current(queue: PositionQueue):
    """Return current() of a queue that is closed by now."""
    queue.ledger._closed = False
    try:
        return queue.current()
    finally:
        queue.ledger._closed = True


async def test_long_finished_requests_are_found_in_the_table(make_queue, monkeypatch):
    """What is no longer held in memory is still known, and its end still stands."""
    monkeypatch.setattr(state_module, "FINISHED_HELD", 5)
    queue = make_queue()
    ids = await fill(queue, 20)
    batch = await queue.get_batch()
    for item in batch:
        await queue.mark_success(item)
    assert queue.current()["request_id"].to_list() == ids[15:]

    before = version(queue)
    await queue.mark_success(batch[0])
    with pytest.raises(StaleClaimError, match="it is SUCCESS by now"):
        await queue.mark_failed(batch[0], "too late")
    with pytest.raises(InvalidTransitionError):
        await queue.cancel(ids[1])
    assert version(queue) == before


async def test_a_failed_request_of_long_ago_can_be_redriven(make_queue, monkeypatch):
    """By its id, from the table."""
    monkeypatch.setattr(state_module, "FINISHED_HELD", 2)
    queue = make_queue()
    ids = await fill(queue, 5)
    for item in await queue.get_batch():
        await queue.mark_failed(item, "no such contract")
    (redriven,) = await queue.redrive(ids[0])
    assert redriven.conid == 1
    assert [item.request_id for item in await queue.get_batch()] == [ids[0]]


async def test_a_queue_can_be_used_as_a_context(uri, clock):
    """Opening on entry, closing at the end; the repr tells what is in it."""
    async with PositionQueue(uri, clock=clock) as queue:
        await fill(queue, 3)
        assert repr(queue) == f"PositionQueue({uri!r}: 3 PENDING)"
    assert "not open" in repr(queue)


async def test_the_wall_clock_may_jump_back_and_nothing_is_lost(queue, clock):
    """Leases that had ended and requests that had become due are found again when the time has come."""
    await fill(queue, 2)
    (claimed,) = await queue.get_batch(1, lease=LEASE)
    retried = (await queue.get_batch(1))[0]
    await queue.mark_retry(retried, "timed out", timedelta(seconds=30))
    noon = clock.now()
    clock.advance(120)
    await queue.pause()
    queue.ledger.read(lambda state: state.due(clock.now(), 10))
    clock.jump(noon)
    await queue.resume()
    assert await queue.get_batch() == []
    clock.advance(120)
    assert sorted(item.request_id for item in await queue.get_batch()) == sorted(
        [claimed.request_id, retried.request_id]
    )
