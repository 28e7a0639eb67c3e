"""How fresh each position is, and how fresh it is wanted: pure functions of book, streams, targets and moment.

Owns when a quote is too old, when a position is to be asked for again, and what can be said of all of them. No I/O.

The quote of a healthy stream is current, however long ago its last tick came: a gateway sends what changes, so silence
says that nothing has. Its age is 0; `received_at` tells of the last tick.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import polars as pl

from v6kit.contracts import Quality, Source, check_float
from v6kit.display import Card, Shown, Table, counted, utc
from v6kit.ledger import INSTANT
from v6kit.positions import BookRow

_TOLD = 20  # overdue positions that a cell shows; the frame has all


class Kind(StrEnum):
    """How a position is kept fresh."""

    STREAMED = "streamed"
    ACTIVE = "active, by queue"
    OTHER = "other, by queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The greatest age that quotes shall reach, in seconds.

    Attributes:
        active: Of legs of active strategies that have no stream, because the lines do not suffice.
        other: Of all other positions.
    """

    active: float = 15.0
    other: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what is no duration."""
        for name in ("active", "other"):
            object.__setattr__(self, name, check_float(name, getattr(self, name), above=0.0))

    def of(self, *, is_active: bool) -> timedelta:
        """Return the greatest age for a position."""
        return timedelta(seconds=self.active if is_active else self.other)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What market data lines and pace allow.

    Attributes:
        lines: Lines that streams leave to snapshots.
        pace: Messages per second; each snapshot is one, and heartbeats and cancels count, too.
        hold: Seconds that a snapshot holds its line, as measured lately; `None` before the first.
    """

    lines: int
    pace: float
    hold: float | None

    @property
    def per_second(self) -> float:
        """Refreshes per second, at most: the pace, or lines by the time that each is held."""
        return self.pace if not self.hold else min(self.pace, self.lines / self.hold)


def is_trusted(row: BookRow) -> bool:
    """Tell whether a row has a quote of our own that nothing speaks against; the portfolio's valuation is none."""
    return row.source in (Source.SNAPSHOT, Source.STREAM) and row.quality in (Quality.OK, Quality.PARTIAL)


def expires_at(row: BookRow, target: timedelta) -> datetime:
    """Return when a row that no stream keeps current is too old.

    A snapshot's quote is a target after it came. What cannot be trusted is since it came, and so is the quote of a
    stream that has ended: nobody said for how long it held.
    """
    if row.source == Source.SNAPSHOT and is_trusted(row) and row.received_at is not None:
        return row.received_at + target
    return row.received_at or row.updated_at


