"""What can go wrong on purpose: the faults that last, as plain fields that may be set while the gateway runs.

A fault that lasts is a field here (`gateway.faults.silent_conids.add(conid)`); a fault that happens once is a method of
the gateway (`gateway.drop_clients()`, `gateway.broadcast(1100)`). Nothing is injected unless asked for.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, fields


@dataclass(slots=True, kw_only=True)
class Faults:
    """Faults that last until they are taken back, each at once or all by `clear()`.

    Attributes:
        refuse_connections: New sockets are accepted and closed at once. (A gateway that is not there at all: `stop()`.)
        handshake_only: New clients get the version and then silence; those already started are not touched.
        stalled: Sockets stay open, nothing is read or written. What clients sent meanwhile is handled afterwards,
            answers that became due are sent afterwards; ticks are lost.
        silent_answers: Message ids (`Answer`) that are never sent, e.g. `{Answer.POSITION_END}`.
        position_end_delay: Seconds between the positions and their end; the request looks unfinished meanwhile.
        position_limit: Only so many positions are sent, as in a list that broke off; together with a silent
            `POSITION_END` it is the incomplete answer that must never be read as "flat".
        silent_accounts: Account ids whose updates, values and profit never come: their requests have no answer and no
            end. `reqPositions` still lists what they hold, and an account summary ends without them.
        drop_after: The connection that sends the n-th market data request from now on is cut, that request unanswered.
        refusals: The next market data requests are refused, one with each (code, text); `None` is the code's own text.
        error_by_conid: Market data requests for these contracts are refused with the code.
        soft_by_conid: These codes come first and the data follows; after 10167 it is delayed data.
        silent_conids: Market data requests for these contracts are accepted and never answered: no tick, no end.
        snapshot_hold: Seconds that any snapshot takes, instead of the gateway's; `math.inf` never ends.
        hold_by_conid: The same for single contracts; goes before `snapshot_hold`.
        chunk_bytes: Each write is torn into chunks of so many bytes, so frames arrive in parts.
        coalesce_seconds: Answers are held back so long and arrive as one lump.
        duplicate_frames: Each message is sent twice.

    Example:
        >>> from v6kit.gateway import Answer, SimulatedGateway
        >>> faults = SimulatedGateway(0).faults
        >>> faults.silent_answers.add(Answer.POSITION_END)  # a list of positions that never ends
        >>> faults.clear()
        >>> faults.silent_answers
        set()
    """

    refuse_connections: bool = False
    handshake_only: bool = False
    stalled: bool = False
    silent_answers: set[int] = field(default_factory=set)
    position_end_delay: float = 0.0
    position_limit: int | None = None
    silent_accounts: set[str] = field(default_factory=set)
    drop_after: int | None = None
    refusals: deque[tuple[int, str | None]] = field(default_factory=deque)
    error_by_conid: dict[int, int] = field(default_factory=dict)
    soft_by_conid: dict[int, tuple[int, ...]] = field(default_factory=dict)
    silent_conids: set[int] = field(default_factory=set)
    snapshot_hold: float | None = None
    hold_by_conid: dict[int, float] = field(default_factory=dict)
    chunk_bytes: int | None = None
    coalesce_seconds: float = 0.0
    duplicate_frames: bool = False

    def clear(self) -> None:
        """Take all faults back."""
        healthy = Faults()
        for each in fields(self):
            setattr(self, each.name, getattr(healthy, each.name))

    def takes_the_fatal_request(self) -> bool:
        """Count one market data request against `drop_after`; return whether it is the one that cuts the line."""
        if self.drop_after is None:
            return False
        self.drop_after -= 1
        if self.drop_after > 0:
            return False
        self.drop_after = None
        return True

    def hold(self, conid: int, default: float) -> float:
        """Return the seconds that a snapshot of this contract takes."""
        if conid in self.hold_by_conid:
            return self.hold_by_conid[conid]
        return default if self.snapshot_hold is None else self.snapshot_hold
