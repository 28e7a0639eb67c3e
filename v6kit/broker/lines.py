"""Market data lines: who holds how many, and who gets the next one.

Owns the count. Does not send anything: whoever acquires a line sends the request, and gives the line back after the
gateway stopped serving it. All methods belong to the broker's event loop.

Source: IB counts each streaming subscription against the login's lines, 100 at least, shared with the windows of TWS;
whether a snapshot in flight counts is not documented, so it is a setting whose default is the safe one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

from v6kit.clock import Clock
from v6kit.contracts import check_float, check_int
from v6kit.display import counted
from v6kit.errors import LineLimitError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

logger = logging.getLogger("v6kit.broker")

Kind = Literal["stream", "snapshot"]


class Shortage(NamedTuple):
    """What error 101 taught.

    Attributes:
        left: Lines that were left to us.
        at: When, aware UTC.
        counted_from: The same on the monotonic clock, from which on one line more is tried every so often.
    """

    left: int
    at: datetime
    counted_from: float


@dataclass(slots=True, eq=False)
class LineHolder:
    """One line in use.

    Attributes:
        kind: `stream` or `snapshot`.
        conid: The contract.
        since: When the line was granted, aware UTC.
        refcount: How many asked for this stream; 1 for a snapshot.
        used_when_asked: Lines in use when the gateway was asked for this one, itself included.
        refused_when_asked: How many had been refused by then.
    """

    kind: Kind
    conid: int
    since: datetime
    used_when_asked: int
    refused_when_asked: int
    refcount: int = 1


class LineBudget:
    """The market data lines that streams and snapshots share.

    Streams are counted once per conid, however many asked for it, and are never evicted. A stream that waits goes
    before the snapshots that wait, and snapshots go first come, first served.

    Args:
        limit: Lines that the login has, > 0.
        reserve: Lines left alone for the windows of TWS, 0 or more and below `limit`.
        snapshots_use_lines: Whether a snapshot in flight occupies a line.
        clock: The source of time.
        snapshot_floor: Lines that streams leave to snapshots. Default 0: streams may take all of them, and then no
            snapshot is served until one ends.
        probe_interval: Seconds after which a budget that error 101 has shrunk tries one line more.
    """

    def __init__(
        self,
        limit: int = 100,
        reserve: int = 10,
        *,
        snapshots_use_lines: bool = True,
        clock: Clock | None = None,
        snapshot_floor: int = 0,
        probe_interval: float = 600.0,
    ) -> None:
        self.limit = check_int("limit", limit)
        self.reserve = check_int("reserve", reserve, minimum=0)
        self.snapshot_floor = check_int("snapshot_floor", snapshot_floor, minimum=0)
        if self.reserve + self.snapshot_floor >= self.limit:
            raise ValueError(
                f"reserve ({reserve}) and snapshot_floor ({snapshot_floor}) leave no line of limit ({limit}) to use"
            )
        self.snapshots_use_lines = snapshots_use_lines
        self.probe_interval = check_float("probe_interval", probe_interval, above=0.0)
        self.peak = 0
        self._clock = clock or Clock()
        self._shortage: Shortage | None = None
        self._refused = 0
        self._streams: dict[int, LineHolder] = {}
        self._snapshots: set[LineHolder] = set()
        self._waiting: dict[Kind, deque[tuple[int, asyncio.Future[LineHolder]]]] = {
            "stream": deque(),
            "snapshot": deque(),
        }

    def __repr__(self) -> str:
        return (
            f"<LineBudget {self.used} of {self.capacity} in use: {counted(self.streams, 'stream')}, "
            f"{counted(self.snapshots, 'snapshot')}, peak {self.peak}>"
        )

    @property
    def capacity(self) -> int:
        """Lines that may be in use: `limit` less `reserve`, or what error 101 has left of them."""
        if self._shortage is None:
            return self.whole
        return min(self.whole, self._shortage.left + self._probes(self._shortage))

    @property
    def whole(self) -> int:
        """Lines that may be in use as long as nothing has taught otherwise: `limit` less `reserve`."""
        return self.limit - self.reserve

    @property
    def stream_room(self) -> int:
        """Lines that streams may have now: the capacity less the floor for snapshots."""
        return max(0, self.capacity - self.snapshot_floor)

    @property
    def shortage(self) -> Shortage | None:
        """What error 101 taught, or `None` when there was none or all lines have come back since."""
        return self._shortage if self.capacity < self.whole else None

    @property
    def next_probe_at(self) -> datetime | None:
        """When one line more is tried, aware UTC; `None` when nothing is missing."""
        shortage = self.shortage
        if shortage is None:
            return None
        after = (self._probes(shortage) + 1) * self.probe_interval
        return shortage.at + timedelta(seconds=after)

    @property
    def streams(self) -> int:
        """Lines that streams hold."""
        return len(self._streams)

    @property
    def snapshots(self) -> int:
        """Snapshots in flight, whether or not they count as lines."""
        return len(self._snapshots)

    @property
    def used(self) -> int:
        """Lines in use."""
        return self.streams + (self.snapshots if self.snapshots_use_lines else 0)

    @property
    def free(self) -> int:
        """Lines that can be granted now."""
        return max(0, self.capacity - self.used)

    @property
    def waiting(self) -> int:
        """Requests that wait for a line."""
        return len(self._waiting["stream"]) + len(self._waiting["snapshot"])

    def holders(self) -> list[LineHolder]:
        """Return who holds what, oldest first."""
        return sorted([*self._streams.values(), *self._snapshots], key=lambda holder: holder.since)

    def references(self, conid: int) -> int:
        """Return how many asked for the stream of `conid`; 0 when there is none."""
        holder = self._streams.get(conid)
        return holder.refcount if holder else 0

    async def acquire_stream(self, conid: int) -> bool:
        """Take a line for a stream, or count one more user of it.

        Waits while snapshots hold the lines that streams may have: those end by themselves, streams do not.

        Returns:
            Whether the line is new, so that the request has to be sent.

        Raises:
            LineLimitError: Streams hold all the lines that they may have, or error 101 has left no more than that
                during the wait.
        """
        if conid in self._streams:
            self._streams[conid].refcount += 1
            return False
        if self.streams + len(self._waiting["stream"]) >= self.stream_room:
            raise self._no_room(conid)
        await self._acquire("stream", conid)
        return True

    def asked(self, conid: int) -> None:
        """Take note that the gateway is asked for the stream of `conid` now, for the first time or again."""
        if holder := self._streams.get(conid):
            holder.used_when_asked, holder.refused_when_asked = self.used, self._refused

    def release_stream(self, conid: int) -> bool:
        """Count one user less; return whether that was the last one, so that the line is free now."""
        holder = self._streams[conid]
        holder.refcount -= 1
        if holder.refcount:
            return False
        self.drop_stream(conid)
        return True

    def drop_stream(self, conid: int) -> None:
        """Free the line of a stream, whoever uses it; nothing happens when it has none."""
        if self._streams.pop(conid, None):
            self.admit()

    async def acquire_snapshot(self, conid: int) -> LineHolder:
        """Take a line for one snapshot, waiting in turn until one is free; `release_snapshot` gives it back."""
        return await self._acquire("snapshot", conid)

    def release_snapshot(self, holder: LineHolder) -> None:
        """Free the line of a snapshot; a second time does nothing."""
        if holder in self._snapshots:
            self._snapshots.remove(holder)
            self.admit()

    def refused(self, holder_or_conid: LineHolder | int) -> None:
        """Take note of error 101 for a line that was granted, and free that line.

        The gateway had one line less than were in use when this one was asked for, and less those that it has refused
        since, because it answers in turn: of forty that are asked for at once and refused, each takes one line away.
        A stream that is refused although it has run for long says no more than that what is in use now is too much.
        One line is always tried, or a budget that shrank to nothing would never learn that lines came back.
        """
        holder = self._streams.get(holder_or_conid) if isinstance(holder_or_conid, int) else holder_or_conid
        if holder is None:
            return
        in_use = holder.used_when_asked - (self._refused - holder.refused_when_asked)
        if holder.kind == "stream":
            in_use = max(in_use, self.used)
        self._refused += 1
        before = self.capacity
        left = max(1, min(before, in_use - 1))
        if before == self.whole:  # a budget that has shrunk before was warned about
            logger.warning(
                "The gateway has no market data line left (code 101): from now on we use %s instead of %d, and try "
                "one more every %g s; set the limit to what the login has",
                counted(left, "line"),
                before,
                self.probe_interval,
            )
        self._shortage = Shortage(left, self._clock.now(), self._clock.monotonic())
        if holder.kind == "stream":
            self.drop_stream(holder.conid)
        else:
            self.release_snapshot(holder)
        self._turn_away()

    def admit(self) -> None:
        """Grant free lines to those who wait; call it now and then, because capacity grows with time alone too."""
        for kind in ("stream", "snapshot"):
            queue = self._waiting[kind]
            while queue and self._may_grant(kind):
                conid, future = queue.popleft()
                if not future.done():
                    future.set_result(self._grant(kind, conid))

    def _turn_away(self) -> None:
        """Refuse the streams for which there is no room any longer, the last ones first; others need not wait so."""
        waiting = self._waiting["stream"]
        while waiting and self.streams + len(waiting) > self.stream_room:
            conid, future = waiting.pop()
            if not future.done():
                future.set_exception(self._no_room(conid))

    def _no_room(self, conid: int) -> LineLimitError:
        return LineLimitError(
            f"no market data line is free for a stream of conid {conid}: {self.streams} streams hold all "
            f"{self.stream_room} (limit {self.limit}, reserve {self.reserve}, capacity {self.capacity}); "
            "remove a strategy, or raise the limit if the login has more lines"
        )

    def _probes(self, shortage: Shortage) -> int:
        return int((self._clock.monotonic() - shortage.counted_from) // self.probe_interval)

    def _may_grant(self, kind: Kind) -> bool:
        if kind == "snapshot":
            return not self.snapshots_use_lines or self.free > 0
        return self.free > 0 and self.streams < self.stream_room

    def _grant(self, kind: Kind, conid: int) -> LineHolder:
        holder = LineHolder(kind, conid, self._clock.now(), self.used + 1, self._refused)
        if kind == "stream":
            self._streams[conid] = holder
        else:
            self._snapshots.add(holder)
        self.peak = max(self.peak, self.used)
        return holder

    async def _acquire(self, kind: Kind, conid: int) -> LineHolder:
        future: asyncio.Future[LineHolder] = asyncio.get_running_loop().create_future()
        entry = (conid, future)
        self._waiting[kind].append(entry)
        self.admit()
        with self._withdrawn_on_cancel(entry, kind):
            return await future

    @contextmanager
    def _withdrawn_on_cancel(self, entry: tuple[int, asyncio.Future[LineHolder]], kind: Kind) -> Iterator[None]:
        conid, future = entry
        try:
            yield
        except asyncio.CancelledError:
            # the grant and the cancellation can meet in one turn of the loop: then the line goes to the next
            if future.done() and not future.cancelled():
                if kind == "stream":
                    self.drop_stream(conid)
                else:
                    self.release_snapshot(future.result())
            elif entry in self._waiting[kind]:
                self._waiting[kind].remove(entry)
                self.admit()
            raise
