"""The desk: one lake, one broker, one engine thread; where everything is put together.

`open` makes it. Its tables may be used from any loop or thread; what needs the broker hops to the engine's loop and
back, so a cell that computes for two minutes does not starve the socket.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import polars as pl

from v6kit.broker import Broker, LineBudget
from v6kit.clock import Clock
from v6kit.contracts import check_float, check_int, check_text
from v6kit.engine import Engine
from v6kit.errors import StorageError, V6KitError
from v6kit.gateway import SimulatedGateway
from v6kit.history import TableHistory
from v6kit.ledger import normalise
from v6kit.positions import PositionBook
from v6kit.queue import PositionQueue
from v6kit.registry import StrategyRegistry
from v6kit.sync import CycleReport, PositionStreamer, QueueWorker

_Part = TypeVar("_Part")
SIMULATED = "simulated"
DEFAULT_CLIENT_ID = 7
_LINES_PER_FLOOR = 20
TABLES = {
    "active_strategies": ("strategy_id", "conid"),
    "position_queue": ("request_id",),
    "position_updates": ("account", "conid"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LineUse:
    """Who holds market data lines, at one moment.

    Attributes:
        limit: Lines that the login has.
        capacity: Lines that v6kit may use now.
        streams: Held by streams.
        snapshots: Held by snapshots in flight.
        peak: The most that were ever in use at once.
        holders: One row per line: kind, conid, since, users.
    """

    limit: int
    capacity: int
    streams: int
    snapshots: int
    peak: int
    holders: pl.DataFrame

    @property
    def used(self) -> int:
        """Lines in use."""
        return self.streams + self.snapshots

    def __repr__(self) -> str:
        return (
            f"{self.used} of {self.capacity} lines in use (limit {self.limit}): {self.streams} streams, "
            f"{self.snapshots} snapshots, peak {self.peak}"
        )


class Desk:
    """A lake and a broker that are open; made by `v6kit.open`.

    Attributes:
        lake: Where the tables are.
        registry: What is active.
        queue: What waits to be refreshed.
        positions: What is known about every position.
    """

    def __init__(
        self,
        lake: str,
        *,
        storage_options: Mapping[str, str] | None,
        clock: Clock,
    ) -> None:
        self.lake = lake
        self.clock = clock
        self._options = storage_options
        places = {name: f"{lake}/{name}" for name in TABLES}
        self.registry = StrategyRegistry(places["active_strategies"], storage_options=storage_options, clock=clock)
        self.queue = PositionQueue(places["position_queue"], storage_options=storage_options, clock=clock)
        self.positions = PositionBook(places["position_updates"], storage_options=storage_options, clock=clock)
        self._engine = Engine()
        self._gateway: SimulatedGateway | None = None
        self._broker: Broker | None = None
        self._worker: QueueWorker | None = None
        self._streamer: PositionStreamer | None = None
        self._closed = False
        self._ending: concurrent.futures.Future[None] | None = None
        self._one_end = threading.Lock()

    # --- its parts ----------------------------------------------------------------------------------------------

    @property
    def gateway(self) -> SimulatedGateway | None:
        """The simulated gateway that this desk started, or `None`."""
        return self._gateway

    @property
    def broker(self) -> Broker:
        """The connection; belongs to the engine's loop."""
        return _there(self._broker)

    @property
    def worker(self) -> QueueWorker:
        """What refreshes the queue; its calls hop to the engine's loop."""
        return _there(self._worker)

    @property
    def streamer(self) -> PositionStreamer:
        """What streams the active contracts; its calls hop to the engine's loop."""
        return _there(self._streamer)

    @property
    def is_simulated(self) -> bool:
        """Whether the gateway is the simulated one: no real account, no real prices."""
        return self._broker is not None and self._broker.is_simulated

    @property
    def lines(self) -> LineUse:
        """Who holds market data lines now."""
        budget = self.broker.lines
        holders = [(str(each.kind), each.conid, each.since, each.refcount) for each in budget.holders()]
        schema = {"kind": pl.String(), "conid": pl.Int64(), "since": pl.Datetime("us", "UTC"), "users": pl.Int64()}
        return LineUse(
            limit=budget.limit,
            capacity=budget.capacity,
            streams=budget.streams,
            snapshots=budget.used - budget.streams,
            peak=budget.peak,
            holders=pl.DataFrame(holders, schema=schema, orient="row"),
        )

    def history(self, table: str) -> TableHistory:
        """Return the past of one of the lake's tables.

        Args:
            table: `position_queue`, `position_updates` or `active_strategies`.
        """
        if table not in TABLES:
            raise ValueError(f"table must be one of {', '.join(TABLES)}, got {table!r}")
        return TableHistory(f"{self.lake}/{table}", TABLES[table], storage_options=self._options, clock=self.clock)

    # --- running ------------------------------------------------------------------------------------------------

    async def run_cycle(self) -> CycleReport:
        """Run one cycle of the worker by hand and return what it did.

        Raises:
            StorageError: A commit failed; what was claimed comes back when its lease ends.
        """
        self._refuse_if_closed()
        return await self.worker.run_cycle()

    async def sync(self) -> None:
        """Read all positions now, and route each to a stream or to the queue.

        Raises:
            BrokerError: The list did not come complete; the book stays as it was.
        """
        self._refuse_if_closed()
        await self.streamer.sync()

    def start(self) -> Self:
        """Let the worker run a cycle every few seconds from now on; cells stay free."""
        self._refuse_if_closed()
        self.worker.start()
        return self

    async def stop(self) -> None:
        """Let the worker stop, and give back what it has claimed. Streams stay live until `close`.

        Raises:
            StorageError: What is claimed could not be given back; it comes back when its lease ends.
        """
        self._refuse_if_closed()
        await self.worker.stop()

    async def close(self) -> None:
        """Give back what is claimed, end the streams and the connection, close the lake; idempotent.

        Once begun it goes on to its end, also when the wait for it is cancelled; a second call waits for the same end.

        Raises:
            StorageError: What came in last could not be written, or what is claimed not be given back. All is closed
                nevertheless.
        """
        with self._one_end:
            if self._ending is None:
                self._closed = True
                self._ending = concurrent.futures.Future()
                threading.Thread(target=self._end, args=(self._ending,), name="v6kit-desk-close").start()
        await asyncio.shield(asyncio.wrap_future(self._ending))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StorageError(f"the desk at {self.lake} is closed; open it again with v6kit.open({self.lake!r})")

    # --- putting it together, on the engine's loop --------------------------------------------------------------

    async def _connect(
        self,
        broker: str,
        *,
        gateway: SimulatedGateway | None,
        make_broker: Callable[[str, int], Broker],
        interval: float,
        batch_size: int,
        sync_interval: float,
    ) -> None:
        host, port = "127.0.0.1", 0
        if broker == SIMULATED:
            self._gateway = gateway or SimulatedGateway(clock=self.clock)
            await self._gateway.start()
            host, port = self._gateway.host, self._gateway.port
        else:
            host, port = parse_address(broker)
        self._broker = make_broker(host, port)
        await self._broker.connect()
        parked: dict[int, str] = {}
        self._worker = QueueWorker(self.queue, self._broker, self.positions, interval, batch_size, parked=parked)
        self._streamer = PositionStreamer(
            self.registry, self.queue, self._broker, self.positions, sync_interval, parked=parked
        )
        await self._streamer.start()

    async def _disconnect(self) -> None:
        """End in the order in which nothing is lost: claims, streams, socket; a step that fails stops no other one."""
        async with AsyncExitStack() as last_first:
            if self._gateway is not None:
                last_first.push_async_callback(self._gateway.stop)
            if self._broker is not None:
                last_first.push_async_callback(self._broker.close)
            if self._streamer is not None:
                last_first.push_async_callback(self._streamer.stop, unsubscribe=False)
            if self._worker is not None:
                last_first.push_async_callback(self._worker.stop)

    def _end(self, ended: concurrent.futures.Future[None]) -> None:
        """Close everything, on a thread of its own: the caller's loop may end, and the engine's will."""
        try:
            try:
                self._engine.submit(self._disconnect()).result()
            finally:
                for table in (self.registry, self.queue, self.positions):
                    table.ledger.close()
                self._engine.close()
        except BaseException as error:  # noqa: BLE001 - it belongs to those who wait for the end
            ended.set_exception(error)
        else:
            ended.set_result(None)

    # --- display ------------------------------------------------------------------------------------------------

    def _facts(self) -> dict[str, str]:
        if self._closed or self._broker is None:
            return {"lake": self.lake, "state": "closed" if self._closed else "not connected"}
        what = "simulated gateway (no real account)" if self.is_simulated else "gateway"
        return {
            "lake": self.lake,
            "broker": f"{what} at {self._broker.host}:{self._broker.port}, {self._broker.state}",
            "lines": repr(self.lines),
            "registry": repr(self.registry),
            "queue": repr(self.queue),
            "positions": repr(self.positions),
            "worker": repr(self._worker),
        }

    def __repr__(self) -> str:
        return "Desk\n" + "\n".join(f"  {name:<10}{fact}" for name, fact in self._facts().items())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th><td style='text-align:left'>{escape(fact)}</td></tr>"
            for name, fact in self._facts().items()
        )
        return f"<table><caption style='text-align:left'><b>v6kit desk</b></caption>{rows}</table>"


