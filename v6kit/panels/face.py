"""What a panel looks like: its settings, what its page draws as plain values, and its picture without JavaScript.

State under a lock, usable from any thread. Who looks, and when there is something new, is the panel's.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Collection, Hashable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Self

import polars as pl

from v6kit.desk import Desk
from v6kit.display import utc
from v6kit.errors import V6KitError, VersionUnavailableError
from v6kit.history import TableHistory
from v6kit.ledger import LedgerTable
from v6kit.panels import static
from v6kit.panels.actions import Action, Buttons
from v6kit.panels.as_of import AsOf
from v6kit.panels.grid import Column, Grid
from v6kit.panels.parts import Part
from v6kit.panels.settings import Settings
from v6kit.panels.surface import Surface, css

_PAGE_ROWS = 1000


class Face(Settings):
    """What is shown of a desk, or of one table: a title line, a body, a grid, buttons, an error strip.

    Attributes:
        place: There is one panel in each place.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    columns: ClassVar[Sequence[Column]] = ()
    key: ClassVar[str] = "key"
    surface: ClassVar[type[Surface]] = Surface
    is_of_past: ClassVar[bool] = False  # moves through the past itself, so nothing of it rests there
    place: str

    def __init__(self, owner: Desk | TableHistory, *, place: str | None, as_of: AsOf | None) -> None:
        self._owner = owner
        self._clock = owner.clock
        self.place = place or self.name
        self._as_of = as_of or AsOf()
        self._gap = ""
        self._looked_up: tuple[str, list[Part]] = ("", [])  # about which row, and what
        self._lock = threading.RLock()
        self._grid = Grid(self.columns, self.key)
        self._buttons = Buttons(self.actions())
        self._heard: dict[str, int] = {}
        self._errors: dict[str, Exception] = {}
        self._is_live, self._is_closed = True, False
        self._read_at, self._read_for = self._clock.now(), self.as_of
        self._update()

    # --- what a panel says of itself; overridden ----------------------------------------------------------------

    @property
    def tables(self) -> Sequence[LedgerTable[Any, Any]]:
        """The tables that it shows, the one in its title first."""
        raise TypeError(f"{type(self).__name__} must say what it shows")

    def read(self) -> pl.DataFrame:
        """Return what the grid shows; no I/O."""
        raise TypeError(f"{type(self).__name__} must say what it shows")

    def parts(self) -> list[Part]:
        """Return what stands above the grid."""
        return []

    def below(self) -> list[Part]:
        """Return what stands below the grid: what was looked up about the row that was selected last, while it is."""
        key, found = self._looked_up
        return found if self._grid.selected[-1:] == [key] else []

    def actions(self) -> Sequence[Action]:
        """Return the buttons."""
        return ()

    def revision(self) -> Hashable:
        """Return something that is another when there is something new to read."""
        return tuple(table.ledger.version for table in self.tables)

    def source(self) -> str:
        """Return where the data comes from, for the title line."""
        table = self.tables[0].ledger
        return f"{table.spec.name} v{table.version}"

    def warning(self) -> str:
        """Return what is wrong outside of the panel, in one line, or an empty string."""
        return ""

    # --- for the user -------------------------------------------------------------------------------------------

    @property
    def desk(self) -> Desk:
        """The desk that it shows.

        Raises:
            V6KitError: It shows a table that belongs to no desk.
        """
        if isinstance(self._owner, TableHistory):
            raise V6KitError(f"this {self.name} panel shows a table that belongs to no desk")
        return self._owner

    @property
    def frame(self) -> pl.DataFrame:
        """What the panel shows, filtered and sorted, as a polars frame; while it is paused, what it showed then."""
        with self._lock:
            self._read_for_python()
            return self._grid.view

    @property
    def selected(self) -> list[str]:
        """The keys of the rows that are selected; settable, and the same as on the screen."""
        return list(self._grid.selected)

    @selected.setter
    def selected(self, keys: Collection[str | int] | str | int) -> None:
        chosen = [keys] if isinstance(keys, str | int) else keys
        with self._lock:
            self._read_for_python()
            self._grid.select([str(key) for key in chosen])  # a strategy's id may be given as a number everywhere
        self._redraw()

    @property
    def words(self) -> str:
        """The words that a row must have; settable, and the same as on the screen."""
        return self._grid.filter

    @words.setter
    def words(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"words must be a str, got {text!r}")
        with self._lock:
            self._grid.filter_by(text)
        self._redraw()

    @property
    def is_live(self) -> bool:
        """Whether it follows what happens; settable."""
        return self._is_live and not self._is_closed and not self._rests

    @is_live.setter
    def is_live(self, live: bool) -> None:
        self._is_live = bool(live)
        self._redraw()

    @property
    def as_of(self) -> datetime | None:
        """The instant that it shows, aware UTC, or `None` for now; settable, also by ISO text with an offset.

        While it shows the past it is not live, and its buttons rest.
        """
        return self._as_of.at

    @as_of.setter
    def as_of(self, when: datetime | str | None) -> None:
        self._as_of.at = when

    def sort(self, column: str | None, *, descending: bool = False) -> Self:
        """Sort by a column as a click on its head does; `None` for the panel's own order."""
        with self._lock:
            self._grid.sort_by(column, descending=descending)
        self._redraw()
        return self

    @property
    def last_error(self) -> Exception | None:
        """Why the last look at the lake, or the last button, failed; `None` while all is well."""
        return next(iter(list(self._errors.values())[::-1]), None)

    @property
    def code(self) -> str:
        """The Python that gives `frame`, where `desk` is the desk."""
        with self._lock:
            view = self._grid.code()
        needs = "import polars as pl\n" if "pl." in view else ""
        return f"{needs}from v6kit.panels import frames\n\nframes.{self.name}(desk{self._when()}){view}"

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write what it shows, at most 1,000 rows, as a page that needs no JavaScript."""
        inside = self._static(_PAGE_ROWS)
        Path(path).write_text(static.page(f"v6kit · {self.title}", css(), inside), encoding="utf-8")

    def __repr__(self) -> str:
        return f"{self.title} panel: {self.summary() if self._is_open() else 'closed'}"

    def summary(self) -> str:
        """Return what it shows, in a few words."""
        return self.tables[0].summary()

    # --- drawing ------------------------------------------------------------------------------------------------

    def _read_for_python(self) -> None:
        """Read what there is; of a panel that is paused or closed, Python gets what the page shows."""
        if self.is_live or self.is_of_past or (self._read_for != self.as_of and not self._is_closed):
            self._update()

    def _update(self) -> None:
        """Read what there is, unless the lake is closed: then the last that was read stays."""
        if self._is_open():
            self._read_at, self._read_for, self._gap = self.as_of or self._clock.now(), self.as_of, ""
            try:
                frame = self.read()
            except VersionUnavailableError as error:
                if self.as_of is None:
                    raise
                frame, self._gap = self._grid.frame.clear(), str(error)  # before its first change, or forgotten since
            self._grid.show(frame)

    def _is_open(self) -> bool:
        return all(table.ledger.is_open for table in self.tables)

    def _state(self) -> dict[str, Any]:
        """Return the value of each of the surface's traits."""
        return {
            "head": self._head(),
            "parts": self.parts() if self._is_open() else [],
            "below": self.below() if self._is_open() else [],
            "grid": self._grid.window(self._read_at) if self._grid.columns else {},
            "buttons": self._buttons.draw(closed=not self._may_act()),
            "trouble": self._trouble(),
            "heard": dict(self._heard),
        }

    def _head(self) -> dict[str, Any]:
        state = "live" if self.is_live else "paused" if self.as_of is None else "past"
        if self._is_closed or not self._is_open():
            state = "closed"
        return {
            "name": self.name,
            "title": self.title,
            "source": self._origin(),
            "state": state,
            "past": f"as of {utc(self.as_of)}" if self.as_of and self._rests and self.place == self.name else "",
            "code": self.code,
        }

    def _may_act(self) -> bool:
        return not self._is_closed and self._is_open() and not self._rests

    @property
    def _rests(self) -> bool:
        return self.as_of is not None and not self.is_of_past

    def _origin(self) -> str:
        if self.as_of is None or not self._rests:
            return f"{self.source()} · {self._read_at:%H:%M:%S} UTC"
        return f"{self.tables[0].ledger.spec.name} · {utc(self.as_of)}"

    def _when(self) -> str:
        return f", {self.as_of.isoformat()!r}" if self.as_of is not None else ""

    def _trouble(self) -> dict[str, Any]:
        error = self.last_error
        if error is not None:
            return {"line": f"{type(error).__name__}: {error}", "trace": "".join(traceback.format_exception(error))}
        warning = "" if not self._is_open() else self._gap if self._rests else self.warning()
        return {"line": warning, "trace": ""} if warning else {}

    def _static(self, rows: int) -> str:
        with self._lock:
            self._read_for_python()
            heads = [(column.title, "right" if column.is_number else "left") for column in self._grid.columns]
            table = static.Table(heads, self._grid.head_rows(self._read_at, rows), self._grid.view.height)
            parts = [*self.parts(), *self.below()] if self._is_open() else []
            return static.picture(self._head(), parts, self._trouble(), table)

    def _redraw(self) -> None:
        """Ask for a drawing, where there is a page."""
