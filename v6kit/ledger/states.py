"""The states of one key in turn, as a frame: what it was, until when, and where nobody can tell. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from v6kit.ledger.compare import ADDED, CHANGED, FOUND, GONE, UNKNOWN, aligned, common_columns, own_name, to_columns
from v6kit.ledger.log import Version
from v6kit.ledger.spec import INSTANT


@dataclass(frozen=True, slots=True)
class State:
    """What one version says of a key.

    Attributes:
        version: Which.
        row: One row, or none; `None` where that version does not tell.
        is_known: Whether the version before was looked at too, so that a difference is this version's doing.
    """

    version: Version
    row: pl.DataFrame | None
    is_known: bool


class Signed(NamedTuple):
    """A state that is to be shown, and how it came about."""

    sign: str
    version: Version
    row: pl.DataFrame | None


def signed(states: Sequence[State]) -> Iterator[Signed]:
    """Leave out what changed nothing, and say of the rest how it came about."""
    before: pl.DataFrame | None = None
    is_unknown = False
    for state in states:
        row = state.row
        if row is None:
            yield Signed(UNKNOWN, state.version, None)
            is_unknown = True
            continue
        was_held = before is not None and before.height > 0
        if not row.height:
            if was_held or is_unknown:
                yield Signed(GONE, state.version, None)
        elif not state.is_known:
            yield Signed(FOUND, state.version, row)
        elif not was_held:
            yield Signed(ADDED, state.version, row)
        elif before is not None and not is_same(before, row):
            yield Signed(CHANGED, state.version, row)
        before, is_unknown = row, False


def is_same(before: pl.DataFrame, row: pl.DataFrame) -> bool:
    """Tell whether two rows hold the same values."""
    left, right = aligned(before, row)
    return left.equals(right)


def lined_up(states: Iterator[Signed], newest: pl.DataFrame, wanted: pl.DataFrame) -> pl.DataFrame:
    """Return the states as a frame.

    Args:
        states: Oldest first.
        newest: The columns of the newest version; older ones that it lacks come after them.
        wanted: The key's values.
    """
    seen = list(states)
    columns = common_columns([newest, *(state.row for state in reversed(seen) if state.row is not None)])
    names = {
        name: own_name(name, columns.columns)
        for name in ("diff", "version", "updated_at", "change", "updated_by", "until", "lasted")
    }
    rows = [_row(state, columns, wanted, names) for state in seen]
    nothing = columns.with_columns(pl.lit("").alias(names["diff"]), *_stamp(None, names)).clear()
    order = [
        names["diff"],
        *columns.columns,
        *(names[name] for name in ("version", "updated_at", "change", "updated_by")),
    ]
    line = pl.concat([nothing.select(order), *(row.select(order) for row in rows)])
    until = pl.col(names["updated_at"]).shift(-1)
    return line.with_columns(until.alias(names["until"]), (until - pl.col(names["updated_at"])).alias(names["lasted"]))


def _row(state: Signed, columns: pl.DataFrame, wanted: pl.DataFrame, names: dict[str, str]) -> pl.DataFrame:
    row = to_columns(wanted if state.row is None else state.row, columns)
    return row.with_columns(pl.lit(state.sign).alias(names["diff"]), *_stamp(state.version, names))


def _stamp(version: Version | None, names: dict[str, str]) -> list[pl.Expr]:
    commit = None if version is None else version.commit
    return [
        pl.lit(None if version is None else version.number, pl.Int64).alias(names["version"]),
        pl.lit(None if version is None else version.at, INSTANT).alias(names["updated_at"]),
        pl.lit((commit and commit.operation) or None, pl.String).alias(names["change"]),
        pl.lit(commit and commit.by, pl.String).alias(names["updated_by"]),
    ]
