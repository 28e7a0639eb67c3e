"""What the tests of sync share: a lake and a broker that are open, and waiting for what follows."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from broker_helpers import DEADLINE, PATIENT, broker_for
from ib_async.client import Client
from v6kit.broker import Broker
from v6kit.contracts import Leg
from v6kit.ledger import Decision, LedgerTable
from v6kit.positions import BookRow, PositionBook
from v6kit.queue import PositionQueue, QueuedPosition
from v6kit.registry import StrategyRegistry
from v6kit.sync import PositionStreamer, QueueWorker, Targets, decisions

if TYPE_CHECKING:
    from v6kit.clock import Clock
    from v6kit.desk import Desk
    from v6kit.gateway import Position, SimulatedGateway

T = TypeVar("T")
FAST = {"messages_per_second": None, "snapshots_per_second": None}
STILL = {"tick_interval": 3600.0}  # a stream says its price once, so nothing moves that no test has moved
# Nothing is cut short and nothing is due a second time, on however slow a machine.
UNHURRIED = {"interval": 60.0, "connect_timeout": 60.0, "targets": Targets(active=3600.0, other=3600.0)}


@contextmanager
def without_throttle() -> Iterator[None]:
    """Take ib_async's own throttle away, so that a test of 500 requests does not last 11 s."""
    before = Client.MaxRequests
    Client.MaxRequests = 0
    yield
    Client.MaxRequests = before


@dataclass(slots=True)
class Rig:
    """A lake and a broker; worker and streamer are made from them."""

    gateway: SimulatedGateway
    broker: Broker
    registry: StrategyRegistry
    queue: PositionQueue
    book: PositionBook
    made: list[QueueWorker | PositionStreamer] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def worker(self, interval: float = 5.0, batch_size: int = 50, **settings: Any) -> QueueWorker:
        """Make a worker that is stopped at the end of the test."""
        self.made.append(QueueWorker(self.queue, self.broker, self.book, interval, batch_size, **settings))
        return self.made[-1]

    def streamer(self, sync_interval: float = 60.0, **settings: Any) -> PositionStreamer:
        """Make a streamer that is stopped at the end of the test."""
        self.made.append(PositionStreamer(self.registry, self.queue, self.broker, self.book, sync_interval, **settings))
        return self.made[-1]

    async def fill(self, **settings: Any) -> None:
        """Take in all positions, and queue each."""
        await self.book.sync(await self.broker.positions())
        await self.queue.insert_many([decisions.wanted(row, 2) | settings for row in self.book.rows()])

    async def until(self, fits: Callable[[], T]) -> T:
        """Wait until something holds; looks at each commit, and now and then."""
        async with asyncio.timeout(DEADLINE):
            while not (found := fits()):
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await self.changed.wait()
                self.changed.clear()
        return found

    def row(self, conid: int) -> BookRow | None:
        """Return a position as the book has it."""
        return next((row for row in self.book.rows() if row.conid == conid), None)

    def requests(self, conid: int | None = None) -> list[QueuedPosition]:
        """Return the requests of a contract, or all, oldest first."""
        rows = [row for batch in self.queue.ledger.read(lambda state: state.held()) for row in rows_of(batch)]
        return sorted(row for row in rows if conid in (None, row.conid))

    def live(self, conid: int) -> QueuedPosition | None:
        """Return the live request of a contract."""
        return next((each for each in self.requests(conid) if each.status in ("PENDING", "PROCESSING")), None)

    def statuses(self) -> dict[str, int]:
        """Return how many requests stand where, without zeros."""
        return {name: count for name, count in self.queue.stats().by_status.items() if count}


def rows_of(batch: Any) -> list[QueuedPosition]:
    """Return a batch of rows as rows."""
    return batch if isinstance(batch, list) else PositionQueue.SPEC.to_rows(batch)


async def eventually(fits: Callable[[], object]) -> None:
    """Wait until something holds that announces itself by no event."""
    async with asyncio.timeout(DEADLINE):
        while not fits():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.002)


async def streamed(desk: Desk) -> None:
    """Wait until the book has a quote of every stream."""
    await desk.sync()
    streams = desk.streamer.streaming
    await eventually(lambda: all(row.source == "stream" for row in desk.positions.rows() if row.conid in streams))


class Breakage:
    """Breaks a table for a while: nothing can be committed to it, and nothing of it is lost."""

    def __init__(self, table: LedgerTable[Any, Any]) -> None:
        self._table = table
        self._place = Path(table.uri)
        self._away = self._place.with_name("away")
        with self._writer_waits():
            self._place.rename(self._away)

    def mend(self) -> None:
        """Put everything back."""
        with self._writer_waits():
            shutil.rmtree(self._place, ignore_errors=True)  # what a commit in vain has left
            self._away.rename(self._place)

    @contextmanager
    def _writer_waits(self) -> Iterator[None]:
        waits, go_on = threading.Event(), threading.Event()

        def wait(_state: object, _moment: object) -> Decision[Any, None]:
            waits.set()
            go_on.wait(DEADLINE)
            return Decision([], None)

        self._table.ledger.submit(wait).add_done_callback(lambda future: future.exception())
        waits.wait(DEADLINE)
        yield
        go_on.set()


@asynccontextmanager
async def rigged(gateway: SimulatedGateway, lake: Path, clock: Clock, **settings: Any) -> AsyncIterator[Rig]:
    """Open a lake and connect a broker; all is closed at the end."""
    tables = (
        StrategyRegistry(lake / "active_strategies", clock=clock),
        PositionQueue(lake / "position_queue", clock=clock),
        PositionBook(lake / "position_updates", clock=clock),
    )
    wanted = {"requests_per_second": 1000, "clock": clock, "timings": PATIENT} | settings
    rig = Rig(gateway, broker_for(gateway, **wanted), *tables)
    loop = asyncio.get_running_loop()
    for table in tables:
        table.ledger.on_commit(lambda _: loop.call_soon_threadsafe(rig.changed.set))
    try:
        await asyncio.gather(*(table.initialize() for table in tables))
        await rig.broker.connect()
        yield rig
    finally:
        for each in reversed(rig.made):
            await each.stop()
        await rig.broker.close()
        for table in tables:
            await table.close()


def legs_of(*positions: Position) -> list[Leg]:
    """Return positions of the account as legs of a strategy."""
    return [Leg.of(each.instrument, each.quantity) for each in positions]


def asked(gateway: SimulatedGateway, *, snapshots: bool | None = None) -> list[int]:
    """Return the conids of all market data requests that the gateway received, in order."""
    records = [each for each in gateway.log.records if each.direction == "received" and each.name == "REQ_MKT_DATA"]
    return [int(each.fields[3]) for each in records if snapshots is None or (each.fields[-3] == "1") is snapshots]
