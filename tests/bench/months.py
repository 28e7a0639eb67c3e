"""Months of work: 20,000 cycles of 50 on one queue, and what a cycle, opening, disk, memory and the past cost by then.

A worker does one cycle (queue 50, claim 50, settle 50: three commits) every 5 s, so this is more than a day of it, and
a million finished items; 1,000 more wait all along. It runs about a hundred times as fast as a worker. So the two
retentions that count wall time, of log entries and of replaced files, are divided by that factor: else this quarter of
an hour would keep the garbage of a day. Nothing else about the table is special.

A curve shows what grows, written as a picture. Comparisons tell what it costs: at the end a fresh queue with the same
live items does the same work in turns with the old one.

`python -m tests.bench.months --cycles 1000 --picture curve.png` is a shorter one.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import polars as pl
import psutil
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from matplotlib.figure import Figure
from rich.console import Console
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt
from v6kit.ledger import Past
from v6kit.ledger.snapshot import FOLDER
from v6kit.ledger.store import FILE_RETENTION, LOG_RETENTION
from v6kit.queue import PositionQueue

from tests.bench.measure import Line, at_most, count_at_most, lake, medians, stopwatch, table, told

CYCLES = 20_000
BATCH = 50
WAITING = 1_000
WINDOW = 100
SAMPLES = 40
PACE_SECONDS = 5.0
ROUNDS, OPENINGS, READINGS = 100, 9, 5
AGES = (0.01, 0.1, 0.5, 0.9, 0.999)
STEPS = ("insert", "claim", "settle")
PICTURE = Path("months.png")
OPEN_ELSEWHERE = """
import sys, time
from v6kit.queue import PositionQueue
queue = PositionQueue(sys.argv[1])
began = time.perf_counter()
queue.ledger.open().result()
print(time.perf_counter() - began)
queue.ledger.close()
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """How things stand after so many cycles; durations are seconds, those of steps are medians of the last cycles.

    Attributes:
        steps: By name, and `cycle` for all of them.
        opening: In a fresh process, without the imports.
        refresh: Of a second handle, after one cycle elsewhere.
        log_entries: Files in `_delta_log`.
        live_files: Which the newest version consists of.
        live_bytes: Of these.
        disk_bytes: Of everything below the table's folder.
        memory: The process's resident bytes.
    """

    cycles: int
    steps: dict[str, float]
    opening: float
    refresh: float
    log_entries: int
    live_files: int
    live_bytes: int
    disk_bytes: int
    memory: int


def run(cycles: int = CYCLES, picture: Path = PICTURE) -> list[Line]:
    """Measure."""
    lines = asyncio.run(_run(cycles, picture))
    Console().print(f"The curve of {cycles:,} cycles is drawn in {picture.absolute()}")
    return lines


async def _run(cycles: int, picture: Path) -> list[Line]:
    with lake() as folder:
        async with (
            PositionQueue(folder / "old") as old,
            PositionQueue(folder / "fresh") as fresh,
            PositionQueue(folder / "old") as beside,
        ):
            await _stock(old)
            samples, factor = await _endure(old, beside, cycles)
            _draw(samples, factor, picture)
            await _stock(fresh)
            taken = await medians({"old": lambda: _cycle_seconds(old), "fresh": lambda: _cycle_seconds(fresh)}, ROUNDS)
            opening = await medians({"old": _opening(old.uri), "fresh": _opening(fresh.uri)}, OPENINGS)
            then, now = f"after {cycles:,} cycles", f"with {WAITING:,} live items, fresh"
            lines = [
                at_most(f"a cycle of {BATCH} {then}", taken["old"], now, taken["fresh"], 1.3),
                at_most(f"opening {then}", opening["old"], now, opening["fresh"], 2),
                *_of_the_curve(samples),
                *await _of_the_past(old),
            ]
    return lines


# --- the work ---------------------------------------------------------------------------------------------------------


async def _stock(queue: PositionQueue) -> None:
    """Let items wait that no cycle reaches: they come after all others."""
    await queue.insert_many([{"conid": conid, "symbol": "SPY", "priority": 3} for conid in range(1, WAITING + 1)])


