"""What each change of the queue does, as pure functions: state and moment in, rows out.

Fencing lives here: a request in `PROCESSING` changes only for the claim_id that it has now, and only while the lease
lasts. Settling twice with the same claim and outcome changes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import polars as pl

from v6kit.errors import InvalidTransitionError, RequestNotFoundError, StaleClaimError
from v6kit.ledger import Decision, Moment
from v6kit.queue.ids import RequestIds
from v6kit.queue.requests import LIVE, SPEC, Backoff, Outcome, QueuedPosition, Settled, Status, Wanted, with_due
from v6kit.queue.state import QueueState

_VERBS = {Status.SUCCESS: "SUCCESS", Status.FAILED: "FAILED", Status.CANCELLED: "CANCEL"}

Verdict = Decision[QueuedPosition, list[QueuedPosition]]


def insert(
    state: QueueState, moment: Moment, wanted: Sequence[Wanted] | pl.DataFrame, ids: RequestIds
) -> Decision[QueuedPosition, list[str]]:
    """Queue what has no live request yet; take over a better priority and an earlier due_at where it has.

    Args:
        state: The queue.
        moment: The commit to come.
        wanted: Checked before; many as a frame with the fields of `Wanted` as columns, few as rows.
        ids: Makes the new ids.

    Returns:
        One id per item, in order; equal (account, conid) get equal ids.
    """
    if isinstance(wanted, pl.DataFrame):
        return _insert_many(state, moment, wanted, ids)
    changed: dict[tuple[str, int], QueuedPosition] = {}
    result = []
    for item in wanted:
        key = item.account, item.conid
        row = changed.get(key) or state.live(*key)
        if row is None:
            row = changed[key] = _new_request(item, ids.take(1, moment.now)[0], moment)
        elif (sooner := _sooner(row, item.priority, item.due_at)) is not None:
            row = changed[key] = sooner
        result.append(row.request_id)
    return Decision(list(changed.values()), result)


def _sooner(row: QueuedPosition, priority: int, due_at: datetime | None) -> QueuedPosition | None:
    """Return a live request with the better priority and the earlier due_at of the two, or `None` if it has both."""
    better, earlier = min(row.priority, priority), min(row.due_at, due_at or row.due_at)
    if (better, earlier) == (row.priority, row.due_at):
        return None
    change = "PRIORITISE" if row.seq else row.change  # inserted by this very call: still an insert
    return row._replace(priority=better, due_at=earlier, change=change)


def _new_request(item: Wanted, request_id: str, moment: Moment) -> QueuedPosition:
    return QueuedPosition(
        request_id=request_id,
        conid=item.conid,
        symbol=item.symbol,
        priority=item.priority,
        status=Status.PENDING.value,
        created_at=moment.now,
        error_message=None,
        account=item.account,
        attempt=0,
        max_attempts=item.max_attempts,
        available_at=item.available_at or moment.now,
        due_at=item.due_at or moment.now,
        claim_id=None,
        worker_id=None,
        lease_until=None,
        change="INSERT",
    )


def _insert_many(
    state: QueueState, moment: Moment, wanted: pl.DataFrame, ids: RequestIds
) -> Decision[QueuedPosition, list[str]]:
    once, rank = _without_duplicates(wanted)
    existing = _existing(state, once)
    promoted: list[QueuedPosition] = []
    if existing is None:
        new, fresh = once, ids.take(once.height, moment.now)
        found = fresh
    else:
        known = pl.Series(existing, dtype=pl.String).is_not_null()
        new, again = once.filter(~known), once.filter(known)
        fresh = ids.take(new.height, moment.now)
        following = iter(fresh)
        found = [request_id or next(following) for request_id in existing]
        promoted = _promotions(state, again, [request_id for request_id in existing if request_id])
    rows = _new_requests(new, fresh, moment)
    if promoted:
        rows = pl.concat([rows, SPEC.to_frame(promoted).select(rows.columns)])
    return Decision(rows, found if rank is None else [found[index] for index in rank])


def _existing(state: QueueState, once: pl.DataFrame) -> list[str | None] | None:
    """Return the live request of each row, or `None` if none of them has one."""
    if not any(map(state.has_live, once["account"].unique())):
        return None
    found: list[str | None] = [None] * once.height
    for (account,), part in once.with_row_index("row").group_by("account"):
        live = state.live_ids(str(account), part["conid"].to_list())
        for row, request_id in zip(part["row"].to_list(), live or (), strict=False):
            found[row] = request_id
    return found if any(found) else None


def _without_duplicates(wanted: pl.DataFrame) -> tuple[pl.DataFrame, list[int] | None]:
    """Return each (account, conid) once, at its best and earliest, and for each row of `wanted` where it went."""
    key = ["account", "conid"]
    if wanted["conid"].n_unique() == wanted.height:
        return wanted, None
    if not wanted.select(pl.struct(key).is_duplicated().any()).item():
        return wanted, None
    best = pl.col("priority", "due_at").min().over(key)
    once = wanted.with_columns(best).unique(key, keep="first", maintain_order=True)
    rank = wanted.select(key).join(once.select(key).with_row_index("rank"), on=key, how="left", maintain_order="left")
    return once, rank["rank"].to_list()


def _new_requests(new: pl.DataFrame, ids: Sequence[str], moment: Moment) -> pl.DataFrame:
    instant, text = SPEC.columns["created_at"], pl.String()
    return new.select(
        pl.Series("request_id", ids, dtype=text),
        "conid",
        "symbol",
        "priority",
        pl.lit(Status.PENDING.value).alias("status"),
        pl.lit(moment.now, instant).alias("created_at"),
        pl.lit(None, text).alias("error_message"),
        "account",
        pl.lit(0, pl.Int32).alias("attempt"),
        "max_attempts",
        pl.col("available_at", "due_at").fill_null(pl.lit(moment.now, instant)),
        pl.lit(None, text).alias("claim_id"),
        pl.lit(None, text).alias("worker_id"),
        pl.lit(None, instant).alias("lease_until"),
        pl.lit("INSERT").alias("change"),
    )


def _promotions(state: QueueState, wanted: pl.DataFrame, ids: Sequence[str]) -> list[QueuedPosition]:
    rows = []
    for request_id, priority, due_at in zip(ids, wanted["priority"], wanted["due_at"], strict=True):
        item = state.get(request_id)
        if item is not None and (sooner := _sooner(item, priority, due_at)) is not None:
            rows.append(sooner)
    return rows


def claim(
    state: QueueState,
    moment: Moment,
    *,
    limit: int,
    priority: int | None,
    aging_after: timedelta | None,
    lease: timedelta,
    worker_id: str,
) -> Verdict:
    """Claim what is due; requests whose last attempt was lost with its worker become `FAILED` in the same commit."""
    rows: list[QueuedPosition] = []
    claimed = exhausted = 0
    while claimed < limit:
        due = state.due(moment.now, limit + exhausted, priority=priority, aging_after=aging_after)[len(rows) :]
        if not due:
            break
        for item in due:
            if item.attempt >= item.max_attempts:
                exhausted += 1
                rows.append(_exhausted(item))
                continue
            claimed += 1
            rows.append(
                item._replace(
                    status=Status.PROCESSING.value,
                    attempt=item.attempt + 1,
                    claim_id=secrets.token_hex(8),
                    worker_id=worker_id,
                    lease_until=moment.now + lease,
                    change="CLAIM",
                )
            )
    stamped = _verdict(rows, moment)
    return stamped._replace(result=[row for row in stamped.result if row.status == Status.PROCESSING])


def _exhausted(item: QueuedPosition) -> QueuedPosition:
    reason = item.error_message or f"worker {item.worker_id} did not come back before its lease ended"
    return item._replace(
        status=Status.FAILED.value,
        error_message=f"attempts used up ({item.attempt} of {item.max_attempts}): {reason}",
        lease_until=None,
        change="EXHAUST",
    )


def _verdict(rows: Sequence[QueuedPosition], moment: Moment) -> Verdict:
    """Return rows that are also the result: as they will stand in the table, stamp and all."""
    stamped = SPEC.stamp(rows, moment.seq, moment.version, moment.now, moment.by)
    return Decision(stamped, stamped)


def settle(
    state: QueueState,
    moment: Moment,
    outcomes: Sequence[tuple[Outcome, str, str | None]],
    backoff: Backoff,
    *,
    refuse_stale: bool,
) -> Decision[QueuedPosition, Settled]:
    """End claims.

    Args:
        state: The queue.
        moment: The commit to come.
        outcomes: Each outcome with its request_id and the claim_id to fence it by.
        backoff: How long a retry waits that names no delay of its own.
        refuse_stale: Raise at the first claim that is not current, so that nothing at all changes.
    """
    items = find(state, moment, [request_id for _, request_id, _ in outcomes])
    rows, settled, stale = [], [], []
    for outcome, request_id, claim_id in outcomes:
        try:
            row = _settled(items[request_id], outcome, claim_id, moment, backoff)
        except StaleClaimError:
            if refuse_stale:
                raise
            stale.append(request_id)
            continue
        settled.append(request_id)
        if row is not None:
            rows.append(row)
            items[request_id] = row  # the same request twice in one batch is settled once
    return Decision(rows, Settled(settled, stale))


def _settled(
    item: QueuedPosition, outcome: Outcome, claim_id: str | None, moment: Moment, backoff: Backoff
) -> QueuedPosition | None:
    used_up = outcome.status == Status.PENDING and item.attempt >= item.max_attempts
    target = Status.FAILED if used_up else outcome.status
    if item.status == target and item.claim_id is not None and item.claim_id == claim_id:
        return None  # settled before, in the same way
    check_claim(item, claim_id, moment)
    message = outcome.error_message
    if used_up:
        message = f"attempts used up ({item.attempt} of {item.max_attempts}): {message}"
    if target != Status.PENDING:
        return item._replace(status=target.value, error_message=message, lease_until=None, change=_VERBS[target])
    delay = outcome.delay if outcome.delay is not None else backoff.delay(item.attempt)
    return item._replace(
        status=Status.PENDING.value,
        error_message=message,
        available_at=moment.now + delay,
        lease_until=None,
        change="RETRY",
    )


def check_claim(item: QueuedPosition, claim_id: str | None, moment: Moment) -> None:
    """Raise `StaleClaimError` unless `claim_id` is the item's current claim and its lease lasts."""
    if item.status != Status.PROCESSING:
        why = f"it is {item.status} by now"
    elif claim_id is None:
        why = f"this queue object does not hold it; {item.worker_id} does"
    elif item.claim_id != claim_id:
        why = f"it was claimed again by {item.worker_id}"
    elif item.is_due(moment.now):
        why = f"its lease ended at {item.lease_until}"
    else:
        return
    raise StaleClaimError(f"request {item.request_id} ({item.symbol}) cannot be changed with this claim: {why}")