def due_at(row: BookRow, target: timedelta, ended_at: datetime | None = None) -> datetime:
    """Return when a position is to be asked for: when its row is too old, but a target after it was asked for in vain.

    Else a contract without prices, in a closed market for example, would take the lines of all others.

    Args:
        row: The position; no stream keeps it current.
        target: The greatest age that its quote shall reach.
        ended_at: When a request for it last ended without a word for the book.
    """
    due, asked_at, received_at = expires_at(row, target), row.requested_at, row.received_at
    if asked_at is not None and (received_at is None or asked_at > received_at):
        due = max(due, asked_at + target)
    if ended_at is not None and ended_at >= row.updated_at:
        due = max(due, ended_at + target)
    return due


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Freshness(Shown):
    """How fresh the positions are at one moment.

    Attributes:
        at: That moment, aware UTC.
        positions: One row each, the most overdue first: account, conid, label, kind, age_seconds (null without a quote
            of our own), source, quality, target_seconds, overdue_seconds (negative: time left), received_at, why
            (what is wrong with it, in words; null if nothing is).
        kinds: One row per kind that there is: kind, positions, unquoted (without a quote of our own), p50, p95 and max
            (of the age, seconds), target_seconds, within (share of the positions that meet the target),
            expected_seconds (between two refreshes of one position, as capacity allows; null for streams, infinite if
            nothing is left for this kind).
        needed: Refreshes per second that the targets ask for.
        capacity: What lines and pace allow.
        held_back: Why nothing is refreshed now, or an empty string.
    """

    at: datetime
    positions: pl.DataFrame
    kinds: pl.DataFrame
    needed: float
    capacity: Capacity
    held_back: str = ""

    @property
    def is_feasible(self) -> bool:
        """Whether capacity suffices for the targets."""
        return self.needed <= self.capacity.per_second

    @property
    def verdict(self) -> str:
        """What there is to say, in a sentence."""
        if self.held_back:
            return f"nothing is refreshed by snapshot now: {self.held_back}"
        has, lines = self.capacity.per_second, self.capacity.lines
        hold = f"held {self.capacity.hold:.1f} s each" if self.capacity.hold else "hold not measured yet"
        means = f"{has:.1f} ({counted(lines, 'line')}, {hold}; pace {self.capacity.pace:g})"
        if self.is_feasible:
            return f"the targets need {self.needed:.1f} refreshes per second, there are {means}"
        return (
            f"the targets cannot be met: they need {self.needed:.1f} refreshes per second, there are {means}; "
            "raise them, or free lines"
        )

    def _card(self) -> Card:
        title = f"Freshness of {counted(self.positions.height, 'position')} at {utc(self.at)}"
        is_wrong = bool(self.held_back) or not self.is_feasible
        late = self.positions.filter(pl.col("overdue_seconds") > 0)
        rows = [
            [each["account"], each["label"], each["kind"], _shown(each["overdue_seconds"]), each["why"] or ""]
            for each in late.head(_TOLD).iter_rows(named=True)
        ]
        headings = ("account", "contract", "kind", "overdue", "why")
        overdue = Table(headings, rows, late.height - len(rows), numbers=["overdue"])
        folds = {f"{late.height:,} overdue, the most overdue first": overdue} if rows else {}
        return Card(
            title,
            warnings=[self.verdict] if is_wrong else [],
            notes=[] if is_wrong else [self.verdict],
            tables=[_as_table(self.kinds)],
            folds=folds,
        )


_POSITIONS: dict[str, pl.DataType] = {
    "account": pl.String(),
    "conid": pl.Int64(),
    "label": pl.String(),
    "kind": pl.String(),
    "age_seconds": pl.Float64(),
    "source": pl.String(),
    "quality": pl.String(),
    "target_seconds": pl.Float64(),
    "overdue_seconds": pl.Float64(),
    "received_at": INSTANT,
    "why": pl.String(),
}


def look(
    rows: Iterable[BookRow],
    *,
    now: datetime,
    targets: Targets,
    is_active: Callable[[int], bool],
    streams: Collection[int],
    is_live: bool,
    parked: Mapping[int, str],
    lost: Collection[str] = (),
    capacity: Capacity,
    held_back: str = "",
) -> Freshness:
    """Return how fresh these positions are.

    Args:
        rows: The positions that are held.
        now: Aware UTC.
        targets: How fresh they are wanted.
        is_active: Tells of a conid whether an active strategy has it.
        streams: Conids with a stream.
        is_live: Whether the link is up, without which no stream is healthy.
        parked: Contracts that the gateway refused for this session, conid → reason: nothing is asked of it for them.
        lost: Accounts that the login had and has no longer: nothing is asked for them either.
        capacity: What lines and pace allow.
        held_back: Why nothing is refreshed now, or an empty string.
    """
    told, asked = [], []
    for row in rows:
        streamed, active = row.conid in streams, is_active(row.conid)
        kind = Kind.STREAMED if streamed else Kind.ACTIVE if active else Kind.OTHER
        is_current = streamed and is_live and row.source == Source.STREAM and is_trusted(row)
        target = targets.of(is_active=active or streamed)
        left_alone = _left_alone(row, parked, lost)
        told.append(_told(row, kind, target, now, is_current=is_current, why=left_alone or _why(row, kind)))
        if not left_alone:
            asked.append(kind)
    positions = pl.DataFrame(told, schema=_POSITIONS, orient="row").sort(
        "overdue_seconds", "account", "conid", descending=[True, False, False]
    )
    demand = {kind: asked.count(kind) for kind in (Kind.ACTIVE, Kind.OTHER)}
    kinds = _kinds(positions, targets, demand, 0.0 if held_back else capacity.per_second)
    needed = demand[Kind.ACTIVE] / targets.active + demand[Kind.OTHER] / targets.other
    return Freshness(at=now, positions=positions, kinds=kinds, needed=needed, capacity=capacity, held_back=held_back)


