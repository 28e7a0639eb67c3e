"""The desk itself: its parts, what can be done with it, and how it ends. `open` makes it.

Its tables may be used from any loop or thread; what needs the broker hops to the engine's loop and back, so a cell that
computes for two minutes does not starve the socket.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from html import escape
from types import TracebackType
from typing import Any, Self, TypeVar

import polars as pl

from v6kit.broker import Broker
from v6kit.clock import Clock
from v6kit.contracts import ActiveContract
from v6kit.desk.accounts import Accounts
from v6kit.desk.combos import legs_of
from v6kit.desk.lines import LineUse
from v6kit.desk.places import SIMULATED, TABLES, parse_address
from v6kit.engine import Engine
from v6kit.errors import StorageError
from v6kit.gateway import SimulatedGateway
from v6kit.history import TableHistory
from v6kit.ledger import Durable
from v6kit.positions import PositionBook
from v6kit.queue import PositionQueue
from v6kit.registry import StrategyRegistry
from v6kit.sync import (
    BookWriter,
    CycleReport,
    Feed,
    Freshness,
    Policy,
    PositionStreamer,
    QueueWorker,
    Targets,
    reconcile,
)

_Part = TypeVar("_Part")
_Table = TypeVar("_Table", StrategyRegistry, PositionQueue, PositionBook)


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
        durable: Durable,
        history_days: Mapping[str, int | None],
    ) -> None:
        self.lake = lake
        self.clock = clock
        self._options = storage_options

        def made(table: Callable[..., _Table], name: str) -> _Table:
            return table(
                f"{lake}/{name}",
                storage_options=storage_options,
                clock=clock,
                durable=durable,
                history_days=history_days[name],
            )

        self.registry = made(StrategyRegistry, "active_strategies")
        self.queue = made(PositionQueue, "position_queue")
        self.positions = made(PositionBook, "position_updates")
        self._engine = Engine(speed=clock.speed)
        self._gateway: SimulatedGateway | None = None
        self._broker: Broker | None = None
        self._worker: QueueWorker | None = None
        self._streamer: PositionStreamer | None = None
        self._feed: Feed | None = None
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
        """Who holds market data lines now, who waits for one, and why."""
        labels = {row.conid: row.label() for row in self.positions.rows()}
        return LineUse.of(self.broker.lines, self.streamer.standing, labels, self.clock.now())

    @property
    def accounts(self) -> Accounts:
        """What is known of each account: of the login's, and of others that lake or strategies name."""
        return Accounts.of(self.broker, self.positions.rows(), self.registry.active_legs(), self.clock.now())

    @property
    def targets(self) -> Targets:
        """How old quotes may become; may be set at any time: `desk.targets = v6kit.Targets(active=10, other=30)`."""
        return _there(self._feed).targets

    @targets.setter
    def targets(self, targets: Targets) -> None:
        _there(self._feed).targets = checked_targets(targets)

    def freshness(self) -> Freshness:
        """Return how fresh every position is, against the targets, and whether lines and pace suffice; no I/O.

        Returns:
            `kinds`, a frame with p50, p95 and max of the age per kind of position; `positions`, a frame with one row
            each, the most overdue first; and a verdict. Both frames may be empty.
        """
        return _there(self._feed).freshness(self.worker.hold)

    def history(self, table: str) -> TableHistory:
        """Return the past of one of the lake's tables; it can restore what is to be restored (the registry).

        Args:
            table: `position_queue`, `position_updates` or `active_strategies`.
        """
        if table not in TABLES:
            raise ValueError(f"table must be one of {', '.join(TABLES)}, got {table!r}")
        opened = next(each for each in (self.registry, self.queue, self.positions) if each.SPEC.name == table)
        return TableHistory(opened.uri, storage_options=self._options, clock=self.clock, table=opened)

    # --- running ------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect again after the link was given up; does nothing while it is kept up.

        A lost link comes back by itself. It is given up only when another program has taken our client id.

        Raises:
            ClientIdInUseError: It still has it.
            GatewayUnavailableError: Nobody answers.
        """
        self._refuse_if_closed()
        await self._engine.run(self.broker.connect())

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

    async def register(
        self,
        contract: Any,  # noqa: ANN401 - ib_async is not imported here; any object with these attributes will do
        strategy_id: str | int,
        *,
        quantity: float = 1.0,
        kind: str | None = None,
        account: str | None = None,
        priority: int | None = None,
    ) -> list[ActiveContract]:
        """Register an `ib_async` contract under a strategy, a combo by its legs; what each is, the gateway is asked.

        A combo (`secType` `BAG`) is never asked for as such: it streams by its legs, each in ratio × action × quantity.

        Args:
            contract: With a conId, which is enough; of a combo, each of its `comboLegs`.
            strategy_id: As in `registry.add_strategy`, as are kind, account and priority.
            quantity: Signed number of contracts, or of combos, that the strategy holds; not 0.
            kind: See `strategy_id`.
            account: See `strategy_id`.
            priority: See `strategy_id`.

        Returns:
            The strategy's active legs.

        Raises:
            BrokerError: The details of a leg cannot be had; nothing is registered.
            ContractConflictError: As in `registry.add_strategy`.
            ValueError, TypeError: An argument is wrong; names it and its value.
        """
        self._refuse_if_closed()
        legs = await self._engine.run(legs_of(contract, quantity, self.broker))
        return await self.registry.add_strategy(strategy_id, legs, kind, account=account, priority=priority)

    async def reconcile(self) -> pl.DataFrame:
        """Compare account, registry and book, and change none of them.

        Asks for a complete list of all positions first. What is found is the trader's to judge: hand the rows that
        are right to `apply`.

        Returns:
            One row per finding, the most urgent first: finding (`quantity`, `missing`, `closed` or `unassigned`),
            account, conid, label, strategy_id, strategy_account, held, wanted (Float64, by all strategies of the same
            account together), registered and becomes (Float64, the quantity of this strategy's leg now and when
            applied; 0 removes it), proposal. The same columns when nothing is found. How legs with and without an
            account are compared: `v6kit.sync.reconcile.findings`.

        Raises:
            BrokerError: The list did not come complete.
            StorageError: The lake cannot be read.
        """
        self._refuse_if_closed()
        return await self.streamer.reconcile()

    async def apply(self, findings: pl.DataFrame) -> None:
        """Do what findings propose: legs take the held quantity or go, in one commit; closed rows leave the book.

        The account is read again first, and what is no longer as it was found is refused. Rows whose proposal is a
        trader's own to carry out (`becomes` is null) change nothing in the registry.

        Args:
            findings: The rows of the frame of `reconcile` to apply.

        Raises:
            BrokerError: The list of positions did not come complete; the registry stays as it was.
            RegistryError: A leg or its position has changed since; the registry stays as it was.
            StorageError: A commit failed.
            TypeError, ValueError: These are no findings, or two strategies would take the same difference.
        """
        self._refuse_if_closed()
        chosen = reconcile.as_findings(findings)
        if any(each.finding == reconcile.CLOSED for each in chosen):
            await self.sync()
        if any(each.becomes is not None for each in chosen):
            fixes = reconcile.to_fix(chosen, await self.reconcile())
            await self.registry.amend(reconcile.amendments(fixes))

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
        policy: Policy,
        minimum_hold: float,
        targets: Targets,
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
        self._feed = Feed(self.registry, self.queue, self._broker, self.positions, targets, parked=parked)
        writer = BookWriter(self.queue, self._broker, self.positions, parked=parked)
        self._worker = QueueWorker(
            self.queue,
            self._broker,
            self.positions,
            interval,
            batch_size,
            parked=parked,
            feed=self._feed,
            writer=writer,
        )
        self._streamer = PositionStreamer(
            self.registry,
            self.queue,
            self._broker,
            self.positions,
            sync_interval,
            parked=parked,
            feed=self._feed,
            writer=writer,
            policy=policy,
            minimum_hold=minimum_hold,
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
            with ExitStack() as last_first:
                last_first.callback(self._engine.close)
                for table in (self.registry, self.queue, self.positions):
                    last_first.callback(table.ledger.close)
                self._engine.submit(self._disconnect()).result()
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
            "accounts": self.accounts.summary(),
            "lines": self.lines.summary(),
            "registry": self.registry.summary(),
            "queue": self.queue.summary(),
            "positions": self.positions.summary(),
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


def checked_targets(targets: Targets) -> Targets:
    """Return targets; refuse what is something else."""
    if not isinstance(targets, Targets):
        raise TypeError(f"targets must be v6kit.Targets(active=..., other=...), got {targets!r}")
    return targets


def _there(part: _Part | None) -> _Part:
    if part is None:
        raise StorageError("this desk is not connected; open it with await v6kit.open(lake)")
    return part
