"""What a panel of the past looks at: which table, which version or item; settable, and read when it has changed.

Reading is I/O here, so it happens on threads of its own; the panels' thread only draws what came of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import polars as pl

from v6kit.desk import TABLES, Desk, TableName
from v6kit.display import unknown, utc
from v6kit.errors import StorageError, V6KitError
from v6kit.history import TableHistory
from v6kit.ledger import LedgerTable, When
from v6kit.ledger.moments import as_moment
from v6kit.panels import pastgrid, stage
from v6kit.panels.as_of import AsOf
from v6kit.panels.panel import Panel
from v6kit.panels.pastgrid import MODES, Look, Mode, PastGrid, View
from v6kit.panels.travel import Known, Travel, instant

_AROUND = 1.0  # seconds between two looks at whether there is a newer version, at least
_REST, _LONGEST_REST = 50, 5.0  # times what the last look took, and seconds: a lake may be large, or far away


class PastPanel(Panel):
    """What a panel of the past looks at, from Python as from the page, and how it reads it.

    Made as a `HistoryPanel`, which says what the arguments are.
    """

    def __init__(
        self,
        source: Desk | TableHistory,
        table: str | None = None,
        *,
        place: str | None = None,
        as_of: AsOf | None = None,
    ) -> None:
        self._histories: dict[str, TableHistory] = {}
        if isinstance(source, Desk):
            first: tuple[TableName, ...] = ("position_queue", *TABLES)
            self._histories = {name: source.history(name) for name in first}
        else:
            self._histories = {source.uri.rstrip("/").rpartition("/")[2]: source}
        self._table = next(iter(self._histories)) if table is None else self._checked(table)
        self._mode: Mode = "diff"
        self._item: tuple[Any, ...] = ()
        self._shown: dict[str, list[str]] = {}
        self._said = ""  # why what was asked for last is not to be had
        self._next_look = 0.0
        self._loading: asyncio.Task[None] | None = None
        self._look: Look | None = None
        self._travel = Travel(pastgrid.known(self._histories[self._table]))
        super().__init__(source, place=place, as_of=as_of)
        if self._as_of.at is not None:
            self._turn()

    # --- for the user -------------------------------------------------------------------------------------------

    @property
    def history(self) -> TableHistory:
        """The past that it shows."""
        return self._histories[self._table]

    @property
    def table(self) -> str:
        """Which table; settable to another one of the lake's. What is looked at stays the same instant."""
        return self._table

    @table.setter
    def table(self, name: str) -> None:
        self._refuse_if_closed()
        if self._checked(name) == self._table:
            return
        at, travel = self._travel.at, Travel(pastgrid.known(self._histories[name]))
        said = "" if at is None or travel.go_to(at) else _not_yet(name, at)
        with self._lock:
            self._table, self._travel, self._item, self._said = name, travel, (), said
            self._mode = "diff" if self._mode == "item" else self._mode
        self._moved()

    @property
    def mode(self) -> Mode:
        """`as of`, `diff` or `item`; settable. `item` shows the selected row's past."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._refuse_if_closed()
        if mode not in MODES:
            raise unknown("mode", mode, MODES)
        if mode == "item" and self._mode != "item" and (item := self._selected_item()) is not None:
            self._item = item
        if mode == "item" and not self._item:
            raise ValueError(self._why_no_item())
        self._mode, self._said = mode, ""
        self._moved()

    @property
    def version(self) -> int:
        """The version that is looked at; settable."""
        return self._travel.new

    @version.setter
    def version(self, version: int) -> None:
        self.as_of = version

    @property
    def compared_with(self) -> int:
        """The version that `diff` starts from; settable. If it is later than `version`, the two change places."""
        return self._travel.old

    @compared_with.setter
    def compared_with(self, version: int) -> None:
        self._refuse_if_closed()
        number, _ = self._resolved(version)
        with self._lock:
            self._travel.compare(number)
            self._moved()

    @property
    def as_of(self) -> datetime | None:
        """The instant that is looked at; `None` while it follows the newest version.

        Settable to `None`, a version, an aware datetime, or ISO text with an offset.

        Raises:
            VersionUnavailableError: Set to what is before the first or after the newest version.
            TypeError, ValueError: Set to none of these: a naive datetime, text that is no instant.
        """
        return self._travel.at

    @as_of.setter
    def as_of(self, when: When | None) -> None:
        self._refuse_if_closed()
        there = None if when is None else self._resolved(instant(when) if isinstance(when, str) else when)
        with self._lock:
            if there is None:
                self._travel.back_to_now()
            else:
                self._travel.go(*there)
            self._said = ""
            self._moved()

    @property
    def item(self) -> tuple[Any, ...]:
        """The key whose states `item` shows, one value per key column; settable, and changes to that mode."""
        return self._item

    @item.setter
    def item(self, key: object) -> None:
        self._refuse_if_closed()
        self._item = key if isinstance(key, tuple) else (key,)
        self._mode, self._said = "item", ""
        self._moved()

    @property
    def shown(self) -> list[str]:
        """The table's columns that are shown; settable. `frame` always has all of them."""
        chosen = self._shown.get(self._table)
        return list(chosen) if chosen is not None else pastgrid.first_columns(self._table, self._columns())

    @shown.setter
    def shown(self, columns: Sequence[str]) -> None:
        there = self._columns()
        if others := [name for name in columns if name not in there]:
            raise unknown("column", others[0], there)
        with self._lock:
            self._shown[self._table] = list(columns)
            self._install(self._sight)
        self._redraw()

    @property
    def frame(self) -> pl.DataFrame:
        """What the panel shows now, filtered and sorted, with all columns.

        Raises:
            StorageError: It cannot be read; of a version that was pruned or vacuumed, a `VersionUnavailableError`.
        """
        with self._lock:
            shown = super().frame
            if self._sight.error is not None:
                raise self._sight.error
            return shown.drop(self._sight.key)

    @property
    def code(self) -> str:
        """The Python that gives `frame`."""
        with self._lock:
            self._update()
            return self._code()

    def _code(self) -> str:
        return pastgrid.code(self.history, self._sight.view, self._grid.code(), is_of_desk=self._is_of_desk)

    def summary(self) -> str:
        """Return which table and version."""
        return f"{self._table} v{self.version} of {self._travel.first}–{self._travel.last}"

    # --- what a panel says of itself ----------------------------------------------------------------------------

    @property
    def tables(self) -> Sequence[LedgerTable[Any, Any]]:
        """The desk's tables, if it is of a desk: it closes with them."""
        return (self.desk.registry, self.desk.queue, self.desk.positions) if self._is_of_desk else ()

    def source(self) -> str:
        """Return the version, and from where to where there are some."""
        cut = self._travel.cut
        said = f"{self._sight.view.table} v{self._travel.new} of {self._travel.first}–{self._travel.last}"
        return f"{said} · {cut}" if cut else said

    def warning(self) -> str:
        """Return why what was asked for is not to be had."""
        return self._said or (str(self._sight.error) if self._sight.error is not None else "")

    def _columns(self) -> list[str]:
        seen = self._sight
        ours = {seen.key, seen.sign, *seen.olds.values()}
        return [name for name in seen.frame.columns if name not in ours]

    def _head(self) -> dict[str, Any]:
        """Return the title line, without reading anything for it."""
        state = "live" if self.is_live and self._travel.is_now else "paused" if self._travel.is_now else "past"
        return {
            "name": self.name,
            "title": self.title,
            "source": self._origin(),
            "state": "closed" if self._is_closed or not self._is_open() else state,
            "past": "",  # where it stands is what it is about
            "code": self._code(),
        }

    # --- which row, which version -------------------------------------------------------------------------------

    @property
    def _is_of_desk(self) -> bool:
        return isinstance(self._owner, Desk)

    @property
    def _sight(self) -> Look:
        if self._look is None:
            raise V6KitError("nothing was looked at yet")  # only ever in the constructor
        return self._look

    def _checked(self, table: str) -> str:
        if table not in self._histories:
            raise unknown("table", table, self._histories)
        return table

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise V6KitError("this history panel is closed; make it again")

    def _selected_item(self) -> tuple[Any, ...] | None:
        chosen, key = self._grid.chosen(), self.history.key
        if not key or not chosen.height or not set(key) <= set(chosen.columns):
            return None
        last = chosen.filter(pl.col(self._sight.key) == self._grid.selected[-1])
        return last.select(key).row(0)

    def _why_no_item(self) -> str:
        if self.history.key:
            return "select a row first; then Item shows every state of it"
        return (
            f"nobody has said which columns name one item: TableHistory({self.history.uri!r}, key=[…]); there are "
            f"{', '.join(self._columns())}"
        )

    def _resolved(self, when: When) -> tuple[int, datetime | None]:
        """Return the version, and the instant if one was asked for; what there is not, the history refuses."""
        travel, summary, moment = self._travel, self._travel.known.summary, as_moment(when)
        if isinstance(moment, int):
            if not summary.first <= moment <= max(summary.last, travel.last):
                self.history.as_of(moment)
            return moment, None
        found = travel.found(moment)
        if found is None or moment > self._clock.now():
            self.history.as_of(moment)
        return travel.last if found is None else found, moment

    def _view(self) -> View:
        travel = self._travel
        match self._mode:
            case "as of":
                return View(self._table, "as of", 0, travel.new)
            case "diff":
                return View(self._table, "diff", travel.old, travel.new)
            case "item":
                return View(self._table, "item", 0, travel.last, self._item)

    # --- reading ------------------------------------------------------------------------------------------------

    def read(self) -> pl.DataFrame:
        """Return what was seen."""
        return self._sight.frame

    def _update(self) -> None:
        """Look, where it is asked for from Python; the page's wishes go through `_load`."""
        if self._is_closed or not self._is_open():
            return
        self._read_at = self._clock.now()
        try:
            self._learn(self._table, pastgrid.known(self.history))
            self._errors.pop("lake", None)
        except StorageError as error:
            if self._look is None:
                raise
            self._errors["lake"] = error
        view = self._view()
        if self._look is None or not self._look.answers(view):
            self._install(pastgrid.look(self.history, view))

    def _learn(self, table: str, known: Known) -> None:
        with self._lock:
            if table == self._table:
                self._travel.learn(known)

    def _install(self, seen: Look) -> None:
        """Show what was seen; what was filtered, sorted and selected stays so while the columns are the same."""
        with self._lock:
            former, self._look = self._grid, seen
            grid = PastGrid(seen, self.shown)
            if isinstance(former, PastGrid) and former.seen.view.table == seen.view.table:
                grid.take_over(former)
            self._grid = grid

    async def _beat(self) -> None:
        """See whether there are newer versions, and rest for a while that what it took is a small part of."""
        now = asyncio.get_running_loop().time()
        if now < self._next_look or not self._is_open():
            return
        before, table = self._travel.known, self._table
        with self._stage.counted(), self._noted("lake"):
            self._learn(table, await asyncio.to_thread(pastgrid.known, self._histories[table], before))
            self._read_at = self._clock.now()
            self._ask()
            if self._loading is not None:
                await asyncio.wait({self._loading})  # what it takes counts, too
        ended = asyncio.get_running_loop().time()
        self._next_look = ended + max(_AROUND, min(_REST * (ended - now), _LONGEST_REST))
        self._draw()

    def _seen(self, view: str) -> None:
        if not self.audience.is_there:
            self._next_look = 0.0
        super()._seen(view)

    def _turn(self) -> None:
        """Go to the instant to which another panel, or whoever shares it, has gone."""
        with self._lock:
            at = self._as_of.at
            if at == self._travel.at or self._is_closed:
                return
            if at is None:
                self._travel.back_to_now()
            else:
                self._said = "" if self._travel.go_to(at) else _not_yet(self._table, at)
            self._moved()

    def _moved(self) -> None:
        """Draw where one looks now, and have it read."""
        self._redraw()
        self._stage.call(self._ask)
        if self._travel.at != self._as_of.at:
            self._as_of.at = self._travel.at

    def _ask(self) -> None:
        if self._sight.answers(self._view()):
            with self._noted("look"):
                pass  # what is wanted is there, whatever failed before
        elif (self._loading is None or self._loading.done()) and not self._is_closed:
            self._loading = asyncio.create_task(self._load(), name=f"{stage.WORK} look")

    async def _load(self) -> None:
        """Look once at what is wanted; of what was wanted meanwhile, only at the last."""
        tried = None
        with self._noted("look"):
            while (view := self._view()) != tried and not self._sight.answers(view) and not self._is_closed:
                tried, seen = view, await asyncio.to_thread(pastgrid.look, self._histories[view.table], view)
                with self._lock:
                    if not self._sight.answers(self._view()):  # else Python has looked meanwhile, at what is wanted now
                        self._install(seen)
                self._draw()

    async def _settle(self) -> None:
        await super()._settle()
        while self._loading is not None and not self._loading.done():
            await asyncio.wait({self._loading})


def _not_yet(table: str, at: datetime) -> str:
    return f"{table} did not exist at {utc(at)}, or what it held then was pruned"
