"""Who holds market data lines, as a value that can be shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import polars as pl

from v6kit.broker import LineBudget


@dataclass(frozen=True, slots=True, kw_only=True)
class LineUse:
    """Who holds market data lines, at one moment.

    Attributes:
        limit: Lines that the login has.
        capacity: Lines that v6kit may use now.
        streams: Held by streams.
        snapshots: Held by snapshots in flight.
        peak: The most that were ever in use at once.
        holders: One row per line: kind, conid, since, users.
    """

    limit: int
    capacity: int
    streams: int
    snapshots: int
    peak: int
    holders: pl.DataFrame

    @classmethod
    def of(cls, budget: LineBudget) -> Self:
        """Take a budget's numbers of this moment."""
        holders = [(str(each.kind), each.conid, each.since, each.refcount) for each in budget.holders()]
        schema = {"kind": pl.String(), "conid": pl.Int64(), "since": pl.Datetime("us", "UTC"), "users": pl.Int64()}
        return cls(
            limit=budget.limit,
            capacity=budget.capacity,
            streams=budget.streams,
            snapshots=budget.used - budget.streams,
            peak=budget.peak,
            holders=pl.DataFrame(holders, schema=schema, orient="row"),
        )

    @property
    def used(self) -> int:
        """Lines in use."""
        return self.streams + self.snapshots

    def __repr__(self) -> str:
        return (
            f"{self.used} of {self.capacity} lines in use (limit {self.limit}): {self.streams} streams, "
            f"{self.snapshots} snapshots, peak {self.peak}"
        )
