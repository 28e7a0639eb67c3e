"""A panel without JavaScript: what a reopened, untrusted, converted or GitHub-rendered notebook shows, and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from v6kit.panels import parts
from v6kit.panels.parts import Part

# The picture goes when the widget is there. Where it is not, what JupyterLab says instead goes: one line without an
# element, `Error displaying widget: model not found` (WidgetRenderer of @jupyter-widgets/jupyterlab-manager 5.0); an
# error with more to say stays. A page that does not trust the notebook drops these rules, and draws no widget either.
_UNTIL_LIVE = """\
.jp-OutputArea-child:has(.v6-picture):has(+ .jp-OutputArea-child .v6-panel),
.jp-OutputArea-child:has(.v6-picture) + .jp-OutputArea-child:not(:has(.jp-OutputArea-output > *)),
.output_container:has(.v6-picture):has(+ .output_container .v6-panel) .v6-picture { display: none; }"""


class Table(NamedTuple):
    """The first rows of a grid, as texts.

    Attributes:
        heads: The columns' titles, each with its side, `left` or `right`.
        rows: Their cells.
        total: How many rows there are.
    """

    heads: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[str]]
    total: int


def picture(head: Mapping[str, Any], body: Sequence[Part], trouble: Mapping[str, Any], table: Table) -> str:
    """Return a panel as HTML.

    Args:
        head: The title line.
        body: What stands above the grid.
        trouble: The error strip.
        table: The grid's first rows.
    """
    title = f"<p><b>{escape(head['title'])}</b> · {escape(head['source'])}</p>"
    strip = f"<p><b>{escape(trouble['line'])}</b></p>" if trouble else ""
    return f"<div class='v6-static'>{title}{''.join(map(parts.static, body))}{strip}{_grid(table)}</div>"


def _grid(table: Table) -> str:
    if not table.heads:
        return ""
    more = f"<p>the first {len(table.rows):,} of {table.total:,} rows</p>" if table.total > len(table.rows) else ""
    return parts.static_table(table.heads, table.rows) + more


def until_live(picture: str) -> str:
    """Return a picture that shows until the panel itself does, in an output right below it."""
    return (
        f"<style>{_UNTIL_LIVE}</style><div class='v6-picture'>{picture}"
        "<p><small>A picture. Run its cell for the live panel.</small></p></div>"
    )


def page(title: str, style: str, inside: str) -> str:
    """Return a whole page around a picture."""
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<style>{style}</style></head><body>{inside}</body></html>\n"
    )
