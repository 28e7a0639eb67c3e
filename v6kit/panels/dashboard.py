"""The dashboard: counts and lines on top, a tab for each panel below, and one instant that all of them show.

Only the panel whose tab is open is seen, so only that one reads, draws and sends.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Self

import ipywidgets
import polars as pl

from v6kit.desk import Desk
from v6kit.display import unknown
from v6kit.errors import V6KitError, VersionUnavailableError
from v6kit.ledger import LedgerTable
from v6kit.panels import frames, parts
from v6kit.panels.as_of import AsOf, typed
from v6kit.panels.book import TONES as QUALITIES
from v6kit.panels.panel import Panel
from v6kit.panels.parts import Part
from v6kit.panels.queue import TONES as STATUSES
from v6kit.panels.strategies import TONES as STATES
from v6kit.panels.surface import DashboardSurface

_COUNTED: dict[str, tuple[Callable[..., pl.DataFrame], str, Mapping[str | None, str]]] = {
    "strategies": (frames.strategies, "state", STATES),
    "queue": (frames.queue, "status", STATUSES),
    "book": (frames.book, "known", QUALITIES),
}
MakePanel = Callable[[Desk, str, str, AsOf], Panel]


class Dashboard(Panel):
    """All panels of a desk behind tabs; made by `desk.dashboard()`.

    dashboard = desk.dashboard()
    dashboard.open("queue").as_of = "2026-11-22 14:32:05+00:00"
    dashboard.panel.frame

    Args:
        desk: An open desk.
        names: Of the panels, in the order of their tabs.
        make: Makes one of them for a desk, by its name, in a place of its own, with an instant that it shares.
    """

    name = "dashboard"
    title = "Dashboard"
    surface = DashboardSurface

    def __init__(self, desk: Desk, names: Mapping[str, str], make: MakePanel) -> None:
        self._names, self._make = dict(names), make
        self._panels: dict[str, Panel] = {}
        self._chosen = next(iter(self._names))
        self._room: ipywidgets.VBox | None = None
        super().__init__(desk)
        self._tab(self._chosen)

    # --- its tabs -----------------------------------------------------------------------------------------------

    @property
    def panel(self) -> Panel:
        """The panel whose tab is open."""
        return self._panels[self._chosen]

    def open(self, name: str) -> Self:
        """Open a tab.

        Raises:
            StorageError: The desk is closed, and this tab was never open.
            V6KitError: The dashboard is closed, and this tab was never open.
            ValueError: There is no such tab.
        """
        if name not in self._names:
            raise unknown("name", name, self._names)
        with self._lock:
            self._tab(name)
            self._chosen = name
        self._stage.call(self._furnish)
        self._redraw()
        return self

    def _tab(self, name: str) -> None:
        """Make a tab's panel when it is opened for the first time."""
        if name not in self._panels:
            if self._is_closed and self._is_open():  # nobody would close it
                raise V6KitError("this dashboard is closed; make it again with desk.dashboard()")
            self._panels[name] = self._make(self.desk, name, f"{self.name} {name}", self._as_of)

    async def settled(self) -> None:
        """Wait for what the buttons of all its panels have started.

        Raises:
            Exception: What failed last in one of them, as its `last_error` has it.
        """
        for panel in list(self._panels.values()):
            await panel.settled()
        await super().settled()

    def close(self) -> None:
        """Close it with all its panels."""
        super().close()
        for panel in list(self._panels.values()):
            panel.close()

    def _furnish(self) -> None:
        """Show the open tab's widget in the room, and hide the others, which then have no audience.

        Hidden and not taken out: when tabs change quickly, JupyterLab removes a view that is no longer there.
        """
        if self._room is None:
            return
        opened = self.panel._on_screen()  # noqa: SLF001 - a dashboard is made of panels
        if opened not in self._room.children:
            self._room.children = (*self._room.children, opened)
        for shown in self._room.children:
            shown.layout.display = None if shown is opened else "none"

    # --- what stands on top -------------------------------------------------------------------------------------

    @property
    def tables(self) -> Sequence[LedgerTable[Any, Any]]:
        """All three."""
        return self.desk.registry, self.desk.queue, self.desk.positions

    def revision(self) -> Hashable:
        """Return what may have changed: tables, lines, the worker."""
        lines, worker = self.desk.broker.lines, self.desk.worker
        return *super().revision(), lines.used, lines.capacity, worker.phase, worker.is_running  # type: ignore[misc]

    def source(self) -> str:
        """Return where the lake and the gateway are."""
        kind = "simulated gateway" if self.desk.is_simulated else "gateway"
        return f"{kind}, {self.desk.broker.state}"

    def _origin(self) -> str:
        return f"{self.source()} · {self._read_at:%H:%M:%S} UTC" if self.as_of is None else ""

    def parts(self) -> list[Part]:
        """Return the figures, and the tabs."""
        tabs = parts.tabs(
            list(self._names.items()), self._chosen, f"{self.as_of:%Y-%m-%d %H:%M:%S}" if self.as_of else ""
        )
        return [*self._figures(), tabs]

    def read(self) -> pl.DataFrame:
        """Return the counts: table, name, count, key."""
        rows = [
            {"table": table, "name": name, "count": counts.get(str(name), 0), "key": f"{table} {name}"}
            for table, (shown, column, tones) in _COUNTED.items()
            for counts in [self._counts(shown, column)]
            for name in tones
        ]
        return pl.DataFrame(rows)

    def _counts(self, shown: Callable[..., pl.DataFrame], column: str) -> dict[str, int]:
        try:
            return dict(shown(self.desk, self.as_of)[column].value_counts().iter_rows())
        except VersionUnavailableError:
            return {}  # the tab of this table says why

    def _figures(self) -> list[Part]:
        counts = {
            (table, name): count for table, name, count in self._grid.frame.select("table", "name", "count").rows()
        }
        groups = [
            (table, [(str(name), counts[table, name], tone) for name, tone in tones.items()])
            for table, (_, _, tones) in _COUNTED.items()
        ]
        shown = [parts.figures(groups)]
        if self.as_of is None:
            use = self.desk.broker.lines
            segments = [("streams", float(use.streams), "good"), ("snapshots", float(use.used - use.streams), "busy")]
            shown.append(parts.meter(f"{use.used} / {use.capacity} lines", use.capacity, segments))
        return shown

    def warning(self) -> str:
        """Return why nothing new is asked for now."""
        return f"nothing new is claimed: {hold}" if (hold := self.desk.broker.hold) else ""

    def summary(self) -> str:
        """Return which tabs there are."""
        return ", ".join(self._names.values())

    @property
    def code(self) -> str:
        """The Python that shows it so."""
        then = f"dashboard.as_of = {self.as_of.isoformat()!r}\n" if self.as_of else ""
        return f"dashboard = desk.dashboard().open({self._chosen!r})\n{then}dashboard"

    def _answers(self) -> dict[str, Callable[[Mapping[str, Any]], object]]:
        return super()._answers() | {
            "tab": lambda message: self.open(str(message["name"])),
            "as_of": lambda message: setattr(self, "as_of", typed(str(message["text"]), self.desk.clock.now())),
        }

    def _repr_mimebundle_(self, **_options: object) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return top and open tab as widgets, and for where there are none, their pictures."""
        data, about = super()._repr_mimebundle_()
        if self._room is None:
            self._room = ipywidgets.VBox()
        self._furnish()
        whole = ipywidgets.VBox([self._on_screen(), self._room])
        bundle: Any = whole._repr_mimebundle_() or {}
        return {**bundle, "text/html": data["text/html"], "text/plain": repr(self)}, about

    def _static(self, rows: int) -> str:
        return super()._static(rows) + self.panel._static(rows)  # noqa: SLF001 - as above
