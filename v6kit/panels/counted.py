"""A panel whose rows are counted by what one column says, with a chip for each word that shows only these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from v6kit.display import unknown
from v6kit.panels import parts
from v6kit.panels.panel import Panel
from v6kit.panels.parts import Part


class CountedPanel(Panel):
    """A panel with chips.

    Attributes:
        counted: The column whose words they stand for; its tones are their colours, and their order.
    """

    counted: ClassVar[str]

    def chip(self, name: str) -> Self:
        """Show the rows of this name too, or no longer; none chosen shows all.

        Raises:
            ValueError: There is no such chip.
        """
        tones = self._tones()
        if name not in tones:
            raise unknown("name", name, map(str, tones))
        with self._lock:
            self._grid.turn_keep(self.counted, str(name))
        self._redraw()
        return self

    def _chips(self, counts: Mapping[str, int] | None = None) -> Part:
        """Return the chips; how many rows have which word is counted, unless it is known."""
        tones = self._tones()
        if counts is None:
            found = dict(self._grid.frame[self.counted].value_counts().iter_rows())
            counts = {str(name): found.get(name, 0) for name in tones}
        return parts.chips(counts, self._grid.kept, tones)

    def _tones(self) -> Mapping[str | None, str]:
        return next(column.tones for column in self.columns if column.name == self.counted)
