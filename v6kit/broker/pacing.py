"""The pace of our messages: evenly spread, slower after error 100, paused after a second one.

Owns when the next message may go out. Does not send it. ib_async's own throttle (45 messages at once, then 45 exactly
a second later) stays behind this one as the backstop.

Source: IB takes at most 50 messages per second from a client and drops the connection of one that keeps exceeding it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiolimiter import AsyncLimiter

from v6kit.contracts import check_float

if TYPE_CHECKING:
    from v6kit.clock import Clock

BURST = 5
"""So many messages may go out at once, but no more than a quarter of a second's: a lone request need not wait."""

SAME_INCIDENT_SECONDS = 1.0
"""One overshoot brings an error 100 per message too many; those within a second are one incident."""


class Pacer:
    """Turns for messages, granted in the order in which they were asked for.

    Args:
        rate: Messages per second, > 0.
        slow_seconds: How long the rate is halved after error 100, and how soon after it a second one pauses all.
        pause_seconds: How long that pause lasts.
        clock: The source of time.
    """

    def __init__(self, rate: float, *, slow_seconds: float, pause_seconds: float, clock: Clock) -> None:
        self._full_rate = check_float("requests_per_second", rate, above=0.0)
        self._slow_seconds = slow_seconds
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._exceeded_at: float | None = None
        self._paused_until = 0.0
        self._queue = asyncio.Lock()
        self._limiter = _even(self._full_rate)

    @property
    def rate(self) -> float:
        """Messages per second now."""
        slow = self._exceeded_at is not None and self._clock.monotonic() - self._exceeded_at < self._slow_seconds
        return self._full_rate / 2 if slow else self._full_rate

    @property
    def pause(self) -> float:
        """Seconds until the next message may go out after too many errors 100; 0 when there is no pause."""
        return max(0.0, self._paused_until - self._clock.monotonic())

    def exceeded(self) -> None:
        """Take note of error 100: halve the rate, or pause when the rate was halved already."""
        now = self._clock.monotonic()
        before, self._exceeded_at = self._exceeded_at, now
        if before is not None and SAME_INCIDENT_SECONDS <= now - before < self._slow_seconds:
            self._paused_until = now + self._pause_seconds

    async def turn(self) -> None:
        """Wait until a message may go out."""
        async with self._queue:
            while (pause := self.pause) > 0:  # noqa: ASYNC110 - its end may move while it is waited for
                await asyncio.sleep(pause)
            await self._current().acquire()

    def _current(self) -> AsyncLimiter:
        # a limiter's rate is fixed, so a change of pace is a change of limiter
        rate = self.rate
        if self._limiter.max_rate / self._limiter.time_period != rate:
            self._limiter = _even(rate)
        return self._limiter


def _even(rate: float) -> AsyncLimiter:
    burst = max(1.0, min(BURST, rate / 4))
    return AsyncLimiter(burst, burst / rate)
