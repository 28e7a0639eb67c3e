"""The queue's decisions as pure functions: state and moment in, rows out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from v6kit.errors import StaleClaimError
from v6kit.ledger import Moment
from v6kit.queue import Backoff, Outcome, decisions
from v6kit.queue.ids import RequestIds
from v6kit.queue.requests import SPEC, QueuedPosition, Wanted
from v6kit.queue.state import QueueState

START = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
LEASE = timedelta(seconds=60)
BACKOFF = Backoff(base=timedelta(seconds=10), cap=timedelta(seconds=35), jitter=0.0)


def moment(now: datetime = START, seq: int = 1, past: pl.DataFrame | None = None) -> Moment:
    """Return the moment of the next commit; the table holds nothing but `past`."""
    return Moment(now, 7, seq, "me", lambda _keys: SPEC.empty() if past is None else past, {})


def queue_of(count: int, **fields: object) -> tuple[QueueState, list[QueuedPosition]]:
    """Return a state with pending requests, and these."""
    state = QueueState()
    wanted = [Wanted(conid, "SPY", **fields) for conid in range(1, count + 1)]
    rows = SPEC.stamp(decisions.insert(state, moment(), wanted, RequestIds()).rows, 1, 1, START, "me")
    state.apply(rows)
    return state, rows


def claim(state: QueueState, limit: int = 50, now: datetime = START) -> list[QueuedPosition]:
    """Claim, and take the rows in as the ledger would."""
    verdict = decisions.claim(
        state, moment(now, 1_000), limit=limit, priority=None, aging_after=None, lease=LEASE, worker_id="w"
    )
    state.apply(verdict.rows)
    return verdict.result


def test_a_decision_leaves_the_state_as_it_is():
    """The ledger may ask again, so nothing may have happened the first time."""
    state, rows = queue_of(3)
    for _ in range(3):
        verdict = decisions.claim(state, moment(), limit=2, priority=None, aging_after=None, lease=LEASE, worker_id="w")
        assert [row.request_id for row in verdict.result] == [row.request_id for row in rows[:2]]
        decisions.cancel(state, moment(), [row.request_id for row in rows])
    assert {row.status for row in SPEC.to_rows(SPEC.gather(state.held()))} == {"PENDING"}


def test_results_carry_the_stamp_that_the_rows_will_have():
    """What a caller gets is what stands in the table."""
    state, _ = queue_of(3)
    claimed = decisions.claim(
        state, moment(START, 42), limit=2, priority=None, aging_after=None, lease=LEASE, worker_id="w"
    )
    assert [(row.seq, row.version, row.updated_by) for row in claimed.result] == [(42, 7, "me"), (43, 7, "me")]
    assert claimed.rows == claimed.result


def test_inserting_twice_in_one_call_makes_one_request():
    """A better priority later in the call counts, and the row is still an insert."""
    wanted = [Wanted(1, "SPY", 2), Wanted(1, "SPY", 1), Wanted(1, "SPY", 3)]
    decision = decisions.insert(QueueState(), moment(), wanted, RequestIds())
    assert len(set(decision.result)) == 1
    assert [(row.priority, row.change) for row in decision.rows] == [(1, "INSERT")]


@pytest.mark.parametrize("attempt", [1, 2, 3, 50])
def test_backoff_doubles_up_to_its_cap(attempt):
    """Without jitter it is exact, and it never overflows."""
    assert BACKOFF.delay(attempt) == min(timedelta(seconds=10) * 2 ** min(attempt - 1, 10), timedelta(seconds=35))


def test_a_long_backoff_stays_within_its_cap():
    """A doubling of days leaves the calendar long before the attempts are used up."""
    backoff = Backoff(base=timedelta(days=1), cap=timedelta(days=30), jitter=0.0)
    assert [backoff.delay(attempt).days for attempt in (1, 5, 6, 1000)] == [1, 16, 30, 30]


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ({"base": 5}, TypeError, "base must be a timedelta, got 5"),
        ({"cap": timedelta(0)}, ValueError, "cap must be longer than nothing"),
        ({"jitter": 1.5}, ValueError, "jitter must be a share from 0 to 1, got 1.5"),
        ({"jitter": "much"}, TypeError, "jitter must be a number, got 'much'"),
    ],
)
def test_a_wrong_backoff_is_refused_where_it_is_made(wrong, error, text):
    """Not when the first retry needs it, in the midst of a worker's cycle."""
    with pytest.raises(error, match=text):
        Backoff(**wrong)


def test_backoff_is_spread_by_its_jitter():
    """Failures of one moment do not return in one."""
    waits = {Backoff(base=timedelta(seconds=100), jitter=0.2).delay(1) for _ in range(200)}
    assert len(waits) > 100
    assert timedelta(seconds=80) <= min(waits) <= max(waits) <= timedelta(seconds=120)


def test_a_claim_is_checked_by_status_id_and_lease():
    """Each reason has its own sentence."""
    state, _ = queue_of(1)
    (item,) = claim(state)
    decisions.check_claim(item, item.claim_id, moment(START + LEASE - timedelta(microseconds=1)))
    for wrong, claim_id, now, why in (
        (item, item.claim_id, START + LEASE, "its lease ended at"),
        (item, "another", START, "it was claimed again by w"),
        (item, None, START, "this queue object does not hold it; w does"),
        (item._replace(status="CANCELLED"), item.claim_id, START, "it is CANCELLED by now"),
        (item._replace(status="PENDING"), item.claim_id, START, "it is PENDING by now"),
    ):
        with pytest.raises(StaleClaimError, match=why):
            decisions.check_claim(wrong, claim_id, moment(now))


def test_a_retry_keeps_the_claim_so_that_it_can_be_told_from_another():
    """Retrying twice is harmless; the second try of the same claim to succeed is stale."""
    state, _ = queue_of(1)
    (item,) = claim(state)
    retry = (Outcome.retry(item, "timed out"), item.request_id, item.claim_id)
    first = decisions.settle(state, moment(), [retry], BACKOFF, refuse_stale=True)
    state.apply(first.rows)
    assert first.rows[0].available_at == START + timedelta(seconds=10)
    assert decisions.settle(state, moment(), [retry], BACKOFF, refuse_stale=True).rows == []
    success = (Outcome.success(item), item.request_id, item.claim_id)
    assert decisions.settle(state, moment(), [success], BACKOFF, refuse_stale=False).result.stale == [item.request_id]


def test_an_exhausted_request_has_no_lease_any_more():
    """A terminal row holds nothing."""
    state, _ = queue_of(1, max_attempts=1)
    claim(state)
    assert claim(state, now=START + LEASE) == []
    (row,) = state.failed()
    assert (row.status, row.lease_until, row.change) == ("FAILED", None, "EXHAUST")


def test_what_the_state_let_go_is_looked_up():
    """The table knows it still."""
    state, rows = queue_of(1)
    done = rows[0]._replace(status="SUCCESS", claim_id="c")
    past = SPEC.to_frame([done])
    found = decisions.find(QueueState(), moment(past=past), [done.request_id])
    assert found == {done.request_id: done}
    assert list(decisions.find(state, moment(), [done.request_id])) == [done.request_id]
