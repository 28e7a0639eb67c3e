"""The simulated gateway itself: it listens, keeps its clients, ticks, and does what is to happen now.

Owns the listening socket and the one task that moves time on. Each client is a `session`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from ipaddress import ip_address
from types import MappingProxyType
from typing import TYPE_CHECKING, Self, TypeVarTuple, Unpack

from v6kit.contracts import check_int, check_text
from v6kit.display import Card, Shown, counted
from v6kit.errors import GatewayUnavailableError
from v6kit.gateway.account import ACCOUNT_ID, Account, Position, generate_accounts
from v6kit.gateway.limits import LineTable, SlidingWindow
from v6kit.gateway.log import WireLog
from v6kit.gateway.market import Market
from v6kit.gateway.moods import Moods
from v6kit.gateway.player import Fired, Player
from v6kit.gateway.scenario import Scenario
from v6kit.gateway.session import Session
from v6kit.gateway.shared import Settings, Shared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from v6kit.clock import Clock
    from v6kit.gateway.faults import Faults

logger = logging.getLogger(__name__)

HIGHEST_PORT = 65_535

Args = TypeVarTuple("Args")


class SimulatedGateway(Moods, Shown):
    """A simulated Interactive Brokers gateway that real IB clients connect to over TCP.

    It has a deterministic option market, an account with positions, a model of IB's limits, and faults on demand. No
    order reaches it, no money moves, and its limits are a model of IB's, not IB's.

    A fault that lasts is a field of `faults`; what a trading day brings is a method of its base `Moods`, and a whole
    day of it is a `Scenario` that it plays. Methods and `faults` may be used from any thread; `start` and `stop` belong
    to one event loop.

    Args:
        positions: How many positions each account holds, 0 to 5500; or a tuple with a number for each account.
        host: Address to listen on. Only this machine can reach the default; any other one lets everybody on its network
            connect, without a password, and is warned about.
        port: Port to listen on; 0 takes a free one. A gateway that is started again keeps its port.
        accounts: Ids of the login's accounts, at least one. Each has positions of its own; many contracts are held by
            several.
        seed: Names market and accounts; the same seed gives the same contracts, positions and price paths.
        line_limit: Market data lines.
        lines_per_client: Whether each client id has its own lines, instead of all clients together.
        snapshots_use_lines: Whether a snapshot in flight holds a line; IB does not say, so the cautious answer is yes.
        snapshot_hold: Seconds from a snapshot's request to its end; its ticks come at once.
        snapshots_per_second: Snapshot requests in any sliding second, all clients together; `None` for no limit.
        messages_per_second: Messages of one client in any sliding second; more are discarded with error 100, and the
            third such burst within a minute ends the connection. `None` for no limit.
        tick_interval: Seconds between two looks at the market; what has changed is sent to the streams.
        portfolio_interval: Seconds between two unasked portfolio messages.
        login_seconds: Real seconds from a connection to its startApi; one that takes longer is cut off.
        clock: Tells date and passing of time; prices stand still while it does.
        record: Keep the newest 100,000 messages for `log.requests(...)` and `log.answers(...)`. With the path of a
            file, every message is appended there, too, as a line of JSON.

    Raises:
        TypeError: An argument is of the wrong kind; names it and its value.
        ValueError: An argument is out of range; names it and its value.

    Example:
        >>> gateway = SimulatedGateway(positions=12, line_limit=5)  # async with gateway: clients can connect
        >>> gateway
        <SimulatedGateway (simulated, no real account) stopped: 12 positions, lines 0/5, clients none>
    """

    def __init__(
        self,
        positions: int | tuple[int, ...] = 500,
        *,
        accounts: Sequence[str] = (ACCOUNT_ID,),
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 7,
        line_limit: int = 100,
        lines_per_client: bool = False,
        snapshots_use_lines: bool = True,
        snapshot_hold: float = 0.5,
        snapshots_per_second: int | None = 100,
        messages_per_second: int | None = 50,
        tick_interval: float = 0.25,
        portfolio_interval: float = 180.0,
        login_seconds: float = 10.0,
        clock: Clock | None = None,
        record: bool | str | Path = False,
    ) -> None:
        settings = Settings(
            line_limit=line_limit,
            lines_per_client=lines_per_client,
            snapshots_use_lines=snapshots_use_lines,
            snapshot_hold=snapshot_hold,
            snapshots_per_second=snapshots_per_second,
            messages_per_second=messages_per_second,
            tick_interval=tick_interval,
            portfolio_interval=portfolio_interval,
            login_seconds=login_seconds,
        )
        self.host = check_text("host", host)
        self.port = check_int("port", port, minimum=0)
        if self.port > HIGHEST_PORT:
            raise ValueError(f"port must be 0 to {HIGHEST_PORT}, got {port}")
        self.seed = check_int("seed", seed, minimum=0)
        market = Market(self.seed, clock, step_seconds=tick_interval)
        self._shared = Shared(
            settings=settings,
            market=market,
            accounts=generate_accounts(positions, accounts, seed=self.seed, market=market),
            log=WireLog(record=record),
            lines=LineTable(line_limit, per_client=lines_per_client),
            snapshot_window=SlidingWindow(snapshots_per_second),
        )
        for account in self.accounts.values():
            account.on_change(self._pusher(account))
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._player: Player | None = None
        self._ticked = asyncio.Event()

    def _facts(self) -> dict[str, str]:
        held = sum(len(each.positions) for each in self.accounts.values())
        many = f" in {len(self.accounts)} accounts" if len(self.accounts) > 1 else ""
        return {
            "where": f"listening on {self.address}" if self.is_running else "stopped",
            "positions": f"{counted(held, 'position')}{many}",
            "lines": f"{self.lines_in_use}/{self.line_limit}",
            "clients": ", ".join(str(each) for each in self.client_ids) or "none",
        }

    def __repr__(self) -> str:
        facts = self._facts()
        return (
            f"<SimulatedGateway (simulated, no real account) {facts['where']}: {facts['positions']}, "
            f"lines {facts['lines']}, clients {facts['clients']}>"
        )

    def _card(self) -> Card:
        facts = self._facts() | {"accounts": ", ".join(self.accounts), "traffic": repr(self.log)}
        return Card("SimulatedGateway (simulated, no real account)", facts=facts)

    # What can be looked at

    @property
    def is_running(self) -> bool:
        """Whether clients can connect."""
        return self._server is not None

    @property
    def address(self) -> str:
        """Where clients connect to, `HOST:PORT`."""
        return f"{self.host}:{self.port}"

    @property
    def is_public(self) -> bool:
        """Whether it listens where other machines can connect."""
        sockets = () if self._server is None else self._server.sockets
        return not all(ip_address(each.getsockname()[0].partition("%")[0]).is_loopback for each in sockets)

    @property
    def market(self) -> Market:
        """The simulated market."""
        return self._shared.market

    @property
    def account(self) -> Account:
        """The first account; its positions may be changed while the gateway runs."""
        return self._shared.account

    @property
    def accounts(self) -> Mapping[str, Account]:
        """The login's accounts by id, the first one first; all of them may be changed while the gateway runs."""
        return MappingProxyType(self._shared.accounts)

    @property
    def faults(self) -> Faults:
        """The faults that last."""
        return self._shared.faults

    @property
    def log(self) -> WireLog:
        """What went over the wire."""
        return self._shared.log

    @property
    def client_ids(self) -> list[int]:
        """Ids of the clients that are logged in, lowest first."""
        return sorted(each.client_id for each in self._shared.sessions if each.is_started)

    @property
    def lines_in_use(self) -> int:
        """Market data lines that are held now."""
        return self._shared.lines.in_use

    @property
    def line_peak(self) -> int:
        """Most market data lines that were ever held at once."""
        return self._shared.lines.peak

    @property
    def lines_taken(self) -> int:
        """Market data lines that TWS's own windows hold."""
        return self._shared.lines.taken

    @property
    def line_limit(self) -> int:
        """Market data lines of the login; may be changed while it runs, which ends no stream."""
        return self._shared.lines.limit

    @line_limit.setter
    def line_limit(self, limit: int) -> None:
        self._shared.lines.limit = check_int("line_limit", limit, minimum=0)

    # From start to stop

    async def start(self) -> None:
        """Listen, and let time run; does nothing when it runs already.

        Raises:
            GatewayUnavailableError: The port is in use, or the address cannot be listened on.
            OSError: The file of `record` cannot be written.
        """
        if self._server is not None:
            return
        self.log.open()
        self._loop = asyncio.get_running_loop()
        try:
            self._server = await self._loop.create_server(lambda: Session(self._shared), self.host, self.port)
        except OSError as error:
            self.log.close()
            raise GatewayUnavailableError(self._why_not(error)) from error
        self.port = self._server.sockets[0].getsockname()[1]
        if self.is_public:
            logger.warning(
                "The simulated gateway listens on %s: anybody on the network can connect, there is no password. "
                "With host='127.0.0.1' only this machine can.",
                self.address,
            )
        self._ticker = self._loop.create_task(self._tick(), name=f"simulated gateway {self.address}")

    async def stop(self) -> None:
        """Close all sockets and end; clients see a dropped connection. May be started again on the same port."""
        server, ticker = self._server, self._ticker
        if server is None or ticker is None:
            return
        self._server = self._ticker = None
        if self._player is not None:
            self._player.stop(GatewayUnavailableError("the simulated gateway was stopped before its scenario was over"))
        server.close()
        await asyncio.sleep(0)  # a connection that was just accepted becomes a session in this turn
        while self._shared.sessions:
            gone = [each.closed for each in self._shared.sessions]
            self._drop(None)
            await asyncio.gather(*gone)
        await server.wait_closed()
        self.log.close()
        ticker.cancel()
        await asyncio.wait({ticker})
        if not ticker.cancelled():
            ticker.result()  # it ended by itself, so it failed; that must be heard

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _pusher(self, account: Account) -> Callable[[Position], None]:
        return lambda position: self._on_loop(self._push_position, account, position)

    def _push_position(self, account: Account, position: Position) -> None:
        for session in list(self._shared.sessions):
            session.position_changed(account, position)

    # A day that is written down

    @property
    def events(self) -> list[Fired]:
        """What has happened by the scenario that plays or was played last, in order."""
        return [] if self._player is None else list(self._player.fired)

    def play(self, scenario: Scenario | str | Path) -> Scenario:
        """Play a scenario: each of its events happens when the gateway's clock has passed its instant.

        What is due already happens at once. May be called before the gateway is started, and from any thread.

        Args:
            scenario: It, a TOML file's path, or the name of one that comes with v6kit: `trading_day`.

        Returns:
            The scenario.

        Raises:
            ValueError: It is wrong, over by the gateway's clock, or another one is still playing.
        """
        if not isinstance(scenario, Scenario):
            scenario = Scenario.load(scenario)
        if self._player is not None and not self._player.is_over:
            raise ValueError(f"{self._player.scenario.name} is still playing; stop the gateway to end it")
        self._player = Player(scenario, self.market, self.account)
        return scenario

    async def played(self) -> None:
        """Wait until the scenario is over; from any loop.

        Raises:
            GatewayUnavailableError: The gateway was stopped before.
            ValueError: No scenario was given to `play`.
        """
        if self._player is None:
            raise ValueError("no scenario was played; gateway.play(...) comes first")
        await self._player.wait()

    async def ticked(self) -> None:
        """Wait until the gateway has looked at its clock and market once more; on its own loop.

        What was due by the clock at the call has happened then, and what it means for clients has been sent.
        """
        await self._ticked.wait()

    # The loop

    async def _tick(self) -> None:
        """Let time pass for all clients; the one task of the gateway."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + self._shared.settings.tick_interval, loop.time())
            await asyncio.sleep(due - loop.time())
            now = self.market.clock.now()
            self._accept_when_due(now)
            if self._player is not None:
                self._player.look(now, self)
            for session in list(self._shared.sessions):
                session.tick(loop.time())
            self._ticked.set()
            self._ticked = asyncio.Event()

    def _on_loop(self, act: Callable[[Unpack[Args]], None], *args: *Args) -> None:
        """Act at once when called on the gateway's loop or while it is stopped, soon when called from elsewhere."""
        if self._loop is None or not self.is_running:
            act(*args)  # nobody is connected, so nobody else looks at what is changed
            return
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:  # a thread without a loop
            here = None
        if here is self._loop:
            act(*args)
        else:
            self._loop.call_soon_threadsafe(act, *args)

    def _why_not(self, error: OSError) -> str:
        if error.errno == errno.EADDRINUSE:
            return f"port {self.port} on {self.host} is in use; choose another port, or port=0 for a free one"
        return f"the simulated gateway cannot listen on {self.address}: {error.strerror or error}"
