"""What went over the wire: counters always, messages on request. Owns no socket and decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TextIO

from v6kit.contracts import check_float, check_int
from v6kit.gateway.layout import named
from v6kit.gateway.wire import Answer, Request

logger = logging.getLogger(__name__)

REQUEST_NAMES = {each.value: each.name for each in Request}
ANSWER_NAMES = {each.value: each.name for each in Answer}
RECORDS_KEPT = 100_000
"""So many messages are kept in memory, the newest ones; a file has them all."""

HIGHEST_ID = 999  # IB's are lower; what a client makes up beyond is counted as one, not each by itself

Direction = Literal["received", "sent"]


@dataclass(frozen=True, slots=True, repr=False)
class WireRecord:
    """One message.

    Attributes:
        at: Seconds on the event loop's monotonic clock; only differences mean something.
        client_id: -1 until the client has told its id.
        direction: Seen from the gateway.
        name: Of the message id, e.g. `REQ_MKT_DATA`; the bare number where the gateway knows no name.
        fields: As text, the message id first.

    Example:
        >>> record = WireRecord(0.0, 1, "received", "REQ_MARKET_DATA_TYPE", ("59", "1", "3"))
        >>> record
        <client 1 -> REQ_MARKET_DATA_TYPE marketDataType=3>
        >>> record.named["marketDataType"]
        '3'
    """

    at: float
    client_id: int
    direction: Direction
    name: str
    fields: tuple[str, ...]

    def __repr__(self) -> str:
        known = self.named
        words = " ".join(f"{key}={value}" for key, value in known.items() if value and key not in ("id", "version"))
        arrow = "->" if self.direction == "received" else "<-"
        return f"<client {self.client_id} {arrow} {self.name} {words if known else ' '.join(self.fields[1:])}>"

    @property
    def named(self) -> dict[str, str]:
        """The fields by IB's names, e.g. `record.named["conId"]`; empty for a message without a fixed layout."""
        return named(self.name, self.fields)


@dataclass(frozen=True, slots=True)
class _Wait:
    """Somebody who waits for a message."""

    name: str
    count: int
    done: Future[None] = field(default_factory=Future)


