"""Who holds market data lines, who waits for one, and why: as a value that can be shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Self

import polars as pl

from v6kit.broker import LineBudget, LineHolder
from v6kit.display import Card, Shown, Table, counted
from v6kit.ledger import INSTANT
from v6kit.sync import Candidate, Standing

_TOLD = 10  # rows of each table that a cell shows; the frames have all


class Holding(NamedTuple):
    """One line in use."""

    kind: str
    conid: int
    label: str
    strategies: list[str]
    since: datetime
    for_seconds: float
    why: str
    users: int


class Wait(NamedTuple):
    """An active contract without a line."""

    conid: int
    label: str
    strategies: list[str]
    rank: int | None
    why: str


_NAMES = {"conid": pl.Int64(), "label": pl.String(), "strategies": pl.List(pl.String())}
_HOLDING = {
    "kind": pl.String(),
    **_NAMES,
    "since": INSTANT,
    "for_seconds": pl.Float64(),
    "why": pl.String(),
    "users": pl.Int64(),
}
_WAIT = {**_NAMES, "rank": pl.Int64(), "why": pl.String()}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LineUse(Shown):
    """Who holds market data lines, at one moment.

    Attributes:
        limit: Lines that the login has.
        capacity: Lines that v6kit may use now.
        room: How many of these streams may have; the others are left to snapshots.
        streams: Held by streams.
        snapshots: Held by snapshots in flight.
        peak: The most that were ever in use at once.
        left: Lines that error 101 left at last; `None` when there was none, or all have come back since.
        learned_at: When that was, aware UTC, or `None`.
        next_probe_at: When one line more is tried, aware UTC, or `None`.
        policy: By what streams are chosen when there are not enough lines, in words.
        holdings: The rows of `holders`.
        waits: The rows of `waiting`.
    """

    limit: int
    capacity: int
    room: int
    streams: int
    snapshots: int
    peak: int
    left: int | None
    learned_at: datetime | None
    next_probe_at: datetime | None
    policy: str
    holdings: Sequence[Holding]
    waits: Sequence[Wait]

    @classmethod
    def of(cls, budget: LineBudget, standing: Standing, labels: Mapping[int, str], now: datetime) -> Self:
        """Take the numbers of this moment.

        Args:
            budget: The lines.
            standing: How the active contracts stood when they were last looked at.
            labels: Of the contracts that are held, by conid.
            now: Aware UTC.
        """
        holders, shortage = budget.holders(), budget.shortage
        kinds = ("stream", "snapshot") if budget.snapshots_use_lines else ("stream",)
        streaming = {each.conid for each in holders if each.kind == "stream"}
        known = {each.conid: each for each in (*standing.ranking, *(refused for refused, _ in standing.refused))}
        return cls(
            limit=budget.limit,
            capacity=budget.capacity,
            room=budget.stream_room,
            streams=len(streaming),
            snapshots=sum(each.kind in kinds for each in holders) - len(streaming),
            peak=budget.peak,
            left=shortage.left if shortage else None,
            learned_at=shortage.at if shortage else None,
            next_probe_at=budget.next_probe_at,
            policy=standing.policy,
            holdings=tuple(_holding(each, known.get(each.conid), labels, now) for each in holders),
            waits=tuple(each for each in _waits(standing) if each.conid not in streaming),
        )

    @property
    def used(self) -> int:
        """Lines in use."""
        return self.streams + self.snapshots

    @property
    def holders(self) -> pl.DataFrame:
        """One row per line in use, oldest first.

        Columns: kind (`stream` or `snapshot`), conid, label, strategies (a list of ids), since (UTC), for_seconds
        (Float64), why (in words), users (how many asked for the stream).
        """
        return pl.DataFrame(self.holdings, schema=_HOLDING, orient="row")

    @property
    def waiting(self) -> pl.DataFrame:
        """One row per active contract without a line, best first; the queue refreshes them before anything else.

        Columns: conid, label, strategies (a list of ids), rank (from 1 among all active contracts; null when the
        gateway refused the contract), why (in words).
        """
        return pl.DataFrame(self.waits, schema=_WAIT, orient="row")

    @property
    def learned(self) -> str:
        """What error 101 taught and when one line more is tried, in words; empty when nothing is missing."""
        if self.learned_at is None or self.next_probe_at is None:
            return ""
        return (
            f"error 101 at {self.learned_at:%H:%M:%S} UTC left {counted(self.left or 0, 'line')}; "
            f"{self.capacity} may be used now, and one more is tried at {self.next_probe_at:%H:%M:%S} UTC"
        )

    def summary(self) -> str:
        """Return the counts in one line."""
        return (
            f"{self.used} of {counted(self.capacity, 'line')} in use (limit {self.limit}): "
            f"{counted(self.streams, 'stream')}, {counted(self.snapshots, 'snapshot')}, peak {self.peak}"
        )

    def _card(self) -> Card:
        held = [[each.kind, each.label, f"{each.for_seconds:,.0f} s", each.why] for each in self.holdings[:_TOLD]]
        waits = [[each.label, "" if each.rank is None else f"#{each.rank}", each.why] for each in self.waits[:_TOLD]]
        tables = [
            Table(("line", "contract", "for", "why"), held, len(self.holdings) - len(held), numbers=["for"]),
            Table(("waiting", "rank", "why"), waits, len(self.waits) - len(waits), numbers=["rank"]),
        ]
        who = f"{counted(len(self.waits), 'active contract')} wait{'s' * (len(self.waits) == 1)}"
        waiting = f"{who}; room for {counted(self.room, 'stream')}, chosen by {self.policy}"
        notes = [self.learned] * bool(self.learned) + [waiting] * bool(self.waits)
        return Card(self.summary(), notes=notes, tables=[table for table in tables if table.rows])


def _holding(holder: LineHolder, candidate: Candidate | None, labels: Mapping[int, str], now: datetime) -> Holding:
    if holder.kind == "snapshot":
        why = "snapshot for the queue"
    else:
        why = candidate.why() if candidate else "subscribed to apart from the strategies"
    return Holding(
        kind=str(holder.kind),
        conid=holder.conid,
        label=candidate.label if candidate else labels.get(holder.conid, f"conid {holder.conid}"),
        strategies=list(candidate.strategies) if candidate else [],
        since=holder.since,
        for_seconds=(now - holder.since).total_seconds(),
        why=why,
        users=holder.refcount,
    )


def _waits(standing: Standing) -> Iterator[Wait]:
    """Return every active contract with why it would wait, those that stream included."""
    for rank, each in enumerate(standing.ranking, start=1):
        if rank > standing.room:
            place = f"{rank} of {len(standing.ranking)}, with room for {standing.room}"
        elif each.conid in standing.chosen:
            place = "about to stream"
        else:
            place = "next, when a stream has had its minimum hold"
        yield Wait(each.conid, each.label, list(each.strategies), rank, f"{place}: {each.why()}")
    for each, reason in standing.refused:
        yield Wait(each.conid, each.label, list(each.strategies), None, reason)
