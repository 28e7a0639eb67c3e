"""`v6kit gateway`: serves the simulated gateway, and says who comes and goes, and what happens.

Until Ctrl-C, or until the scenario that it plays is over.
"""

from __future__ import annotations

import asyncio

from rich.console import Console
from rich.text import Text

from v6kit.cli import terminal
from v6kit.clock import Clock, FastClock
from v6kit.display import counted
from v6kit.gateway import Scenario, SimulatedGateway

LOOK_SECONDS = 0.5


def clock_for(scenario: Scenario | None, speed: float) -> Clock:
    """Return the clock on which a scenario begins when it says, or the system's."""
    start = None if scenario is None else scenario.start
    return Clock() if start is None and speed == 1.0 else FastClock(speed, start)


def run(gateway: SimulatedGateway, scenario: Scenario | None = None) -> None:
    """Serve until Ctrl-C, or to a scenario's end.

    Raises:
        GatewayUnavailableError: The port is in use, or the address cannot be listened on.
        ValueError: The scenario does not fit the gateway.
    """
    console = terminal.console()
    terminal.show_warnings(console)
    if scenario is not None:
        gateway.play(scenario)
    try:
        terminal.run(_serve(gateway, scenario, console), speed=gateway.market.clock.speed)
    except KeyboardInterrupt:
        terminal.say(console, "Stopped: the port is free again.")


async def _serve(gateway: SimulatedGateway, scenario: Scenario | None, console: Console) -> None:
    async with gateway:
        _introduce(gateway, scenario, console)
        if scenario is None:
            await _report(gateway, console)
            return
        reporting = asyncio.create_task(_report(gateway, console))
        await gateway.played()
        reporting.cancel()
        await asyncio.wait({reporting})
    terminal.say(
        console,
        f"{scenario.name} is over: {counted(len(gateway.events), 'event')}, peak {counted(gateway.line_peak, 'line')}",
    )


async def _report(gateway: SimulatedGateway, console: Console) -> None:
    """Say who comes and goes, and what has happened, until cancelled."""
    known: set[int] = set()
    told = 0
    try:
        while True:
            known = _tell_clients(gateway, known, console)
            told = _tell_events(gateway, told, console)
            await asyncio.sleep(LOOK_SECONDS * gateway.market.clock.speed)
    finally:
        _tell_events(gateway, told, console)


def _tell_clients(gateway: SimulatedGateway, known: set[int], console: Console) -> set[int]:
    now = set(gateway.client_ids)
    for client_id in sorted(now - known):
        terminal.say(console, f"client {client_id} has connected")
    for client_id in sorted(known - now):
        terminal.say(console, f"client {client_id} has gone; peak so far {counted(gateway.line_peak, 'line')}")
    return now


def _tell_events(gateway: SimulatedGateway, told: int, console: Console) -> int:
    events = gateway.events
    for event in events[told:]:
        terminal.say(console, Text(str(event), style="red" if event.error else ""))
    return len(events)


def _introduce(gateway: SimulatedGateway, scenario: Scenario | None, console: Console) -> None:
    account = gateway.account
    terminal.say(
        console,
        Text.assemble(
            ("Simulated", "bold yellow"), " IB gateway at ", (gateway.address, "bold"), ": no money, no orders"
        ),
    )
    facts = [
        ("account", f"{account.account_id}, {counted(len(account.positions), 'position')}"),
        ("limits", f"{counted(gateway.line_limit, 'market data line')}; a model of IB's limits"),
        ("ib_async", f'await ib_async.IB().connectAsync("{gateway.host}", {gateway.port}, clientId=1)'),
        ("v6kit", f"v6kit worker LAKE --broker {gateway.address}"),
    ]
    if scenario is not None:
        speed = gateway.market.clock.speed
        hurry = f", at {speed:g} times the speed" if speed > 1.0 else ""
        facts.append(
            (
                "scenario",
                f"{scenario.name}, {counted(len(scenario.events), 'event')}; times are {scenario.zone}'s{hurry}",
            )
        )
    for name, fact in facts:
        terminal.say(console, f"  {name:<10}{fact}", whole=True)
    terminal.say(console, "Ctrl-C stops it.")
