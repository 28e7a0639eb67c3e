"""How the demo looks: a live frame on a terminal, a line per cycle elsewhere, and a summary for a trader.

Reads the desk from the display's own thread, which its tables and counters allow. Decides nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import polars as pl
from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from v6kit.cli.demo_pass import Pass, Report, Settings
from v6kit.cli.terminal import live, say
from v6kit.display import counted
from v6kit.queue import Status
from v6kit.sync import CycleReport

ROWS_SHOWN = 5
WIDEST_BAR, NARROWEST_BAR, BESIDE_BAR = 40, 8, 52  # columns
STATUS_STYLES = {Status.SUCCESS: "green", Status.FAILED: "red", Status.PENDING: "yellow"}


class View:
    """What the demo shows, and where.

    Args:
        console: Its terminal or pipe.
        settings: What the command line asked for.
    """

    def __init__(self, console: Console, settings: Settings) -> None:
        self._console = console
        self._settings = settings

    def opening(self, lake: str) -> None:
        """Say what is about to happen."""
        asked = self._settings
        text = Text.assemble(
            ("v6kit demo", "bold"),
            " on a ",
            ("simulated", "bold yellow"),
            " IB gateway: no real account, no real prices",
        )
        say(self._console, text)
        say(
            self._console,
            f"{counted(asked.positions, 'position')}, {counted(asked.strategies, 'iron condor')} of them active, "
            f"{counted(asked.line_limit, 'market data line')}",
        )
        say(self._console, f"Lake: {lake}", whole=True)
        self._console.print()

    def connecting(self) -> AbstractContextManager[object]:
        """Show that something happens while the desk opens."""
        if not self._console.is_terminal:
            return nullcontext()
        return self._console.status("Connecting, and asking for the first streams ...")

    def following(self, this: Pass) -> AbstractContextManager[object]:
        """Show the pass while it runs; a pipe gets its lines from `cycle`."""
        return live(self._console, partial(self._frame, this))

    def cycle(self, this: Pass, cycle: CycleReport) -> None:
        """Say what a cycle did, where there is no live display."""
        if self._console.is_terminal:
            return
        fresh, held = this.fresh()
        lines = this.desk.lines
        say(
            self._console,
            f"cycle {cycle.cycle}: {cycle.claimed} claimed, {cycle.settled} refreshed in {cycle.seconds:.1f} s; "
            f"{fresh} of {counted(held, 'position')} fresh, {counted(lines.streams, 'stream')}, {this.waiting} waiting",
        )

    def stopping(self) -> None:
        """Say that Ctrl-C was heard."""
        say(self._console, "Stopping: what is claimed is given back, the streams end ...")

    def stopped(self, report: Report) -> None:
        """Say what was done until Ctrl-C."""
        say(
            self._console,
            f"Stopped after {counted(report.cycles, 'cycle')} and {report.seconds:.1f} s: {report.fresh} of "
            f"{report.positions} positions are fresh, {report.settled} of them by snapshot. No claim is left open, the "
            "connection is closed, nothing is lost.",
        )
        say(self._console, f"Go on with: {self._settings.again(report.lake)}", whole=True)

    def summary(self, report: Report, changes: pl.DataFrame | None) -> None:
        """Say what the pass did, what the queue remembers of it, and what to look at next."""
        self._console.print(_summary(report))
        if changes is not None and report.queue_versions is not None:
            self._console.print()
            self._console.print(_changes(changes, *report.queue_versions))
        self._console.print()
        for name, text in (
            ("Lake", f"{report.lake}  (kept)"),
            ("Check it", f"v6kit doctor {shlex.quote(report.lake)}"),
            ("In a notebook", "notebooks/01_quickstart.ipynb, or with this lake:"),
            ("", f"desk = await v6kit.open({report.lake!r})"),
        ):
            say(self._console, Text.assemble((f"{name:<15}", "bold"), text), whole=True)

    # --- the live frame -----------------------------------------------------------------------------------------

    def _frame(self, this: Pass) -> RenderableType:
        (fresh, held), lines, counts = this.fresh(), this.desk.lines, this.desk.queue.stats().by_status
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_row("Positions", self._bar([(fresh, "green")], held) + f"  {fresh} of {held} fresh")
        use = [(lines.streams, "cyan"), (lines.snapshots, "magenta")]
        streams, snapshots = counted(lines.streams, "stream"), counted(lines.snapshots, "snapshot")
        used = Text.assemble((streams, "cyan"), ", ", (snapshots, "magenta"))
        grid.add_row("Lines", self._bar(use, lines.limit) + "  " + used + f" of {lines.limit}")
        shown = (Status.PENDING, Status.PROCESSING, Status.SUCCESS, Status.FAILED)
        grid.add_row("Queue", ", ".join(f"{counts[status]} {status.lower()}" for status in shown))
        last = this.cycles[-1] if this.cycles else None
        told = f"{counted(len(this.cycles), 'cycle')} done" + (
            f"; the last one refreshed {last.settled} in {last.seconds:.1f} s" if last else ""
        )
        grid.add_row("Worker", told)
        grid.add_row("Elapsed", f"{this.seconds:.0f} s")
        return grid

    def _bar(self, parts: Sequence[tuple[int, str]], total: int) -> Text:
        width = max(NARROWEST_BAR, min(WIDEST_BAR, self._console.width - BESIDE_BAR))
        stroke = "-" if self._console.options.ascii_only else "━"
        bar, drawn, upto = Text(), 0, 0
        for count, style in parts:
            upto += count
            columns = min(width, width * upto // max(total, 1)) - drawn
            bar.append(stroke * columns, style)
            drawn += columns
        return bar.append(stroke * (width - drawn), "bright_black")


def _summary(report: Report) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    all_fresh = report.fresh == report.positions
    grid.add_row(
        "Positions",
        Text(
            f"{report.fresh} of {report.positions} fresh after {report.seconds:.1f} s (simulated account)",
            "green" if all_fresh else "red",
        ),
    )
    grid.add_row(
        "Streamed",
        f"{report.streamed}: the legs of {counted(report.strategies, 'active strategy', 'active strategies')}, "
        "live on a line each",
    )
    grid.add_row(
        "Refreshed",
        f"{report.settled} by snapshot in {counted(report.cycles, 'cycle')}, {report.per_second:.1f} per second; "
        f"{report.failed} failed",
    )
    grid.add_row("Lines", f"peak {report.line_peak} of {report.line_limit} in use at the simulated gateway")
    grid.add_row("Refusals", _refusals(report))
    grid.add_row("Market value", f"{report.market_value:,.2f} USD, unrealized P&L {report.unrealized_pnl:+,.2f} USD")
    worst, count = next(iter(report.quality.items()), ("no quote", 0))
    grid.add_row("Worst quality", f"{worst} ({count} of {report.positions} positions)")
    return grid


def _refusals(report: Report) -> Text:
    by_code = ", ".join(f"{code}: {count}" for code, count in report.refusals.items())
    return Text(f"{report.refused or 'none'} (code {by_code})", "red" if report.refused else "")


def _changes(changes: pl.DataFrame, before: int, after: int) -> RenderableType:
    """Return a few rows of the difference between two versions of the queue."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"Time travel: what the last cycle changed in the queue, version {before} to {after}",
        title_justify="left",
        title_style="bold",
        caption=f"{changes.height - ROWS_SHOWN} more changed" if changes.height > ROWS_SHOWN else None,
        caption_justify="left",
        pad_edge=False,
    )
    for heading in ("contract", f"version {before}", f"version {after}", "attempt", "changed at (UTC)"):
        table.add_column(heading, no_wrap=True)
    for row in changes.head(ROWS_SHOWN).iter_rows(named=True):
        table.add_row(
            row["symbol"],
            _status(row["status_old"]),
            _status(row["status"]),
            str(row["attempt"]),
            f"{row['updated_at']:%H:%M:%S.%f}"[:-3],
        )
    return Padding(table, 0)


def _status(status: str | None) -> Text:
    return Text(status or "-", STATUS_STYLES.get(Status(status), "") if status else "")
