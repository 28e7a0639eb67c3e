"""A trading day on the simulated gateway: the desk that lives through it, what happens, and what it was like.

Owns the day itself. In which order a command does things is `day`, how it looks `day_view`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psutil

from v6kit.cli.day_report import Report, report_of
from v6kit.cli.simulation import Simulation, register
from v6kit.clock import FastClock
from v6kit.desk import SIMULATED, Desk
from v6kit.desk import open as open_desk
from v6kit.gateway import Fired, Scenario, SimulatedGateway
from v6kit.registry import StrategyRegistry

DAY = "trading_day"
# As many as a day at 300 times the speed leaves time for; each line of the day costs about 50 ms of real time.
TICK_SECONDS, SYNC_SECONDS = 5.0, 300.0
LINE_RESERVE = 5
LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Simulation):
    """What the command line asks for: a small account, and how fast its day goes by.

    Attributes:
        speed: Seconds of the day per second.
    """

    positions: int = 80
    strategies: int = 6
    line_limit: int = 50
    speed: float = 200.0


class Day:
    """A desk on a gateway that plays a trading day.

    Args:
        desk: Open, its worker running.
        gateway: That which plays.
        clock: The one clock of both.
    """

    def __init__(self, desk: Desk, gateway: SimulatedGateway, clock: FastClock) -> None:
        self.desk, self.gateway, self.clock = desk, gateway, clock
        self.memory_before = psutil.Process().memory_info().rss

    async def events(self) -> AsyncGenerator[Fired, None]:
        """Yield what happens, until the day is over."""
        over = asyncio.ensure_future(self.gateway.played())
        seen = 0
        try:
            while not over.done():
                await asyncio.wait({over}, timeout=LOOK_SECONDS)
                for event in self.gateway.events[seen:]:
                    seen += 1
                    yield event
            over.result()
        finally:
            over.cancel()  # whoever leaves early waits no longer, or asyncio would tell of an error that nobody took

    async def report(self) -> Report:
        """Stop the worker, read the account once more, and return what the day was like.

        Raises:
            BrokerError: The positions could not be read.
            StorageError: The lake could not be read.
        """
        await self.desk.stop()
        await self.desk.sync()
        return await asyncio.to_thread(report_of, self.desk, self.gateway, self.clock, self.memory_before)


@asynccontextmanager
async def opened(lake: str, settings: Settings) -> AsyncIterator[Day]:
    """Open a desk on a gateway that begins its day.

    Raises:
        ValueError: The account has fewer iron condors than strategies are asked for.
    """
    scenario = Scenario.load(DAY)
    clock = FastClock(settings.speed, scenario.start)
    gateway = SimulatedGateway(
        settings.positions,
        seed=settings.seed,
        line_limit=settings.line_limit,
        tick_interval=TICK_SECONDS,
        clock=clock,
    )
    condors = settings.condors_of(gateway)
    async with StrategyRegistry(f"{lake}/active_strategies", clock=clock) as registry:
        await register(registry, condors)
    gateway.play(scenario)
    desk = await open_desk(
        lake,
        SIMULATED,
        gateway=gateway,
        clock=clock,
        line_limit=settings.line_limit,
        line_reserve=LINE_RESERVE,
        sync_interval=SYNC_SECONDS,
    )
    async with desk.start():
        yield Day(desk, gateway, clock)
