"""What a history panel looks at, as a frame, and the grid that shows it: exact values, and what they were before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import polars as pl

from v6kit.errors import StorageError, VersionUnavailableError
from v6kit.history import TableHistory
from v6kit.ledger.compare import ADDED, CHANGED, FOUND, GONE, UNKNOWN, as_text, own_name
from v6kit.panels import formats
from v6kit.panels.grid import Column, Grid
from v6kit.panels.travel import Known

Mode = Literal["as of", "diff", "item"]
MODES: tuple[Mode, ...] = ("as of", "diff", "item")
TONES: dict[str | None, str] = {ADDED: "good", CHANGED: "warn", GONE: "bad", FOUND: "quiet", UNKNOWN: "quiet"}
_LONGEST = 200  # characters of a cell; a document in a column must not travel to the page
_SHOWN_AT_FIRST = 30  # columns of a table that we know nothing of
_SEARCHABLE = (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Decimal, pl.Date, pl.Datetime)

# Of the lake's own tables: what to look at first. The others are in the menu.
_STAMP = ("change", "version", "updated_at", "updated_by")
_FIRST: Mapping[str, Sequence[str]] = {
    "position_queue": (
        "symbol", "conid", "status", "attempt", "priority", "error_message", "lease_until", *_STAMP, "request_id",
    ),
    "position_updates": (
        "symbol", "expiry", "right", "strike", "position", "bid", "ask", "mark", "delta", "unrealized_pnl", "quality",
        "source", "received_at", *_STAMP, "account", "conid",
    ),
    "active_strategies": (
        "strategy_id", "strategy", "symbol", "expiry", "right", "strike", "quantity", "account", "added_at",
        "removed_at", *_STAMP, "conid",
    ),
}  # fmt: skip


class View(NamedTuple):
    """What to look at.

    Attributes:
        table: Whose past.
        mode: `as of`: what it held in `new`; `diff`: what changed from `old` to `new`; `item`: every state of one key.
        old: A version.
        new: A version.
        item: The values of the key.
    """

    table: str
    mode: Mode
    old: int
    new: int
    item: tuple[Any, ...] = ()


class Look(NamedTuple):
    """What was seen.

    Attributes:
        view: What was looked at.
        frame: As the history returned it, and `key`.
        key: The column of texts that names a row of it.
        sign: The column that says what became of the row, if there is one.
        olds: Of the columns that show it: the column of the value before.
        error: Why there is nothing to see.
    """

    view: View
    frame: pl.DataFrame
    key: str
    sign: str | None = None
    olds: Mapping[str, str] = {}
    error: Exception | None = None

    def answers(self, view: View) -> bool:
        """Whether nothing else is to be seen there: an error of the storage may have passed by now."""
        return self.view == view and (
            not isinstance(self.error, StorageError) or isinstance(self.error, VersionUnavailableError)
        )


def known(history: TableHistory, before: Known | None = None) -> Known:
    """Return what there is of a past; the versions are only read again if there is another one."""
    summary = history.summary()
    if before is not None and summary == before.summary:
        return before
    return Known(summary, history.versions())


def look(history: TableHistory, view: View) -> Look:
    """Look; what cannot be read, or makes no sense, is an `error` in the answer."""
    try:
        match view.mode:
            case "as of":
                frame = history.as_of(view.new)
            case "diff":
                frame = history.diff(view.old, view.new)
            case "item":
                frame = history.timeline(*view.item)
        key = () if view.mode == "item" else history.key
    except (StorageError, ValueError) as error:
        return Look(view, pl.DataFrame({"#key": []}, schema={"#key": pl.String}), "#key", error=error)
    sign = None if view.mode == "as of" else frame.columns[0]
    pairs = frame.columns[1 + len(key) :] if view.mode == "diff" and key else []
    name = own_name("#key", frame.columns)
    return Look(
        view,
        frame.with_columns(_row_key(frame, key).alias(name)),
        name,
        sign,
        dict(zip(pairs[::2], pairs[1::2], strict=True)),
    )


def code(history: TableHistory, view: View, words: str, *, is_of_desk: bool) -> str:
    """Return the Python that gives a view, and after it the calls that filter and sort it."""
    key = "" if not history.key else f", key={list(history.key)!r}"
    made = f"desk.history({view.table!r})" if is_of_desk else f"TableHistory({history.uri!r}{key})"
    imports = ["import polars as pl"] if "pl." in words else []
    imports += ["from v6kit import TableHistory"] if not is_of_desk else []
    imports += ["from v6kit.panels import frames"] if "frames." in words else []
    call = {
        "as of": f"as_of({view.new})",
        "diff": f"diff({view.old}, {view.new})",
        "item": f"timeline({', '.join(map(repr, view.item))})",
    }[view.mode]
    return "\n".join([*imports, *([""] if imports else []), f"{made}.{call}{words}"])


def _row_key(frame: pl.DataFrame, key: Sequence[str]) -> pl.Expr:
    """Return what names a row: its key as text, of several columns as JSON; without a key its number."""
    texts = [as_text(name, frame.schema[name]) for name in key]
    if not texts:
        return pl.int_range(pl.len()).cast(pl.String)
    return texts[0].fill_null("null") if len(texts) == 1 else pl.struct(texts).struct.json_encode()


def first_columns(table: str, columns: Sequence[str]) -> list[str]:
    """Return the columns that are shown until somebody chooses others."""
    known = [name for name in _FIRST.get(table, ()) if name in columns]
    return known or list(columns[:_SHOWN_AT_FIRST])


class Was(NamedTuple):
    """A value that became another one."""

    old: object
    new: object


class PastGrid(Grid):
    """A grid of exact values; where one changed, the old one stands before it.

    Args:
        seen: What it shows.
        shown: The table's columns that are shown, in this order.
    """

    def __init__(self, seen: Look, shown: Sequence[str]) -> None:
        self.seen = seen
        olds, kinds = seen.olds.values(), seen.frame.schema
        extra = [name for name in seen.frame.columns if name not in shown and _is_ours(name, seen)]
        names = [name for name in [*extra, *shown] if name in kinds and name not in olds]
        super().__init__([_column(name, kinds[name], seen) for name in names], seen.key)
        self.show(seen.frame)

    def take_over(self, former: PastGrid) -> None:
        """Look at the rows as a former grid of the table did; at the states of an item, one looks anew."""
        modes = former.seen.view.mode, self.seen.view.mode
        if modes[0] != modes[1] and "item" in modes:
            return
        self.filter, self.selected = former.filter, former.selected
        self._cursor, self._anchor = former._cursor, former._anchor
        if former.sort is not None and former.sort[0] in {column.name for column in self.columns}:
            self.sort = former.sort
        if modes[0] == modes[1]:
            self.keep, self.start = former.keep, former.start
        if [column.name for column in former.columns] == [column.name for column in self.columns]:
            self._drawn, self._widths = former._drawn, former._widths
        self.show(self.frame)

    def texts(self, values: Sequence[object], now: datetime) -> list[str]:  # noqa: ARG002 - nothing ticks here
        """Return a row's cells as texts."""
        return [_change(value) if isinstance(value, Was) else text_of(value) for value in values]

    def _searched(self) -> list[str]:
        kinds = self.seen.frame.schema
        return [each.name for each in self.columns if kinds[each.name].is_numeric() or kinds[each.name] in _SEARCHABLE]

    def _values(self, part: pl.DataFrame) -> list[tuple[object, ...]]:
        names, olds, sign = [column.name for column in self.columns], self.seen.olds, self.seen.sign
        kinds = part.schema
        plain = part.select(
            as_text(name, kinds[name]) if kinds[name].is_nested() or kinds[name] == pl.Binary else pl.col(name)
            for name in (*names, *(olds[name] for name in names if name in olds))
        )
        if not olds:
            return plain.rows()
        return [
            tuple(
                _between(row[sign or ""], row[name], row[olds[name]]) if name in olds else row[name] for name in names
            )
            for row in plain.iter_rows(named=True)
        ]

    def _marks(self, key: str, values: Sequence[object], texts: Sequence[str]) -> dict[str, Any]:
        marks = super()._marks(key, values, texts)
        if self.seen.sign is not None:
            marks["was"] = {}  # what is compared here are two versions, not two drawings
        old = {number: text_of(value.old) for number, value in enumerate(values) if isinstance(value, Was)}
        return marks | {"old": old} if old else marks


