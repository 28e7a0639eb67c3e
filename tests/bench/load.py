"""A full desk for ten minutes: 100 streams at 4 ticks a second beside the queue, then three minutes beside busy cells.

`V6KIT_LOAD_SECONDS` sets how long the first part lasts. The gateway runs in a process of its own, and so does a
bystander: a loop that only sleeps, which tells how late any loop of this machine wakes up meanwhile; then it computes.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import psutil
import v6kit
from v6kit.contracts import Leg, Quote
from v6kit.desk import Desk
from v6kit.gateway import SimulatedGateway

from tests.bench.measure import Line, count_at_most, lake, shown

SECONDS = float(os.environ.get("V6KIT_LOAD_SECONDS", "600"))
CELLS, CELL_SECONDS = 3, 60.0
POSITIONS, STREAMS = 500, 100
LIMIT, RESERVE, FLOOR = 130, 10, 20  # a login whose lines are enough for 100 streams and 20 snapshots
SYNC_SECONDS = 60.0
STALL_SECONDS, NAP_SECONDS = 0.020, 0.005
TICK_SECONDS = 0.25
REFUSALS = (100, 101, 321)
PERCENT_99 = 98  # its place among the 99 cuts of `statistics.quantiles`
MEBI = 2**20


def run() -> list[Line]:
    """Measure."""
    with lake() as folder, _process(_serve) as gateway, _process(_stand_by) as bystander:
        address, condors = gateway.recv()
        desk = v6kit.run_sync(_opened(str(folder / "lake"), address, condors))
        watch = Watch(desk)
        try:
            lines = _under_load(desk, watch, bystander)
            lines += _beside_cells(watch, bystander)
        finally:
            watch.end()
            v6kit.run_sync(desk.close())
        gateway.send("how many?")
        refused, peak = gateway.recv()
    lines += [count_at_most(f"refused with {code}", refused[code], 0) for code in REFUSALS]
    return [*lines, count_at_most("most lines in use at once", peak, LIMIT - RESERVE)]


async def _opened(folder: str, address: str, condors: list[list[Leg]]) -> Desk:
    async with v6kit.StrategyRegistry(f"{folder}/active_strategies") as registry:
        for number, legs in enumerate(condors, 1):
            await registry.add_strategy(number, legs, kind="IRON_CONDOR")
    desk = await v6kit.open(
        folder, address, line_limit=LIMIT, line_reserve=RESERVE, snapshot_floor=FLOOR, sync_interval=SYNC_SECONDS
    )
    if len(desk.streamer.streaming) != STREAMS:
        raise AssertionError(f"{len(desk.streamer.streaming)} contracts stream, and not {STREAMS}")
    return desk.start()


# --- what is measured -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Watch:
    """What is seen on the desk's own loop: how late it wakes up, and when ticks come in.

    Attributes:
        late: Seconds that each nap took too long.
        ticks: When the first quote of each round of ticks came in, on the loop's clock.
    """

    desk: Desk
    late: list[float] = field(default_factory=list)
    ticks: list[float] = field(default_factory=list)
    _ends: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.desk._engine.submit(self._begin()).result()

    async def _begin(self) -> None:
        self._ends = [self.desk.broker.on_quote(self._on_quote), asyncio.create_task(_nap(self.late)).cancel]

    def end(self) -> None:
        """Look no longer."""
        for end in self._ends:
            self.desk._engine.loop.call_soon_threadsafe(end)

    def _on_quote(self, _quote: Quote) -> None:
        now = asyncio.get_running_loop().time()
        if not self.ticks or now - self.ticks[-1] > TICK_SECONDS / 2:
            self.ticks.append(now)

    def forget(self) -> None:
        """Begin a new part."""
        self.late.clear()
        self.ticks.clear()

    def pauses(self) -> list[float]:
        """Return the seconds between two rounds of ticks."""
        return [later - earlier for earlier, later in zip(self.ticks, self.ticks[1:], strict=False)]

    def remembered(self) -> int:
        """Return how many requests ib_async remembers."""
        session = self.desk.broker._connection.session
        return session.remembered() if session else 0


async def _nap(late: list[float]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + NAP_SECONDS
        await asyncio.sleep(NAP_SECONDS)
        late.append(loop.time() - due)


def _under_load(desk: Desk, watch: Watch, bystander: Connection) -> list[Line]:
    time.sleep(SECONDS / 5)  # caches fill, and the first pass over the account ends
    memory, remembered = psutil.Process().memory_info().rss, watch.remembered()
    version, settled, began = desk.positions.ledger.version, _settled(desk), time.monotonic()
    watch.forget()
    bystander.send("begin")
    time.sleep(SECONDS)
    seconds = time.monotonic() - began
    stall = _p99(watch.late)
    bystander.send("tell")
    noise = _p99(bystander.recv())
    grown = psutil.Process().memory_info().rss / memory
    commits = (desk.positions.ledger.version - version) / seconds
    rate = (_settled(desk) - settled) / seconds
    what = f"{len(watch.ticks) * STREAMS / seconds:.0f} streamed quotes/s and {rate:.1f} refreshes/s, {seconds:.0f} s"
    return [
        Line(what, "", 0.0, "told", is_met=True),
        Line(
            f"loop wakes up late, p99: {shown(stall)}, most {shown(max(watch.late))}",
            f"a loop that only sleeps, p99: {shown(noise)}",
            stall / STALL_SECONDS,
            f"< {shown(STALL_SECONDS)}",
            stall < STALL_SECONDS,
        ),
        Line("memory at the end", f"after the first pass: {memory / MEBI:.0f} MiB", grown, "<= 1.1", grown <= 1.1),
        count_at_most(
            f"requests that ib_async remembers; before: {remembered}", watch.remembered(), remembered + LIMIT - RESERVE
        ),
        Line("commits of the book per second", "", commits, "<= 1", commits <= 1.0),
    ]


def _beside_cells(watch: Watch, program: Connection) -> list[Line]:
    """Compute on this thread as a cell would, minute by minute, and see whether ticks come later than in between.

    Another program that computes takes a processor as well, but not the interpreter: it tells the two apart.
    """
    calm: list[float] = []
    beside: list[float] = []
    busy: list[float] = []
    for _ in range(CELLS):
        watch.forget()
        time.sleep(CELL_SECONDS)
        calm += watch.pauses()
        watch.forget()
        program.send("compute")
        program.recv()
        beside += watch.pauses()
        watch.forget()
        _compute()
        busy += watch.pauses()
    added = max(0.0, _p99(busy) - _p99(calm))
    return [
        Line(
            f"pause between ticks while a cell computes, p99: {shown(_p99(busy))}, longest {shown(max(busy))}",
            f"in between: {shown(_p99(calm))}, longest {shown(max(calm))}; "
            f"while another program computes: {shown(_p99(beside))}, longest {shown(max(beside))}",
            _p99(busy) / _p99(calm),
            f"+ <= {shown(STALL_SECONDS)}",
            added <= STALL_SECONDS,
        ),
        count_at_most(
            f"rounds of ticks that did not come beside {CELLS} cells; in between: {_missed(calm)}, beside the program: "
            f"{_missed(beside)}",
            _missed(busy),
            0,
        ),
    ]


def _missed(pauses: list[float]) -> int:
    return sum(round(pause / TICK_SECONDS) - 1 for pause in pauses if pause > TICK_SECONDS)


def _compute() -> None:
    began = time.monotonic()
    while time.monotonic() - began < CELL_SECONDS:
        sum(i * i for i in range(1000))


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[PERCENT_99]


def _settled(desk: Desk) -> int:
    return desk.queue.stats().by_status["SUCCESS"]


# --- the other processes --------------------------------------------------------------------------------------------


@contextmanager
def _process(work: Any) -> Iterator[Connection]:
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=work, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Connection) -> None:
    async def serve() -> None:
        async with SimulatedGateway(POSITIONS, line_limit=LIMIT, tick_interval=TICK_SECONDS) as gateway:
            condors = gateway.account.iron_condors[: STREAMS // 4]
            legs = [[Leg.of(each.instrument, each.quantity) for each in condor] for condor in condors]
            pipe.send((gateway.address, legs))
            await asyncio.to_thread(pipe.recv)
            pipe.send((gateway.log.refused, gateway.line_peak))
            await asyncio.to_thread(pipe.recv)

    asyncio.run(serve())


def _stand_by(pipe: Connection) -> None:
    async def stand_by() -> None:
        await asyncio.to_thread(pipe.recv)
        late: list[float] = []
        napping = asyncio.create_task(_nap(late))
        await asyncio.to_thread(pipe.recv)
        napping.cancel()
        pipe.send(late)
        while True:
            await asyncio.to_thread(pipe.recv)
            _compute()
            pipe.send("done")

    asyncio.run(stand_by())
