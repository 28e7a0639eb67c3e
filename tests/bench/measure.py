"""How the benchmarks measure: rounds that interleave what is compared, medians, and a table of ratios."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.table import Table

NameT = TypeVar("NameT")


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison.

    Attributes:
        what: What was measured, and its median as text.
        against: What it is compared with, likewise.
        ratio: The one divided by the other, or a plain count.
        target: The bound, e.g. `<= 1.5`.
        is_met: Whether it holds.
    """

    what: str
    against: str
    ratio: float
    target: str
    is_met: bool


def at_most(what: str, seconds: float, against: str, reference: float, bound: float) -> Line:
    """Compare a duration with a reference that it may exceed by a factor."""
    ratio = seconds / reference
    return Line(f"{what}: {shown(seconds)}", f"{against}: {shown(reference)}", ratio, f"<= {bound:g} x", ratio <= bound)


def times_faster(what: str, seconds: float, against: str, reference: float, bound: float) -> Line:
    """Compare a duration with a reference that it must undercut by a factor."""
    ratio = reference / seconds
    return Line(
        f"{what}: {shown(seconds)}", f"{against}: {shown(reference)}", ratio, f">= {bound:g} x faster", ratio >= bound
    )


def told(what: str, seconds: float, against: str, reference: float) -> Line:
    """Compare a duration with a reference without a bound: it is told because it is true."""
    return Line(f"{what}: {shown(seconds)}", f"{against}: {shown(reference)}", seconds / reference, "told", is_met=True)


def count_at_most(what: str, count: int, bound: int) -> Line:
    """Compare a count with its bound."""
    return Line(what, "", count, f"<= {bound}", count <= bound)


def shown(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 0.001:
        return f"{seconds * 1_000_000:.0f} µs"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


async def medians(work: Mapping[NameT, Callable[[], Awaitable[float]]], rounds: int) -> dict[NameT, float]:
    """Run each kind of work once per round, one after the other, and return the median seconds of each.

    Args:
        work: Name → a coroutine function that does it once and returns the seconds that count.
        rounds: How often; noise that hits one round hits all kinds alike.
    """
    taken: dict[NameT, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, once in work.items():
            taken[name].append(await once())
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds since the start."""
    began = time.perf_counter()
    yield lambda: time.perf_counter() - began


@contextmanager
def lake() -> Iterator[Path]:
    """Yield an empty folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="v6kit-bench-") as folder:
        yield Path(folder)


def table(title: str, lines: list[Line]) -> Table:
    """Return the comparisons as a table."""
    drawn = Table(title=title, title_justify="left")
    for column in ("what", "against", "ratio", "target", "met"):
        drawn.add_column(column, justify="right" if column == "ratio" else "left")
    for line in lines:
        verdict = "[green]yes[/]" if line.is_met else "[red]no[/]"
        drawn.add_row(line.what, line.against, f"{line.ratio:.4g}", line.target, verdict)
    return drawn