async def open(  # noqa: A001 - `v6kit.open` is the public name, and this module opens no files
    lake: str | os.PathLike[str],
    broker: str | None = None,
    *,
    client_id: int = DEFAULT_CLIENT_ID,
    account: str = "",
    market_data_type: int = 1,
    line_limit: int = 100,
    line_reserve: int = 10,
    snapshot_floor: int | None = None,
    interval: float = 5.0,
    batch_size: int = 50,
    sync_interval: float = 60.0,
    connect_timeout: float = 8.0,
    storage_options: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    gateway: SimulatedGateway | None = None,
) -> Desk:
    """Open a lake, connect to a gateway, read the positions, and stream what is active.

    Args:
        lake: A folder, or any URI that deltalake takes; made if it is not there.
        broker: `"HOST:PORT"` of TWS (7496, paper 7497) or IB Gateway (4001, paper 4002), or `"simulated"`. Left out, it
            is the simulated gateway, and a line says so.
        client_id: Our id at the gateway; one per program.
        account: Whose portfolio values to follow; needed when the login manages several accounts.
        market_data_type: 1 live, 2 frozen, 3 delayed, 4 delayed-frozen.
        line_limit: Market data lines that the login has.
        line_reserve: Lines left to TWS and other programs.
        snapshot_floor: Lines that streams leave to snapshots, without which nothing in the queue would be refreshed
            once streams hold them all. Default: one in twenty of those that may be used.
        interval: Seconds between two cycles of the worker.
        batch_size: Requests that the worker holds at once.
        sync_interval: Seconds between two readings of all positions; a quote older than this is to be refreshed.
        connect_timeout: Seconds for connecting, the first positions and the first account update together.
        storage_options: For object stores; never shown.
        clock: Tells the time; default the system's.
        gateway: A simulated gateway of your own making, with `broker="simulated"`; the desk starts and stops it.

    Returns:
        The desk; `await desk.close()` when done, or use it in `async with`.

    Raises:
        GatewayUnavailableError: Nobody answers there, or the client id is in use.
        SchemaMismatchError: A table in the lake is not ours; nothing was touched.
        StorageError: The lake cannot be read or written.
        ValueError: An argument is wrong; names it and its value.
    """
    if broker is None:
        broker = SIMULATED
        print(  # noqa: T201 - said to the person at the notebook, once, because they did not ask for it
            "No broker given: this desk uses the simulated gateway, no real account. "
            'For TWS: v6kit.open(lake, broker="127.0.0.1:7497").'
        )
    check_text("broker", broker)
    if gateway is not None and broker != SIMULATED:
        raise ValueError(f"gateway goes with broker='simulated' only, got broker={broker!r}")
    if broker != SIMULATED:
        parse_address(broker)
    check_int("line_limit", line_limit)
    check_int("line_reserve", line_reserve, minimum=0)
    check_float("interval", interval, above=0.0)
    check_int("batch_size", batch_size)
    check_float("sync_interval", sync_interval, above=0.0)
    clock = clock or Clock()
    floor = max(0, line_limit - line_reserve) // _LINES_PER_FLOOR if snapshot_floor is None else snapshot_floor
    lines = LineBudget(line_limit, line_reserve, snapshot_floor=floor, clock=clock)

    def make_broker(host: str, port: int) -> Broker:
        return Broker(
            host,
            port,
            client_id=client_id,
            account=account,
            market_data_type=market_data_type,
            lines=lines,
            connect_timeout=connect_timeout,
            clock=clock,
        )

    make_broker("127.0.0.1", 1)  # refuses what is wrong before anything is touched
    desk = Desk(lake_uri(lake), storage_options=storage_options, clock=clock)
    try:
        await asyncio.gather(desk.registry.initialize(), desk.queue.initialize(), desk.positions.initialize())
        await desk._engine.run(  # noqa: SLF001 - this function is the desk's own front door
            desk._connect(  # noqa: SLF001
                broker,
                gateway=gateway,
                make_broker=make_broker,
                interval=interval,
                batch_size=batch_size,
                sync_interval=sync_interval,
            )
        )
    except BaseException as error:
        try:
            await desk.close()
        except V6KitError as second:
            error.add_note(f"closing what was open failed as well: {second}")
        raise
    return desk


def lake_uri(lake: str | os.PathLike[str]) -> str:
    """Return the lake's place as text; a folder that is a file is refused.

    Raises:
        StorageError: There is a file at this path.
    """
    uri = normalise(lake)
    if "://" not in uri and Path(uri).is_file():
        raise StorageError(f"lake must be a folder, but {uri} is a file; choose another path")
    return uri


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ValueError(f"broker must be 'simulated' or 'HOST:PORT', such as '127.0.0.1:7497'; got {address!r}")
    return host.strip("[]"), check_int("port", int(port))


def _there(part: _Part | None) -> _Part:
    if part is None:
        raise StorageError("this desk is not connected; open it with await v6kit.open(lake)")
    return part
