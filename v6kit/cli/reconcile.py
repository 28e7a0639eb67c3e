"""`v6kit reconcile`: where accounts, strategies and book disagree, at a glance or for a monitor; changes nothing.

Reads the lake without opening it as a desk does, so neither a table is made nor one of an older schema migrated, and
asks the gateway for positions only.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from v6kit.broker import Broker
from v6kit.cli import terminal
from v6kit.cli.doctor_tables import read_newest
from v6kit.contracts import AccountPosition
from v6kit.desk import parse_address
from v6kit.ledger import normalise
from v6kit.positions import PositionBook
from v6kit.registry import StrategyRegistry
from v6kit.registry.rows import as_rows
from v6kit.sync import reconcile

ALARMING = 1
_SHOWN = ("finding", "account", "label", "strategy", "held", "wanted", "becomes", "proposal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line asks for."""

    lake: str
    broker: str
    client_id: int
    account: tuple[str, ...]


def run(settings: Settings, *, as_json: bool) -> int:
    """Print what is found; return 1 if a strategy or the book is wrong, 0 otherwise.

    Raises:
        GatewayUnavailableError: Nobody answers there, or the client id is in use.
        StorageError: The lake cannot be read.
        ValueError: The address is wrong, or the login does not manage an account that was named.
    """
    console = terminal.console(stderr=as_json)
    terminal.show_warnings(console)
    host, port = parse_address(settings.broker)
    uri = normalise(settings.lake)
    legs = [row.contract() for row in as_rows(read_newest(uri, StrategyRegistry.SPEC)) if row.removed_at is None]
    rows = [row for row in PositionBook.SPEC.to_rows(read_newest(uri, PositionBook.SPEC)) if row.position]
    broker = Broker(host, port, client_id=settings.client_id, account=settings.account)
    positions, accounts = terminal.run(_positions(broker))
    frame = reconcile.findings(positions, legs, rows, accounts)
    if as_json:
        json.dump({"accounts": sorted(accounts), "findings": frame.to_dicts()}, sys.stdout)
        print()  # noqa: T201 - the output that was asked for
    else:
        _show(frame, sorted(accounts), console)
    return ALARMING if reconcile.is_alarming(frame) else 0


async def _positions(broker: Broker) -> tuple[list[AccountPosition], set[str]]:
    """Return all positions, and the accounts for which they are complete."""
    async with broker:
        positions = await broker.positions()
        return positions, {*broker.accounts, *(each.account for each in positions)}


def _show(frame: pl.DataFrame, accounts: list[str], console: Console) -> None:
    """Print the frame: as a table on a terminal, one line each in a pipe."""
    terminal.say(console, f"Accounts: {', '.join(accounts) or 'none'}")
    lines = [_cells(row) for row in frame.iter_rows(named=True)]
    if console.is_terminal and lines:
        table = Table(*_SHOWN)
        for (finding, *cells), kind in zip(lines, frame["finding"], strict=True):
            table.add_row(Text(finding, "bold red" if kind in reconcile.ALARMING else ""), *map(Text, cells))
        console.print(table)
    else:
        for line in lines:
            terminal.say(console, "  ".join(cell or "-" for cell in line))
    verdict = "Strategies or book are wrong." if reconcile.is_alarming(frame) else "Strategies and book are right."
    terminal.say(console, f"{verdict} {reconcile.counted(frame) or 'Nothing was found'}. Nothing was changed.")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    name = row["strategy_id"] or ""
    strategy = f"{name} in {row['strategy_account']}" if row["strategy_account"] else name
    becomes = "" if row["becomes"] is None else f"{row['becomes']:g}"
    return (
        row["finding"], row["account"] or "", row["label"], strategy, f"{row['held']:g}", f"{row['wanted']:g}", becomes,
        terminal.one_line(row["proposal"]),
    )  # fmt: skip
