"""What sync decides, as pure functions: where a position goes, and what an error means for a request.

Owns no state and does no I/O. What a code means for the link, the pace and the lines is the broker room's to know.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import polars as pl

from v6kit.broker import Action, ConnectionState, action_for
from v6kit.contracts import ActiveContract, Instrument, PositionUpdate, Quality, Quote
from v6kit.errors import BrokerError, GatewayUnavailableError, LineLimitError, RequestFailedError
from v6kit.positions import BookRow
from v6kit.queue import ACTIVE_PRIORITY, MONITORING_PRIORITY, Outcome, QueuedPosition, Status, Wanted
from v6kit.sync import freshness
from v6kit.sync.freshness import Targets

# IB answers the same to every further attempt, until somebody does something about it: unknown or expired contract, and
# the codes for market data that is not subscribed. Source: the TWS API's message codes 200, 354, 10089, 10168.
PARKING_CODES = frozenset({200, 354, 10089, 10168})

# What these say is true of the login and the pace, not of the request that met it: too many messages, no line left,
# another session of the login takes the market data.
BLAMELESS_CODES = frozenset({100, 101, 10197})


def to_stream(
    rows: Iterable[BookRow], active: Iterable[ActiveContract], parked: Collection[int]
) -> dict[int, Instrument]:
    """Return the contracts to stream: every active one, held or not, except those that the gateway refused.

    Args:
        rows: The positions that are held; they know their contract best.
        active: The legs of active strategies.
        parked: Contracts that the gateway refused for this session: asking again would change nothing.
    """
    contracts = {leg.conid: instrument_of(leg) for leg in active}
    contracts |= {row.conid: row.instrument() for row in rows if row.conid in contracts}
    return {conid: contract for conid, contract in contracts.items() if conid not in parked}


class Due(NamedTuple):
    """A position that is to be queued, at which priority, and when its refresh is or was due."""

    row: BookRow
    priority: int
    due_at: datetime


def of_login(rows: Iterable[BookRow], accounts: Collection[str], lost: Collection[str]) -> list[BookRow]:
    """Return the rows of a login's accounts, or all while these are unknown; others are for their own desk.

    Args:
        rows: The positions that are held.
        accounts: Those of the login; none before it has told them, or when it has `lost` all that it had.
        lost: The accounts that the login had and has no longer.
    """
    is_known = bool(accounts or lost)
    return [row for row in rows if not is_known or row.account in accounts]


def to_queue(
    rows: Iterable[BookRow],
    *,
    now: datetime,
    targets: Targets,
    is_active: Callable[[int], bool],
    streams: Collection[int],
    parked: Collection[int],
    in_vain: Mapping[tuple[str, int], datetime],
    lead: timedelta,
) -> list[Due]:
    """Return the positions to queue: what does not stream and is due; active contracts that found no line go first.

    Args:
        rows: The positions that are held.
        now: Aware UTC.
        targets: How old quotes may become.
        is_active: Tells of a conid whether an active strategy has it.
        streams: Contracts that stream.
        parked: Contracts that the gateway refused for this session.
        in_vain: When a request for a position last ended without a quote.
        lead: From being queued to being in the book. What is due so soon is queued now, but nothing before half of
            its target has passed: lines are for those that need them.
    """
    queue = []
    kinds = {
        active: (target, now + min(lead, target / 2), ACTIVE_PRIORITY if active else MONITORING_PRIORITY)
        for active in (True, False)
        for target in [targets.of(is_active=active)]
    }
    for row in rows:
        if row.conid in streams or row.conid in parked:
            continue
        target, until, priority = kinds[is_active(row.conid)]
        due_at = freshness.due_at(row, target, in_vain.get((row.account, row.conid)))
        if due_at <= until:
            queue.append(Due(row, priority, due_at))
    return queue


def news(due: Iterable[Due], live: Mapping[tuple[str, int], QueuedPosition]) -> list[Wanted]:
    """Return what of this is not queued yet, or waits there behind its turn."""
    found = []
    for row, priority, due_at in due:
        known = live.get((row.account, row.conid))
        if known is not None and (
            known.status != Status.PENDING or (priority >= known.priority and due_at >= known.due_at)
        ):
            continue
        found.append(Wanted(row.conid, row.label(), priority, row.account, due_at=due_at))
    return found


def superseded(queue: pl.DataFrame, streams: Collection[int]) -> list[str]:
    """Return the ids of requests that wait although a stream keeps their contract fresh by now."""
    waits = (pl.col("status") == Status.PENDING) & pl.col("conid").is_in(list(streams))
    return queue.filter(waits)["request_id"].to_list()


def of_accounts(queue: pl.DataFrame, accounts: Collection[str]) -> list[str]:
    """Return the ids of requests that wait for positions of these accounts."""
    waits = (pl.col("status") == Status.PENDING) & pl.col("account").is_in(list(accounts))
    return queue.filter(waits)["request_id"].to_list()


def wanted(row: BookRow, priority: int) -> dict[str, object]:
    """Return what the queue needs to know to refresh a position."""
    return {"conid": row.conid, "symbol": row.label(), "account": row.account, "priority": priority}


def instrument_of(leg: ActiveContract) -> Instrument:
    """Return the contract of a leg, ready for a request; the broker finds out the exchange."""
    return Instrument(
        conid=leg.conid,
        symbol=leg.symbol,
        sec_type=leg.sec_type,
        right=leg.right,
        strike=leg.strike,
        expiry=leg.expiry,
    )


class Fetched(NamedTuple):
    """What came of one request.

    Attributes:
        item: The claimed request.
        update: For the book, or `None` if nothing became known.
        outcome: For the queue; `None`: give the claim back, since this attempt says nothing about the request.
        parked: Why this contract is not asked again in this session, or an empty string.
    """

    item: QueuedPosition
    update: PositionUpdate | None
    outcome: Outcome | None
    parked: str = ""


def fetched(item: QueuedPosition, row: BookRow, quote: Quote, *, hold: str | None = None) -> Fetched:
    """Return what a quote means for its request.

    Args:
        item: The claimed request.
        row: The position that it is about.
        quote: What came.
        hold: Why the broker starts no snapshot now, if so: then an answer without a price says nothing.
    """
    if hold and quote.mark()[0] is None:
        return Fetched(item, None, None)
    update = PositionUpdate(
        account=row.account,
        instrument=row.instrument(),
        quote=quote,
        request_id=item.request_id,
        attempt=item.attempt,
    )
    return Fetched(item, update, Outcome.success(item))


def is_redriven(item: QueuedPosition) -> bool:
    """Tell whether a claimed request was redriven, and this is the first attempt since: then the gateway is asked.

    Whoever redrives has done something about a refusal, such as subscribing. A request is available from the instant at
    which it was made; later only if it was redriven, put off by whoever made it, or retried, which is no first attempt.
    """
    return item.attempt == 1 and item.available_at > item.created_at


def not_asked(item: QueuedPosition, why: str) -> Fetched:
    """Return what it means that the gateway refused this contract for the session before."""
    return Fetched(item, None, Outcome.failed(item, f"not asked for again in this session, unless redriven: {why}"))


def broken(item: QueuedPosition, error: Exception) -> Fetched:
    """Return what it means that refreshing went wrong in a way that nobody foresaw: try again."""
    return Fetched(item, None, Outcome.retry(item, f"{type(error).__name__}: {error}"))


def not_held(item: QueuedPosition) -> Fetched:
    """Return what it means that the account does not hold what was to be refreshed."""
    whose = f"account {item.account}" if item.account else "any account"
    return Fetched(item, None, Outcome.cancelled(item, f"conid {item.conid} is not held in {whose}"))


def of_lost_account(item: QueuedPosition, account: str) -> Fetched:
    """Return what it means that the login has lost the account: nobody can vouch for its positions."""
    message = f"{account} is no account of this login any more; its positions stay as they were last seen"
    return Fetched(item, None, Outcome.cancelled(item, message))


def unless_lost(fetched: Fetched, lost: Collection[str]) -> Fetched:
    """Return what came of a request, as long as the login has its account.

    Args:
        fetched: What came of it.
        lost: The accounts that the login had and has no longer.
    """
    account = fetched.item.account if fetched.update is None else fetched.update.account
    return fetched if fetched.outcome is None or account not in lost else of_lost_account(fetched.item, account)


def failed(item: QueuedPosition, row: BookRow, error: BrokerError) -> Fetched:
    """Return what an error means for its request.

    The link is down, no line came free, or the login is at its limits: that is not the request's fault, so its attempt
    does not count. A parking code ends it, and so does an exchange that stays wrong after it was looked up. Anything
    else, a time-out included, may work at another attempt.
    """
    code = error.code if isinstance(error, RequestFailedError) else None
    if isinstance(error, GatewayUnavailableError | LineLimitError) or code in BLAMELESS_CODES:
        return Fetched(item, None, None)
    is_hopeless = code is not None and action_for(code, ours=True, message=str(error)) is Action.FIX_EXCHANGE
    if code not in PARKING_CODES and not is_hopeless:
        return Fetched(item, None, Outcome.retry(item, str(error)))
    update = PositionUpdate(
        account=row.account,
        instrument=row.instrument(),
        quality=Quality.ERROR,
        error_code=code,
        request_id=item.request_id,
        attempt=item.attempt,
    )
    return Fetched(item, update, Outcome.failed(item, str(error)), parked="" if is_hopeless else str(error))


def is_in_vain(fetched: Fetched) -> bool:
    """Tell whether a request has ended, without a quote."""
    outcome = fetched.outcome
    if outcome is None or outcome.status == Status.SUCCESS:
        return False
    return outcome.status != Status.PENDING or fetched.item.attempt >= fetched.item.max_attempts


class Hand(NamedTuple):
    """What a worker that runs by itself has in hand: enough that no line waits for work, not more.

    What is claimed waits its turn behind what was claimed before, so the more is in hand, the later comes what has
    become urgent meanwhile.

    Attributes:
        batch_size: The most that may wait in hand for a line.
        lines: Lines that streams leave to snapshots.
        waiting: Requests in hand that have no line yet.
    """

    batch_size: int
    lines: int
    waiting: int

    @property
    def full(self) -> int:
        """How many are to wait for a line: two for each, so that one may be late."""
        return min(self.batch_size, 2 * max(1, self.lines))

    @property
    def room(self) -> int:
        """How many to claim."""
        return max(0, self.full - self.waiting)

    def is_low(self, *, soon: bool) -> bool:
        """Tell whether to claim again: at half of what is to wait, or at none when the last time was only just now.

        Args:
            soon: Whether it was; each claim is a commit.
        """
        return self.waiting <= (0 if soon else self.full // 2)


def find_row(item: QueuedPosition, rows: Callable[[], Iterable[BookRow]]) -> BookRow | None:
    """Return the book's row that a request is about; one without an account takes any that holds the contract."""
    for row in rows():
        if row.conid == item.conid and item.account in ("", row.account):
            return row
    return None


def goes_stale(new: ConnectionState) -> bool:
    """Tell whether streamed quotes can no longer be trusted in this state."""
    return new in (ConnectionState.DOWN, ConnectionState.DEGRADED)
