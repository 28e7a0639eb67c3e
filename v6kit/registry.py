"""`StrategyRegistry`: which contracts belong to an active strategy, and so must be live.

A ledger on the table `active_strategies`, keyed by (strategy_id, conid). Removing a leg appends a row with `removed_at`
set, so nothing is ever forgotten. A contract stays active until every strategy that holds it has let go.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from functools import partial
from typing import Any, NamedTuple, NoReturn

import polars as pl

from v6kit.clock import Clock
from v6kit.contracts import ActiveContract, Leg, check_expiry, check_int, check_text
from v6kit.errors import ContractConflictError, StorageError, StrategyNotFoundError
from v6kit.ledger import INSTANT, NO_INSTANT, STAMP, Decision, LedgerTable, Moment, Rows, TableSpec

_log = logging.getLogger("v6kit.registry")
_IDENTITY = ("symbol", "sec_type", "right", "strike", "expiry")


class RegistryRow(NamedTuple):
    """One leg of one strategy, as the table has it."""

    strategy_id: str
    strategy: str
    conid: int
    symbol: str
    sec_type: str
    right: str | None
    strike: float | None
    expiry: str | None
    quantity: float
    added_at: datetime
    removed_at: datetime | None
    change: str
    seq: int = 0
    version: int = 0
    updated_at: datetime = NO_INSTANT
    updated_by: str = ""

    def contract(self) -> ActiveContract:
        """Return the leg as users see it."""
        fields = {name: getattr(self, name) for name in ActiveContract.__dataclass_fields__}
        return ActiveContract(**fields)


SPEC: TableSpec[RegistryRow] = TableSpec(
    name="active_strategies",
    key=("strategy_id", "conid"),
    columns={
        "strategy_id": pl.String(),
        "strategy": pl.String(),
        "conid": pl.Int64(),
        "symbol": pl.String(),
        "sec_type": pl.String(),
        "right": pl.String(),
        "strike": pl.Float64(),
        "expiry": pl.String(),
        "quantity": pl.Float64(),
        "added_at": INSTANT,
        "removed_at": INSTANT,
        **STAMP,
    },
    row=RegistryRow,
)

OnChange = Callable[[list[ActiveContract], list[ActiveContract]], None]


class RegistryState:
    """Every leg by its key, removed ones included."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], RegistryRow] = {}

    def active(self) -> list[RegistryRow]:
        """Return the legs that are held, by strategy and in the order in which they were added."""
        held = [row for row in self.rows.values() if row.removed_at is None]
        return sorted(held, key=lambda row: (row.strategy_id, row.added_at))

    def held(self) -> list[Rows[RegistryRow]]:
        """Return all rows."""
        return [list(self.rows.values())]

    def apply(self, rows: Rows[RegistryRow]) -> Callable[[], None]:
        """Take rows in; return what takes exactly these back."""
        rows = SPEC.to_rows(rows) if isinstance(rows, pl.DataFrame) else rows
        before = dict(self.rows)
        self.rows.update(((row.strategy_id, row.conid), row) for row in rows)

        def take_back() -> None:
            self.rows = before

        return take_back


