"""`v6kit demo --day`: a trading day in fast motion on the simulated gateway, and what held at its end.

Owns the order of things. The day itself is in `day_pass`, what is to be found out about it in `day_report`, how it
looks in `day_view`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import aclosing
from dataclasses import asdict

from v6kit.cli import terminal
from v6kit.cli.day_pass import Settings, opened
from v6kit.cli.day_report import Report
from v6kit.cli.day_view import View
from v6kit.desk import lake_uri

HELD, BROKEN = 0, 1


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
