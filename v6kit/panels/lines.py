"""The market data lines: how many are in use, and who holds which."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import polars as pl

from v6kit.display import counted
from v6kit.ledger import LedgerTable
from v6kit.panels import frames, parts
from v6kit.panels.grid import Column
from v6kit.panels.panel import Panel
from v6kit.panels.parts import Part

_TONES: dict[str | None, str] = {"stream": "good", "snapshot": "busy", "waiting": "warn"}


class LinesPanel(Panel):
    """Who holds a market data line and why, who waits for one, and how many are left.

    panel = desk.panel("lines")
    panel.frame.group_by("strategies").len()
    panel
    """

    name = "lines"
    title = "Lines"
    columns = (
        Column(name="kind", title="kind", tones=_TONES),
        Column(name="contract", title="contract"),
        Column(name="since", title="held for", kind="age"),
        Column(
            name="users",
            title="users",
            kind="number",
            hint="How many asked for this line; it is given back when the last has let go",
        ),
        Column(name="why", title="why", wide=True),
    )

    @property
    def tables(self) -> Sequence[LedgerTable[Any, Any]]:
        """The registry, and the book for the contracts' names."""
        return self.desk.registry, self.desk.positions

    def revision(self) -> Hashable:
        """Return what may have changed: the strategies, the holders and those who wait."""
        held = tuple((each.kind, each.conid, each.since) for each in self.desk.broker.lines.holders())
        return self.desk.registry.ledger.version, held, self.desk.streamer.standing

    def source(self) -> str:
        """Return that this is of now, and no table."""
        return f"limit {self.desk.broker.lines.limit}"

    def read(self) -> pl.DataFrame:
        """Return who holds what."""
        return frames.lines(self.desk, self.as_of)

    def parts(self) -> list[Part]:
        """Return the bar."""
        if self.as_of is not None:
            return [parts.note("streams, as registry and book tell; no table remembers the snapshots")]
        use = self.desk.lines
        text = (
            f"{use.used} / {use.capacity} used · {counted(use.streams, 'stream')} · "
            f"{counted(use.snapshots, 'snapshot')} · peak {use.peak} · {use.limit - use.capacity} left to others"
        )
        segments = [("streams", float(use.streams), "good"), ("snapshots", float(use.snapshots), "busy")]
        return [parts.meter(text, use.capacity, segments)]

    def summary(self) -> str:
        """Return how many are in use."""
        return self.desk.lines.summary()
