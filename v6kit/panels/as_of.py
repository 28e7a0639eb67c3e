"""The instant that panels show. One `AsOf` may be shared: setting it moves all of them, a dashboard's tabs, too."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time

from v6kit.contracts import check_instant, parse_instant

Moved = Callable[[datetime | None], object]


class AsOf:
    """An instant of the past, or now; may be set from any thread."""

    def __init__(self) -> None:
        self._at: datetime | None = None
        self._listeners: dict[object, Moved] = {}

    @property
    def at(self) -> datetime | None:
        """What is shown: `None` for now, else an aware instant. Settable, also by ISO text with an offset."""
        return self._at

    @at.setter
    def at(self, when: datetime | str | None) -> None:
        if isinstance(when, str):
            self._at = parse_instant("as_of", when)
        else:
            self._at = None if when is None else check_instant("as_of", when)
        for moved in tuple(self._listeners.values()):
            moved(self._at)

    def listen(self, moved: Moved) -> Callable[[], None]:
        """Call back with each new instant, on the thread that sets it. Returns what ends it; may be called twice."""
        token = object()
        self._listeners[token] = moved
        return lambda: self._listeners.pop(token, None) and None


def typed(text: str, now: datetime) -> datetime | None:
    """Return the instant that somebody has typed into a field that says UTC: ISO, or a time of today; empty for now.

    Raises:
        ValueError: It is neither.
    """
    text = text.strip().removesuffix("UTC").strip()
    if not text:
        return None
    try:
        if ":" in text and "-" not in text and "T" not in text:
            at_time = time.fromisoformat(text)
            return datetime.combine(now.astimezone(UTC).date(), at_time, at_time.tzinfo or UTC)
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(
            f"as of must be like {now:%Y-%m-%d %H:%M:%S} or {now:%H:%M:%S}, in UTC, got {text!r}"
        ) from error
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
