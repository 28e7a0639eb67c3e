"""Time: aware UTC instants and a monotonic counter, passed in wherever time matters.

Nothing in v6kit asks the system for the time by itself, so tests and notebooks can hold it still, or hurry it.
"""

from __future__ import annotations

import math
import threading
import time
from datetime import UTC, datetime, timedelta

_LONGEST_PAUSE = 1.0  # seconds


class Clock:
    """The system's clock.

    Attributes:
        speed: Its seconds per second of the system's.
    """

    speed = 1.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}()" if self.speed == 1.0 else f"{type(self).__name__}({self.speed:g})"

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never run backwards; only differences mean something."""
        return time.monotonic()


class FakeClock(Clock):
    """A clock that stands still until it is told to move; for tests and for notebooks that must repeat.

    Args:
        start: The first instant, aware. Default: 2026-11-20 14:30:00 UTC, a trading day's opening bell.
    """

    def __init__(self, start: datetime = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)) -> None:
        if start.tzinfo is None:
            raise ValueError(f"start must be an aware datetime, got the naive {start!r}; add tzinfo=UTC")
        self._now = start.astimezone(UTC)
        self._monotonic = 0.0

    def now(self) -> datetime:
        """Return the instant at which the clock stands."""
        return self._now

    def monotonic(self) -> float:
        """Return the seconds that the clock was advanced so far."""
        return self._monotonic

    def advance(self, by: timedelta | float) -> None:
        """Move forward.

        Args:
            by: A `timedelta`, or seconds; not negative.

        Raises:
            ValueError: It is negative.
        """
        step = by if isinstance(by, timedelta) else timedelta(seconds=by)
        if step < timedelta(0):
            raise ValueError(f"by must not be negative, got {by!r}; a clock that goes back is `jump`")
        self._now += step
        self._monotonic += step.total_seconds()

    def jump(self, to: datetime) -> None:
        """Set the wall clock, forward or back, as an operator or NTP might; the monotonic counter stays.

        Raises:
            ValueError: The instant is naive.
        """
        if to.tzinfo is None:
            raise ValueError(f"to must be an aware datetime, got the naive {to!r}; add tzinfo=UTC")
        self._now = to.astimezone(UTC)


class FastClock(Clock):
    """A clock that runs faster than the system's: a trading day in two minutes.

    What waits by it must wait on a loop of the same speed; `v6kit.open(clock=...)` sees to that.

    While a machine stalls or a laptop sleeps, hours of a fast day would pass in which nobody could do anything. So of a
    pause in which nobody asks for the time, one second of the system's counts; a gateway asks several times a second.

    Args:
        speed: Seconds that pass here while one passes outside, 1 or more.
        start: The first instant, aware; default now.
    """

    def __init__(self, speed: float, start: datetime | None = None) -> None:
        if not 1.0 <= speed < math.inf:
            raise ValueError(f"speed must be 1 or more, got {speed!r}")
        start = datetime.now(UTC) if start is None else start
        if start.tzinfo is None:
            raise ValueError(f"start must be an aware datetime, got the naive {start!r}; add tzinfo=UTC")
        self.speed = float(speed)
        self._start = start.astimezone(UTC)
        self._outside = Clock()
        self._asking = threading.Lock()
        self._asked_at, self._passed = self._outside.monotonic(), 0.0

    def now(self) -> datetime:
        """Return the instant that this clock has come to."""
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Return the seconds that have passed on this clock since it was made."""
        with self._asking:
            now = self._outside.monotonic()
            self._passed += min(now - self._asked_at, _LONGEST_PAUSE)
            self._asked_at = now
            return self._passed * self.speed
