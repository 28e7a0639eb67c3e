"""How busy the worker keeps 60 free market data lines when a snapshot holds one for 2 s; 30 s of steady state.

The bound is what lines and pace allow: min(lines ÷ hold, requests per second). The simulated gateway refuses as IB does
beyond its lines (101), its snapshots per second (321) and its messages per second (100).
"""

from __future__ import annotations

import asyncio

from v6kit.broker import Broker, LineBudget
from v6kit.gateway import SimulatedGateway
from v6kit.positions import PositionBook
from v6kit.queue import PositionQueue
from v6kit.sync import QueueWorker, decisions

from tests.bench.measure import Line, count_at_most, lake

LIMIT, RESERVE = 70, 10
HOLD_SECONDS = 2.0
WARM_UP_SECONDS = 6.0
SECONDS = 30.0
PACES = (20.0, 40.0)  # the broker's default, and one at which the lines are the limit
REFUSALS = (100, 101, 321)
POSITIONS = 2000


def run() -> list[Line]:
    """Measure."""
    return [line for pace in PACES for line in asyncio.run(_run(pace))]


async def _run(pace: float) -> list[Line]:
    gateway = SimulatedGateway(POSITIONS, line_limit=LIMIT, snapshot_hold=HOLD_SECONDS)
    lines = LineBudget(LIMIT, RESERVE)
    with lake() as folder:
        async with (
            gateway,
            PositionQueue(folder / "queue") as queue,
            PositionBook(folder / "book") as book,
            Broker(gateway.host, gateway.port, client_id=1, lines=lines, requests_per_second=pace) as broker,
        ):
            await book.sync(await broker.positions())
            await queue.insert_many([decisions.wanted(row, 2) for row in book.rows()])
            # Twice as many requests in hand as there are lines, and a short cycle, so that the queue is not the limit.
            async with QueueWorker(queue, broker, book, interval=1.0, batch_size=2 * lines.capacity):
                achieved = await _rate(gateway)
            assert queue.stats().by_status["PENDING"] > lines.capacity, "the queue ran dry"
    bound = min(lines.capacity / HOLD_SECONDS, pace)
    kept = achieved / bound
    what = f"{achieved:.2f} refreshes/s, {lines.capacity} lines, {HOLD_SECONDS:g} s hold, pace {pace:g}/s"
    share = Line(what, f"bound: {bound:g}/s", kept, ">= 0.9", kept >= 0.9)
    refused = [count_at_most(f"refused with {code}", gateway.log.refused[code], 0) for code in REFUSALS]
    return [share, *refused, count_at_most("most lines in use at once", gateway.line_peak, LIMIT - RESERVE)]


async def _rate(gateway: SimulatedGateway) -> float:
    """Return the snapshots per second that came to their end, once the lines are full."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(WARM_UP_SECONDS)
    before, began = gateway.log.sent["TICK_SNAPSHOT_END"], loop.time()
    await asyncio.sleep(SECONDS)
    return (gateway.log.sent["TICK_SNAPSHOT_END"] - before) / (loop.time() - began)
