"""One pass over a simulated account: cycles back to back until every position is fresh, and what was measured in it.

Owns what the demo does once its desk is open. Opens and prints nothing.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, fields
from datetime import datetime

import polars as pl

from v6kit.cli.simulation import Simulation
from v6kit.contracts import Quality, Source
from v6kit.desk import SIMULATED, Desk
from v6kit.errors import QueueError
from v6kit.gateway import SimulatedGateway
from v6kit.positions import BookRow
from v6kit.queue import Status
from v6kit.sync import CycleReport, Targets

REFUSALS = (100, 101, 321)  # too many messages, no line left, too many snapshots: what v6kit is built to avoid
WORST_FIRST = (Quality.ERROR, Quality.STALE, None, Quality.PARTIAL, Quality.OK)
# A pass refreshes each position once, so nothing may become due again while it lasts.
ONE_PASS_SECONDS, A_MOMENT_SECONDS = 86_400.0, 1.0
ONE_PASS = Targets(active=ONE_PASS_SECONDS, other=ONE_PASS_SECONDS)
FIRST_QUOTE_SECONDS = 5.0
IDLE_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Simulation):
    """What the command line asks for: a large account."""

    positions: int = 500
    strategies: int = 10
    line_limit: int = 100

    def again(self, lake: str) -> str:
        """Return the command that goes on with this lake."""
        defaults = {field.name: field.default for field in fields(self)}
        given = {name: getattr(self, name) for name in ("positions", "strategies", "line_limit", "seed")}
        options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value != defaults[name]]
        return shlex.join(["v6kit", "demo", "--lake", lake, *options])

    @property
    def line_reserve(self) -> int:
        """Lines left to others: the desk's ten, or a tenth of a small limit."""
        return min(10, self.line_limit // 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the pass did; `--json` prints these fields.

    Attributes:
        gateway: What kind it was: simulated.
        finished: Whether every position was refreshed, or failed for good.
        positions: In the account.
        fresh: Positions with a quote from this pass; the part of it that was interrupted before counts.
        strategies: Active ones in the lake.
        streamed: Positions kept live on a line of their own.
        queued: Requests that waited when the pass began.
        settled: Requests that were refreshed by a snapshot.
        retried: Attempts that had to be repeated.
        failed: Requests that ended without success.
        cycles: That the worker brought to their end.
        seconds: From the first cycle's start to the end of the last.
        per_second: Requests settled per second.
        line_limit: Market data lines of the login.
        line_peak: The most that were in use at once, as the gateway counted them.
        refused: Requests that the gateway refused, for whatever reason.
        refusals: The same by IB's error code.
        market_value: Of the book, in USD.
        unrealized_pnl: Of the book, in USD.
        quality: Positions by quality, worst first.
        queue_versions: The queue's versions around the last cycle that settled something, or `None`.
        lake: Where all of it is kept.
    """

    gateway: str = SIMULATED
    finished: bool
    positions: int
    fresh: int
    strategies: int
    streamed: int
    queued: int
    settled: int
    retried: int
    failed: int
    cycles: int
    seconds: float
    per_second: float
    line_limit: int
    line_peak: int
    refused: int
    refusals: dict[int, int]
    market_value: float
    unrealized_pnl: float
    quality: dict[str, int]
    queue_versions: tuple[int, int] | None
    lake: str


class Pass:
    """One pass over an account: cycles back to back, until nothing waits any more.

    Args:
        desk: Open, on the simulated gateway.
        gateway: That one.
        opened_at: When the desk was about to be opened, aware UTC.
    """

    def __init__(self, desk: Desk, gateway: SimulatedGateway, opened_at: datetime) -> None:
        self.desk, self.gateway = desk, gateway
        self.opened_at = opened_at
        self.cycles: list[CycleReport] = []
        self.queued = self.waiting
        self.finished = False
        self._fresh_since = opened_at
        self._began = time.monotonic()
        self._ended: float | None = None

    async def prepare(self) -> None:
        """Go on where a pass on this lake was interrupted; where none was, queue every position that is not streamed.

        Raises:
            BrokerError: The positions could not be read.
            QueueError: The lake's queue is paused, so nothing would ever be refreshed.
        """
        if paused := self.desk.queue.stats().paused:
            raise QueueError(
                f"the queue of {self.desk.lake} is paused ({paused}); resume it: await desk.queue.resume()"
            )
        if not self.waiting:
            self.desk.targets = Targets(active=A_MOMENT_SECONDS, other=A_MOMENT_SECONDS)
            await self.desk.sync()
        self.desk.targets = ONE_PASS
        live = self.desk.queue.current().filter(pl.col("status").is_in([Status.PENDING, Status.PROCESSING]))
        oldest: datetime | None = live["created_at"].min()  # type: ignore[assignment]  # a column of instants
        self._fresh_since = min(self.opened_at, oldest or self.opened_at)
        self.queued = live.height
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has taken so far, or took."""
        return (self._ended or time.monotonic()) - self._began

    @property
    def waiting(self) -> int:
        """Requests that are pending or claimed."""
        return self.desk.queue.stats().live

    def fresh(self) -> tuple[int, int]:
        """Return how many positions have a quote from this pass, and how many there are."""
        rows = self.desk.positions.rows()
        return sum(map(self._is_fresh, rows)), len(rows)

    async def run(self) -> AsyncGenerator[CycleReport, None]:
        """Run cycles until no request is live; yields what each one did, idle ones left out."""
        while self.waiting:
            report = await self.desk.run_cycle()
            self._ended = time.monotonic()
            if _is_busy(report):
                self.cycles.append(report)
                yield report
            else:  # what is left waits for its next attempt
                await asyncio.sleep(IDLE_SECONDS)
        await self._first_quotes()
        self.finished = True

    async def _first_quotes(self) -> None:
        """Let every stream write its first quote, which in a small account may take longer than the queue."""
        deadline = time.monotonic() + FIRST_QUOTE_SECONDS
        streaming = self.desk.streamer.streaming
        while time.monotonic() < deadline:
            if all(self._is_fresh(row) for row in self.desk.positions.rows() if row.conid in streaming):
                return
            await asyncio.sleep(IDLE_SECONDS)

    def _is_fresh(self, row: BookRow) -> bool:
        quoted = row.source in (Source.STREAM, Source.SNAPSHOT) and row.quality in (Quality.OK, Quality.PARTIAL)
        return quoted and row.received_at is not None and row.received_at >= self._fresh_since

    def changes(self, report: Report) -> pl.DataFrame | None:
        """Return what the last cycle changed in the queue, or `None` if no cycle did."""
        return self.desk.history("position_queue").diff(*report.queue_versions) if report.queue_versions else None

    def report(self) -> Report:
        """Return the pass in numbers."""
        rows, desk = self.desk.positions.rows(), self.desk
        ended = desk.queue.current().filter(pl.col("updated_at") >= self.opened_at)["status"]
        settled = int((ended == Status.SUCCESS).sum())
        refused = self.gateway.log.refused
        streaming = desk.streamer.streaming
        return Report(
            finished=self.finished,
            positions=len(rows),
            fresh=sum(map(self._is_fresh, rows)),
            strategies=desk.registry.strategies().height,
            streamed=sum(row.conid in streaming for row in rows),
            queued=self.queued,
            settled=settled,
            retried=sum(cycle.retried for cycle in self.cycles),
            failed=int((ended == Status.FAILED).sum()),
            cycles=len(self.cycles),
            seconds=round(self.seconds, 3),
            per_second=round(settled / self.seconds, 1),
            line_limit=desk.lines.limit,
            line_peak=self.gateway.line_peak,
            refused=refused.total(),
            refusals={code: refused[code] for code in sorted({*REFUSALS, *refused})},
            market_value=round(sum(row.market_value or 0.0 for row in rows), 2),
            unrealized_pnl=round(sum(row.unrealized_pnl or 0.0 for row in rows), 2),
            quality=_count_quality(rows),
            queue_versions=next((cycle.versions for cycle in reversed(self.cycles) if cycle.settled), None),
            lake=desk.lake,
        )


def _is_busy(cycle: CycleReport) -> bool:
    done = cycle.settled + cycle.retried + cycle.failed + cycle.cancelled + cycle.released + cycle.stale
    return bool(cycle.claimed or cycle.in_flight or done)


def _count_quality(rows: list[BookRow]) -> dict[str, int]:
    counts = {name: sum(row.quality == name for row in rows) for name in WORST_FIRST}
    return {str(name or "no quote"): count for name, count in counts.items() if count}
