"""Where in the past one looks: which versions there are, the one looked at, and which it is compared with. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from datetime import UTC, datetime
from typing import Any, NamedTuple

import polars as pl

from v6kit.ledger import Summary
from v6kit.panels import versionbars


class Known(NamedTuple):
    """What is known of a table's past.

    Attributes:
        summary: From where to where it reaches.
        versions: As `TableHistory.versions()` returns them.
    """

    summary: Summary
    versions: pl.DataFrame


def instant(text: str) -> int | str:
    """Return what somebody typed as a version or as ISO text: `20`, `v20`, `2026-11-22 14:21:00 UTC`."""
    text = text.strip()
    number = text.removeprefix("v")
    if number.isdecimal():
        return int(number)
    return f"{text[:-3].rstrip()}+00:00" if text.upper().endswith("UTC") else text


class Travel:
    """A place in the past. It follows the newest version until another one is chosen.

    Args:
        known: What there is to look at.
    """

    def __init__(self, known: Known) -> None:
        self.at: datetime | None = None  # what was asked for, or when the chosen version was made
        self._new: int | None = None
        self._old: int | None = None
        self._start: int | None = 0  # of the bars' window; None shows all
        self.learn(known)

    def learn(self, known: Known) -> None:
        """Take in that there is more to look at, or less."""
        self.known = known
        self._numbers: list[int] = known.versions["version"].to_list()

    @property
    def first(self) -> int:
        """The oldest version."""
        return self.known.summary.first

    @property
    def last(self) -> int:
        """The newest version, or of a ledger the newest that changed something."""
        return self._numbers[-1] if self._numbers else self.known.summary.last

    @property
    def is_now(self) -> bool:
        """Whether it follows the newest version."""
        return self._new is None

    @property
    def new(self) -> int:
        """The version that is looked at."""
        return self.last if self._new is None else self._new

    @property
    def old(self) -> int:
        """The version that it is compared with; unless one was chosen, the one before."""
        return self.before(self.new) if self._old is None else self._old

    def before(self, version: int) -> int:
        """Return the version before, or the first one."""
        number = bisect_left(self._numbers, version)
        return self._numbers[number - 1] if number else min(self.first, version)

    def row(self, version: int) -> dict[str, Any] | None:
        """Return what is known of a version; of one that changed nothing, what is known of the one before."""
        number = bisect_right(self._numbers, version) - 1
        return self.known.versions.row(number, named=True) if number >= 0 else None

    def found(self, moment: datetime) -> int | None:
        """Return the newest version that had been made by then, if there is one."""
        made: list[int] = self.known.versions.filter(pl.col("updated_at") <= moment)["version"].to_list()
        return made[-1] if made else None

    # --- moving -------------------------------------------------------------------------------------------------

    def go(self, version: int, at: datetime | None = None) -> None:
        """Look at a version; compare it with the one before."""
        self._new, self._old = version, None
        self.at = at or self._made(version)

    def go_to(self, at: datetime) -> bool:
        """Look at an instant, or where nothing had been made by then, at the first version; return which it was."""
        found = self.found(at)
        self.go(self.first if found is None else found, at)
        return found is not None

    def back_to_now(self) -> None:
        """Follow the newest version."""
        self._new = self._old = self.at = None

    def compare(self, version: int) -> None:
        """Compare with a version; of the two, the later one is looked at."""
        old, new = sorted((version, self.new))
        if new != self.new:
            self.go(new)
        self._old = old

    def step(self, by: int) -> None:
        """Look at the version so many further on; a comparison that was chosen stays, as long as it lies before."""
        version, old = self._stepped(self.new, by), self._old
        self.go(version)
        if old is not None and old < version:
            self._old = old

    def step_old(self, by: int) -> None:
        """Compare with the version so many further on, but with none that is later."""
        self._old = min(self._stepped(self.old, by), self.new)

    def _stepped(self, version: int, by: int) -> int:
        if not self._numbers:
            return version
        here = bisect_left(self._numbers, version) if by > 0 else bisect_right(self._numbers, version) - 1
        if by > 0 and (here == len(self._numbers) or self._numbers[here] != version):
            here -= 1  # it lies between two, so the next is one step
        if by < 0 and here >= 0 and self._numbers[here] != version:
            here += 1
        if here + by < 0:
            return min(self.first, self._numbers[0])
        return self._numbers[min(here + by, len(self._numbers) - 1)]

    def _made(self, version: int) -> datetime | None:
        row = self.row(version)
        made: datetime | None = row["updated_at"] if row else None
        return made.astimezone(UTC) if made else None

    # --- drawing ------------------------------------------------------------------------------------------------

    @property
    def shows_all(self) -> bool:
        """Whether the bars are all versions, rather than a window around the one looked at."""
        return self._start is None

    def show_all(self, *, everything: bool) -> None:
        """Show all versions, several to a bar if need be; or a window with a bar for each."""
        self._start = None if everything else 0

    @property
    def cut(self) -> str:
        """Which versions cannot be read any more, in words; empty if all can."""
        reach = self.known.summary
        readable = reach.readable_from
        cut = "none can be read" if readable is None else f"readable from v{readable}" if readable else ""
        if reach.unreadable:
            cut += (
                f", but {reach.unreadable}"
                if not readable
                else f" ({reach.unreadable:,} {'is' if reach.unreadable == 1 else 'are'} not)"
            )
        return cut

    def bars(self) -> dict[str, Any]:
        """Return the bars that are in sight and which of them are chosen, for the page."""
        if self._start is not None:
            cursor = max(0, bisect_right(self._numbers, self.new) - 1)
            self._start = versionbars.near(self._start, cursor, len(self._numbers))
        pruned = self._numbers[0] if self._numbers and self._is_cut() else 0
        drawn = versionbars.bars(self.known.versions, self._start, pruned)
        return {
            "bars": [list(bar) for bar in drawn],
            "new": versionbars.index(drawn, self.new),
            "old": versionbars.index(drawn, self.old),
            "all": self.shows_all,
            "of": len(self._numbers),
        }

    def _is_cut(self) -> bool:
        return self.first > 0
