"""The card of a book: how good its rows are, and what they are worth together."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from operator import attrgetter

from v6kit.contracts import Quality
from v6kit.display import Card, Table, counted, number
from v6kit.positions.rows import BookRow

_TOLD = 20  # positions that a cell shows; the frame has all
_Worth = Sequence[float | None]  # market value and unrealized
_WORTH = attrgetter("quality", "currency", "market_value", "unrealized_pnl")
_NO_QUOTE = "no quote"
_RANK = {quality: rank for rank, quality in enumerate((*map(str, Quality), _NO_QUOTE))}  # in the order of trust


def book_card(uri: str, rows: Sequence[BookRow]) -> Card:
    """Return the card of a book.

    Args:
        uri: Where it is.
        rows: Every position that is held.
    """
    accounts = sorted(set(map(attrgetter("account"), rows)))
    largest = heapq.nlargest(_TOLD, rows, key=lambda row: abs(row.market_value or 0.0))
    positions = [
        [
            row.account,
            row.label(),
            f"{row.position:+g}",
            number(row.mark, ",.8g"),
            number(row.market_value),
            number(row.unrealized_pnl, "+,.2f"),
            row.currency,
            row.quality or _NO_QUOTE,
        ]
        for row in largest
    ]
    headings = ("account", "contract", "position", "mark", "value", "unrealized", "currency", "quality")
    table = Table(headings, positions, len(rows) - len(positions), ("position", "mark", "value", "unrealized"))
    unknown = sum(row.market_value is None for row in rows)
    note = f"{unknown:,} of them have no value yet, and are in no sum"
    return Card(
        "PositionBook",
        facts={
            "table": uri,
            "held": counted(len(rows), "position") + (f" in {', '.join(accounts)}" if accounts else ""),
        },
        notes=[note] if unknown else [],
        tables=[_totals(rows)] if rows else [],
        folds={"positions, the largest value first": table} if rows else {},
    )


def _totals(rows: Iterable[BookRow]) -> Table:
    """Return how many there are of each quality, and their worth; currencies are never added up with one another."""
    groups: dict[tuple[str, str], list[_Worth]] = {}
    for quality, currency, *worth in map(_WORTH, rows):
        groups.setdefault((quality or _NO_QUOTE, currency), []).append(worth)
    told = sorted(groups.items(), key=lambda item: (_RANK.get(item[0][0], len(_RANK)), item[0]))
    currencies = sorted({currency for _, currency in groups})
    if len(groups) > len(currencies):
        told += [
            (("all", each), [one for key, many in groups.items() if key[1] == each for one in many])
            for each in currencies
        ]
    cells = [
        [quality, f"{len(worths):,}", _sum(worths, 0, ",.2f"), _sum(worths, 1, "+,.2f"), currency]
        for (quality, currency), worths in told
    ]
    numbers = ("positions", "value", "unrealized")
    return Table(("quality", *numbers, "currency"), cells, numbers=numbers)


def _sum(worths: Sequence[_Worth], column: int, form: str) -> str:
    """Return what is known of a column, added up; nothing if nothing is known, since that is no zero."""
    known = [value for each in worths if (value := each[column]) is not None]
    return format(math.fsum(known), form) if known else ""
