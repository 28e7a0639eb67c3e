"""How one value reads in a cell: short, aligned, and always plain text."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal

Kind = Literal["text", "number", "signed", "age", "left", "time"]
NOTHING = "–"  # an empty cell, as traders write it
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def cell(kind: Kind, digits: int | None, value: object, now: datetime) -> str:
    """Return a value as the text of a cell.

    Args:
        kind: `age` is the time since an instant, `left` the time until one; `signed` puts a plus before a gain.
        digits: Behind the point; `None` for as many as the number needs.
        value: What the frame has.
        now: The instant that ages count from.
    """
    if value is None:
        return NOTHING
    if isinstance(value, datetime):
        return _INSTANTS[kind](value, now)
    if isinstance(value, float | int) and not isinstance(value, bool):
        return number(value, digits, signed=kind == "signed")
    return str(value)


def number(value: float, digits: int | None = None, *, signed: bool = False) -> str:
    """Return a number with its thousands apart and a minus that is as wide as a plus."""
    size = f"{abs(value):,.{digits}f}" if digits is not None else f"{abs(value):,.10g}"
    is_zero = not size.strip("0.,")  # also what only rounds to it: a zero has no sign
    sign = "" if is_zero else "−" if value < 0 else "+" if signed else ""
    return sign + size


def span(length: timedelta) -> str:
    """Return how long something is in its largest unit: `41s`, `11m`, `3h`, `2d`."""
    seconds = max(0, int(length.total_seconds()))
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "m")):
        if seconds >= unit:
            return f"{seconds // unit}{name}"
    return f"{seconds}s"


def _left(until: datetime, now: datetime) -> str:
    seconds = int((until - now).total_seconds())
    return f"{seconds // _MINUTE:02}:{seconds % _MINUTE:02}" if seconds > 0 else "over"


_INSTANTS: dict[Kind, Callable[[datetime, datetime], str]] = {
    "age": lambda at, now: span(now - at),
    "left": _left,
    "time": lambda at, _now: f"{at:%H:%M:%S}",
    "text": lambda at, _now: f"{at:%Y-%m-%d %H:%M:%S}",
}
