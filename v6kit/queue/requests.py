"""What a request is: its row, its status, and how it may end.

Every request goes ::

    PENDING ──claim──▶ PROCESSING ──▶ SUCCESS
       ▲                  │  │  └───▶ FAILED ──redrive──▶ PENDING
       └──retry, release──┘  └─────▶ CANCELLED  (also straight from PENDING)

`PROCESSING` holds a lease. When it ends, the request may be claimed again, by anybody, with a fresh claim_id.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, Self

import polars as pl

from v6kit.contracts import check_float, check_span, check_text
from v6kit.display import Card, Printer, Shown, Table, counted, span, utc
from v6kit.ledger import INSTANT, NO_INSTANT, STAMP, TableSpec


class Status(StrEnum):
    """Where a request stands."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


LIVE = frozenset({Status.PENDING, Status.PROCESSING})
ACTIVE_PRIORITY = 1
MONITORING_PRIORITY = 2
MAX_ATTEMPTS = 5
_TOLD = 10  # priorities that a cell shows; the statistics have all


Turn = tuple[datetime, str]  # due_at and request_id


class QueuedPosition(NamedTuple):
    """One request as it stands.

    Attributes:
        request_id: A UUID; sorts by age.
        priority: 1 before 2; within one, what is due first goes first.
        created_at: When it was inserted.
        error_message: Why the last attempt did not succeed.
        attempt: How often it was claimed since it was inserted or redriven.
        available_at: Not claimed before.
        due_at: When the refresh is due, or was: orders the requests of one priority, and stays when it is retried.
        claim_id: Names the current claim, or the one that ended it; a change needs it.
        worker_id: Who holds or held the claim.
        lease_until: When the claim ends by itself.
    """

    request_id: str
    conid: int
    symbol: str
    priority: int
    status: str
    created_at: datetime
    error_message: str | None
    account: str
    attempt: int
    max_attempts: int
    available_at: datetime
    due_at: datetime
    claim_id: str | None
    worker_id: str | None
    lease_until: datetime | None
    change: str
    seq: int = 0
    version: int = 0
    updated_at: datetime = NO_INSTANT
    updated_by: str = ""

    def is_due(self, now: datetime) -> bool:
        """Tell whether it may be claimed: pending and available, or its lease has ended."""
        if self.status == Status.PENDING:
            return self.available_at <= now
        return self.status == Status.PROCESSING and self.lease_until is not None and self.lease_until <= now

    @property
    def turn(self) -> Turn:
        """What orders the requests of one priority: who is due first, then who was inserted first."""
        return self.due_at, self.request_id

    def _repr_html_(self) -> str:
        return self._card().html()

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:  # noqa: ARG002, FBT001 - IPython calls it so
        printer.text(self._card().text())

    def _card(self) -> Card:
        facts = {
            "contract": f"{self.symbol} (conid {self.conid}{f', {self.account}' if self.account else ''})",
            "status": f"{self.status}, attempt {self.attempt} of {self.max_attempts}, priority {self.priority}",
            "queued": utc(self.created_at),
            "due": utc(self.due_at),
        }
        if self.status == Status.PENDING:
            facts["not before"] = utc(self.available_at)
        if self.status == Status.PROCESSING and self.lease_until is not None:
            facts["claimed by"] = f"{self.worker_id}, lease until {utc(self.lease_until)}"
        facts |= {
            "last change": f"{self.change} at {utc(self.updated_at)} by {self.updated_by} (v{self.version})",
            "every state": f'desk.history("position_queue").timeline("{self.request_id}")',
        }
        return Card(
            f"Request {self.request_id}",
            warnings=[self.error_message] if self.error_message else [],
            facts=facts,
        )


SPEC: TableSpec[QueuedPosition] = TableSpec(
    name="position_queue",
    key=("request_id",),
    columns={
        "request_id": pl.String(),
        "conid": pl.Int64(),
        "symbol": pl.String(),
        "priority": pl.Int32(),
        "status": pl.String(),
        "created_at": INSTANT,
        "updated_at": INSTANT,
        "error_message": pl.String(),
        "account": pl.String(),
        "attempt": pl.Int32(),
        "max_attempts": pl.Int32(),
        "available_at": INSTANT,
        "due_at": INSTANT,
        "claim_id": pl.String(),
        "worker_id": pl.String(),
        "lease_until": INSTANT,
        **{name: kind for name, kind in STAMP.items() if name != "updated_at"},
    },
    row=QueuedPosition,
    version=2,  # 2 added due_at
    statistics=("request_id",),
    distinct=("request_id", "conid"),
    finished="status IN ('SUCCESS', 'FAILED', 'CANCELLED')",
    not_restored="a request ends exactly once, and what a worker has claimed is its own until the lease ends; queue "
    "failed requests anew with redrive(), others with insert_many(), and end live ones with cancel()",
)


def with_due(frame: pl.DataFrame) -> pl.DataFrame:
    """Return rows of the table, those from before it had `due_at` as due since they were inserted."""
    if not frame["due_at"].null_count():
        return frame
    return frame.with_columns(pl.col("due_at").fill_null(pl.col("created_at")))


class Wanted(NamedTuple):
    """One position that is to be queued; a bulk insert is a frame with these columns.

    Attributes:
        available_at: Not claimed before; `None` means now.
        due_at: When the refresh is due, or was; `None` means now.
    """

    conid: int
    symbol: str
    priority: int = MONITORING_PRIORITY
    account: str = ""
    max_attempts: int = MAX_ATTEMPTS
    available_at: datetime | None = None
    due_at: datetime | None = None


