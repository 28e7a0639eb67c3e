"""`v6kit gateway`: serves the simulated gateway until Ctrl-C, and says who comes and goes."""

from __future__ import annotations

import asyncio

from rich.console import Console
from rich.text import Text

from v6kit.cli import terminal
from v6kit.gateway import SimulatedGateway

LOOK_SECONDS = 0.5


def run(gateway: SimulatedGateway, *, line_limit: int) -> None:
    """Serve until Ctrl-C.

    Raises:
        GatewayUnavailableError: The port is in use, or the address cannot be listened on.
    """
    console = terminal.console()
    terminal.show_warnings(console)
    try:
        terminal.run(_serve(gateway, line_limit, console))
    except KeyboardInterrupt:
        terminal.say(console, "Stopped: the port is free again.")


async def _serve(gateway: SimulatedGateway, line_limit: int, console: Console) -> None:
    async with gateway:
        _introduce(gateway, line_limit, console)
        known: set[int] = set()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = set(gateway.client_ids)
            for client_id in sorted(now - known):
                terminal.say(console, f"client {client_id} has connected")
            for client_id in sorted(known - now):
                terminal.say(console, f"client {client_id} has gone; peak so far {gateway.line_peak} lines")
            known = now


def _introduce(gateway: SimulatedGateway, line_limit: int, console: Console) -> None:
    account = gateway.account
    terminal.say(
        console,
        Text.assemble(
            ("Simulated", "bold yellow"), " IB gateway at ", (gateway.address, "bold"), ": no money, no orders"
        ),
    )
    for name, fact in (
        ("account", f"{account.account_id}, {len(account.positions)} positions"),
        ("limits", f"{line_limit} market data lines; a model of IB's limits"),
        ("ib_async", f'await ib_async.IB().connectAsync("{gateway.host}", {gateway.port}, clientId=1)'),
        ("v6kit", f"v6kit worker LAKE --broker {gateway.address}"),
    ):
        terminal.say(console, f"  {name:<10}{fact}", whole=True)
    terminal.say(console, "Ctrl-C stops it.")
