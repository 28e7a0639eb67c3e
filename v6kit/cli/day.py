"""`v6kit demo --day`: a trading day in fast motion on the simulated gateway, and what held at its end.

Owns the order of things. What is to be found out about the day is `day_report`, how it looks `day_view`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass

import psutil

from v6kit.cli import terminal
from v6kit.cli.day_report import Report, report_of
from v6kit.cli.day_view import View
from v6kit.cli.simulation import Simulation, register
from v6kit.clock import FastClock
from v6kit.desk import SIMULATED, Desk, lake_uri
from v6kit.desk import open as open_desk
from v6kit.gateway import Fired, Scenario, SimulatedGateway
from v6kit.registry import StrategyRegistry

DAY = "trading_day"
HELD, BROKEN = 0, 1
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
        while not over.done():
            await asyncio.wait({over}, timeout=LOOK_SECONDS)
            for event in self.gateway.events[seen:]:
                seen += 1
                yield event
        over.result()

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


def run(settings: Settings, *, as_json: bool) -> int:
    """Play the day and return the exit code."""
    console = terminal.console(stderr=as_json)
    lake = lake_uri(settings.lake or tempfile.mkdtemp(prefix="v6kit-day-"))
    view = View(console, settings)
    try:
        report = terminal.run(_play(lake, settings, view))
    except KeyboardInterrupt:
        terminal.say(console, f"Stopped; the day so far is in {lake}", whole=True)
        return terminal.INTERRUPTED
    if as_json:
        json.dump(asdict(report), sys.stdout, default=str)
        sys.stdout.write("\n")
    else:
        view.summary(report)
    return HELD if report.held else BROKEN


async def _play(lake: str, settings: Settings, view: View) -> Report:
    view.opening(lake)
    async with opened(lake, settings) as day:
        with view.following(day):
            async with aclosing(day.events()) as events:
                async for event in events:
                    view.event(day, event)
        return await day.report()
