"""`PositionQueue`: a durable, prioritised, leased queue of positions to refresh.

Promises: a returned insert is durable; a request has at most one live claim; delivery is at least once; a request ends
exactly once; what a dead worker held comes back when its lease ends. What a change does is in `decisions`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import polars as pl

from v6kit.clock import Clock
from v6kit.contracts import INT32_END, check_int, check_span, check_text
from v6kit.display import Card
from v6kit.errors import RequestNotFoundError
from v6kit.ledger import Decision, Durable, LedgerTable, Moment
from v6kit.queue import decisions
from v6kit.queue.ids import RequestIds
from v6kit.queue.intake import MANY, as_list, as_outcomes, as_wanted, checked, request_id
from v6kit.queue.requests import (
    MAX_ATTEMPTS,
    MONITORING_PRIORITY,
    SPEC,
    Backoff,
    Claims,
    Outcome,
    QueuedPosition,
    QueueStats,
    Settled,
    Wanted,
    stats_card,
)
from v6kit.queue.state import QueueState
from v6kit.queue.view import QueueView

PAUSED = "v6kit.paused"
_ENDED_HELD = 10_000
_IDS_OFFERED = 500  # IPython shows no more


class PositionQueue(LedgerTable[QueuedPosition, QueueState]):
    """Positions to refresh, on the Delta table `position_queue`.

    Args:
        uri: A local path, or any URI that deltalake takes.
        storage_options: For object stores; never shown.
        worker_id: Who claims; default `host:pid:session`.
        clock: Tells the time; default the system's.
        backoff: How long a retry waits.
        aging_after: Requests that have been due for longer are claimed as if their priority were 1; `None`: never.
        durable: `process` or `power`; as in `LedgerTable`.
        history_days: How long to remember; as in `LedgerTable`.
    """

    SPEC = SPEC

    def __init__(
        self,
        uri: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, str] | None = None,
        worker_id: str | None = None,
        clock: Clock | None = None,
        backoff: Backoff | None = None,
        aging_after: timedelta | None = None,
        durable: Durable = "process",
        history_days: int | None = None,
    ) -> None:
        super().__init__(uri, storage_options=storage_options, clock=clock, durable=durable, history_days=history_days)
        self.worker_id = check_text("worker_id", worker_id) if worker_id is not None else self.ledger.actor
        self.backoff = backoff or Backoff()
        self.aging_after = check_span("aging_after", aging_after) if aging_after is not None else None
        self._ids = RequestIds()
        self._view = QueueView(self.ledger)
        self._claims: dict[str, str] = {}  # request_id → claim_id of what this object has claimed
        self._ended: dict[str, str] = {}  # the same of what it has settled lately, so that settling again is harmless

    def _new_state(self) -> QueueState:
        return QueueState()

    # --- putting in ---------------------------------------------------------------------------------------------

    async def insert(
        self,
        conid: int,
        symbol: str,
        priority: int = MONITORING_PRIORITY,
        *,
        account: str = "",
        max_attempts: int = MAX_ATTEMPTS,
        available_at: datetime | None = None,
        due_at: datetime | None = None,
    ) -> str:
        """Queue one position; durable when this returns.

        Args:
            conid: IB's contract id.
            symbol: For people to read.
            priority: 1 before 2 (and 2 before 3, and so on).
            account: Whose position; empty for the only account.
            max_attempts: How often it may be claimed before it fails.
            available_at: Not claimed before; default now.
            due_at: When the refresh is due, or was; within a priority, what is due first is claimed first. Default now.

        Returns:
            The request's id; the existing one if this (account, conid) is queued and not finished. That one takes over
            a better priority and an earlier due_at.

        Raises:
            TypeError, ValueError: An argument is wrong; names it and its value.
        """
        item = checked(Wanted(conid, symbol, priority, account, max_attempts, available_at, due_at))
        return (await self._change(partial(decisions.insert, wanted=[item], ids=self._ids)))[0]

    async def insert_many(self, items: pl.DataFrame | Iterable[Mapping[str, Any]]) -> list[str]:
        """Queue many positions in one commit, all or none.

        Args:
            items: A frame, or mappings, with conid and symbol and optionally priority, account, max_attempts,
                available_at and due_at, as in `insert`.

        Returns:
            One id per item, in order.

        Raises:
            TypeError, ValueError: An item is wrong; names it, the field and the value. Nothing was queued.
        """
        # Mappings are checked one by one, which takes a second for 200,000: too long for a loop that serves others.
        is_long = isinstance(items, Sized) and not isinstance(items, pl.DataFrame) and len(items) >= MANY
        wanted = await asyncio.to_thread(as_wanted, items) if is_long else as_wanted(items)
        if not len(wanted):
            return []
        return await self._change(partial(decisions.insert, wanted=wanted, ids=self._ids))

    # --- taking out ---------------------------------------------------------------------------------------------

    async def get_batch(
        self, limit: int = 50, *, priority: int | None = None, lease: timedelta = timedelta(seconds=60)
    ) -> list[QueuedPosition]:
        """Claim what may be claimed, in one commit: best priority first, then what was due first.

        Requests whose lease has ended are claimed again; those out of attempts become `FAILED` in the same commit. If
        the wait is cancelled, the claims may stand; they come back when their lease ends.

        Args:
            limit: At most so many.
            priority: Only this one.
            lease: How long the claim holds unless it is extended.

        Returns:
            The claimed requests, possibly none: while the queue is paused, or when nothing is due (no commit then).

        Raises:
            TypeError, ValueError: An argument is wrong; names it and its value.
        """
        check_int("limit", limit)
        if priority is not None:
            check_int("priority", priority, below=INT32_END)
        check_span("lease", lease)

        def decide(state: QueueState, moment: Moment) -> decisions.Verdict:
            if moment.properties.get(PAUSED):
                return Decision([], [])
            return decisions.claim(
                state, moment, limit=limit, priority=priority, aging_after=self.aging_after,
                lease=lease, worker_id=self.worker_id,
            )  # fmt: skip

        batch = await self._change(decide)
        self._claims.update((item.request_id, item.claim_id or "") for item in batch)
        return batch

    # --- settling -----------------------------------------------------------------------------------------------

    async def mark_success(self, items: Claims) -> None:
        """End claimed requests as done, all or none.

        Args:
            items: One or several, as `get_batch` returned them; or their ids, if this object has claimed them.

        Raises:
            StaleClaimError: A claim is no longer current; nothing was changed.
            RequestNotFoundError: The queue never held it.
            TypeError: What is given is no request and no id.
        """
        await self._settle([Outcome.success(item) for item in as_list(items)], refuse_stale=True)

    async def mark_failed(self, item: QueuedPosition | str, error_message: str) -> None:
        """End a claimed request for good; raises as `mark_success`.

        Args:
            item: The claimed request, or its id.
            error_message: Why it cannot succeed; not empty.
        """
        await self._settle([Outcome.failed(item, error_message)], refuse_stale=True)

    async def mark_retry(self, item: QueuedPosition | str, error_message: str, delay: timedelta | None = None) -> None:
        """Give a claimed request another attempt later, or fail it if none is left; raises as `mark_success`.

        Args:
            item: The claimed request, or its id.
            error_message: Why this attempt did not succeed; not empty.
            delay: Until the next one; default by `backoff`.
        """
        await self._settle([Outcome.retry(item, error_message, delay)], refuse_stale=True)

    async def settle(self, outcomes: Iterable[Outcome]) -> Settled:
        """End many claims in one commit. Those that are stale are left alone and returned, the others stand.

        Args:
            outcomes: What became of each: `Outcome.success(item)` and the like.

        Raises:
            RequestNotFoundError: The queue never held one of them; nothing was changed.
            TypeError: One is no `Outcome`.
        """
        return await self._settle(as_outcomes(outcomes), refuse_stale=False)

    async def extend_lease(self, items: Claims, lease: timedelta = timedelta(seconds=60)) -> None:
        """Let claims last until `lease` from now, all or none; raises as `mark_success`.

        Args:
            items: As in `mark_success`.
            lease: How long from now.
        """
        check_span("lease", lease)
        claims = self._fence(items)

        def decide(state: QueueState, moment: Moment) -> decisions.Verdict:
            until = moment.now + lease
            return decisions.change_claimed(
                state, moment, claims, lambda item: item._replace(lease_until=until, change="EXTEND")
            )

        if claims:
            await self._change(decide)

    async def release(self, items: Claims) -> None:
        """Give claims back untried: pending again at once, the attempt not counted; raises as `mark_success`."""
        claims = self._fence(items)
        if claims:
            await self._change(partial(decisions.change_claimed, claims=claims, change=decisions.released))
            self._drop(claims)

    # --- steering -----------------------------------------------------------------------------------------------

    async def cancel(self, items: Claims) -> None:
        """Cancel live requests, claimed or not, all or none.

        Args:
            items: One or several, or their ids; no claim is needed.

        Raises:
            InvalidTransitionError: One has finished.
            RequestNotFoundError: The queue never held it.
        """
        ids = [request_id(item) for item in as_list(items)]
        await self._change(partial(decisions.cancel, ids=ids))
        self._drop(ids)

    async def redrive(self, items: Claims | None = None) -> list[QueuedPosition]:
        """Queue failed requests again with fresh attempts.

        Args:
            items: As in `cancel`; default all that failed among the newest 10,000 finished ones.

        Returns:
            Those that are pending again; one whose contract has a live request by now is left out.

        Raises:
            InvalidTransitionError: One has ended otherwise than by failing.
            RequestNotFoundError: The queue never held it.
        """
        ids = None if items is None else [request_id(item) for item in as_list(items)]
        return await self._change(partial(decisions.redrive, ids=ids))

    async def prioritise(self, items: Claims, priority: int = 1) -> None:
        """Give live requests another priority, all or none.

        Args:
            items: As in `cancel`.
            priority: 1 before 2.

        Raises:
            InvalidTransitionError: One has finished.
            RequestNotFoundError: The queue never held it.
            TypeError, ValueError: The priority is no whole number from 1.
        """
        check_int("priority", priority, below=INT32_END)
        ids = [request_id(item) for item in as_list(items)]
        await self._change(partial(decisions.prioritise, ids=ids, priority=priority))

    async def pause(self, reason: str = "paused by the user") -> None:
        """Let nobody claim, in any process, until `resume`; durable. What is claimed may still be settled."""
        await asyncio.wrap_future(self.ledger.set_property(PAUSED, check_text("reason", reason)))

    async def resume(self) -> None:
        """Let claims go on after `pause`."""
        await asyncio.wrap_future(self.ledger.set_property(PAUSED, ""))

    # --- looking ------------------------------------------------------------------------------------------------

    def stats(self) -> QueueStats:
        """Return the queue in numbers, as this process knows it; no I/O."""
        now, paused = self.clock.now(), self.ledger.property(PAUSED)
        return self.ledger.read(lambda state: state.stats(now, paused))

    def current(self) -> pl.DataFrame:
        """Return the queue as this process knows it; no I/O.

        One row per request, columns as the table's, in the order of claiming: all live ones, and the newest 10,000 that
        have finished. Older ones are read with `TableHistory`.
        """
        return self._view.frame()

    def live(self, positions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], QueuedPosition]:
        """Return the live requests of these positions, by account and conid, as this process knows them; no I/O."""
        wanted = list(positions)
        return self.ledger.read(lambda state: {key: item for key in wanted if (item := state.live(*key)) is not None})

    def held_claims(self) -> tuple[str, ...]:
        """Return the ids of what this object has claimed and not yet ended."""
        return tuple(self._claims)

    def __getitem__(self, item: QueuedPosition | str) -> QueuedPosition:
        """Return a request as it stands, as this process knows it; no I/O.

        Args:
            item: Its id, or the request as it was seen before.

        Raises:
            RequestNotFoundError: It is not in memory, as live requests and the newest 10,000 finished ones are; a
                `KeyError`, too.
            StorageError: The queue is not open.
        """
        known = request_id(item)
        found = self.ledger.read(lambda state: state.get(known))
        if found is None:
            raise RequestNotFoundError(
                f"request {known!r} is neither live nor among the newest finished ones; if it ever was, "
                f"TableHistory({self.uri!r}).timeline({known!r}) has its past"
            )
        return found

    __iter__ = None  # current() has all; else Python would try queue[0], queue[1], …

    def _ipython_key_completions_(self) -> list[str]:
        """Return ids in the order of claiming, live ones first."""
        return self.current()["request_id"].head(_IDS_OFFERED).to_list() if self.ledger.is_open else []

    def _open_card(self) -> Card:
        return stats_card("PositionQueue", {"table": self.uri}, self.stats())

    def _summary(self) -> str:
        stats = self.stats()
        counts = [f"{count} {status}" for status, count in stats.by_status.items() if count]
        return ", ".join([*counts, *([f"paused: {stats.paused}"] if stats.paused else [])]) or "empty"

    # --- claims -------------------------------------------------------------------------------------------------

    async def _settle(self, outcomes: Sequence[Outcome], *, refuse_stale: bool) -> Settled:
        fenced = [(outcome, *self._claim_of(outcome.item)) for outcome in outcomes]
        if not fenced:
            return Settled([], [])
        settled = await self._change(
            partial(decisions.settle, outcomes=fenced, backoff=self.backoff, refuse_stale=refuse_stale)
        )
        # A newer claim of the same request that this object holds is not what was settled, or found stale, here.
        over = {known: claim for _, known, claim in fenced if claim is not None and self._claims.get(known) == claim}
        self._ended.update((done, over[done]) for done in settled.settled if done in over)
        for done in tuple(self._ended)[: max(len(self._ended) - _ENDED_HELD, 0)]:
            self._ended.pop(done, None)
        self._drop(over)
        return settled

    def _fence(self, items: Claims) -> dict[str, str | None]:
        claims: dict[str, str | None] = {}
        for known, claim_id in map(self._claim_of, as_list(items)):
            if claims.setdefault(known, claim_id) != claim_id:
                claims[known] = None  # two claims of one request: one of them at least is not current
        return claims

    def _claim_of(self, item: QueuedPosition | str) -> tuple[str, str | None]:
        if isinstance(item, QueuedPosition):
            return item.request_id, item.claim_id
        known = request_id(item)
        return known, self._claims.get(known) or self._ended.get(known)

    def _drop(self, ids: Iterable[str]) -> None:
        for known in ids:
            self._claims.pop(known, None)
