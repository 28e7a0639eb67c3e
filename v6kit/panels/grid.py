"""A window on a polars frame: sorted, filtered and selected in the kernel; the page holds the rows that are in sight.

Plain state, no widget: `window` says what there is to draw, and the panel sends it. Everything in it is text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import polars as pl

from v6kit.display import unknown
from v6kit.panels import formats, frames

WIDEST = 48  # characters of a column; longer texts end in dots
ROWS = 60  # sent at once: about four times what is in sight, so that a short scroll finds its rows there
_TICKING = ("age", "left")  # these change by themselves, so a change of theirs is no news
_DOT = 2  # characters that the dot before a coloured value takes
Pick = Literal["one", "toggle", "range"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a grid.

    Attributes:
        name: In the frame.
        title: At its head.
        kind: How its values read.
        digits: Behind the point; `None` for as many as a number needs.
        tones: Colours by value: `good`, `busy`, `warn`, `bad` or `quiet`. The word stays, colour is never alone.
        wide: Takes the room that the others leave.
        hint: What it means, where its title alone does not say; shown when the mouse rests on its head.
        if_several: Is shown only while its values differ: one account in every row would say nothing.
    """

    name: str
    title: str
    kind: formats.Kind = "text"
    digits: int | None = None
    tones: Mapping[str | None, str] = field(default_factory=dict)
    wide: bool = False
    hint: str = ""
    if_several: bool = False

    @property
    def is_number(self) -> bool:
        """Whether it is aligned at the right."""
        return self.kind != "text"