WANTED_COLUMNS = {name: SPEC.columns[name] for name in Wanted._fields}
Claims = QueuedPosition | str | Iterable[QueuedPosition | str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one claimed request ended; made by `success`, `failed`, `cancelled` or `retry`.

    Attributes:
        item: The claimed request, or its id if this queue object claimed it.
        status: `SUCCESS`, `FAILED`, `CANCELLED`, or `PENDING` for another attempt.
        error_message: Why not; needed unless it succeeded.
        delay: Until the next attempt; `None` for exponential backoff.
    """

    item: QueuedPosition | str
    status: Status
    error_message: str | None = None
    delay: timedelta | None = None

    @classmethod
    def success(cls, item: QueuedPosition | str) -> Self:
        """It worked."""
        return cls(item, Status.SUCCESS)

    @classmethod
    def failed(cls, item: QueuedPosition | str, error_message: str) -> Self:
        """It cannot work; no further attempt."""
        return cls(item, Status.FAILED, check_text("error_message", error_message))

    @classmethod
    def cancelled(cls, item: QueuedPosition | str, error_message: str) -> Self:
        """It is no longer wanted; nothing went wrong."""
        return cls(item, Status.CANCELLED, check_text("error_message", error_message))

    @classmethod
    def retry(cls, item: QueuedPosition | str, error_message: str, delay: timedelta | None = None) -> Self:
        """It may work later; fails for good when the attempts are used up.

        Args:
            item: The claimed request, or its id.
            error_message: Why this attempt did not succeed.
            delay: Until the next one; default by the queue's backoff.

        Raises:
            TypeError, ValueError: The delay is no duration, negative or beyond a century; or the message is empty.
        """
        if delay is not None:
            check_span("delay", delay, zero_allowed=True)
        return cls(item, Status.PENDING, check_text("error_message", error_message), delay)


class Settled(NamedTuple):
    """What `settle` did.

    Attributes:
        settled: Ids that now stand as asked, those that already did included.
        stale: Ids whose claim was no longer current; nothing of theirs was changed.
    """

    settled: list[str]
    stale: list[str]


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the next attempt: `base` × 2^(attempt − 1), at most `cap`, spread by ± `jitter`.

    Attributes:
        base: After the first attempt.
        cap: The longest wait.
        jitter: Share of the wait by which it is spread, 0 to 1, so that failures of one moment do not return in one.

    Raises:
        TypeError, ValueError: One of them is no duration, or no such share; names it and its value.
    """

    base: timedelta = timedelta(seconds=5)
    cap: timedelta = timedelta(minutes=5)
    jitter: float = 0.2

    def __post_init__(self) -> None:
        """Validate."""
        check_span("base", self.base)
        check_span("cap", self.cap)
        if not 0 <= check_float("jitter", self.jitter) <= 1:
            raise ValueError(f"jitter must be a share from 0 to 1, got {self.jitter!r}")

    def delay(self, attempt: int) -> timedelta:
        """Return the wait after this attempt, counted from 1."""
        doublings = min(attempt - 1, math.ceil(math.log2(max(self.cap / self.base, 1))))
        wait: timedelta = min(self.base * 2**doublings, self.cap)
        spread = random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311 - spreads load, guards nothing
        return wait * spread


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class QueueStats(Shown):
    """The queue in numbers; finished requests count while they are held in memory (the newest 10,000).

    Attributes:
        by_status: How many requests stand where.
        by_priority: How many live requests have which priority.
        oldest_pending: How long the pending request that is due first has waited since it was due (since it was
            inserted, unless that was said), or `None`.
        expired_leases: Requests whose worker let the lease end; the next claim takes them.
        retries: Attempts beyond the first, over all requests held.
        finished_last_minute: Requests that ended within the last 60 s.
        paused: Why the queue is paused, or an empty string.
    """

    by_status: dict[str, int]
    by_priority: dict[int, int]
    oldest_pending: timedelta | None
    expired_leases: int
    retries: int
    finished_last_minute: int
    paused: str

    @property
    def live(self) -> int:
        """Requests that are pending or processing."""
        return self.by_status[Status.PENDING] + self.by_status[Status.PROCESSING]

    def _card(self) -> Card:
        return stats_card("QueueStats", {}, self)


def stats_card(title: str, facts: Mapping[str, str], stats: QueueStats) -> Card:
    """Return a card of a queue in numbers, below what else is known of it."""
    warnings = [f"paused: {stats.paused}"] if stats.paused else []
    if stats.expired_leases:
        them = "it" if stats.expired_leases == 1 else "them"
        warnings.append(f"{counted(stats.expired_leases, 'expired lease')}; the next claim takes {them}")
    counts = [f"{count:,}" for count in stats.by_status.values()]
    live = [[str(priority), f"{count:,}"] for priority, count in [*stats.by_priority.items()][:_TOLD]]
    by_priority = Table(("priority", "live"), live, len(stats.by_priority) - len(live), ("priority", "live"))
    return Card(
        title,
        warnings=warnings,
        facts={
            **facts,
            "oldest": "nothing waits" if stats.oldest_pending is None else f"due for {span(stats.oldest_pending)}",
            "retries": f"{stats.retries:,}",
            "throughput": f"{stats.finished_last_minute:,} ended within the last minute",
        },
        tables=[Table([*stats.by_status], [counts], numbers=stats.by_status), *([by_priority] if live else [])],
    )
