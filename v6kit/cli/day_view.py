"""How the day looks: its clock and what happens on a terminal, a line per event elsewhere, and what held at its end.

Reads the desk from the display's own thread, which its tables and counters allow. Decides nothing.
"""

from __future__ import annotations

import shlex
from contextlib import AbstractContextManager
from functools import partial
from zoneinfo import ZoneInfo

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from v6kit.broker import ConnectionState
from v6kit.cli.day_pass import Day, Settings
from v6kit.cli.day_report import Marked, Report
from v6kit.cli.terminal import live, say
from v6kit.contracts import Quality
from v6kit.display import counted
from v6kit.gateway import Fired
from v6kit.queue import Status

NEW_YORK = ZoneInfo("America/New_York")
EVENTS_SHOWN = 8
STATE_STYLES = {ConnectionState.LIVE: "green", ConnectionState.SYNCING: "yellow"}
QUALITIES = ((Quality.OK, "green"), (Quality.PARTIAL, "yellow"), (Quality.STALE, "red"), (Quality.ERROR, "red"))


class View:
    """What the day shows, and where.

    Args:
        console: Its terminal or pipe.
        settings: What the command line asked for.
    """

    def __init__(self, console: Console, settings: Settings) -> None:
        self._console = console
        self._settings = settings
        self._events: list[Fired] = []

    def opening(self, lake: str) -> None:
        """Say what is about to happen."""
        asked = self._settings
        say(
            self._console,
            Text.assemble(
                ("v6kit demo --day", "bold"),
                " on a ",
                ("simulated", "bold yellow"),
                f" IB gateway: a trading day at {asked.speed:g} times its speed",
            ),
        )
        say(
            self._console,
            f"{asked.positions} positions, {asked.strategies} iron condors of them active, {asked.line_limit} market "
            "data lines; no real account, no real prices",
        )
        say(self._console, f"Lake: {lake}", whole=True)
        self._console.print()

    def following(self, day: Day) -> AbstractContextManager[object]:
        """Show the day while it lasts; a pipe gets its lines from `event`."""
        return live(self._console, partial(self._frame, day))

    def event(self, day: Day, event: Fired) -> None:
        """Say what has just happened."""
        self._events.append(event)
        if not self._console.is_terminal:
            say(self._console, f"{event}  [link {day.desk.broker.state}, {_qualities(day)}]")

    def summary(self, report: Report) -> None:
        """Say what held."""
        self._console.print(_outages(report))
        self._console.print(_facts(report))
        self._console.print()
        for name, text in (
            ("Lake", f"{report.lake}  (kept)"),
            (
                "Look back",
                f'v6kit doctor {shlex.quote(report.lake)}, or in a notebook: await v6kit.open("{report.lake}")',
            ),
        ):
            say(self._console, Text.assemble((f"{name:<12}", "bold"), text), whole=True)

    def _frame(self, day: Day) -> RenderableType:
        desk = day.desk
        state, lines, counts = desk.broker.state, desk.lines, desk.queue.stats().by_status
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_row("New York", f"{day.clock.now().astimezone(NEW_YORK):%a %H:%M:%S}")
        grid.add_row("Link", Text(str(state), STATE_STYLES.get(state, "red")))
        grid.add_row("Positions", _qualities(day))
        streams, snapshots = counted(lines.streams, "stream"), counted(lines.snapshots, "snapshot")
        grid.add_row("Lines", f"{streams}, {snapshots} of {lines.capacity}")
        shown = (Status.PENDING, Status.PROCESSING, Status.SUCCESS, Status.FAILED)
        grid.add_row("Queue", ", ".join(f"{counts[status]} {status.lower()}" for status in shown))
        for event in self._events[-EVENTS_SHOWN:]:
            grid.add_row("", Text(str(event), "red" if event.error else "bright_black"))
        return grid


def _qualities(day: Day) -> Text:
    rows = day.desk.positions.rows()
    parts = [
        Text(f"{count} {quality}", style)
        for quality, style in QUALITIES
        if (count := sum(row.quality == quality for row in rows))
    ]
    return Text(", ").join(parts) if parts else Text("no quote yet")


def _outages(report: Report) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"Outages, and how the book marked the {report.streamed} contracts that stream",
        title_justify="left",
        title_style="bold",
        caption="Seconds of the day, from the first moment of an outage or of its end until the last contract's row",
        caption_justify="left",
        pad_edge=False,
    )
    for heading in ("outage", "New York", "stale", "within", "fresh again"):
        table.add_column(heading, no_wrap=True)
    for each in report.outages:
        table.add_row(*_row(each))
    return table


def _row(each: Marked) -> tuple[str | Text, ...]:
    began_at, ended_at = (at.astimezone(NEW_YORK) for at in (each.outage.began_at, each.outage.ended_at))
    wrong = [f"{each.missed} not once"] if each.missed else []
    wrong += [f"{each.cleared_early} too short"] if each.cleared_early else []
    return (
        each.outage.what,
        f"{began_at:%H:%M:%S}-{ended_at:%H:%M:%S}",
        Text(", ".join([str(each.contracts), *wrong]), "red" if wrong else "green"),
        f"{each.marked_after:.0f} s",
        "market closed" if each.cleared_after is None else f"{each.cleared_after:.0f} s",
    )


def _facts(report: Report) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()

    def fact(name: str, wrong: object, right: str) -> None:
        grid.add_row(name, Text(str(wrong), "red") if wrong else Text(right, "green"))

    fact("Book", "; ".join(report.differences), f"equals the account: {report.positions} positions")
    fact("Queue", f"{report.stuck} stuck" if report.stuck else "", f"nothing stuck; {report.refreshed} refreshed")
    for message, count in report.failed.items():
        grid.add_row("", f"{count} x {message}")
    fact(
        "Lines",
        f"{report.lines_leaked} leaked" if report.lines_leaked else "",
        f"none leaked; peak {report.line_peak} of {report.line_limit}",
    )
    fact("Stale", report.unexplained and f"{report.unexplained} without an outage", "never without an outage")
    grid.add_row("Memory", f"{report.memory[0]} MiB, {report.memory[1]} MiB when the day began")
    refusals = ", ".join(f"{code}: {count}" for code, count in report.refusals.items())
    grid.add_row("Refusals", f"by the gateway, by code: {refusals or 'none'}")
    grid.add_row("Commits", f"{report.book_commits} of the book")
    return grid