class Grid:
    """Rows, and how they are looked at. Not thread-safe: its panel locks.

    Args:
        columns: What to show of the frame, in this order.
        key: The frame's column of texts that names a row.

    Attributes:
        columns: Those of them that are shown now.
    """

    def __init__(self, columns: Sequence[Column], key: str) -> None:
        self._all = tuple(columns)
        self.columns, self.key = tuple(each for each in columns if not each.if_several), key
        self.frame = pl.DataFrame(schema=dict.fromkeys([each.name for each in columns], pl.Null) | {key: pl.String})
        self.view = self.frame
        self.filter = ""
        self.sort: tuple[str, bool] | None = None
        self.keep: tuple[str, frozenset[str]] | None = None
        self.selected: list[str] = []
        self.start = 0
        self._cursor: str | None = None
        self._anchor: str | None = None
        self._widths = {column.name: len(column.title) + 2 for column in columns}
        self._drawn: dict[str, list[str]] = {}

    # --- what is looked at --------------------------------------------------------------------------------------

    def show(self, frame: pl.DataFrame) -> None:
        """Take a newer frame in; what is selected, sorted and filtered stays so."""
        self.frame = frame
        shown = tuple(each for each in self._all if not each.if_several or _differs(frame[each.name]))
        if shown != self.columns:
            self.columns, self._drawn = shown, {}
        if self.selected:
            there = set(frame.filter(pl.col(self.key).is_in(self.selected))[self.key])
            self.selected = [key for key in self.selected if key in there]
        self.look()

    def look(self) -> None:
        """Filter and sort anew."""
        view = self.frame
        if predicates := self._predicates():
            view = view.filter(*predicates)
        if self.sort is not None:
            view = view.sort(self.sort[0], descending=self.sort[1], nulls_last=True, maintain_order=True)
        self.view = view
        self.start = max(0, min(self.start, view.height - ROWS))

    def filter_by(self, text: str) -> None:
        """Show the rows that have every word of a text in one of the columns; an empty text shows all."""
        self.filter, self.start = text, 0
        self.look()

    def turn_keep(self, column: str, value: str) -> None:
        """Show the rows whose column has this value too, or no longer; without any value all are shown."""
        values = self.kept ^ {value}
        self.keep, self.start = ((column, values) if values else None), 0
        self.look()

    @property
    def kept(self) -> frozenset[str]:
        """The values that are shown, if not all are."""
        return self.keep[1] if self.keep else frozenset()

    def sort_by(self, column: str | None, *, descending: bool = False) -> None:
        """Sort by a column; `None` for the frame's own order."""
        names = [each.name for each in self._all]
        if column is not None and column not in names:
            raise unknown("column", column, names)
        self.sort, self.start = (None if column is None else (column, descending)), 0
        self.look()

    def turn_sort(self, column: str) -> None:
        """Sort as a click on a head does: up, down, and as it was."""
        now = self.sort if self.sort and self.sort[0] == column else None
        if now is None:
            self.sort_by(column)
        elif now[1]:
            self.sort_by(None)
        else:
            self.sort_by(column, descending=True)

    def scroll_to(self, row: int) -> None:
        """Move the window so that this row of the view and its neighbours are in it."""
        self.start = max(0, min(row - ROWS // 3, self.view.height - ROWS))

    # --- what is selected ---------------------------------------------------------------------------------------

    def select(self, keys: Collection[str]) -> None:
        """Select exactly these rows.

        Raises:
            ValueError: One is not in the frame.
        """
        unknown = set(keys) - set(self.frame[self.key])
        if unknown:
            raise ValueError(f"no row has the {self.key} {min(unknown)!r}")
        self.selected = list(dict.fromkeys(keys))
        self._cursor = self._anchor = self.selected[-1] if self.selected else None

    def pick(self, key: str, how: Pick = "one") -> None:
        """Select as a click does: this row alone, this one too (or no longer), or all from the last one to this."""
        if self._at(key) is None:
            return  # it has gone while the click was on its way
        if how == "toggle":
            others = [each for each in self.selected if each != key]
            self.selected = others if key in self.selected else [*others, key]
        elif how == "range" and self._at(self._anchor) is not None:
            ends = sorted((self._at(self._anchor) or 0, self._at(key) or 0))
            self.selected = self.view[self.key][ends[0] : ends[1] + 1].to_list()
        else:
            self.selected = [key]
        self._cursor = key
        if how != "range":
            self._anchor = key

    def move(self, by: int, *, extend: bool = False) -> None:
        """Select the row that is so many below the last one, or above it."""
        if not self.view.height:
            return
        here = self._at(self._cursor)
        row = (0 if by > 0 else self.view.height - 1) if here is None else here + by
        row = max(0, min(row, self.view.height - 1))
        self.pick(self.view[self.key][row], "range" if extend else "one")
        if not self.start <= row < self.start + ROWS:
            self.scroll_to(row)

    def select_all(self) -> None:
        """Select every row that the filter shows."""
        self.selected = self.view[self.key].to_list()

    def chosen(self) -> pl.DataFrame:
        """Return the selected rows, in the frame's order."""
        return self.frame.filter(pl.col(self.key).is_in(self.selected)) if self.selected else self.frame.clear()

    def _at(self, key: str | None) -> int | None:
        return None if key is None else self.view[self.key].index_of(key)

    def answers(self) -> dict[str, Callable[[Mapping[str, Any]], object]]:
        """Return what a page may ask for, by the name of its message."""
        return {
            "filter": lambda message: self.filter_by(str(message["text"])),
            "sort": lambda message: self.turn_sort(str(message["column"])),
            "window": lambda message: self.scroll_to(int(message["row"])),
            "pick": lambda message: self.pick(str(message["key"]), message["how"]),
            "move": lambda message: self.move(int(message["by"]), extend=bool(message["extend"])),
            "all": lambda _message: self.select_all(),
            "none": lambda _message: self.select(()),
        }

    # --- what there is to draw ----------------------------------------------------------------------------------

    def window(self, now: datetime) -> dict[str, Any]:
        """Return what the page draws: heads, and the rows from `start` on, with marks where a value has changed."""
        part = self.view.slice(self.start, ROWS)
        chosen = set(self.selected)
        rows, drawn = [], {}
        for key, values in zip(part[self.key], self._values(part), strict=True):
            texts = self.texts(values, now)
            rows.append({"key": key, "cells": texts, "selected": key in chosen} | self._marks(key, values, texts))
            drawn[key] = texts
        self._drawn = drawn
        return {
            "columns": self._heads(rows),
            "start": self.start,
            "total": self.view.height,
            "of": self.frame.height,
            "rows": rows,
            "filter": self.filter,
            "selected": len(self.selected),
            "cursor": self._at(self._cursor),
        }

    def texts(self, values: Sequence[object], now: datetime) -> list[str]:
        """Return a row's cells as texts."""
        return [
            formats.cell(column.kind, column.digits, value, now)
            for column, value in zip(self.columns, values, strict=True)
        ]

    def head_rows(self, now: datetime, count: int) -> list[list[str]]:
        """Return the first rows of the view as texts, for what is static."""
        return [self.texts(values, now) for values in self._values(self.view.head(count))]

    def code(self) -> str:
        """Return the view as polars calls on the frame; empty when the frame is shown as it is."""
        calls = [f".filter({each})" for each in self._predicates_in_words()]
        if self.sort is not None:
            name, descending = self.sort
            calls.append(f".sort({name!r}, descending={descending}, nulls_last=True, maintain_order=True)")
        return "".join(calls)

    def _predicates(self) -> list[pl.Expr]:
        kept = [pl.col(self.keep[0]).is_in(sorted(self.keep[1]))] if self.keep else []
        return kept + ([frames.contains(self.filter, self._searched())] if self.filter.strip() else [])

    def _predicates_in_words(self) -> list[str]:
        kept = [f"pl.col({self.keep[0]!r}).is_in({sorted(self.keep[1])!r})"] if self.keep else []
        words = f"frames.contains({self.filter!r}, {self._searched()!r})"
        return kept + ([words] if self.filter.strip() else [])

    def _searched(self) -> list[str]:
        return [column.name for column in self.columns if column.kind in ("text", "number", "signed")]

    def _values(self, part: pl.DataFrame) -> list[tuple[object, ...]]:
        return part.select(column.name for column in self.columns).rows()

    def _marks(self, key: str, values: Sequence[object], texts: Sequence[str]) -> dict[str, Any]:
        """Return a row's colours, and what changed since it was last drawn, by the number of the column."""
        before = self._drawn.get(key)
        tones, was = {}, {}
        for number, (column, value, text) in enumerate(zip(self.columns, values, texts, strict=True)):
            if value in column.tones:
                tones[number] = column.tones[value]  # type: ignore[index]  # a key of it, as was just seen
            if before is not None and before[number] != text and column.kind not in _TICKING:
                was[number] = before[number]
        return {"tones": tones, "was": was}

    def _heads(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the heads. A column only ever becomes wider, or it would jump to and fro while one scrolls."""
        for number, column in enumerate(self.columns):
            widest = max((len(row["cells"][number]) for row in rows), default=0)
            self._widths[column.name] = max(self._widths[column.name], min(widest, WIDEST))
        sort = self.sort or ("", False)
        return [
            {
                "name": column.name,
                "title": column.title,
                "hint": column.hint,
                "number": column.is_number,
                "width": 0 if column.wide else self._widths[column.name] + (_DOT if column.tones else 0),
                "sort": ("descending" if sort[1] else "ascending") if sort[0] == column.name else "none",
            }
            for column in self.columns
        ]


def _differs(values: pl.Series) -> bool:
    return bool(values.len()) and values.ne_missing(values[0]).any()
