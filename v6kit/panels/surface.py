"""The widget of a panel: what the kernel says, the page draws. Nothing comes back but messages.

The page never sets a trait. So all of them are set by one thread, the panels' own, and ipywidgets, which is not made
for threads, never meets two.
"""

from __future__ import annotations

from importlib.resources import files

import anywidget
import traitlets

_HERE = files(__package__)


def _text(*names: str) -> str:
    return "\n".join((_HERE / name).read_text(encoding="utf-8") for name in names)


class Surface(anywidget.AnyWidget):
    """What a page draws of a panel; each trait is one region of it, and is sent when it has changed.

    Attributes:
        head: The title line.
        parts: What stands between title and grid.
        grid: The rows in sight.
        below: What stands below them.
        buttons: Below the grid.
        trouble: The error strip; empty if there is none.
        heard: Number of the newest message that the kernel has taken, by view.
    """

    _esm = _text("dom.js", "parts.js", "grid.js", "surface.js")
    _css = _text("surface.css")

    head = traitlets.Dict().tag(sync=True)
    parts: traitlets.List[object] = traitlets.List().tag(sync=True)
    grid = traitlets.Dict().tag(sync=True)
    below: traitlets.List[object] = traitlets.List().tag(sync=True)
    buttons: traitlets.List[object] = traitlets.List().tag(sync=True)
    trouble = traitlets.Dict().tag(sync=True)
    heard = traitlets.Dict().tag(sync=True)


class StrategiesSurface(Surface):
    """What a page draws of the strategies: a form besides; apart, as below."""

    _esm = _text("dom.js", "parts.js", "grid.js", "form.js", "surface.js")


class DashboardSurface(Surface):
    """What a page draws on top of a dashboard: figures and tabs besides; apart, as below."""

    _esm = _text("dom.js", "parts.js", "grid.js", "tabs.js", "surface.js")


class HistorySurface(Surface):
    """What a page draws of a history; apart, since each widget in a notebook keeps all of its script."""

    _esm = _text("dom.js", "parts.js", "grid.js", "history.js", "surface.js")
    _css = _text("surface.css", "history.css")


def css() -> str:
    """Return the style sheet, for a page that stands alone."""
    return _text("surface.css", "history.css")
