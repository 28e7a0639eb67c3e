"""`v6kit demo`: the main job on a simulated gateway, from registering strategies to the last position refreshed.

Owns the order of things. The pass itself is in `demo_pass`, how it looks in `demo_view`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from contextlib import aclosing
from dataclasses import asdict

from v6kit.cli import terminal
from v6kit.cli.demo_pass import ONE_PASS, ONE_PASS_SECONDS, Pass, Report, Settings
from v6kit.cli.demo_view import View
from v6kit.cli.simulation import register
from v6kit.clock import Clock
from v6kit.desk import SIMULATED, lake_uri
from v6kit.desk import open as open_desk
from v6kit.gateway import SimulatedGateway
from v6kit.registry import StrategyRegistry

DONE, NOT_ALL_DONE = 0, 1


def run(settings: Settings, *, as_json: bool) -> int:
    """Run the demo and return the exit code."""
    console = terminal.console(stderr=as_json)
    terminal.show_warnings(console)
    lake = lake_uri(settings.lake or tempfile.mkdtemp(prefix="v6kit-demo-"))
    try:
        report = terminal.run(_one_pass(lake, settings, View(console, settings), as_json=as_json))
    except KeyboardInterrupt:
        terminal.say(console, f"Stopped before the first cycle. The lake is {lake}")
        return terminal.INTERRUPTED
    if as_json:
        json.dump(asdict(report), sys.stdout)
        sys.stdout.write("\n")
    if not report.finished:
        return terminal.INTERRUPTED
    return NOT_ALL_DONE if report.failed or report.refused else DONE


async def _one_pass(lake: str, settings: Settings, view: View, *, as_json: bool) -> Report:
    gateway = SimulatedGateway(settings.positions, seed=settings.seed, line_limit=settings.line_limit)
    view.opening(lake)
    opened_at = Clock().now()
    with view.connecting():
        await _register(lake, settings, gateway)
        desk = await open_desk(
            lake,
            SIMULATED,
            gateway=gateway,
            line_limit=settings.line_limit,
            line_reserve=settings.line_reserve,
            sync_interval=ONE_PASS_SECONDS,
            targets=ONE_PASS,
        )
    async with desk:
        this = Pass(desk, gateway, opened_at)
        try:
            await this.prepare()
            with view.following(this):
                async with aclosing(this.run()) as cycles:
                    async for cycle in cycles:
                        view.cycle(this, cycle)
        except asyncio.CancelledError:  # Ctrl-C: end in order
            view.stopping()
            await desk.stop()
        report = this.report()
        changes = this.changes(report) if report.finished else None
    if not report.finished:
        view.stopped(report)
    elif not as_json:
        view.summary(report, changes)
    return report


async def _register(lake: str, settings: Settings, gateway: SimulatedGateway) -> None:
    """Make the condors active before the first reading of positions, so that their legs are never queued.

    Raises:
        ValueError: The account has fewer, or their legs leave no line for snapshots; nothing was registered.
    """
    condors = settings.condors_of(gateway)
    async with StrategyRegistry(f"{lake}/active_strategies") as registry:
        legs = {leg.conid for condor in condors for leg in condor}
        legs |= {leg.conid for leg in registry.active_legs()}
        usable = settings.line_limit - settings.line_reserve
        if len(legs) >= usable:
            raise ValueError(
                f"{len(legs)} active legs take all {usable} usable lines and leave none for snapshots; "
                "lower --strategies, raise --line-limit, or take another --lake"
            )
        await register(registry, condors)
