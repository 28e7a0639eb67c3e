"""What a ledger's table looks like, and what its rows are in memory.

Owns the book-keeping columns and the conversion between rows and frames. Does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import polars as pl

# By which version a row was superseded: null until upkeep has found out, and where it could not. Answers come from it
# sooner, but never hang on it; so it is no part of a row in memory.
UNTIL = "until_version"
INSTANT = pl.Datetime("us", "UTC")
NO_INSTANT = datetime(1970, 1, 1, tzinfo=UTC)
STAMP: Mapping[str, pl.DataType] = {
    "change": pl.String(),
    "seq": pl.Int64(),
    "version": pl.Int64(),
    "updated_at": INSTANT,
    "updated_by": pl.String(),
}


_MICROSECOND = timedelta(microseconds=1)

RowT = TypeVar("RowT", bound=tuple[Any, ...])  # a named tuple: the domain's fields, then those of STAMP
ResultT = TypeVar("ResultT")
Rows = Sequence[RowT] | pl.DataFrame


@dataclass(frozen=True, slots=True)
class TableSpec(Generic[RowT]):
    """One kind of ledger.

    Attributes:
        name: The table's name, e.g. `position_queue`; written into the table, so that it is recognised.
        key: The columns that name one item.
        columns: Every column and its type, in the table's order, `STAMP` included.
        row: The named tuple that one row is in memory; its fields are `columns` in the row's own order.
        version: Of this schema; a table with a lower one is migrated by adding columns.
        statistics: Columns with min and max in the log, besides the book-keeping ones; few, since each commit pays.
        distinct: Columns whose values hardly repeat, besides `seq`: written as differences instead of by a dictionary.
        finished: SQL condition that says of a row that it ends its item for good, so that it may be pruned one day.
        restored: Makes of what a key was then, and what it is now, the row that brings the old state back, or `None`
            where nothing is to be done. Each may be `None`: there was or is no such key.
        not_restored: Of a ledger without `restored`: why, and what to do instead.
    """

    name: str
    key: tuple[str, ...]
    columns: Mapping[str, pl.DataType]
    row: Callable[..., RowT]
    version: int = 1
    statistics: tuple[str, ...] = ()
    distinct: tuple[str, ...] = ()
    finished: str = ""
    restored: Callable[[RowT | None, RowT | None, Moment], RowT | None] | None = None
    not_restored: str = ""

    def row_fields(self) -> tuple[str, ...]:
        """Return the field names of a row, in the row's order."""
        fields: tuple[str, ...] = self.row._fields  # type: ignore[attr-defined]  # a named tuple's class has them
        return fields

    def stamp(self, rows: Sequence[RowT], seq: int, version: int, at: datetime, by: str) -> list[RowT]:
        """Return the rows with their book-keeping fields set, numbered from `seq`."""
        domain = len(self.row_fields()) - len(STAMP) + 1  # `change` is the domain's to say
        return [self.row(*row[:domain], number, version, at, by) for number, row in enumerate(rows, seq)]

    def empty(self) -> pl.DataFrame:
        """Return a frame without rows and with every column."""
        return pl.DataFrame(schema=dict(self.columns))

    def to_frame(self, rows: Sequence[RowT]) -> pl.DataFrame:
        """Return rows as a frame in the table's column order."""
        if not rows:
            return self.empty()
        values = dict(zip(self.row_fields(), zip(*rows, strict=True), strict=True))
        return pl.DataFrame([_series(name, values[name], kind) for name, kind in self.columns.items()])

    def gather(self, batches: Sequence[Rows[RowT]]) -> pl.DataFrame:
        """Return several batches as one frame."""
        frames = [rows if isinstance(rows, pl.DataFrame) else self.to_frame(rows) for rows in batches if len(rows)]
        return pl.concat(frames) if frames else self.empty()

    def to_rows(self, frame: pl.DataFrame) -> list[RowT]:
        """Return a frame's rows in memory, in the frame's order."""
        columns = [_values(frame[name]) for name in self.row_fields()]
        return [self.row(*values) for values in zip(*columns, strict=True)]


def _series(name: str, values: Sequence[Any], kind: pl.DataType) -> pl.Series:
    """Return values as a column; instants by way of integers, since they repeat, and Polars takes a µs for each."""
    if kind != INSTANT:
        return pl.Series(name, values, kind)
    known: dict[datetime | None, int | None] = {
        value: (value - NO_INSTANT) // _MICROSECOND for value in {*values} - {None}
    }
    return pl.Series(name, [known.get(value) for value in values], pl.Int64()).cast(INSTANT)


def _values(column: pl.Series) -> list[Any]:
    """Return a column as values; instants likewise."""
    if column.dtype != INSTANT:
        return column.to_list()
    numbers = column.to_physical()
    known = {number: NO_INSTANT + number * _MICROSECOND for number in numbers.unique().drop_nulls()}
    return [known.get(number) for number in numbers.to_list()]


class Moment(NamedTuple):
    """What a decision may know besides the state: the stamp that its rows will carry.

    Attributes:
        now: The instant of the change; never before the ledger's newest row.
        version: The version that the commit will be.
        seq: The seq of the first row to come.
        by: Who writes.
        lookup: Returns the newest row of keys that the state no longer holds; the decision is broken off, storage is
            read without holding anybody up, and the decision made anew. Ask only if you must.
        properties: The table's properties, as of the state.
    """

    now: datetime
    version: int
    seq: int
    by: str
    lookup: Callable[[pl.DataFrame], pl.DataFrame]
    properties: Mapping[str, str]


class Decision(NamedTuple, Generic[RowT, ResultT]):
    """What a change wants: rows to append (none is fine) and what its caller gets once they are durable."""

    rows: Rows[RowT]
    result: ResultT


class State(Protocol[RowT]):
    """The fold of a ledger's rows: what its decisions look at. Touched under the ledger's lock only."""

    def apply(self, rows: Rows[RowT]) -> Callable[[], None]:
        """Take stamped rows in, in seq order; return what takes exactly these back."""
        ...

    def held(self) -> list[Rows[RowT]]:
        """Return the rows from which `apply` rebuilds this state, in batches that need not be in seq order."""
        ...


StateT = TypeVar("StateT", bound="State[Any]")


def newest_per_key(rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Return the row with the highest seq of each key, in seq order."""
    if not rows["seq"].is_sorted():
        rows = rows.sort("seq")
    # Sorting hashes is ten times as fast as a look at each key, and few come again where upkeep has been: only these
    # are compared as keys (measured on a million).
    hashes = rows.select(pl.sum_horizontal(pl.col(name).hash(n) for n, name in enumerate(key))).to_series()
    ordered = hashes.sort()
    again = ordered.filter(ordered == ordered.shift()).unique()
    if again.is_empty():
        return rows
    may_come_again = hashes.is_in(again.implode())
    is_newest = rows.filter(may_come_again).select(pl.struct(key).is_last_distinct()).to_series()
    return rows.filter((~may_come_again).scatter(may_come_again.arg_true(), is_newest))
