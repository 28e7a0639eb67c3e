"""The doctor's look at what the tables hold: claims that nobody ends, quotes that are old, legs that have expired."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import polars as pl

from v6kit.cli.doctor_tables import Table
from v6kit.cli.findings import Finding, ok, span, warn
from v6kit.contracts import Quality, check_expiry
from v6kit.display import counted
from v6kit.queue import Status
from v6kit.queue.queue import PAUSED

LONG_WAIT = timedelta(minutes=10)
"""A worker that runs takes thousands of requests in this time."""


def check_contents(tables: Mapping[str, Table], now: datetime, lake: str) -> list[Finding]:
    """Return what there is to say about the tables that could be read.

    Args:
        tables: By name.
        now: Aware UTC.
        lake: For commands that the user can copy.
    """
    checks: dict[str, Callable[[Table, datetime, str], list[Finding]]] = {
        "active_strategies": _check_registry,
        "position_queue": _check_queue,
        "position_updates": _check_book,
    }
    return [found for name, check in checks.items() if name in tables for found in check(tables[name], now, lake)]


# --- active strategies ----------------------------------------------------------------------------------------------


def _check_registry(table: Table, now: datetime, _lake: str) -> list[Finding]:
    active = table.rows.filter(pl.col("removed_at").is_null())
    strategies = counted(active["strategy_id"].n_unique(), "strategy", "strategies")
    legs = f"{counted(active.height, 'active leg')} of {strategies}"
    past = active.filter(pl.col("expiry") < check_expiry(now.date()))
    if past.is_empty():
        return [ok("strategies", legs)]
    names = ", ".join(sorted(past["strategy_id"].unique())[:5])
    return [
        warn(
            "strategies",
            f"{legs}; {past.height} of them are past their expiry (strategies {names})",
            "let them go: await desk.registry.expire()",
        )
    ]


# --- the queue ------------------------------------------------------------------------------------------------------


def _check_queue(table: Table, now: datetime, lake: str) -> list[Finding]:
    rows = table.rows
    counts = {status: rows.filter(pl.col("status") == status).height for status in Status}
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "empty"
    seen = [ok("queue", f"{told}")]
    if reason := table.properties.get(PAUSED):
        seen.append(warn("queue", f"paused: {reason}", "nobody claims anything until: await desk.queue.resume()"))
    seen += _check_claims(rows.filter(pl.col("status") == Status.PROCESSING), now, lake)
    seen += _check_waiting(rows.filter(pl.col("status") == Status.PENDING), now, lake)
    seen += _check_failed(rows.filter(pl.col("status") == Status.FAILED))
    return seen


def _check_claims(claimed: pl.DataFrame, now: datetime, lake: str) -> list[Finding]:
    """Return a line per worker that holds claims; one whose leases have ended is dead, or stalled."""
    held = claimed.group_by("worker_id").agg(pl.len().alias("count"), pl.col("lease_until").max()).sort("worker_id")
    seen = []
    for worker_id, count, until in held.iter_rows():
        left = until - now
        if left <= timedelta(0):
            seen.append(
                warn(
                    "claims",
                    f"{count} held by {worker_id}, whose lease ended {span(-left)} ago: it died or is stalled",
                    f"the next worker takes them: {worker_command(lake)}",
                )
            )
        elif is_gone(worker_id):
            seen.append(
                warn(
                    "claims",
                    f"{count} held for {span(left)} more by {worker_id}, a process that is gone",
                    "nothing to do: they are claimed again when the lease ends",
                )
            )
        else:
            seen.append(ok("claims", f"{count} held by {worker_id} for {span(left)} more"))
    return seen


def _check_waiting(pending: pl.DataFrame, now: datetime, lake: str) -> list[Finding]:
    due = pending.filter(pl.col("available_at") <= now)
    if due.is_empty():
        return []
    oldest: datetime = due["created_at"].min()  # type: ignore[assignment]  # a column of instants has one
    text = f"the oldest pending request has waited {span(now - oldest)}"
    if now - oldest > LONG_WAIT:
        return [warn("queue", text, f"no worker seems to keep up; start one: {worker_command(lake)}")]
    return [ok("queue", text)]


def _check_failed(failed: pl.DataFrame) -> list[Finding]:
    if failed.is_empty():
        return []
    message, count = failed["error_message"].value_counts(sort=True).row(0)
    return [
        warn(
            "queue",
            f"{failed.height} failed for good; {count} of them: {message}",
            "try them again when the cause is gone: await desk.queue.redrive()",
        )
    ]


def worker_command(lake: str) -> str:
    """Return what starts a worker on this lake."""
    return f"v6kit worker {shlex.quote(lake)} --broker HOST:PORT"


def is_gone(worker_id: str) -> bool:
    """Tell whether this worker surely runs no longer: it ran on this machine, and its process has ended."""
    host, _, rest = worker_id.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdigit() or os.name != "posix":
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


# --- the book -------------------------------------------------------------------------------------------------------


def _check_book(table: Table, now: datetime, lake: str) -> list[Finding]:
    held = table.rows.filter(pl.col("position") != 0)
    if held.is_empty():
        return [ok("book", "no positions")]
    newest: datetime | None = held["received_at"].max()  # type: ignore[assignment]  # a column of instants
    age = f"; the newest quote is {span(now - newest)} old" if newest is not None else ""
    seen = [ok("book", f"{counted(held.height, 'position')}{age}")]
    refresh = f"refresh them: {worker_command(lake)}"
    for condition, told, advice in (
        (pl.col("quality").is_null(), "without a quote yet", refresh),
        (pl.col("quality") == Quality.STALE, "stale: the link was down since the last quote", refresh),
        (
            pl.col("quality") == Quality.ERROR,
            "refused by the gateway",
            "their error_code says why (200 no such contract, 354 not subscribed): desk.positions.current()",
        ),
    ):
        if count := held.filter(condition).height:
            seen.append(warn("book", f"{counted(count, 'position')} {told}", advice))
    return seen
