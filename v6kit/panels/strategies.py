"""The strategies: what is active and how it is served, the legs of the selected one live, and a form for the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from typing import Any, Self

import polars as pl

from v6kit.contracts import OptionSeries
from v6kit.desk import Desk
from v6kit.errors import LineLimitError, RegistryError, RequestFailedError, V6KitError
from v6kit.ledger import LedgerTable
from v6kit.panels import formats, frames, parts
from v6kit.panels.actions import Action
from v6kit.panels.as_of import AsOf
from v6kit.panels.counted import CountedPanel
from v6kit.panels.grid import Column
from v6kit.panels.parts import Part
from v6kit.panels.register import Form
from v6kit.panels.surface import StrategiesSurface

ACTIVE, REMOVED = "active", "removed"
TONES: dict[str | None, str] = {ACTIVE: "good", REMOVED: "quiet"}
_HOW = {"stream": "good", "queue": "busy", "removed": "quiet"}
_LEG: tuple[tuple[str, str, formats.Kind, int | None], ...] = (
    ("contract", "leg", "text", None),
    ("quantity", "qty", "signed", None),
    ("how", "served by", "text", None),
    ("bid", "bid", "number", 2),
    ("ask", "ask", "number", 2),
    ("mark", "mark", "number", 2),
    ("delta", "Δ", "signed", 2),
    ("received_at", "age", "age", None),
    ("quality", "quality", "text", None),
    ("conid", "conid", "text", None),
)


class StrategiesPanel(CountedPanel):
    """What is registered, and the legs of the selected strategy, live.

    panel = desk.panel("strategies")
    panel.selected = "1"; panel.legs
    panel.click("remove").click("remove"); await panel.settled()
    """

    name = "strategies"
    title = "Strategies"
    surface = StrategiesSurface
    columns = (
        Column(name="strategy_id", title="id"),
        Column(name="kind", title="kind"),
        Column(name="symbols", title="symbol"),
        Column(name="state", title="state", tones=TONES),
        Column(name="legs", title="legs", kind="number"),
        Column(name="lines", title="lines", kind="number", hint="Legs that stream on a market data line"),
        Column(name="priority", title="priority", kind="number", hint="1 gets lines before 2"),
        Column(
            name="account", title="account", if_several=True, hint="The only account that may hold its legs; – for any"
        ),
        Column(name="since", title="since", kind="text"),
        Column(name="by", title="by", wide=True, hint="Computer, process and session that registered it"),
    )
    counted = "state"

    def __init__(self, desk: Desk, *, place: str | None = None, as_of: AsOf | None = None) -> None:
        self._form: Form | None = None
        self._asking = 0  # of what was filled in, how much the gateway has not answered yet
        self._asked_last: dict[str, object] = {}  # by field
        super().__init__(desk, place=place, as_of=as_of)
        self._grid.turn_keep("state", ACTIVE)

    @property
    def tables(self) -> Sequence[LedgerTable[Any, Any]]:
        """The registry, and the book for the legs' quotes."""
        return self.desk.registry, self.desk.positions

    def revision(self) -> Hashable:
        """Return what may have changed: strategies, quotes, streams."""
        return self.desk.registry.ledger.version, self.desk.positions.ledger.version, self.desk.broker.streaming

    def read(self) -> pl.DataFrame:
        """Return the strategies."""
        return frames.strategies(self.desk, self.as_of)

    @property
    def legs(self) -> pl.DataFrame:
        """The legs of the strategy that was selected last, with their quotes; none if none is."""
        chosen = self.selected
        return frames.legs(self.desk, chosen[-1] if chosen else "", self.as_of)

    def parts(self) -> list[Part]:
        """Return the counts of active and removed strategies."""
        return [self._chips()]

    def below(self) -> list[Part]:
        """Return the legs of the selected strategy, and the form if it is open."""
        shown = [self._legs_part()]
        if self._form is not None and self.as_of is None:
            shown.append(self._form.part(self.desk.clock.now().date()))
        return shown

    def _legs_part(self) -> Part:
        if not self.selected:
            return parts.note(
                "select a strategy to see its legs" if self._grid.view.height else "Register… puts one together"
            )
        legs = self.legs
        rows = [
            [
                formats.cell(kind, digits, value, self._read_at)
                for (_, _, kind, digits), value in zip(_LEG, row, strict=True)
            ]
            for row in legs.select(pl.col(name) for name, *_ in _LEG).cast({"conid": pl.String}).rows()
        ]
        heads = [(title, kind != "text") for _, title, kind, _ in _LEG]
        return parts.table(f"legs of {self.selected[-1]}", heads, rows, [_HOW[how] for how in legs["how"]])

    # --- buttons ------------------------------------------------------------------------------------------------

    def actions(self) -> Sequence[Action]:
        """Return remove, and the form's: open, register, close."""
        return (
            Action(
                name="form",
                label="Register…",
                hint="Put a new strategy together",
                run=lambda _keys: self._open_form(),
                shown=lambda: self._form is None,
            ),
            Action(
                name="register",
                label="Register it",
                hint="Run the code that is shown",
                run=lambda _keys: self._register(),
                ready=lambda: self._form is not None and not self._form.lacks(),
                shown=lambda: self._form is not None,
            ),
            Action(
                name="discard",
                label="Close form",
                hint="Register nothing",
                run=lambda _keys: self._close_form(),
                shown=lambda: self._form is not None,
            ),
            Action(
                name="remove",
                label="Remove…",
                hint="Remove all legs of the selected strategies; asks once more",
                run=self._remove,
                applies=self._selected_active,
                question=lambda count: (
                    f"Remove {count:,} and end {'its' if count == 1 else 'their'} streams? Click again"
                ),
            ),
        )

    def _selected_active(self) -> list[str]:
        return self._grid.chosen().filter(pl.col("state") == ACTIVE)["key"].to_list()

    async def _remove(self, keys: Sequence[str]) -> None:
        chosen = frames.strategies(self.desk).filter(pl.col("key").is_in(keys))
        for strategy_id, account in chosen.select("strategy_id", "account").rows():
            await self.desk.registry.remove_strategy(strategy_id, account=account or "")

    # --- the form -----------------------------------------------------------------------------------------------

    async def _open_form(self) -> None:
        held = self.desk.positions.current()["symbol"].mode().sort()
        numbers = [int(each) for each in frames.strategies(self.desk)["strategy_id"] if each.isdecimal()]
        with self._lock:
            self._form = Form(
                strategy_id=str(max(numbers, default=0) + 1),
                hint=held[0] if held.len() else "",
                accounts=self.desk.broker.accounts,
            )

    async def _close_form(self) -> None:
        with self._lock:
            self._form = None

    async def _register(self) -> None:
        form = self._there()
        if self._asking:  # what would be registered is not what comes of the last entry
            raise RegistryError("the gateway is still looking up what was entered; register when the legs are shown")
        name, key = form.strategy_id, form.key
        active = frames.strategies(self.desk).filter(pl.col("state") == ACTIVE)
        if key in active["key"]:  # its legs would become one strategy with these
            raise RegistryError(f"strategy {key!r} is active already; give this one another id")
        await self.desk.registry.add_strategy(name, form.legs(), kind=form.structure.kind, **form.options)
        with self._lock:
            self._form = None
            self._update()
            self._grid.select([key])

    def fill(self, name: str, value: str) -> Self:
        """Fill a field of the form in, as on the screen; `await panel.settled()` waits for what it asks the gateway.

        Args:
            name: `symbol`, `expiry`, `shape`, a leg's role, e.g. `short put`, `width`, `delta`, `quantity`,
                `strategy_id`, `account` (where the login has several; `any` for any of them), `priority`.
            value: As text.

        Raises:
            V6KitError: The panel is closed.
            ValueError: There is no such field, the value is none for it, or the form is closed.
        """
        if self._is_closed:
            raise V6KitError(f"this {self.name} panel is closed; make it again with desk.panel({self.name!r})")
        form = self._there()
        asks: dict[str, Callable[[str], Coroutine[Any, Any, Callable[[], None]]]] = {
            "symbol": lambda text: self._list(form, text.strip().upper()),
            "expiry": lambda text: self._load(form, form.find_series(text)),
            "delta": lambda text: self._look(form, form.wanted_delta(text)),
        }
        if name in asks:
            work = self._asked(name, asks[name](value))
            with self._lock:
                self._asking += 1
            asking = Action(name=name, label=name, hint="", run=lambda _keys: work)
            self._stage.call(self._start, asking, ())
        else:
            with self._lock:
                form.fill(name, value)
            self._redraw()
        return self

    def _there(self) -> Form:
        if self._form is None:
            raise ValueError("the form is closed; panel.click('form') opens it")
        return self._form

    async def _asked(self, name: str, work: Coroutine[Any, Any, Callable[[], None]]) -> None:
        """Put an answer into the form, unless the field was filled in again meanwhile: answers may overtake others."""
        mine = self._asked_last[name] = object()
        try:
            take = await work
            with self._lock:
                if self._asked_last[name] is mine:
                    take()
        finally:
            with self._lock:
                self._asking -= 1

    async def _list(self, form: Form, symbol: str) -> Callable[[], None]:
        options = self.desk.options
        series = await options.series(symbol)
        try:
            price = await options.price(symbol)
        except (RequestFailedError, LineLimitError):
            price = None  # nothing but a hint where to begin
        return lambda: form.list_series(symbol, series, price)

    async def _load(self, form: Form, series: OptionSeries) -> Callable[[], None]:
        symbol = form.symbol
        chain = await self.desk.options.chain(symbol, series)
        return lambda: form.take_chain(series, chain) if form.symbol == symbol else None

    async def _look(self, form: Form, delta: float) -> Callable[[], None]:
        options, chain, wanted = self.desk.options, form.chain, form.looked_for()
        found = await asyncio.gather(*(options.at_delta(chain, right, delta) for _, right in wanted))

        def take() -> None:
            if form.chain is chain and form.looked_for() == wanted:
                form.put({name: each.strike or 0.0 for (name, _), each in zip(wanted, found, strict=True)})
                form.delta = delta

        return take

    def _answers(self) -> dict[str, Callable[[Mapping[str, Any]], object]]:
        return super()._answers() | {
            "form": lambda message: self.fill(str(message["name"]), str(message["value"])),
        }
