"""The past of a table: what it held at any version, what changed between two, all states of an item; and back again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from v6kit.display import counted, unknown, utc
from v6kit.errors import StorageError, V6KitError
from v6kit.ledger.compare import ADDED, CHANGED, GONE
from v6kit.panels import pastgrid, states, versionbars
from v6kit.panels.actions import Action
from v6kit.panels.parts import Part, chips, note
from v6kit.panels.past import PastPanel
from v6kit.panels.pastgrid import TONES, View
from v6kit.panels.surface import HistorySurface

_SIGNS = {ADDED: "+ added", CHANGED: "~ changed", GONE: "− gone"}


def _whether_to_restore(count: int) -> str:
    return f"Restore this version? {counted(count, 'row')} change{'s' * (count == 1)}. Click again"


class HistoryPanel(PastPanel):
    """The past of the lake's tables, or of one Delta table: as of a version, between two, or of one item.

    panel = desk.panel("history")
    panel.table, panel.version, panel.mode = "active_strategies", 3, "as of"
    panel.frame

    Args:
        source: A desk, or the past of any one table: `HistoryPanel(TableHistory(uri, key=["conid"]))`.
        table: Which of the desk's tables; settable later.
        place: Where it stands; there is one panel in each place.
        as_of: The instant that it shares with other panels.

    Raises:
        StorageError: The table cannot be read.
        ValueError: There is no such table.
    """

    name = "history"
    title = "History"
    surface = HistorySurface
    is_of_past = True
    _pace = 2.0  # versions per second
    _playing: asyncio.Task[None] | None = None
    _restoring: tuple[tuple[str, int, int], tuple[str, ...]] | None = None  # where one looked, and what it would change

    def play(self, pace: float = 2.0) -> Self:
        """Step through the versions up to the newest, from the first one if it is there already.

        Args:
            pace: Versions per second, more than 0; a version is always shown before the next.

        Raises:
            V6KitError: The panel is closed.
            ValueError: The pace is not more than 0.
        """
        if not pace > 0:
            raise ValueError(f"pace must be more than 0, got {pace!r}")
        self._refuse_if_closed()
        self._pace = pace
        self._stage.call(self._start_playing)
        return self

    def stop(self) -> Self:
        """Stop playing, where it is."""
        self._stage.call(self._stop_playing)
        return self

    @property
    def is_playing(self) -> bool:
        """Whether it steps through the versions by itself."""
        return self._playing is not None and not self._playing.done()

    def chip(self, name: str) -> Self:
        """Show the rows with this sign too, or no longer; none chosen shows all.

        Raises:
            ValueError: There is no such sign.
        """
        sign = next((sign for sign, title in _SIGNS.items() if name in (sign, title)), None)
        if sign is None:
            raise unknown("name", name, _SIGNS)
        with self._lock:
            if self._sight.sign is not None:
                self._grid.turn_keep(self._sight.sign, sign)
        self._redraw()
        return self

    def click(self, action: str) -> Self:
        """Press a button by its name, as on the screen; `restore` counts what would change, and asks once more."""
        if action == "restore" and not self._is_closed and not self._count_restoring():
            self._redraw()
            return self
        return super().click(action)

    # --- what a panel says of itself ----------------------------------------------------------------------------

    def parts(self) -> list[Part]:
        """Return the controls, the bars, and what belongs to the way of looking."""
        seen, travel = self._sight, self._travel
        text = states.words(seen, travel)
        drawn = travel.bars()
        versions = {
            "kind": "versions", "text": text, "range": self._mode == "diff", "version": travel.new,
            "first": travel.first, "last": travel.last, **drawn,
        }  # fmt: skip
        shown = [self._controls(), versions]
        if seen.view.mode == "diff" and seen.sign is not None:
            shown.append(self._signs(seen.sign))
        if seen.view.mode == "item" and seen.error is None:
            shown.append({"kind": "states", "states": states.strip(seen.frame, travel.new)})
        return shown if travel.known.versions.height else [*shown, note("nothing was ever written to this table")]

    def actions(self) -> Sequence[Action]:
        """Return restore."""
        return (
            Action(
                name="restore",
                label="Restore…",
                hint="Make the version that is looked at the newest; nothing is destroyed; asks once more",
                run=self._restore,
                applies=self._would_change,
                question=_whether_to_restore,
            ),
        )

    def _controls(self) -> Part:
        at, shown = self._travel.at, set(self.shown)
        return {
            "kind": "travel",
            "tables": list(self._histories),
            "table": self._table,
            "mode": self._mode,
            "at": utc(at) if at is not None else "",
            "isFirst": self._travel.new <= self._travel.first,
            "isLast": self._travel.is_now,
            "playing": self.is_playing,
            "off": self._is_closed,
            "many": self._travel.known.versions.height > versionbars.MOST,
            "all": self._travel.shows_all,
            "columns": [[name, name in shown] for name in self._columns()],
        }

    def _signs(self, sign: str) -> Part:
        counts = dict(self._sight.frame[sign].value_counts().iter_rows())
        kept = {_SIGNS[each] for each in self._grid.kept}
        tones: dict[str | None, str] = {title: TONES[each] for each, title in _SIGNS.items()}
        return chips({title: counts.get(each, 0) for each, title in _SIGNS.items()}, kept, tones)

    # --- playing ------------------------------------------------------------------------------------------------

    def _start_playing(self) -> None:
        if not self.is_playing and not self._is_closed:
            self._playing = asyncio.create_task(self._play())
            self._draw()

    def _stop_playing(self) -> None:
        if self._playing is not None:
            self._playing.cancel()
            self._playing = None
            self._draw()

    async def _play(self) -> None:
        if self._travel.is_now or self._travel.new >= self._travel.last:
            self._travel.go(self._travel.first)
            self._moved()
        while self._travel.new < self._travel.last:
            self._ask()
            await asyncio.sleep(1 / self._pace)
            if self._loading is not None:
                await asyncio.wait({self._loading})
            self._travel.step(1)
            self._moved()
        self._playing = None
        self._draw()

    def _end(self) -> None:
        self._stop_playing()
        super()._end()

    # --- restoring ----------------------------------------------------------------------------------------------

    def _place(self) -> tuple[str, int, int]:
        return self._table, self._travel.new, self._travel.last

    def _would_change(self) -> Sequence[str]:
        """Return the keys that a restore would change, as far as that was counted; else that there may be some."""
        if self._look is None or self._travel.new >= self._travel.last:
            return ()
        if self._restoring is not None and self._restoring[0] == self._place():
            return self._restoring[1]
        return (f"v{self._travel.new}",)

    def _count_restoring(self) -> bool:
        """See what a restore would change, or why it is refused, before anybody is asked whether he wants it.

        Returns:
            Whether that was found out; what could not be read may be there at the next click.
        """
        place = self._place()
        if place[1] >= place[2] or (self._restoring is not None and self._restoring[0] == place):
            return True
        self._restoring = None
        try:
            why = self.history.not_restored
        except StorageError as error:
            self._errors["restore"] = error
            return False
        if why:
            self._errors["restore"] = StorageError(why)
            self._restoring = place, ()
            return True
        changed = pastgrid.look(self.history, View(place[0], "diff", place[2], place[1]))
        if changed.error is not None:
            self._errors["restore"] = changed.error
            return False
        self._errors.pop("restore", None)
        self._restoring = place, tuple(f"v{place[1]} {key}" for key in changed.frame[changed.key])
        if not self._restoring[1]:
            self._said = f"v{place[1]} holds what the table holds now; there is nothing to restore"
        return True

    async def _restore(self, keys: Sequence[str]) -> int:
        (table, version, _), asked = self._restoring or (self._place(), ())
        if asked != tuple(keys):  # where one looks may be another place since the second click
            raise V6KitError("another version was asked about meanwhile, so none was restored; press Restore again")
        made = await self._histories[table].restore(version)
        self._learn(table, await asyncio.to_thread(pastgrid.known, self._histories[table]))
        self._travel.back_to_now()
        self._moved()
        return made

    # --- what a page asks for -----------------------------------------------------------------------------------

    def _answers(self) -> dict[str, Callable[[Mapping[str, Any]], object]]:
        asked: dict[str, Callable[[Mapping[str, Any]], object]] = {
            "live": lambda message: self._follow(on=bool(message["on"])),
            "now": lambda _message: self._follow(on=True),
            "table": lambda message: setattr(self, "table", str(message["name"])),
            "mode": lambda message: setattr(self, "mode", str(message["mode"])),
            "as_of": lambda message: setattr(self, "as_of", str(message["text"]) or None),
            "go": lambda message: self._go(int(message["version"]), compare=bool(message["compare"])),
            "step": lambda message: self._step(int(message["by"]), old=bool(message["old"])),
            "travel": lambda message: self._travels(str(message["go"])),
            "column": lambda message: self._turn_column(str(message["name"])),
            "zoom": lambda _message: self._travel.show_all(everything=not self._travel.shows_all),
        }
        return super()._answers() | {name: self._asked(name, act) for name, act in asked.items()}

    def _asked(self, name: str, act: Callable[[Mapping[str, Any]], object]) -> Callable[[Mapping[str, Any]], object]:
        """Return an answer that stops what plays, and says in a sentence why there is not what was asked for."""

        def answer(message: Mapping[str, Any]) -> None:
            if message.get("go") != "play" and name not in ("column", "zoom"):
                self._stop_playing()
            self._said = ""
            self._errors.pop("restore", None)
            try:
                act(message)
            except (V6KitError, ValueError, TypeError) as error:
                self._said = str(error)

        return answer

    def _follow(self, *, on: bool) -> None:
        self._is_live = on
        if on:
            self.as_of = None

    def _go(self, version: int, *, compare: bool) -> None:
        if compare:
            self.compared_with = version
            if self._mode == "as of":
                self.mode = "diff"
        elif version == self._travel.last:
            self.as_of = None
        else:
            self.as_of = version

    def _step(self, by: int, *, old: bool) -> None:
        (self._travel.step_old if old else self._travel.step)(by)
        self._moved()

    def _travels(self, go: str) -> None:
        match go:
            case "first":
                self._travel.go(self._travel.first)
            case "back" | "on":
                self._travel.step(1 if go == "on" else -1)
            case "last":
                self._travel.back_to_now()
            case "play":
                (self._stop_playing if self.is_playing else self._start_playing)()
        self._moved()

    def _turn_column(self, name: str) -> None:
        shown = self.shown
        order = self._columns()
        self.shown = [each for each in shown if each != name] if name in shown else [*shown, *({name} & set(order))]