@dataclass(slots=True, repr=False)
class WireLog:
    """Counts of messages and refusals, and on request the messages themselves.

    Attributes:
        record: Whether messages are kept, or the path of the file that each is appended to as well, as a line of JSON.
        received: Messages from clients by name.
        sent: Messages to clients by name.
        refused: Requests that were refused, by IB's error code; notices are not counted.
        connections: Sockets that were accepted so far.
        message_peak: Most messages that one client sent within any sliding second.
        snapshot_peak: Most snapshot requests that were admitted within any sliding second, all clients together.
        records: The newest 100,000 messages, oldest first; empty without `record`.

    Example:
        >>> from v6kit.gateway import SimulatedGateway
        >>> gateway = SimulatedGateway(0, record=True)
        >>> gateway.log.requests("REQ_MKT_DATA", client_id=1)  # and: await gateway.log.wait_for("TICK_PRICE")
        []
        >>> gateway.log
        <WireLog 0 received, 0 sent, refused: nothing; 0 messages kept>
    """

    record: bool | str | Path = False
    received: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    connections: int = 0
    message_peak: int = 0
    snapshot_peak: int = 0
    records: deque[WireRecord] = field(default_factory=lambda: deque(maxlen=RECORDS_KEPT))
    _file: TextIO | None = None
    _waits: list[_Wait] = field(default_factory=list)

    def __repr__(self) -> str:
        refused = ", ".join(f"{code} x{count}" for code, count in sorted(self.refused.items())) or "nothing"
        kept = f"{len(self.records)} messages kept" if self.record else "messages not kept"
        return f"<WireLog {self.received.total()} received, {self.sent.total()} sent, refused: {refused}; {kept}>"

    # What a test or a curious reader asks

    def requests(
        self, name: str | None = None, *, client_id: int | None = None, conid: int | None = None
    ) -> list[WireRecord]:
        """Return what clients sent, oldest first, as far as it is kept.

        Args:
            name: Of the message id, e.g. `"REQ_MKT_DATA"`.
            client_id: Of the client that sent it.
            conid: Of the contract that it names.

        Raises:
            ValueError: Messages are not kept, or no request has this name.
        """
        return list(self._select("received", name, client_id=client_id, conid=conid))

    def answers(
        self, name: str | None = None, *, client_id: int | None = None, req_id: int | None = None
    ) -> list[WireRecord]:
        """Return what clients were sent, oldest first, as far as it is kept.

        Args:
            name: Of the message id, e.g. `"TICK_PRICE"`.
            client_id: Of the client that got it.
            req_id: Of the request that it answers.

        Raises:
            ValueError: Messages are not kept, or no answer has this name.
        """
        return list(self._select("sent", name, client_id=client_id, req_id=req_id))

    async def wait_for(self, name: str, count: int = 1, *, seconds: float = 5.0) -> None:
        """Wait until so many messages of a name have gone over the wire, in all since the gateway was made.

        May be awaited on any event loop, with messages kept or not.

        Args:
            name: Of a request or an answer.
            count: How many; the next one is `log.received[name] + 1`.
            seconds: Until it is given up, by the time of the loop on which it is awaited.

        Raises:
            TimeoutError: They did not come; says how many did.
            ValueError: No message has this name.
        """
        _check_name(name, {*REQUEST_NAMES.values(), *ANSWER_NAMES.values()})
        wait = _Wait(name, check_int("count", count))
        self._waits.append(wait)  # before the count is read, so that none slips through between the two
        try:
            if self._total(name) < count:
                async with asyncio.timeout(check_float("seconds", seconds)):
                    await asyncio.wrap_future(wait.done)
        except TimeoutError:
            seen = self._total(name)
            raise TimeoutError(f"{count} {name} expected within {seconds:g} s, {seen} seen so far") from None
        finally:
            self._waits.remove(wait)

    # What the gateway notes

    def open(self) -> None:
        """Open the file, if there is to be one.

        Raises:
            OSError: It cannot be written.
        """
        if not isinstance(self.record, bool) and self._file is None:
            # Line by line, so that what was noted is there after a kill. The file is open as long as the gateway runs.
            self._file = Path(self.record).open("a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def close(self) -> None:
        """Close the file; what was kept in memory stays."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def note_received(self, at: float, client_id: int, message_id: int, fields: tuple[str, ...]) -> None:
        """Count a message from a client."""
        known = REQUEST_NAMES.get(message_id)
        name = known or (str(message_id) if 0 <= message_id <= HIGHEST_ID else "UNKNOWN")
        self.received[name] += 1
        self._keep(at, client_id, "received", name, fields)

    def note_sent(self, at: float, client_id: int, message_id: int, fields: tuple[str, ...]) -> None:
        """Count a message to a client."""
        name = ANSWER_NAMES[message_id]
        self.sent[name] += 1
        self._keep(at, client_id, "sent", name, fields)

    def _keep(self, at: float, client_id: int, direction: Direction, name: str, fields: tuple[str, ...]) -> None:
        if self.record:
            record = WireRecord(at, client_id, direction, name, fields)
            self.records.append(record)
            self._write(record)
        for wait in tuple(self._waits):
            if wait.name == name and self._total(name) >= wait.count and not wait.done.done():
                wait.done.set_result(None)

    def _write(self, record: WireRecord) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(asdict(record)) + "\n")
        except OSError as error:  # a full disk must not take the clients down
            logger.warning("simulated gateway: %s is written no longer: %s", self.record, error)
            with contextlib.suppress(OSError):
                self.close()

    def _total(self, name: str) -> int:
        return self.received[name] + self.sent[name]

    def _select(
        self,
        direction: Direction,
        name: str | None,
        *,
        client_id: int | None,
        conid: int | None = None,
        req_id: int | None = None,
    ) -> Iterable[WireRecord]:
        if not self.record:
            raise ValueError("messages are not kept; make the gateway with SimulatedGateway(record=True)")
        if name is not None:
            _check_name(name, REQUEST_NAMES.values() if direction == "received" else ANSWER_NAMES.values())
        wanted = {key: str(value) for key, value in (("conId", conid), ("reqId", req_id)) if value is not None}
        for record in tuple(self.records):
            if record.direction != direction or name not in (None, record.name):
                continue
            if client_id in (None, record.client_id) and wanted.items() <= record.named.items():
                yield record


def _check_name(name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(f"name must be that of a message, such as 'REQ_MKT_DATA' or 'TICK_PRICE', got {name!r}")
