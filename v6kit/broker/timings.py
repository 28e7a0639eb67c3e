"""The broker's durations in one place, so that a test can make them short."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

from v6kit.contracts import check_float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """How long the broker waits, in seconds.

    Attributes:
        heartbeat: Between two questions for the gateway's time; ib_async has no heartbeat of its own, and a stalled
            link looks connected.
        heartbeat_timeout: For that answer; then the link counts as dropped.
        reconnect_initial: Before the second attempt to reconnect; doubles with each further one.
        reconnect_max: The longest wait between two attempts.
        client_id_wait: How long a client id that is in use is tried again after a loss of the link: the gateway may
            take our own former session for alive.
        request_timeout: For positions, contract details and the gateway's time.
        line_wait: For a market data line, before the request fails.
        snapshot_back_off: After "Snapshot requests limitation exceeded" (code 321).
        slow_pace: How long the rate of messages is halved after code 100.
        pace_hold: How long nothing is sent after a second code 100 within `slow_pace`.
        competing_hold: How long no new snapshot should start after code 10197; then streams that it silenced and that
            are silent still are asked for again.
        competing_warning: Between two warnings about it.
        quiet_stream: After code 1102, a stream without a tick for so long is asked for again.
        shutdown: For the socket to close in an orderly way, before it is cut.
    """

    heartbeat: float = 15.0
    heartbeat_timeout: float = 5.0
    reconnect_initial: float = 1.0
    reconnect_max: float = 60.0
    client_id_wait: float = 60.0
    request_timeout: float = 10.0
    line_wait: float = 60.0
    snapshot_back_off: float = 1.0
    slow_pace: float = 60.0
    pace_hold: float = 60.0
    competing_hold: float = 60.0
    competing_warning: float = 900.0
    quiet_stream: float = 30.0
    shutdown: float = 2.0

    def __post_init__(self) -> None:
        """Refuse a duration that is not positive."""
        for each in fields(self):
            check_float(each.name, getattr(self, each.name), above=0.0)

    def at_speed(self, speed: float) -> Self:
        """Return the timings for a clock that runs so fast; a network and a machine are no faster for it."""
        guards = ("heartbeat_timeout", "request_timeout", "shutdown")
        return replace(self, **{name: getattr(self, name) * speed for name in guards})