class _NotOpen:
    """Answers for the registry until it is open: a wrong "no" would leave a live strategy unwatched."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def __contains__(self, conid: object) -> NoReturn:
        raise StorageError(f"the registry at {self._uri} is not open; await its initialize() first")


class StrategyRegistry(LedgerTable[RegistryRow, RegistryState]):
    """What is active, on the Delta table `active_strategies`.

    Args:
        uri: A local path, or any URI that deltalake takes.
        storage_options: For object stores; never shown.
        clock: Tells the time; default the system's.

    Attributes:
        is_active: `is_active(conid) -> bool`: whether any strategy holds the contract. A dictionary's own look-up: no
            I/O, never blocks, safe from any thread. Raises `StorageError` before the registry is open.
    """

    SPEC = SPEC

    def __init__(
        self,
        uri: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(uri, storage_options=storage_options, clock=clock)
        self._active: dict[int, dict[str, RegistryRow]] = {}  # conid → strategy_id → row; written by one thread
        self._listeners: list[OnChange] = []
        self.is_active: Callable[[int], bool] = _NotOpen(self.uri).__contains__

    def _new_state(self) -> RegistryState:
        return RegistryState()

    # --- registering --------------------------------------------------------------------------------------------

    async def add_strategy(
        self, strategy_id: str | int, legs: Iterable[Leg | Mapping[str, Any]] | pl.DataFrame, kind: str = "CUSTOM"
    ) -> list[ActiveContract]:
        """Register a strategy: all legs in one commit, or none.

        Adding the same legs again changes nothing; another quantity is taken over.

        Args:
            strategy_id: Yours to choose; numbers are kept as text.
            legs: `Leg` objects, mappings with its fields, or a frame with them as columns.
            kind: What it is, e.g. `IRON_CONDOR`.

        Returns:
            The strategy's active legs.

        Raises:
            ContractConflictError: A conid is active with another symbol, right, strike or expiry.
        """
        checked = as_legs(legs)
        if not checked:
            raise ValueError(f"legs must not be empty, got {legs!r}")
        name, kind = as_strategy_id(strategy_id), check_text("kind", kind)
        return await self._change(partial(_add, strategy_id=name, kind=kind, legs=checked))

    async def add_active(  # noqa: PLR0917 - an option has these fields, in this order
        self,
        conid: int,
        symbol: str,
        right: str | None = None,
        strike: float | None = None,
        expiry: str | date | None = None,
        strategy_id: str | int = "default",
        *,
        sec_type: str = "OPT",
        quantity: float = 1.0,
        kind: str = "CUSTOM",
    ) -> list[ActiveContract]:
        """Register one contract as a leg of a strategy; arguments as in `Leg`, the rest as in `add_strategy`."""
        leg = {
            "conid": conid, "symbol": symbol, "right": right, "strike": strike, "expiry": expiry,
            "sec_type": sec_type, "quantity": quantity,
        }  # fmt: skip
        return await self.add_strategy(strategy_id, [leg], kind)

    async def add_contract(
        self,
        contract: Any,  # noqa: ANN401 - ib_async is not imported here; any object with these attributes will do
        strategy_id: str | int,
        *,
        quantity: float = 1.0,
        kind: str = "CUSTOM",
    ) -> list[ActiveContract]:
        """Register an `ib_async` contract (or any object with its attributes) as a leg of a strategy.

        Raises:
            ValueError: It has no conId yet; qualify it first.
        """
        conid = getattr(contract, "conId", None)
        if not conid:
            raise ValueError(f"contract must be qualified, so that it has a conId; got {contract!r}")
        option = contract.secType in ("OPT", "FOP", "WAR")
        return await self.add_active(
            conid,
            contract.symbol,
            contract.right if option else None,
            contract.strike if option else None,
            contract.lastTradeDateOrContractMonth[:8] or None,
            strategy_id,
            sec_type=contract.secType,
            quantity=quantity,
            kind=kind,
        )

    async def remove_strategy(self, strategy_id: str | int) -> list[ActiveContract]:
        """Remove all legs of a strategy in one commit; returns those that were active.

        Raises:
            StrategyNotFoundError: No strategy ever had this id.
        """
        name = as_strategy_id(strategy_id)

        def chosen(state: RegistryState) -> list[RegistryRow]:
            rows = [row for row in state.rows.values() if row.strategy_id == name]
            if not rows:
                known = sorted({row.strategy_id for row in state.active()})
                raise StrategyNotFoundError(f"no strategy {name!r}; active are {', '.join(known) or 'none'}")
            return rows

        return await self._change(partial(_remove, chosen=chosen, change="REMOVE"))

    async def remove_active(self, conid: int, strategy_id: str | int | None = None) -> list[ActiveContract]:
        """Remove a contract from one strategy, or from all; returns the legs that were active.

        Raises:
            StrategyNotFoundError: No such strategy ever held it.
        """
        check_int("conid", conid)
        name = None if strategy_id is None else as_strategy_id(strategy_id)

        def chosen(state: RegistryState) -> list[RegistryRow]:
            rows = [row for row in state.rows.values() if row.conid == conid and name in (None, row.strategy_id)]
            if not rows:
                whose = "any strategy" if name is None else f"strategy {name!r}"
                raise StrategyNotFoundError(f"conid {conid} was never a leg of {whose}")
            return rows

        return await self._change(partial(_remove, chosen=chosen, change="REMOVE"))

    async def expire(self, on: date | None = None) -> list[ActiveContract]:
        """Remove every leg whose expiry lies before `on` (default: today, UTC); returns them."""
        limit = check_expiry(on if on is not None else self.clock.now().date())

        def chosen(state: RegistryState) -> list[RegistryRow]:
            return [row for row in state.rows.values() if row.expiry is not None and row.expiry < limit]

        return await self._change(partial(_remove, chosen=chosen, change="EXPIRE"))

    # --- looking ------------------------------------------------------------------------------------------------

    async def get_all_active(self) -> list[ActiveContract]:
        """Return every active leg, others' newest changes included, by strategy and age."""
        await self.refresh()
        return self.active_legs()

    def active_legs(self) -> list[ActiveContract]:
        """Return every active leg as this process knows it, by strategy and age; no I/O."""
        return [row.contract() for row in self.ledger.read(lambda state: state.active())]

    def current(self) -> pl.DataFrame:
        """Return every active leg as this process knows it: one row each, columns as the table's; no I/O."""
        return SPEC.to_frame(self.ledger.read(lambda state: state.active()))

    def strategies(self) -> pl.DataFrame:
        """Return one row per active strategy: strategy_id, strategy, legs, symbols, expiries, added_at; no I/O."""
        text = pl.col("symbol").unique().sort().str.join(", ").alias("symbols")
        expiries = pl.col("expiry").drop_nulls().unique().sort().str.join(", ").alias("expiries")
        grouped = (
            self.current()
            .group_by("strategy_id", "strategy")
            .agg(pl.len().alias("legs"), text, expiries, pl.col("added_at").min())
        )
        return grouped.sort("strategy_id")

    def on_change(self, listener: OnChange) -> Callable[[], None]:
        """Follow what becomes active and what stops being so, in this process and in others.

        Args:
            listener: Gets two lists, added and removed, one `ActiveContract` per conid. Called on the registry's own
                thread, after the change is durable; it must not block.

        Returns:
            What ends it.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def __getitem__(self, strategy_id: str | int) -> list[ActiveContract]:
        """Return the active legs of a strategy."""
        name = as_strategy_id(strategy_id)
        legs = [leg for leg in self.active_legs() if leg.strategy_id == name]
        if not legs:
            raise KeyError(f"no active strategy {name!r}; active are {', '.join(self._ipython_key_completions_())}")
        return legs

    def _ipython_key_completions_(self) -> list[str]:
        return self.strategies()["strategy_id"].to_list()

    def __repr__(self) -> str:
        if not self.ledger.is_open:
            return super().__repr__()
        legs = self.active_legs()
        count = len({leg.strategy_id for leg in legs})
        return f"StrategyRegistry({self.uri!r}: {count} active strategies, {len(legs)} legs)"

    # --- following commits, on the writer thread ----------------------------------------------------------------

    def _committed(self, rows: Rows[RegistryRow]) -> None:
        rows = SPEC.to_rows(rows) if isinstance(rows, pl.DataFrame) else rows
        added: dict[int, ActiveContract] = {}
        removed: dict[int, ActiveContract] = {}
        for row in rows:
            holders = dict(self._active.get(row.conid, {}))
            was_active = bool(holders)
            if row.removed_at is None:
                holders[row.strategy_id] = row
            else:
                holders.pop(row.strategy_id, None)
            if holders:
                self._active[row.conid] = holders
            else:
                self._active.pop(row.conid, None)
            if was_active != bool(holders):
                gains, losses = (added, removed) if holders else (removed, added)
                if losses.pop(row.conid, None) is None:
                    gains[row.conid] = row.contract()
        self.is_active = self._active.__contains__
        if added or removed:
            for listener in tuple(self._listeners):
                listener(list(added.values()), list(removed.values()))


def _add(
    state: RegistryState, moment: Moment, *, strategy_id: str, kind: str, legs: Sequence[Leg]
) -> Decision[RegistryRow, list[ActiveContract]]:
    active = {row.conid: row for row in state.active()}
    rows: list[RegistryRow] = []
    for leg in legs:
        row = RegistryRow(
            strategy_id, kind, leg.conid, leg.symbol, leg.sec_type, leg.right, leg.strike, leg.expiry, leg.quantity,
            moment.now, None, "ADD",
        )  # fmt: skip
        _check_same_contract(active.setdefault(leg.conid, row), row)
        known = state.rows.get((strategy_id, leg.conid))
        if known is None or known.removed_at is not None:
            rows.append(row)
        elif (known.quantity, known.strategy) != (row.quantity, row.strategy):
            rows.append(row._replace(added_at=known.added_at, change="UPDATE"))
    after = {row.conid: row for row in state.active() if row.strategy_id == strategy_id}
    after |= {row.conid: row for row in rows}
    return Decision(rows, [row.contract() for row in after.values()])


def _check_same_contract(known: RegistryRow, row: RegistryRow) -> None:
    for name in _IDENTITY:
        if getattr(known, name) != getattr(row, name):
            raise ContractConflictError(
                f"conid {row.conid} is active in strategy {known.strategy_id!r} with {name} "
                f"{getattr(known, name)!r}, got {getattr(row, name)!r}; a conid names one contract"
            )


def _remove(
    state: RegistryState, moment: Moment, *, chosen: Callable[[RegistryState], list[RegistryRow]], change: str
) -> Decision[RegistryRow, list[ActiveContract]]:
    held = [row for row in chosen(state) if row.removed_at is None]
    rows = [row._replace(removed_at=moment.now, change=change) for row in held]
    return Decision(rows, [row.contract() for row in held])


def as_strategy_id(value: str | int) -> str:
    """Return a strategy's id as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return check_text("strategy_id", value)  # type: ignore[arg-type]  # it refuses what is no text


def as_legs(legs: Iterable[Leg | Mapping[str, Any]] | pl.DataFrame) -> list[Leg]:
    """Return checked legs; a conid must not come twice.

    Raises:
        TypeError, ValueError: Naming the leg, the field and the value.
    """
    given = legs.iter_rows(named=True) if isinstance(legs, pl.DataFrame) else legs
    checked = [_as_leg(index, leg) for index, leg in enumerate(given)]
    seen: set[int] = set()
    for leg in checked:
        if leg.conid in seen:
            raise ValueError(f"legs name conid {leg.conid} twice; add up its quantity instead")
        seen.add(leg.conid)
    return checked


def _as_leg(index: int, leg: Leg | Mapping[str, Any]) -> Leg:
    if isinstance(leg, Leg):
        return leg
    if not isinstance(leg, Mapping):
        raise TypeError(f"leg {index} must be a Leg or a mapping with its fields, got {leg!r}")
    fields = Leg.__dataclass_fields__
    if unknown := [name for name in leg if name not in fields]:
        raise ValueError(f"leg {index}: unknown field {unknown[0]!r}; known are {', '.join(fields)}")
    try:
        return Leg(**leg)
    except (TypeError, ValueError) as error:
        raise type(error)(f"leg {index}: {error}") from None
