"""The desk itself: its parts, what can be done with it, and how it ends. `open` makes it.

Its tables may be used from any loop or thread; what needs the broker hops to the engine's loop and back, so a cell that
computes for two minutes does not starve the socket.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import polars as pl

from v6kit.broker import Broker
from v6kit.clock import Clock
from v6kit.contracts import ActiveContract
from v6kit.desk.accounts import Accounts
from v6kit.desk.card import desk_card
from v6kit.desk.combos import legs_of
from v6kit.desk.lines import LineUse
from v6kit.desk.options import Options
from v6kit.desk.places import TABLES, TableName
from v6kit.desk.running import Running
from v6kit.display import Card, Shown, unknown
from v6kit.engine import Engine
from v6kit.errors import StorageError
from v6kit.gateway import SimulatedGateway
from v6kit.history import TableHistory
from v6kit.ledger import Durable
from v6kit.positions import PositionBook
from v6kit.queue import PositionQueue
from v6kit.registry import StrategyRegistry
from v6kit.sync import CycleReport, Freshness, PositionStreamer, QueueWorker, Targets, reconcile

if TYPE_CHECKING:
    from v6kit.panels import Dashboard, Panel

PanelName = Literal["strategies", "queue", "book", "worker", "lines", "history"]  # editors offer them
_Part = TypeVar("_Part")
_Table = TypeVar("_Table", StrategyRegistry, PositionQueue, PositionBook)


class Desk(Shown):
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
        self._running = Running()
        self._closed = False
        self._on_closed: dict[object, Callable[[], object]] = {}
        self._ending: concurrent.futures.Future[None] | None = None
        self._one_end = threading.Lock()

    # --- its parts ----------------------------------------------------------------------------------------------

    @property
    def gateway(self) -> SimulatedGateway | None:
        """The simulated gateway that this desk started, or `None`."""
        return self._running.gateway

    @property
    def broker(self) -> Broker:
        """The connection; belongs to the engine's loop."""
        return _there(self._running.broker)

    @property
    def worker(self) -> QueueWorker:
        """What refreshes the queue; its calls hop to the engine's loop."""
        return _there(self._running.worker)

    @property
    def streamer(self) -> PositionStreamer:
        """What streams the active contracts; its calls hop to the engine's loop."""
        return _there(self._running.streamer)

    @property
    def is_simulated(self) -> bool:
        """Whether the gateway is the simulated one: no real account, no real prices."""
        return self._running.broker is not None and self._running.broker.is_simulated

    @property
    def lines(self) -> LineUse:
        """Who holds market data lines now, who waits for one, and why."""
        self._refuse_if_closed()
        held = {each.conid for each in self.broker.lines.holders()}
        labels = {row.conid: row.label() for row in self.positions.rows() if row.conid in held}
        return LineUse.of(self.broker.lines, self.streamer.standing, labels, self.clock.now())

    @property
    def accounts(self) -> Accounts:
        """What is known of each account: of the login's, and of others that lake or strategies name."""
        self._refuse_if_closed()
        return Accounts.of(self.broker, self.positions.rows(), self.registry.legs_by_account(), self.clock.now())

    @property
    def options(self) -> Options:
        """What options are listed on a symbol; asks the gateway, and holds no line but for a moment."""
        return Options(self._engine, self.broker)

    @property
    def targets(self) -> Targets:
        """How old quotes may become; may be set at any time: `desk.targets = v6kit.Targets(active=10, other=30)`."""
        return _there(self._running.feed).targets

    @targets.setter
    def targets(self, targets: Targets) -> None:
        _there(self._running.feed).targets = checked_targets(targets)

    def freshness(self) -> Freshness:
        """Return how fresh every position is, against the targets, and whether lines and pace suffice; no I/O.

        Returns:
            `kinds`, a frame with p50, p95 and max of the age per kind of position; `positions`, a frame with one row
            each, the most overdue first; and a verdict. Both frames may be empty.
        """
        self._refuse_if_closed()
        return _there(self._running.feed).freshness(self.worker.hold)

    def history(self, table: TableName) -> TableHistory:
        """Return the past of one of the lake's tables; it can restore what is to be restored (the registry).

        Args:
            table: `position_queue`, `position_updates` or `active_strategies`.
        """
        if table not in TABLES:
            raise unknown("table", table, TABLES)
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

    def on_closed(self, act: Callable[[], object]) -> Callable[[], object]:
        """Call back once all is closed, on the thread that closes; `close` waits for it.

        Returns:
            What takes it out again.

        Raises:
            StorageError: The desk is closed already, or closing.
        """
        token = object()
        with self._one_end:
            self._refuse_if_closed()
            self._on_closed[token] = act
        return lambda: self._on_closed.pop(token, None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StorageError(f"the desk at {self.lake} is closed; open it again with v6kit.open({self.lake!r})")

    def _end(self, ended: concurrent.futures.Future[None]) -> None:
        """Close everything, on a thread of its own: the caller's loop may end, and the engine's will."""
        try:
            with ExitStack() as last_first:
                for act in list(self._on_closed.values()):
                    last_first.callback(act)
                last_first.callback(self._engine.close)
                for table in (self.registry, self.queue, self.positions):
                    last_first.callback(table.ledger.close)
                self._engine.submit(self._running.stop()).result()
        except BaseException as error:  # noqa: BLE001 - it belongs to those who wait for the end
            ended.set_exception(error)
        else:
            ended.set_result(None)

    # --- display ------------------------------------------------------------------------------------------------

    def panel(self, name: PanelName) -> Panel:
        """Return a live panel: show it by making it the last line of a cell.

        Args:
            name: `strategies`, `queue`, `book`, `worker`, `lines` or `history`.

        Raises:
            ValueError: There is no such panel.
        """
        self._refuse_if_closed()
        from v6kit.panels import make  # noqa: PLC0415 - panels stand on the desk, and only who looks imports widgets

        return make(self, name)

    def dashboard(self) -> Dashboard:
        """Return all panels behind tabs, with one instant that all of them show; show it as the last line of a cell."""
        self._refuse_if_closed()
        from v6kit.panels import make_dashboard  # noqa: PLC0415 - as in `panel`

        return make_dashboard(self)

    def _card(self) -> Card:
        return desk_card(self, "closed" if self._closed else "not connected" if self._running.broker is None else "")


def checked_targets(targets: Targets) -> Targets:
    """Return targets.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(targets, Targets):
        raise TypeError(f"targets must be v6kit.Targets(active=..., other=...), got {targets!r}")
    return targets


def _there(part: _Part | None) -> _Part:
    if part is None:
        raise StorageError("this desk is not connected; open it with await v6kit.open(lake)")
    return part
