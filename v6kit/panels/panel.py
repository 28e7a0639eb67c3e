"""What every panel is: a face that is live while somebody looks, with buttons that work, and an error strip.

All reading and drawing happens on the panels' thread. What comes in from the page or from Python only changes state
under a lock and asks for a drawing, so it does not matter on which thread, or beside which cell, it comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from IPython import get_ipython
from IPython.display import display

from v6kit.desk import Desk
from v6kit.errors import V6KitError
from v6kit.history import TableHistory
from v6kit.panels import stage, static
from v6kit.panels.actions import Action
from v6kit.panels.as_of import AsOf
from v6kit.panels.audience import Audience
from v6kit.panels.face import Face
from v6kit.panels.parts import Part
from v6kit.panels.surface import Surface

_PULSE = 0.25  # seconds between two looks at whether there is something new
_STATIC_ROWS = 20


class Panel(Face):
    """One panel of a desk; made by `desk.panel(name)`, and shown by being the last line of a cell.

    Attributes:
        audience: Who looks at it.
    """

    audience: Audience

    def __init__(self, owner: Desk | TableHistory, *, place: str | None = None, as_of: AsOf | None = None) -> None:
        self.audience = Audience()
        self._surface: Surface | None = None
        self._work: set[asyncio.Task[object]] = set()
        self._revision: Hashable = None
        super().__init__(owner, place=place, as_of=as_of)
        self._stage = stage.enter(owner, self)
        self._stop_listening = self._as_of.listen(lambda _at: self._stage.call(self._turn))
        self._pulse = self._stage.submit(self._live())

    # --- for the user -------------------------------------------------------------------------------------------

    def click(self, action: str) -> Self:
        """Press a button by its name, as on the screen: what destroys has to be pressed twice.

        `await panel.settled()` waits for what it started.

        Raises:
            V6KitError: The panel is closed.
            ValueError: There is no such button.
        """
        if self._is_closed:
            raise V6KitError(f"this {self.name} panel is closed; make it again with desk.panel({self.name!r})")
        if self._rests:
            raise V6KitError(f"this {self.name} panel shows the past; set panel.as_of = None to act on what is now")
        with self._lock:
            pressed = self._buttons.click(action)
        if pressed is not None:
            self._stage.call(self._start, *pressed)
        self._redraw()
        return self

    async def settled(self) -> None:
        """Wait for what the buttons have started.

        Raises:
            Exception: What failed last, as `last_error` has it.
        """
        if not self._stage.has_ended:
            await asyncio.wrap_future(self._stage.submit(self._settle()))
        if self.last_error is not None:
            raise self.last_error

    def close(self) -> None:
        """Let it be: it keeps its last picture and follows nothing any more. What its buttons started goes on."""
        if self._is_closed:
            return
        self._is_closed = True
        self._stop_listening()
        self._stage.leave(self)
        self._stage.call(self._end)

    def chip(self, name: str) -> Self:
        """Press a chip as on the screen: show the rows of that name too, or no longer. None pressed shows all.

        Raises:
            ValueError: There is no such chip.
        """
        raise ValueError(f"the {self.name} panel has no chip {name!r}")

    def _repr_mimebundle_(self, **_options: object) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the widget, and for where there is none, a picture and a line."""
        picture = self._static(_STATIC_ROWS)  # reads, so the widget begins with what is there now
        bundle: Any = self._on_screen()._repr_mimebundle_() or {}
        data, about = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, "text/html": picture, "text/plain": repr(self)}, dict(about)

    def _ipython_display_(self) -> None:
        """Show its forms as two outputs: the picture, and below it the widget, which takes the picture's place.

        Of one output a page draws one form. JupyterLab takes the widget wherever it trusts the notebook, and where no
        kernel has it any more it draws nothing but that it found no model; so the picture needs an output of its own.
        The second has an empty text, or `nbconvert` would warn that it can show nothing of it.
        """
        forms, about = self._repr_mimebundle_()
        widget = {kind: forms.pop(kind) for kind in list(forms) if "widget-view" in kind}
        picture = forms | {"text/html": static.until_live(forms["text/html"])}
        display(picture, raw=True)  # type: ignore[no-untyped-call]  # IPython's
        shell = get_ipython()
        if shell is None or "text/html" in shell.display_formatter.active_types:  # a terminal would print an empty line
            display(widget | {"text/plain": ""}, raw=True, metadata=about)  # type: ignore[no-untyped-call]

    def _on_screen(self) -> Surface:
        """Return the widget; made when it is first shown, so that a panel that is not costs no message."""
        with self._lock:
            if self._surface is None:
                self._surface = self.surface(**self._state())
                self._surface.on_msg(lambda _widget, content, _buffers: self._hear(content))
            return self._surface

    def _hear(self, message: Mapping[str, Any]) -> None:
        """Hand over what a page asks for: this is the kernel's thread, or one of its subshells.

        After the panels' thread nothing else sets a trait, so it is done here: the last picture can be scrolled, and is
        let go with its last view, and with it the desk.
        """
        if not self._stage.call(self._receive, message):
            self._receive(message)

    def _redraw(self) -> None:
        self._stage.call(self._draw)

    # --- on the panels' thread ----------------------------------------------------------------------------------

    async def _live(self) -> None:
        while True:
            if self.audience.is_there and (self.is_live or self.as_of is not None):
                await self._beat()
            if not self._is_open():  # the desk has closed, and does not open again
                self.close()
            await asyncio.sleep(max(_PULSE, self._stage.rest()))

    async def _beat(self) -> None:
        """Take in what other processes have committed, and draw what is new."""
        if self.is_live:
            with self._noted("lake"):
                await self._stage.hear_others([table for table in self.tables if table.ledger.is_open])
        self._catch_up()

    def _catch_up(self) -> None:
        """Draw what is new, and once a second what time alone changes."""
        with self._stage.counted(), self._noted("reading"):
            self._follow_up()

    def _follow_up(self) -> None:
        now = self.as_of or self._clock.now()
        revision = (self.as_of or self.revision()) if self._is_open() else None
        if revision == self._revision and int(now.timestamp()) == int(self._read_at.timestamp()):
            return
        with self._lock:
            if revision != self._revision:
                self._update()
            self._revision = revision
            self._read_at = now if revision is not None else self._read_at
        self._draw()

    def _turn(self) -> None:
        """Show another instant, if somebody looks."""
        self._revision = None
        if self.audience.is_there:
            self._catch_up()

    @contextmanager
    def _noted(self, where: str) -> Iterator[None]:
        """Put what fails on the screen, where it stays until the same succeeds; nobody awaits it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, it must be seen, and the display must go on
            self._errors[where] = error
            self._draw_trouble()
        else:
            if self._errors.pop(where, None) is not None:
                self._draw_trouble()

    def _draw(self) -> None:
        if self._surface is None:
            return
        with self._noted("drawing"):
            with self._lock:
                state = self._state()
            if not self._is_open():  # nothing can be read any more: what stands around the grid stays as it was drawn
                del state["parts"], state["below"]
            with self._surface.hold_sync():
                for region, value in state.items():
                    setattr(self._surface, region, value)

    def _draw_trouble(self) -> None:
        if self._surface is not None:
            self._surface.trouble = self._trouble()

    def _receive(self, message: Mapping[str, Any]) -> None:
        """Do what a page asks for."""
        with self._lock:
            self._heard[str(message["view"])] = int(message["number"])
            # A view's sign of life comes by itself, so it must not wipe off why what was asked for failed.
            with self._noted("view" if message["do"] in ("see", "leave", "gone") else "page"):
                self._answers()[message["do"]](message)
        self._draw()
        if self._is_closed and self._surface is not None and not self._heard:
            self._surface.close()  # its last view has gone; one that is only out of sight keeps the last picture

    def _answers(self) -> dict[str, Callable[[Mapping[str, Any]], object]]:
        return {
            **self._grid.answers(),
            "see": lambda message: self._seen(str(message["view"])),
            "leave": lambda message: self.audience.leaves(str(message["view"])),
            "gone": lambda message: self._gone(str(message["view"])),
            "live": lambda message: setattr(self, "_is_live", bool(message["on"])),
            "click": lambda message: self.click(str(message["action"])),
            "forget": lambda _message: self._buttons.forget(),
            "chip": lambda message: self.chip(str(message["name"])),
            "now": lambda _message: setattr(self, "as_of", None),
        }

    def _gone(self, view: str) -> None:
        self.audience.leaves(view)
        del self._heard[view]

    def _seen(self, view: str) -> None:
        if not self.audience.is_there:
            self._revision = None  # somebody looks again: what they see must not be old
        self.audience.sees(view)

    def _start(self, action: Action, keys: Sequence[str]) -> None:
        self._errors.clear()
        work = asyncio.create_task(action.run(keys), name=f"{stage.WORK} {action.name}")
        self._work.add(work)
        work.add_done_callback(lambda done: self._ended(action, done))
        self._draw()

    async def _look_up(self, key: str, read: Callable[[str], Part]) -> None:
        """Read something about a row, and show it below the grid as long as this row is the last that is selected."""
        found = await asyncio.to_thread(read, key)
        with self._lock:
            self._looked_up = key, [found]

    def _ended(self, action: Action, work: asyncio.Task[object]) -> None:
        self._work.discard(work)
        error = None if work.cancelled() else work.exception()
        with self._lock:
            self._buttons.done(action.name)
            if isinstance(error, Exception):
                self._errors[action.name] = error
            with self._noted("reading"):
                self._update()
        self._draw()

    async def _settle(self) -> None:
        while self._work:
            await asyncio.wait(set(self._work))
            await asyncio.sleep(0)  # their ends are noted after those who wait are woken

    def _end(self) -> None:
        self._pulse.cancel()
        self._draw()
