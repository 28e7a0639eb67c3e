"""The smallest ledger there is: counts by name. Shows the ledger alone, without a queue on top."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import polars as pl
from v6kit.ledger import INSTANT, NO_INSTANT, STAMP, Decision, Moment, Rows, TableSpec


class Tally(NamedTuple):
    """How often a name was counted."""

    name: str
    count: int
    change: str
    seq: int = 0
    version: int = 0
    updated_at: datetime = NO_INSTANT
    updated_by: str = ""


SPEC: TableSpec[Tally] = TableSpec(
    name="tally", key=("name",), columns={"name": pl.String(), "count": pl.Int64(), **STAMP}, row=Tally
)


class NotedTally(NamedTuple):
    """The same in the next version of the schema, which has one more column."""

    name: str
    count: int
    note: str | None
    change: str
    seq: int = 0
    version: int = 0
    updated_at: datetime = NO_INSTANT
    updated_by: str = ""


NEXT_SPEC: TableSpec[NotedTally] = TableSpec(
    name="tally",
    key=("name",),
    columns={"name": pl.String(), "count": pl.Int64(), "note": pl.String(), **STAMP},
    row=NotedTally,
    version=2,
)


class Tallies:
    """The newest row per name."""

    spec: TableSpec = SPEC

    def __init__(self) -> None:
        self.rows: dict[str, Tally] = {}

    def apply(self, rows: Rows[Tally]) -> Callable[[], None]:
        """Take rows in."""
        before = dict(self.rows)
        for row in self.spec.to_rows(rows) if isinstance(rows, pl.DataFrame) else rows:
            self.rows[row.name] = row

        def take_back() -> None:
            self.rows = before

        return take_back

    def held(self) -> list[Rows[Tally]]:
        """Return all rows."""
        return [list(self.rows.values())]


class NotedTallies(Tallies):
    """The newest row per name, in the next version of the schema."""

    spec = NEXT_SPEC


def count(name: str, *, by: int = 1) -> Callable[[Tallies, Moment], Decision[Tally, int]]:
    """Return the change that counts a name, and whose result is the new count."""

    def decide(state: Tallies, _moment: Moment) -> Decision[Tally, int]:
        known = state.rows.get(name)
        number = (known.count if known else 0) + by
        return Decision([Tally(name, number, "COUNT")], number)

    return decide


def look(state: Tallies) -> dict[str, int]:
    """Return the counts."""
    return {name: row.count for name, row in state.rows.items()}


__all__ = ["INSTANT", "NEXT_SPEC", "SPEC", "NotedTallies", "NotedTally", "Tallies", "Tally", "count", "look"]