async def _cycle(queue: PositionQueue) -> dict[str, float]:
    """Queue, claim and settle; return the seconds of each step, and of all."""
    with stopwatch() as seconds:
        await queue.insert_many([{"conid": 10_000 + number, "symbol": "QQQ"} for number in range(BATCH)])
        inserted = seconds()
        batch = await queue.get_batch(BATCH)
        claimed = seconds()
        await queue.mark_success(batch)
        settled = seconds()
    assert len(batch) == BATCH
    assert all(item.priority < 3 for item in batch)
    return {"insert": inserted, "claim": claimed - inserted, "settle": settled - claimed, "cycle": settled}


async def _cycle_seconds(queue: PositionQueue) -> float:
    return (await _cycle(queue))["cycle"]


async def _endure(old: PositionQueue, beside: PositionQueue, cycles: int) -> tuple[list[Sample], float]:
    """Do the cycles; return how things stood along the way, and how much faster than a worker it went."""
    samples: list[Sample] = []
    window: list[dict[str, float]] = []
    factor = 0.0
    every = max(cycles // SAMPLES, WINDOW)
    for number in range(1, cycles + 1):
        window.append(await _cycle(old))
        if number == WINDOW:
            factor = PACE_SECONDS / statistics.mean(cycle["cycle"] for cycle in window)
            await asyncio.to_thread(_hurry, old.uri, factor)
        if number == WINDOW or number % every == 0:
            samples.append(await _sample(old, beside, number, window[-WINDOW:]))
            window.clear()
    return samples, factor


def _hurry(uri: str, factor: float) -> None:
    """Let wall time count for more: divide the retentions of the table and of its snapshot."""
    spans = {"delta.logRetentionDuration": LOG_RETENTION, "delta.deletedFileRetentionDuration": FILE_RETENTION}
    hurried = {name: f"interval {_milliseconds(span / factor)} milliseconds" for name, span in spans.items()}
    for place in (uri, f"{uri}/{FOLDER}"):
        # Upkeep may be writing at this very moment; then deltalake refuses, and it is asked again.
        for attempt in Retrying(retry=retry_if_exception_type(DeltaError), stop=stop_after_attempt(20)):
            with attempt:
                DeltaTable(place).alter.set_table_properties(hurried)


def _milliseconds(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)


async def _sample(old: PositionQueue, beside: PositionQueue, number: int, window: list[dict[str, float]]) -> Sample:
    await beside.refresh()
    await _cycle(old)
    with stopwatch() as seconds:
        await beside.refresh()
        refresh = seconds()
    files = pl.DataFrame(DeltaTable(old.uri).get_add_actions(flatten=True))
    return Sample(
        cycles=number,
        steps={step: statistics.median(cycle[step] for cycle in window) for step in (*STEPS, "cycle")},
        opening=await _opening(old.uri)(),
        refresh=refresh,
        log_entries=_entries(Path(old.uri, "_delta_log")),
        live_files=files.height,
        live_bytes=int(files["size_bytes"].sum()),
        disk_bytes=_bytes_below(Path(old.uri)),
        memory=psutil.Process().memory_info().rss,
    )


def _entries(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # upkeep was faster
            continue
    return total


def _opening(uri: str) -> Callable[[], Awaitable[float]]:
    async def once() -> float:
        child = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", OPEN_ELSEWHERE, uri], check=True, capture_output=True, text=True
        )
        return float(child.stdout)

    return once


# --- what comes out ---------------------------------------------------------------------------------------------------


def _of_the_curve(samples: list[Sample]) -> list[Line]:
    first, last = samples[0], samples[-1]
    middle = len(samples) // 2
    return [
        at_most(
            f"the same along the curve, its last {WINDOW}", last.steps["cycle"],
            f"its first {WINDOW}", first.steps["cycle"], 1.3,
        ),
        count_at_most("most entries of the log", max(sample.log_entries for sample in samples), 1_500),
        _most_mib("most on disk beside the live files", max(s.disk_bytes - s.live_bytes for s in samples), 256),
        _share("memory at the end", last.memory, "halfway", samples[middle].memory, 1.3),
    ]  # fmt: skip


def _most_mib(what: str, amount: int, bound: int) -> Line:
    return Line(f"{what}, MiB", "", amount / 2**20, f"<= {bound}", amount <= bound * 2**20)


def _share(what: str, amount: int, against: str, reference: int, bound: float) -> Line:
    ratio = amount / reference
    mib = 2**20
    return Line(
        f"{what}: {amount / mib:.0f} MiB",
        f"{against}: {reference / mib:.0f} MiB",
        ratio,
        f"<= {bound:g} x",
        ratio <= bound,
    )


async def _of_the_past(queue: PositionQueue) -> list[Line]:
    past = Past(queue.uri, queue.SPEC.key)
    newest = queue.ledger.version
    every_row = pl.scan_delta(queue.uri)
    lines = []
    for age in AGES:
        version = round(age * newest)
        rows_until = every_row.filter(pl.col("version") <= version)
        taken = await medians(
            {
                "as_of": _timed(lambda version=version: past.as_of(version)),
                "all": _timed(every_row.collect),
                "until": _timed(rows_until.collect),
            },
            READINGS,
        )
        what = f"as_of({version:,}) of {newest:,}"
        lines += [
            at_most(what, taken["as_of"], "all rows by scan_delta", taken["all"], 1.5),
            told(what, taken["as_of"], "the rows until then by scan_delta", taken["until"]),
        ]
    key = past.as_of(newest // 2)["request_id"][-1]
    taken = await medians(
        {
            "all": _timed(every_row.collect),
            "versions": _timed(past.versions),
            "timeline": _timed(lambda: past.timeline(key)),
            "diff": _timed(lambda: past.diff(newest - 300, newest)),
        },
        READINGS,
    )
    for name, bound in {"versions": 1, "timeline": 0.5, "diff": 2.5}.items():
        lines.append(at_most(name, taken[name], "all rows by scan_delta", taken["all"], bound))
    return lines


def _timed(work: Callable[[], pl.DataFrame]) -> Callable[[], Awaitable[float]]:
    async def once() -> float:
        with stopwatch() as seconds:
            await asyncio.to_thread(work)
            return seconds()

    return once


def _draw(samples: list[Sample], factor: float, picture: Path) -> None:
    mib = 2**20
    panels: list[tuple[str, dict[str, list[float]]]] = [
        ("milliseconds, medians of 100", {step: [1000 * s.steps[step] for s in samples] for step in ("cycle", *STEPS)}),
        ("milliseconds", {"opening in a fresh process": [1000 * s.opening for s in samples]}),
        ("milliseconds", {"refresh of a second handle": [1000 * s.refresh for s in samples]}),
        (
            "count",
            {"log entries": [s.log_entries for s in samples], "live data files": [s.live_files for s in samples]},
        ),
        (
            "MiB",
            {
                "on disk": [s.disk_bytes / mib for s in samples],
                "live data files": [s.live_bytes / mib for s in samples],
            },
        ),
        ("MiB", {"resident memory": [s.memory / mib for s in samples]}),
    ]
    figure = Figure(figsize=(12, 10), layout="constrained")
    figure.suptitle(
        f"{samples[-1].cycles:,} cycles of {BATCH} on one queue, {WAITING:,} more items waiting. "
        f"{factor:.0f} times as fast as a worker;\nthe retention of log entries and replaced files "
        "is shorter by the same factor"
    )
    for axes, (unit, curves) in zip(figure.subplots(3, 2).flat, panels, strict=True):
        for name, values in curves.items():
            axes.plot([sample.cycles for sample in samples], values, label=name)
        axes.set(xlabel="cycles", ylabel=unit, ylim=(0, None), xlim=(0, None))
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=100)


def main() -> None:
    """Run it with other numbers."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.months", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, default=CYCLES)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    given = parser.parse_args()
    Console().print(table("months", run(given.cycles, given.picture)))


if __name__ == "__main__":
    main()
