"""What comes into the queue from outside, checked: what is to be queued, which requests are meant, how they ended.

Every refusal names the argument, or the item and its column, and the value. Does no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from v6kit.contracts import INT32_END, check_instant, check_int, check_text
from v6kit.queue.requests import WANTED_COLUMNS, Claims, Outcome, QueuedPosition, Wanted

MANY = 1_000  # from here on a frame is faster than rows


def as_wanted(items: pl.DataFrame | Iterable[Mapping[str, Any]]) -> Sequence[Wanted] | pl.DataFrame:
    """Check what is to be queued; many come back as a frame, few as rows.

    Raises:
        TypeError, ValueError: Naming the column, the value and the item.
    """
    if isinstance(items, Mapping | str) or not isinstance(items, pl.DataFrame | Iterable):
        raise TypeError(f"items must be a polars frame or several mappings with conid and symbol, got {items!r}")
    if not isinstance(items, pl.DataFrame):
        rows = [_checked_item(index, item) for index, item in enumerate(items)]
        return rows if len(rows) < MANY else pl.DataFrame(rows, schema=WANTED_COLUMNS, orient="row")
    _check_names(items.columns, "items")
    defaults = Wanted._field_defaults
    frame = items.with_columns(
        pl.lit(defaults[name], kind).alias(name) for name, kind in WANTED_COLUMNS.items() if name not in items.columns
    )
    try:
        cast = frame.select(pl.col(name).cast(kind) for name, kind in WANTED_COLUMNS.items())
    except pl.exceptions.PolarsError:
        cast = frame.clear()
    if items.height >= MANY and cast.height and _plausible(frame, cast):
        return cast
    # Few, or something is wrong somewhere: the check of one row says what.
    rows = [_checked_item(index, row) for index, row in enumerate(frame.iter_rows(named=True))]
    return rows if len(rows) < MANY else pl.DataFrame(rows, schema=WANTED_COLUMNS, orient="row")


def _check_names(names: Iterable[str], what: str) -> None:
    names = list(names)
    if unknown := [name for name in names if name not in Wanted._fields]:
        raise ValueError(f"{what}: unknown column {unknown[0]!r}; known are {', '.join(Wanted._fields)}")
    for name in ("conid", "symbol"):
        if name not in names:
            raise ValueError(f"{what}: {name!r} is missing, got {', '.join(map(repr, names)) or 'nothing'}")


def _plausible(given: pl.DataFrame, cast: pl.DataFrame) -> bool:
    kinds = given.schema
    whole = all(kinds[name].is_integer() for name in ("conid", "priority", "max_attempts"))
    text = all(kinds[name] in (pl.String, pl.Categorical, pl.Enum) for name in ("symbol", "account"))
    instants = (kinds["available_at"], kinds["due_at"])
    aware = all(at == pl.Null or (isinstance(at, pl.Datetime) and at.time_zone is not None) for at in instants)
    if not (whole and text and aware):
        return False
    texts = pl.col("symbol", "account")
    return bool(
        cast.select(
            pl.all_horizontal(pl.col("conid", "priority", "max_attempts").ge(1).fill_null(value=False).all())
            & pl.all_horizontal(texts.str.strip_chars().eq(texts).fill_null(value=False).all())
            & pl.col("symbol").ne("").all()
        ).item()
    )


def _checked_item(index: int, item: Mapping[str, Any]) -> Wanted:
    if not isinstance(item, Mapping):
        raise TypeError(f"item {index} must be a mapping with conid and symbol, got {item!r}")
    _check_names(item, f"item {index}")
    try:
        return checked(Wanted(**item))
    except (TypeError, ValueError) as error:
        raise type(error)(f"item {index}: {error}") from None


def checked(given: Wanted) -> Wanted:
    """Return what is to be queued, in the table's types.

    Raises:
        TypeError, ValueError: Naming the field and the value.
    """
    return Wanted(
        conid=check_int("conid", given.conid),
        symbol=check_text("symbol", given.symbol),
        priority=check_int("priority", given.priority, below=INT32_END),
        account=check_text("account", given.account, empty_allowed=True),
        max_attempts=check_int("max_attempts", given.max_attempts, below=INT32_END),
        available_at=None if given.available_at is None else check_instant("available_at", given.available_at),
        due_at=None if given.due_at is None else check_instant("due_at", given.due_at),
    )


def request_id(item: QueuedPosition | str) -> str:
    """Return the id of a request that is given as itself or by its id."""
    if isinstance(item, QueuedPosition):
        return item.request_id
    return check_text("request_id", item)


def as_list(items: Claims) -> list[QueuedPosition | str]:
    """Return one or many requests as a list."""
    if isinstance(items, QueuedPosition | str):
        return [items]
    if not isinstance(items, Iterable):
        raise TypeError(f"items must be a request, its id, or several of them, got {items!r}")
    return list(items)


def as_outcomes(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return outcomes as a list; refuse a single one, and what is none."""
    if not isinstance(outcomes, Iterable):
        raise TypeError(f"outcomes must be several, e.g. [Outcome.success(item)], got {outcomes!r}")
    found = list(outcomes)
    for each in found:
        if not isinstance(each, Outcome):
            raise TypeError(f"outcomes must be made by Outcome.success(item) and the like, got {each!r}")
    return found