def _is_ours(name: str, seen: Look) -> bool:
    return name == seen.sign or (seen.view.mode == "item" and name.strip("_") in ("version", "updated_at", "lasted"))


def _column(name: str, kind: pl.DataType, seen: Look) -> Column:
    if name == seen.sign:
        return Column(name=name, title="", tones=TONES)
    return Column(name=name, title=name, kind="number" if kind.is_numeric() else "text")


def _between(sign: object, new: object, old: object) -> object:
    if sign == GONE:
        return old
    return Was(old, new) if sign == CHANGED and old != new else new


def _change(value: Was) -> str:
    old, new = value
    if isinstance(old, datetime) and isinstance(new, datetime) and old.date() == new.date():
        return f"{old:%H:%M:%S.%f}"[:-3] + f" → {new:%H:%M:%S.%f}"[:-3]  # its title has the day
    return f"{text_of(value.old)} → {text_of(value.new)}"


def text_of(value: object) -> str:
    """Return a value as it is kept: no rounding, instants in UTC, a long text cut."""
    match value:
        case None:
            return formats.NOTHING
        case datetime():
            text = f"{value:%Y-%m-%d %H:%M:%S.%f}"
            return text[:-3] if value.microsecond else text[:-7]
        case timedelta():
            return length(value)
        case _:
            text = str(value)
            return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def length(lasted: timedelta) -> str:
    """Return how long a state lasted: to the millisecond below ten seconds, else in its largest unit."""
    seconds = lasted.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    return f"{seconds:.1f}s" if seconds < 10 else formats.span(lasted)  # noqa: PLR2004 - two digits are enough
