"""What the past of a ledger and that of any other Delta table have in common: moments, columns, keys. Pure."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, SupportsIndex

import polars as pl

from v6kit.contracts import check_instant, parse_instant
from v6kit.ledger.spec import INSTANT

When = int | datetime | str
VERSIONS_SCHEMA: Mapping[str, pl.DataType] = {
    "version": pl.Int64(),
    "updated_at": INSTANT,
    "rows": pl.UInt32(),
    "changes": pl.String(),
    "updated_by": pl.String(),
    "operation": pl.String(),
    "added": pl.UInt32(),
    "changed": pl.UInt32(),
    "removed": pl.UInt32(),
    "readable": pl.Boolean(),
}
SINCE: Mapping[str, pl.DataType] = {
    "version": pl.Int64(),
    "updated_at": INSTANT,
    "change": pl.String(),
    "updated_by": pl.String(),
    "or_earlier": pl.Boolean(),
}


class Summary(NamedTuple):
    """From where to where a past reaches.

    Attributes:
        first: The oldest version that is known.
        last: The newest version.
        readable_from: The oldest version that can be looked at; `None` if none can.
        unreadable: How many versions from `first` to `last` cannot be.
        rows: In the newest version; `None` if unknown.
        updated_at: Of the newest change; `None` if unknown.
    """

    first: int
    last: int
    readable_from: int | None
    unreadable: int
    rows: int | None
    updated_at: datetime | None


def as_moment(when: When) -> int | datetime:
    """Return a version or an aware instant.

    Raises:
        TypeError, ValueError: It is neither, or text that is no instant, or a naive datetime.
    """
    if isinstance(when, str):
        return parse_instant("when", when)
    if isinstance(when, datetime):
        return check_instant("when", when)
    if isinstance(when, bool) or not isinstance(when, SupportsIndex):
        raise TypeError(f"when must be a version, a datetime or ISO text, got {when!r} ({type(when).__name__})")
    return operator.index(when)


def matching(columns: pl.DataFrame, key: Sequence[str], values: Sequence[Any]) -> pl.DataFrame:
    """Return one row that has a key's values, in the types of its columns.

    Args:
        columns: A frame with the key's columns.
        key: Their names.
        values: One per column.

    Raises:
        ValueError: Another number of values, or one of another type.
    """
    if len(values) != len(key):
        raise ValueError(f"key must be {len(key)} value(s) for {', '.join(key)}, got {values!r}")
    wanted = {}
    for name, value in zip(key, values, strict=True):
        kind = columns.schema[name]
        try:
            wanted[name] = pl.Series(name, [value], kind, strict=True)
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
            raise ValueError(f"{name} must be {kind}, got {value!r} ({type(value).__name__})") from None
    return pl.DataFrame(wanted)