def change_claimed(
    state: QueueState,
    moment: Moment,
    claims: Mapping[str, str | None],
    change: Callable[[QueuedPosition], QueuedPosition],
) -> Verdict:
    """Change requests by the claims that hold them, all or none."""
    rows = []
    for request_id, item in find(state, moment, list(claims)).items():
        check_claim(item, claims[request_id], moment)
        rows.append(change(item))
    return _verdict(rows, moment)


def released(item: QueuedPosition) -> QueuedPosition:
    """Return a request as it stands after its claim was given back untried."""
    return item._replace(
        status=Status.PENDING.value, attempt=item.attempt - 1, claim_id=None, lease_until=None, change="RELEASE"
    )


def cancel(state: QueueState, moment: Moment, ids: Sequence[str]) -> Verdict:
    """Cancel live requests, all or none; one that is cancelled already stays so."""
    rows = []
    for item in find(state, moment, ids).values():
        if item.status == Status.CANCELLED:
            continue
        if item.status not in LIVE:
            raise InvalidTransitionError(
                f"request {item.request_id} ({item.symbol}) is {item.status} and cannot be cancelled"
            )
        rows.append(item._replace(status=Status.CANCELLED.value, lease_until=None, change="CANCEL"))
    return _verdict(rows, moment)


def redrive(state: QueueState, moment: Moment, ids: Sequence[str] | None) -> Verdict:
    """Queue failed requests again with fresh attempts; `None` takes all that are held.

    A contract that has a live request by now is left out: it is being refreshed already.
    """
    items = state.failed() if ids is None else list(find(state, moment, ids).values())
    rows: dict[tuple[str, int], QueuedPosition] = {}
    for item in items:
        if item.status in LIVE and ids is not None:
            continue
        if item.status != Status.FAILED:
            raise InvalidTransitionError(
                f"request {item.request_id} ({item.symbol}) is {item.status}; only FAILED ones are redriven"
            )
        if state.live(item.account, item.conid) is None:
            rows[item.account, item.conid] = item._replace(
                status=Status.PENDING.value, attempt=0, available_at=moment.now, claim_id=None, change="REDRIVE"
            )
    return _verdict(list(rows.values()), moment)


