"""Panels: the desk on the screen. They show state and call what the desk offers to everybody, nothing else.

The only room that imports `anywidget`. A new panel is a class in `PANELS`: its columns, what it reads, its buttons.
"""

from __future__ import annotations

from v6kit.desk import Desk
from v6kit.display import unknown
from v6kit.panels.as_of import AsOf
from v6kit.panels.book import BookPanel
from v6kit.panels.dashboard import Dashboard
from v6kit.panels.history import HistoryPanel
from v6kit.panels.lines import LinesPanel
from v6kit.panels.panel import Panel
from v6kit.panels.queue import QueuePanel
from v6kit.panels.strategies import StrategiesPanel
from v6kit.panels.worker import WorkerPanel

__all__ = [
    "PANELS",
    "AsOf",
    "BookPanel",
    "Dashboard",
    "HistoryPanel",
    "LinesPanel",
    "Panel",
    "QueuePanel",
    "StrategiesPanel",
    "WorkerPanel",
    "make",
    "make_dashboard",
]

PANELS: dict[str, type[Panel]] = {
    each.name: each for each in (StrategiesPanel, QueuePanel, BookPanel, WorkerPanel, LinesPanel, HistoryPanel)
}


def make(desk: Desk, name: str) -> Panel:
    """Return a panel of a desk; an open one of the same name closes, so a cell may be run again and again.

    Args:
        desk: An open desk.
        name: `strategies`, `queue`, `book`, `worker`, `lines` or `history`.

    Raises:
        ValueError: There is no such panel.
    """
    if name not in PANELS:
        raise unknown("name", name, PANELS)
    return PANELS[name](desk)


def make_dashboard(desk: Desk) -> Dashboard:
    """Return all panels of a desk behind tabs; an open dashboard of this desk closes."""
    return Dashboard(
        desk,
        {name: kind.title for name, kind in PANELS.items()},
        lambda of, name, place, as_of: PANELS[name](of, place=place, as_of=as_of),
    )
