"""Late workers, in every place: whatever became of a claim meanwhile, it changes nothing any more."""

from __future__ import annotations

from datetime import timedelta

import pytest
from stores import EVERYWHERE
from stores.workers import history
from v6kit.errors import StaleClaimError
from v6kit.queue import Outcome

pytestmark = EVERYWHERE
LEASE = timedelta(seconds=60)


async def expired(_other, item, clock) -> None:
    """The lease ended, and nobody has claimed it since."""
    assert item.lease_until <= clock.now()


async def reclaimed(other, item, _clock) -> None:
    """Another worker has it."""
    (again,) = await other.get_batch()
    assert again.request_id == item.request_id


async def settled(other, _item, _clock) -> None:
    """Another worker has finished it."""
    await other.mark_success(await other.get_batch())


async def cancelled(other, item, _clock) -> None:
    """A user has cancelled it."""
    await other.cancel(item.request_id)


async def cancelled_and_queued_again(other, item, _clock) -> None:
    """A user has cancelled it, and the same contract is queued, and claimed, as a new request."""
    await other.cancel(item.request_id)
    await other.insert(item.conid, item.symbol)
    assert len(await other.get_batch()) == 1


async def failed_and_redriven(other, _item, _clock) -> None:
    """It failed elsewhere and was given fresh attempts."""
    (again,) = await other.get_batch()
    await other.mark_failed(again, "no such contract")
    await other.redrive(again)


async def redriven_and_claimed(other, item, clock) -> None:
    """The same, and another worker has it: its attempt is the late one's again, its claim is not."""
    await failed_and_redriven(other, item, clock)
    (again,) = await other.get_batch()
    assert again.attempt == item.attempt
    assert again.claim_id != item.claim_id


@pytest.mark.parametrize(
    "meanwhile",
    [expired, reclaimed, settled, cancelled, cancelled_and_queued_again, failed_and_redriven, redriven_and_claimed],
    ids=lambda meanwhile: meanwhile.__name__,
)
async def test_a_late_worker_changes_not_one_row(place, make_queue, clock, meanwhile):
    """By item and by id, in every way to settle: refused, in the same version with the same rows."""
    late, other = make_queue(worker_id="late"), make_queue(worker_id="other")
    await late.insert(7, "SPY")
    (item,) = await late.get_batch(lease=LEASE)
    clock.advance(LEASE)
    await meanwhile(other, item, clock)
    await other.refresh()
    rows = history(late.uri, place.options)
    version = other.ledger.version

    # The mixed batch comes last: it drops the claim, after which an id alone is fenced for another reason.
    for name in (item.request_id, item):
        with pytest.raises(StaleClaimError, match=item.request_id):
            await late.mark_success(name)
        with pytest.raises(StaleClaimError, match=item.request_id):
            await late.mark_failed(name, "too late")
        with pytest.raises(StaleClaimError, match=item.request_id):
            await late.mark_retry(name, "too late")
        with pytest.raises(StaleClaimError, match=item.request_id):
            await late.extend_lease(name)
        with pytest.raises(StaleClaimError, match=item.request_id):
            await late.release(name)
    assert (await late.settle([Outcome.success(item.request_id)])).stale == [item.request_id]
    assert (await late.settle([Outcome.success(item)])).stale == [item.request_id]

    assert await other.refresh() is False
    assert other.ledger.version == version
    assert history(late.uri, place.options).equals(rows)


async def test_a_mixed_batch_settles_what_is_current_and_tells_what_is_stale(place, make_queue, clock):
    """One commit: the claims that hold end, the others stay as somebody else left them."""
    late, other = make_queue(worker_id="late"), make_queue(worker_id="other")
    ids = await late.insert_many([{"conid": conid, "symbol": "SPY"} for conid in (1, 2, 3)])
    first, second = await late.get_batch(2, lease=LEASE)
    (third,) = await late.get_batch(lease=2 * LEASE)
    clock.advance(LEASE)
    (taken, cancelled_one) = await other.get_batch()
    await other.cancel(cancelled_one)
    assert {taken.request_id, cancelled_one.request_id} == {first.request_id, second.request_id}

    report = await late.settle([Outcome.success(item) for item in (first, second, third)])
    assert (report.settled, report.stale) == ([third.request_id], [first.request_id, second.request_id])
    newest = dict(history(late.uri, place.options).select("request_id", "status").rows())
    assert [newest[name] for name in ids] == ["PROCESSING", "CANCELLED", "SUCCESS"]
    await other.mark_success(taken)
