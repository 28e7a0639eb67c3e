"""The bars of a history: what each version added, changed and removed; many versions in a window, or several to a bar.

Pure: what there is to draw, as plain numbers for the page and as SVG for where no JavaScript runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import polars as pl

MOST = 120  # bars; more would be too thin to be hit
_HEIGHT, _WIDTH = 48, 9  # px, of the static drawing
_COLOURS = {"added": "#2e9e5b", "changed": "#c98500", "removed": "#d5443c"}


class Bar(NamedTuple):
    """One bar.

    Attributes:
        first: The first version that it stands for.
        last: The last one; a click goes there.
        added: Rows, as are the next two.
        changed: Likewise.
        removed: Likewise.
        lost: How many of its versions cannot be read any more; hatched.
        at: When `last` was made, in seconds since 1970; 0 if unknown.
    """

    first: int
    last: int
    added: int
    changed: int
    removed: int
    lost: int
    at: int


def near(start: int, cursor: int, total: int) -> int:
    """Return where a window of `MOST` versions begins: where it did, unless the cursor has left it."""
    if not start <= cursor < start + MOST:
        start = cursor - (MOST // 4 if cursor < start else MOST - 1)
    return max(0, min(start, total - MOST))


def bars(versions: pl.DataFrame, start: int | None, pruned: int = 0) -> list[Bar]:
    """Return the bars, oldest first.

    Args:
        versions: As `TableHistory.versions()` returns them.
        start: The row at which a window of one bar per version begins; `None` for all, several to a bar if need be.
        pruned: How many versions there were before the first of these; told by one bar at the left, if in sight.
    """
    rows = versions.slice(start, MOST) if start is not None else versions
    size = max(1, math.ceil(rows.height / MOST))
    found = (
        rows.with_row_index("#")
        .group_by(pl.col("#") // size, maintain_order=True)
        .agg(
            pl.col("version").min().alias("first"),
            pl.col("version").max().alias("last"),
            *(pl.col(name).sum().cast(pl.Int64) for name in _COLOURS),
            pl.col("readable").not_().sum().cast(pl.Int64).alias("lost"),
            pl.col("updated_at").max().dt.epoch("s").fill_null(0).alias("at"),
        )
        .drop("#")
    )
    before = [Bar(0, pruned - 1, 0, 0, 0, pruned, 0)] if pruned and not start else []
    return before + [Bar(*row) for row in found.iter_rows()]


def index(drawn: Sequence[Bar], version: int) -> int | None:
    """Return the bar that a version belongs to: the last that begins at it or before; `None` if it is out of sight."""
    return next((number for number in reversed(range(len(drawn))) if drawn[number].first <= version), None)


def heights(drawn: Sequence[Bar], height: float) -> list[tuple[float, float, float]]:
    """Return how high the parts of each bar are: added, changed, removed. By the root, so that small ones are seen."""
    totals = [bar.added + bar.changed + bar.removed for bar in drawn]
    top = max(totals, default=0) or 1
    scales = [(3 + (height - 3) * math.sqrt(total / top)) / total if total else 0.0 for total in totals]
    return [
        (bar.added * scale, bar.changed * scale, bar.removed * scale) for bar, scale in zip(drawn, scales, strict=True)
    ]


def svg(part: dict[str, Any]) -> str:
    """Return the bars of a part as SVG, with the words that say the same."""
    drawn = [Bar(*bar) for bar in part["bars"]]
    marks = []
    for number, (bar, sizes) in enumerate(zip(drawn, heights(drawn, _HEIGHT), strict=True)):
        left, top = number * _WIDTH + 1, float(_HEIGHT)
        for size, colour in zip(sizes, _COLOURS.values(), strict=True):
            top -= size
            if size:
                marks.append(_box(left, top, size, colour))
        if bar.lost:
            marks.append(f"<rect x='{left}' y='1' width='{_WIDTH - 3}' height='{_HEIGHT - 2}' fill='none' "
                         "stroke='#8a929c' stroke-dasharray='2 2'/>")  # fmt: skip
        if number in (part["old"], part["new"]):
            marks.append(_box(left, _HEIGHT + 2, 3, "#2f7fd6" if number == part["new"] else "#8a929c"))
    width = max(1, len(drawn)) * _WIDTH
    words = escape(part["text"])
    return (
        f"<svg role='img' aria-label='{words}' width='{width}' height='{_HEIGHT + 6}'>{''.join(marks)}</svg>"
        f"<p>{words}</p>"
    )


def _box(left: float, top: float, height: float, colour: str) -> str:
    return f"<rect x='{left}' y='{top:.1f}' width='{_WIDTH - 2}' height='{height:.1f}' fill='{colour}'/>"