def _told(
    row: BookRow, kind: Kind, target: timedelta, now: datetime, *, is_current: bool, why: str | None
) -> tuple[Any, ...]:
    quoted = row.source in (Source.SNAPSHOT, Source.STREAM) and row.received_at is not None
    age = 0.0 if is_current else (now - row.received_at).total_seconds() if quoted and row.received_at else None
    overdue = -target.total_seconds() if is_current else (now - expires_at(row, target)).total_seconds()
    identity = row.account, row.conid, row.label(), kind.value
    state = row.source, row.quality, target.total_seconds(), overdue, row.received_at
    return (*identity, age, *state, why)


def _left_alone(row: BookRow, parked: Mapping[int, str], lost: Collection[str]) -> str | None:
    """Return why nothing is asked for a row, in words, or `None` if it is refreshed."""
    if row.account in lost:
        return "nobody refreshes it: no account of this login any more"
    return f"not asked for again in this session: {parked[row.conid]}" if row.conid in parked else None


def _why(row: BookRow, kind: Kind) -> str | None:
    """Return what is wrong with a row, in words."""
    if row.quality == Quality.ERROR:
        return f"the gateway refused it with code {row.error_code}" if row.error_code else "the gateway refused it"
    if row.quality == Quality.STALE:
        return "no quote has come since link or market data were out"
    if row.source == Source.PORTFOLIO:
        return "only the portfolio's valuation so far"
    if row.source is None:
        return "its stream sent nothing yet" if kind is Kind.STREAMED else "no quote yet"
    return None


def _kinds(positions: pl.DataFrame, targets: Targets, demand: Mapping[Kind, int], per_second: float) -> pl.DataFrame:
    """Return the classes in numbers; what active contracts leave of the capacity is for the others."""
    left = max(0.0, per_second - demand[Kind.ACTIVE] / targets.active)
    expected = {
        Kind.ACTIVE: _every(demand[Kind.ACTIVE], per_second, targets.active),
        Kind.OTHER: _every(demand[Kind.OTHER], left, targets.other),
    }
    age = pl.col("age_seconds")
    frame = positions.group_by("kind").agg(
        pl.len().cast(pl.Int64).alias("positions"),
        age.null_count().cast(pl.Int64).alias("unquoted"),
        age.quantile(0.5, "higher").alias("p50"),
        age.quantile(0.95, "higher").alias("p95"),
        age.max().alias("max"),
        pl.col("target_seconds").max(),
        (pl.col("overdue_seconds") <= 0).mean().alias("within"),
    )
    known = {str(kind): seconds for kind, seconds in expected.items()}
    order = {str(kind): place for place, kind in enumerate(Kind)}
    return frame.with_columns(
        pl.col("kind").replace_strict(known, default=None, return_dtype=pl.Float64()).alias("expected_seconds")
    ).sort(pl.col("kind").replace_strict(order, return_dtype=pl.Int8()))


def _every(count: int, per_second: float, target: float) -> float:
    """Return the seconds between two refreshes of one of so many positions: the target, or what the rate allows."""
    if not count:
        return target
    return max(target, count / per_second) if per_second > 0 else math.inf


def _as_table(kinds: pl.DataFrame) -> Table:
    rows = [
        [
            each["kind"],
            f"{each['positions']:,}",
            f"{each['unquoted']:,}",
            *(_shown(each[name]) for name in ("p50", "p95", "max", "target_seconds")),
            f"{each['within']:.1%}",
            _shown(each["expected_seconds"]),
        ]
        for each in kinds.iter_rows(named=True)
    ]
    ages = ("count", "unquoted", "p50", "p95", "max", "target", "within", "expected")
    return Table(("kind", *ages), rows, numbers=ages)


def _shown(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return "never" if math.isinf(seconds) else f"{seconds:.1f} s"
