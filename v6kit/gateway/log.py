"""What went over the wire: counters always, every message on request. Owns no socket and decides nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from v6kit.gateway.wire import Answer, Request

REQUEST_NAMES = {each.value: each.name for each in Request}

Direction = Literal["received", "sent"]


@dataclass(frozen=True, slots=True)
class WireRecord:
    """One message.

    Attributes:
        at: Seconds on the event loop's monotonic clock; only differences mean something.
        client_id: -1 until the client has told its id.
        direction: Seen from the gateway.
        name: Of the message id, e.g. `REQ_MKT_DATA`; the bare number where the gateway knows no name.
        fields: As text, the message id first.
    """

    at: float
    client_id: int
    direction: Direction
    name: str
    fields: tuple[str, ...]


@dataclass(slots=True)
class WireLog:
    """Counts of messages and refusals, and on request the messages themselves.

    Attributes:
        record: Whether `records` is kept; it grows without bound.
        received: Messages from clients by name.
        sent: Messages to clients by name.
        refused: Requests that were refused, by IB's error code; notices are not counted.
        connections: Sockets that were accepted so far.
        message_peak: Most messages that one client sent within any sliding second.
        snapshot_peak: Most snapshot requests that were admitted within any sliding second, all clients together.
    """

    record: bool = False
    received: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    connections: int = 0
    message_peak: int = 0
    snapshot_peak: int = 0
    records: list[WireRecord] = field(default_factory=list)

    def note_received(self, at: float, client_id: int, message_id: int, fields: tuple[str, ...]) -> None:
        """Count a message from a client."""
        name = REQUEST_NAMES.get(message_id, str(message_id))
        self.received[name] += 1
        if self.record:
            self.records.append(WireRecord(at, client_id, "received", name, fields))

    def note_sent(self, at: float, client_id: int, message_id: int, fields: tuple[str, ...]) -> None:
        """Count a message to a client."""
        name = Answer(message_id).name
        self.sent[name] += 1
        if self.record:
            self.records.append(WireRecord(at, client_id, "sent", name, fields))
