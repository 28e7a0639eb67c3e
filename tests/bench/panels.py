"""What a panel costs the kernel: a look when nothing is new, a drawing, an update, and their bytes.

And of the past: from a click to the message that draws a version or a difference, and a commit of somebody else's.
What the browser adds to that is in `tests.bench.painted`, what ten panels cost a real kernel in `tests.bench.live`.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import polars as pl
import v6kit

from tests.bench.measure import Line, at_most, count_at_most, lake, told

if TYPE_CHECKING:
    from v6kit.desk import Desk
    from v6kit.panels import HistoryPanel, Panel
    from v6kit.panels.surface import Surface

ROUNDS = 20
SHORT, LONG = 1_000, 100_000
FEWER = 10_000  # of the history
CHANGED = 500  # rows per version


def run() -> list[Line]:
    """Measure."""
    return asyncio.run(_run())


async def _run() -> list[Line]:
    short, long = await _measured(SHORT), await _measured(LONG)
    fewer, many = await _measured(FEWER, _travelled), await _measured(LONG, _travelled)
    past = [
        told(f"history: step to a version, {LONG:,} rows", many["step"], f"{FEWER:,} rows", fewer["step"]),
        told(f"history: diff of {CHANGED} changed, {LONG:,} rows", many["diff"], f"{FEWER:,} rows", fewer["diff"]),
        told(f"history: take in a new version, {LONG:,} rows", many["new"], f"{FEWER:,} rows", fewer["new"]),
        told(f"history: look when nothing is new, {LONG:,} rows", many["idle"], f"{FEWER:,} rows", fewer["idle"]),
        count_at_most("history: bytes of a step in which each row in sight changed", int(many["bytes"]), 30_000),
    ]
    return [
        *past,
        told(f"update, {LONG:,} requests", long["update"], f"{SHORT:,} requests", short["update"]),
        told(f"click to message, {LONG:,} requests", long["click"], f"{SHORT:,} requests", short["click"]),
        told(f"sort, {LONG:,} requests", long["sort"], f"{SHORT:,} requests", short["sort"]),
        at_most(f"look when nothing is new, {LONG:,} requests", long["idle"], f"{SHORT:,}", short["idle"], 3),
        count_at_most("bytes of an update in which each row in sight changed", int(long["bytes"]), 20_000),
        count_at_most("bytes of a tick in which only ages changed", int(long["tick"]), 20_000),
    ]


Look = Callable[["Desk", "Panel"], Awaitable[dict[str, float]]]


async def _measured(requests: int, look: Look | None = None) -> dict[str, float]:
    with lake() as folder:
        desk = await v6kit.open(folder, "simulated", gateway=v6kit.SimulatedGateway(positions=20))
        try:
            wanted = pl.DataFrame({"conid": range(1, requests + 1)}).with_columns(symbol=pl.format("S{}", "conid"))
            await desk.queue.insert_many(wanted)
            if look is not None:
                return await look(desk, desk.panel("history"))
            return await _looked_at(desk, desk.panel("queue"))
        finally:
            await desk.close()


async def _looked_at(desk: Desk, panel: Panel) -> dict[str, float]:
    surface = panel._on_screen()
    taken: dict[str, list[float]] = {name: [] for name in ("update", "draw", "click", "sort", "idle", "bytes", "tick")}
    first = panel.frame["request_id"][:50].to_list()
    for number in range(ROUNDS):
        await desk.queue.prioritise(first, 1 + number % 2)
        with _timed(taken["update"]):
            panel._update()
            state = panel._state()
        taken["bytes"].append(_size(surface, state))
        with _timed(taken["draw"]):
            panel._read_at = desk.clock.now() + timedelta(hours=number)
            size = _size(surface, panel._state())
        taken["tick"].append(size)
        with _timed(taken["click"]):
            panel._grid.pick(first[number])
            panel._state()
        with _timed(taken["sort"]):
            panel._grid.turn_sort("contract")
            panel._state()
        with _timed(taken["idle"]):
            panel.revision()
    return {name: statistics.median(values) for name, values in taken.items()}


async def _travelled(desk: Desk, opened: Panel) -> dict[str, float]:
    panel, surface = cast("HistoryPanel", opened), opened._on_screen()
    taken: dict[str, list[float]] = {name: [] for name in ("step", "diff", "new", "idle", "bytes")}
    rows = desk.queue.current()["request_id"].to_list()
    for number in range(ROUNDS):
        first = (number * CHANGED) % (len(rows) - CHANGED)
        await desk.queue.prioritise(rows[first : first + CHANGED], 1 + number % 2)
        with _timed(taken["new"]):
            panel._update()
            panel._state()
        with _timed(taken["idle"]):
            panel._update()
    for version in range(2, 2 + ROUNDS):
        for mode, name in (("as of", "step"), ("diff", "diff")):
            panel._mode = mode  # type: ignore[assignment]  # not through the page: what is measured is the reading
            panel._travel.go(version)
            with _timed(taken[name]):
                panel._update()
                state = panel._state()
            taken["bytes"].append(_size(surface, state))
    return {name: statistics.median(values) for name, values in taken.items()}


def _size(surface: Surface, state: dict[str, object]) -> int:
    """Return how many bytes of JSON the regions are that changed."""
    changed = {name: value for name, value in state.items() if getattr(surface, name) != value}
    for name, value in changed.items():
        setattr(surface, name, value)
    return len(json.dumps(changed).encode())


@contextmanager
def _timed(into: list[float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    into.append(time.perf_counter() - began)
