"""Refreshes per second of a whole desk against what free lines and pace allow: positions x hold x streams.

The bound of each cell is min(pace, free lines / hold): 20 messages per second, the broker's default, one in 300 of
which is a heartbeat; and the lines that streams leave of `line_limit` less `line_reserve`, each held by a snapshot
for the gateway's hold. 40 streams leave 50 lines of 100 less 10, 90 streams leave 20 of 120 less 10. All positions
that do not stream are always due: the target is shorter than the bound allows. The rate is counted over whole holds
after the lines have filled, at the gateway, which refuses as IB does beyond its lines (101), its snapshots per second
(321) and its messages per second (100).

All cells take ten minutes; single ones: `python -m tests.bench.freshness --positions 5000 --hold 2 --streams 40`.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import itertools
import math
import pstats
from typing import NamedTuple

import v6kit
from rich.console import Console
from v6kit.contracts import Leg
from v6kit.desk import Desk
from v6kit.gateway import SimulatedGateway

from tests.bench.measure import Line, count_at_most, lake, table

PACE, RESERVE = 20.0, 10
LIMITS = {40: 100, 90: 120}
WARM_UP_SECONDS, SECONDS = 5.0, 30.0
REFUSALS = (100, 101, 321)


class Cell(NamedTuple):
    """One combination.

    Attributes:
        positions: In the account.
        hold: Seconds from a snapshot's request to its end.
        streams: Lines that streams hold.
    """

    positions: int
    hold: float
    streams: int

    @property
    def bound(self) -> float:
        """Refreshes per second, at most."""
        return min(PACE, (LIMITS[self.streams] - RESERVE - self.streams) / self.hold)


CELLS = [Cell(*each) for each in itertools.product((500, 5000), (0.7, 2.0, 11.0), LIMITS)]


def run() -> list[Line]:
    """Measure all cells."""
    return [line for cell in CELLS for line in asyncio.run(_run(cell))]


async def _run(cell: Cell, *, profiled: bool = False) -> list[Line]:
    gateway = SimulatedGateway(cell.positions, line_limit=LIMITS[cell.streams], snapshot_hold=cell.hold)
    with lake() as folder:
        async with await v6kit.open(
            folder,
            "simulated",
            gateway=gateway,
            line_limit=LIMITS[cell.streams],
            line_reserve=RESERVE,
            snapshot_floor=1,
            targets=v6kit.Targets(active=1, other=5),
        ) as desk:
            await _stream(desk, gateway, cell.streams)
            desk.start()
            if profiled:
                await desk._engine.run(_profiled(cell))
            achieved = await desk._engine.run(_rate(gateway, cell))
            fresh = desk.freshness()
            assert desk.lines.streams == cell.streams
            assert not desk.worker.last_error
            hold = desk.worker.hold
    kept = achieved / cell.bound
    what = f"{cell.positions} positions, {cell.hold:g} s hold, {cell.streams} streams: {achieved:.2f}/s"
    share = Line(what, f"bound: {cell.bound:.2f}/s", kept, ">= 0.9", kept >= 0.9)
    told = abs(fresh.capacity.per_second / cell.bound - 1)
    said = Line(
        f"desk.freshness() says {fresh.capacity.per_second:.2f}/s are to be had (hold {hold:.2f} s)",
        f"bound: {cell.bound:.2f}/s",
        told,
        "off <= 0.1",
        told <= 0.1,
    )
    refused = sum(gateway.log.refused[code] for code in REFUSALS)
    return [share, said, count_at_most("refused with 100, 101 or 321", refused, 0)]


async def _stream(desk: Desk, gateway: SimulatedGateway, count: int) -> None:
    positions = gateway.account.positions[:count]
    await desk.registry.add_strategy("bench", [Leg.of(each.instrument, each.quantity) for each in positions])
    while len(desk.streamer.streaming) < count:  # noqa: ASYNC110 - it belongs to another thread's loop
        await asyncio.sleep(0.1)


async def _rate(gateway: SimulatedGateway, cell: Cell) -> float:
    """Return the snapshots per second that came to their end, over whole holds once the lines are full."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(WARM_UP_SECONDS + cell.hold)
    before, began = gateway.log.sent["TICK_SNAPSHOT_END"], loop.time()
    await asyncio.sleep(cell.hold * math.ceil(SECONDS / cell.hold))
    return (gateway.log.sent["TICK_SNAPSHOT_END"] - before) / (loop.time() - began)


async def _profiled(cell: Cell) -> None:
    """Print where the engine's thread spends its time."""
    with cProfile.Profile() as profile:
        await asyncio.sleep(WARM_UP_SECONDS + 2 * cell.hold)
    pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
    pstats.Stats(profile).sort_stats("tottime").print_stats(25)


def main() -> None:
    """Measure the cells that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.freshness", description=__doc__)
    parser.add_argument("--positions", type=int, nargs="*", default=[500, 5000])
    parser.add_argument("--hold", type=float, nargs="*", default=[0.7, 2.0, 11.0])
    parser.add_argument("--streams", type=int, nargs="*", choices=list(LIMITS), default=list(LIMITS))
    parser.add_argument("--profile", action="store_true", help="print where the engine's thread spends its time")
    asked = parser.parse_args()
    for cell in itertools.starmap(Cell, itertools.product(asked.positions, asked.hold, asked.streams)):
        Console().print(table("freshness", asyncio.run(_run(cell, profiled=asked.profile))))


if __name__ == "__main__":
    main()