def prioritise(state: QueueState, moment: Moment, ids: Sequence[str], priority: int) -> Verdict:
    """Give live requests another priority, all or none."""
    rows = []
    for item in find(state, moment, ids).values():
        if item.status not in LIVE:
            raise InvalidTransitionError(
                f"request {item.request_id} ({item.symbol}) is {item.status}; only live ones have a priority"
            )
        if item.priority != priority:
            rows.append(item._replace(priority=priority, change="PRIORITISE"))
    return _verdict(rows, moment)


def find(state: QueueState, moment: Moment, ids: Sequence[str]) -> dict[str, QueuedPosition]:
    """Return requests by id, also long finished ones.

    Raises:
        RequestNotFoundError: The queue never held one of them.
    """
    found = {request_id: item for request_id in ids if (item := state.get(request_id)) is not None}
    missing = [request_id for request_id in dict.fromkeys(ids) if request_id not in found]
    if missing:
        rows = moment.lookup(pl.DataFrame({"request_id": missing}, schema={"request_id": pl.String}))
        found |= {item.request_id: item for item in SPEC.to_rows(with_due(rows))}
    for request_id in missing:
        if request_id not in found:
            raise RequestNotFoundError(f"there is no request {request_id!r} in this queue")
    return {request_id: found[request_id] for request_id in dict.fromkeys(ids)}
