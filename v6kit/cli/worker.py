"""`v6kit worker`: keeps a lake fresh from a terminal or a service manager, a line per cycle, until Ctrl-C."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.text import Text

from v6kit.cli import terminal
from v6kit.desk import Desk
from v6kit.desk import open as open_desk
from v6kit.display import counted
from v6kit.errors import V6KitError
from v6kit.sync import CycleReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line asks for; fields and units as in `v6kit.open`."""

    lake: str
    broker: str
    client_id: int
    account: tuple[str, ...]
    market_data_type: int
    interval: float
    batch_size: int
    line_limit: int
    line_reserve: int
    sync_interval: float


def run(settings: Settings) -> None:
    """Run cycles until Ctrl-C.

    Raises:
        GatewayUnavailableError: Nobody answers there, or the client id is in use.
        StorageError: The lake cannot be opened.
    """
    console = terminal.console()
    terminal.show_warnings(console)
    terminal.run(_work(settings, console))


async def _work(settings: Settings, console: Console) -> None:
    async with await open_desk(**asdict(settings)) as desk:
        _introduce(desk, settings, console)
        try:
            await _cycles(desk, settings, console)
        except asyncio.CancelledError:
            # Ctrl-C or SIGTERM: that is how this command is meant to end.
            terminal.say(console, "Stopping: what is claimed is given back, the streams end ...")
    terminal.say(console, f"Stopped after cycle {desk.worker.cycles}. No claim is left open; nothing is lost.")


async def _cycles(desk: Desk, settings: Settings, console: Console) -> None:
    loop = asyncio.get_running_loop()
    was_held = False
    while True:
        began = loop.time()
        try:
            report = await desk.run_cycle()
        except V6KitError as error:
            # The next cycle may find the storage in order; until then leases guard what was claimed.
            terminal.say(console, Text(f"cycle {desk.worker.cycles} failed, the next one tries again: {error}", "red"))
        else:
            terminal.say(console, _line(report, desk.queue.stats().live, was_held=was_held))
            was_held = bool(report.held_back)
            if report.settled and report.claimed >= settings.batch_size:
                continue  # more is due than one batch
        await asyncio.sleep(max(0.0, began + settings.interval - loop.time()))


def _introduce(desk: Desk, settings: Settings, console: Console) -> None:
    kind = ("simulated gateway", "bold yellow") if desk.is_simulated else ("gateway", "")
    no_account = " (no real account)" if desk.is_simulated else ""
    place = f" {desk.broker.host}:{desk.broker.port}{no_account}, client id {settings.client_id}"
    terminal.say(console, Text.assemble(f"Worker on {desk.lake}, ", kind, place))
    terminal.say(
        console,
        f"{counted(desk.lines.streams, 'stream')}; waiting: {counted(desk.queue.stats().live, 'request')}. "
        "Times are UTC; Ctrl-C stops it.",
    )


def _line(report: CycleReport, waiting: int, *, was_held: bool) -> str:
    """Return what to say of a cycle; why it was held back is said in full only the first time."""
    counts = {
        "claimed": report.claimed,
        "refreshed": report.settled,
        "to retry": report.retried,
        "failed": report.failed,
        "no longer held": report.cancelled,
        "given back": report.released,
        "in flight": report.in_flight,
        "too late": report.stale,
    }
    done = [f"{count} {name}" for name, count in counts.items() if count]
    if report.held_back:
        done.append("still held back" if was_held else f"held back: {report.held_back}")
    return (
        f"{report.started_at:%H:%M:%S} cycle {report.cycle} ({report.seconds:.1f} s): "
        f"{', '.join(done) or 'nothing was due'}; {waiting} waiting"
    )
