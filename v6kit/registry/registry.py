"""`StrategyRegistry`: which contracts belong to an active strategy, and so must be live.

A ledger on the table `active_strategies`, keyed by (strategy_id, account, conid), where the account may be null.
Removing a leg appends a row with `removed_at` set, so nothing is ever forgotten. A contract stays active until every
strategy that holds it has let go.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from functools import partial
from typing import Any

import polars as pl

from v6kit.clock import Clock
from v6kit.contracts import INT32_END, ActiveContract, check_expiry, check_float, check_int, check_text
from v6kit.display import Card, counted
from v6kit.ledger import Durable, LedgerTable, Rows
from v6kit.registry import decisions
from v6kit.registry.active import ActiveIndex
from v6kit.registry.legs import Legs, as_legs, as_strategy_id, fields_of
from v6kit.registry.rows import SPEC, Amendment, RegistryRow, RegistryState, as_rows
from v6kit.registry.strategy import Strategy, registry_card

OnChange = Callable[[list[ActiveContract], list[ActiveContract]], None]
_log = logging.getLogger("v6kit.registry")


class StrategyRegistry(LedgerTable[RegistryRow, RegistryState]):
    """What is active, on the Delta table `active_strategies`.

    Args:
        uri: A local path, or any URI that deltalake takes.
        storage_options: For object stores; never shown.
        clock: Tells the time; default the system's.
        durable: `process` or `power`; as in `LedgerTable`.
        history_days: How long to remember; as in `LedgerTable`.

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
        durable: Durable = "process",
        history_days: int | None = None,
    ) -> None:
        super().__init__(uri, storage_options=storage_options, clock=clock, durable=durable, history_days=history_days)
        self._index = ActiveIndex(self.uri)
        self._listeners: dict[object, OnChange] = {}
        self.is_active: Callable[[int], bool] = self._index.__contains__

    def _new_state(self) -> RegistryState:
        return RegistryState()

    # --- registering --------------------------------------------------------------------------------------------

    async def add_strategy(
        self,
        strategy_id: str | int,
        legs: Legs,
        kind: str | None = None,
        *,
        account: str | None = None,
        priority: int | None = None,
    ) -> list[ActiveContract]:
        """Register a strategy: all legs in one commit, or none.

        Adding the same legs again changes nothing; another quantity, kind or priority is taken over.

        Args:
            strategy_id: Yours to choose; numbers are kept as text. The same id in two accounts is two strategies.
            legs: `Leg` objects, mappings with its fields, or a frame with them as columns.
            kind: What it is, e.g. `IRON_CONDOR`; default what it is already, or `CUSTOM`.
            account: The account that is to hold the legs; `None`: any of the login, or several together.
            priority: 1 goes before 2 where there is not enough for all; default what it is already, or 2.

        Returns:
            The strategy's active legs.

        Raises:
            ContractConflictError: A conid is active with another symbol, sec_type, right, strike or expiry.
            ValueError, TypeError: An argument is wrong; names the leg, the field and the value.
        """
        return await self._change(
            partial(
                decisions.add,
                legs=as_legs(legs),
                strategy_id=as_strategy_id(strategy_id),
                kind=None if kind is None else check_text("kind", kind),
                account=None if account is None else check_text("account", account),
                priority=None if priority is None else check_int("priority", priority, below=INT32_END),
            )
        )

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
        kind: str | None = None,
        account: str | None = None,
        priority: int | None = None,
    ) -> list[ActiveContract]:
        """Register one contract as a leg of a strategy; arguments as in `Leg`, the rest as in `add_strategy`.

        Returns:
            The strategy's active legs.

        Raises:
            ContractConflictError, ValueError, TypeError: As in `add_strategy`.
        """
        leg = {
            "conid": conid, "symbol": symbol, "right": right, "strike": strike, "expiry": expiry,
            "sec_type": sec_type, "quantity": quantity,
        }  # fmt: skip
        return await self.add_strategy(strategy_id, [leg], kind, account=account, priority=priority)

    async def add_contract(
        self,
        contract: Any,  # noqa: ANN401 - ib_async is not imported here; any object with these attributes will do
        strategy_id: str | int,
        *,
        quantity: float = 1.0,
        kind: str | None = None,
        account: str | None = None,
        priority: int | None = None,
    ) -> list[ActiveContract]:
        """Register an `ib_async` contract (or any object with its attributes) as a leg; the rest as in `add_active`.

        Raises:
            ValueError: It has no conId yet, so qualify it first; or it is a combo, which `desk.register` takes.
        """
        leg = fields_of(contract) | {"quantity": quantity}
        return await self.add_strategy(strategy_id, [leg], kind, account=account, priority=priority)

    async def amend(self, amendments: Iterable[Amendment]) -> list[ActiveContract]:
        """Give legs another quantity, or remove them, if they still are as they were seen: all in one commit, or none.

        Args:
            amendments: Which legs, how each was seen, and what becomes of it.

        Returns:
            The legs as they are now; those that were removed have `removed_at` set.

        Raises:
            RegistryError: A leg is no longer as it was seen.
            ValueError: A leg comes twice, or a quantity is no number.
        """
        wanted = list(amendments)
        if len({each[:3] for each in wanted}) < len(wanted):
            raise ValueError(f"amendments must name each leg once, got {wanted!r}")
        for each in wanted:
            check_float("becomes", each.becomes)
        return await self._change(partial(decisions.amend, amendments=wanted))

    async def remove_strategy(self, strategy_id: str | int, *, account: str | None = None) -> list[ActiveContract]:
        """Remove all legs of a strategy in one commit; returns those that were active.

        Args:
            strategy_id: As it was registered.
            account: Only the legs that are bound to this account; empty: those that are bound to none. Default: all.

        Raises:
            StrategyNotFoundError: No strategy ever had this id, in this account.
        """
        chosen = partial(decisions.of_strategy, strategy_id=as_strategy_id(strategy_id), account=_one_account(account))
        return await self._change(partial(decisions.remove, chosen=chosen, change="REMOVE"))

    async def remove_active(
        self, conid: int, strategy_id: str | int | None = None, *, account: str | None = None
    ) -> list[ActiveContract]:
        """Remove a contract from one strategy, or from all; returns the legs that were active.

        Args:
            conid: IB's contract id.
            strategy_id: As it was registered; default: all.
            account: As in `remove_strategy`.

        Raises:
            StrategyNotFoundError: No such strategy ever held it.
        """
        chosen = partial(
            decisions.of_contract,
            conid=check_int("conid", conid),
            strategy_id=None if strategy_id is None else as_strategy_id(strategy_id),
            account=_one_account(account),
        )
        return await self._change(partial(decisions.remove, chosen=chosen, change="REMOVE"))

    async def expire(self, on: date | None = None) -> list[ActiveContract]:
        """Remove every leg whose expiry lies before a day, in one commit; returns them.

        Args:
            on: The day, which itself still counts; default today, UTC.

        Raises:
            TypeError, ValueError: It is no date.
        """
        limit = check_expiry(self.clock.now().date() if on is None else on, "on")
        chosen = partial(decisions.expired, before=limit)
        return await self._change(partial(decisions.remove, chosen=chosen, change="EXPIRE"))

    # --- looking ------------------------------------------------------------------------------------------------

    async def get_all_active(self) -> list[ActiveContract]:
        """Return every active leg, others' newest changes included, by strategy, account and age."""
        await self.refresh()
        return self.active_legs()

    def active_legs(self) -> list[ActiveContract]:
        """Return every active leg as this process knows it, by strategy, account and age; no I/O."""
        return [row.contract() for row in self.ledger.read(lambda state: state.active())]

    def current(self) -> pl.DataFrame:
        """Return every active leg as this process knows it: one row each, columns as the table's; no I/O."""
        return SPEC.to_frame(self.ledger.read(lambda state: state.active()))

    def every_leg(self) -> pl.DataFrame:
        """Return every leg that ever was, removed ones with `removed_at`, as this process knows them; no I/O.

        One row per leg in no particular order, columns as the table's.
        """
        return SPEC.to_frame(self.ledger.read(lambda state: list(state.rows.values())))

    def strategies(self) -> pl.DataFrame:
        """Return one row per active strategy and account, as this process knows it; no I/O.

        Sorted by strategy_id and account. Columns: strategy_id, strategy (its kind), legs (UInt32), symbols and
        expiries (each once, sorted, as one text), added_at (of its oldest leg), account (null: any), priority.
        """
        text = pl.col("symbol").unique().sort().str.join(", ").alias("symbols")
        expiries = pl.col("expiry").drop_nulls().unique().sort().str.join(", ").alias("expiries")
        grouped = (
            self.current()
            .group_by("strategy_id", "account")
            .agg(
                pl.col("strategy").first(),
                pl.len().alias("legs"),
                text,
                expiries,
                pl.col("added_at").min(),
                pl.col("priority").first(),
            )
        )
        columns = ("strategy_id", "strategy", "legs", "symbols", "expiries", "added_at", "account", "priority")
        return grouped.select(columns).sort("strategy_id", "account")

    def legs_by_account(self) -> Counter[str]:
        """Return how many active legs are bound to which account, as this process knows it; no I/O."""
        return Counter(row.account for row in self._active_rows() if row.account is not None)

    def on_change(self, listener: OnChange) -> Callable[[], None]:
        """Follow what becomes active and what stops being so, in this process and in others.

        Changes of other processes are heard when this registry takes them in: at its own next change, or by `refresh`.

        Args:
            listener: Gets two lists, added and removed, one `ActiveContract` per conid. Called on the registry's own
                thread, after the change is durable; it must not block. What it raises is logged.

        Returns:
            What ends it; may be called twice.
        """
        token = object()
        self._listeners[token] = listener

        def end() -> None:
            self._listeners.pop(token, None)

        return end

    def __getitem__(self, strategy: str | int | tuple[str | int, str]) -> Strategy:
        """Return an active strategy as this process knows it; no I/O.

        Args:
            strategy: Its id, for its legs in all accounts; or `registry[id, account]`, where an empty account stands
                for the legs that are bound to none.

        Raises:
            StrategyNotFoundError: There is none; a `KeyError`, too.
            StorageError: The registry is not open.
        """
        rows = self._of(strategy)
        if not rows:
            wanted, account = strategy if isinstance(strategy, tuple) else (strategy, None)
            raise decisions.missing(as_strategy_id(wanted), account, self._active_rows())
        return Strategy(rows[0].strategy_id, tuple(row.contract() for row in rows))

    def __contains__(self, strategy: object) -> bool:
        """Tell whether `registry[strategy]` is there; as this process knows it, no I/O."""
        try:
            return bool(self._of(strategy))  # type: ignore[arg-type]  # what is no id is not in it
        except (TypeError, ValueError):
            return False

    def __iter__(self) -> Iterator[str]:
        """Go through the ids of the active strategies, sorted, as this process knows them; no I/O."""
        return iter(sorted({row.strategy_id for row in self._active_rows()}))

    def _of(self, strategy: str | int | tuple[str | int, str]) -> list[RegistryRow]:
        """Return the active legs of a strategy, by account and age."""
        wanted, account = strategy if isinstance(strategy, tuple) else (strategy, None)
        name, where = as_strategy_id(wanted), _one_account(account)
        rows = [
            row
            for row in self._active_rows()
            if row.strategy_id == name and (where is None or (row.account or "") == where)
        ]
        return sorted(rows, key=lambda row: (row.account or "", row.added_at))

    def _active_rows(self) -> list[RegistryRow]:
        return self.ledger.read(lambda state: [row for row in state.rows.values() if row.removed_at is None])

    def _ipython_key_completions_(self) -> list[str | tuple[str, str]]:
        """Return the ids, and with their account those that are in several."""
        if not self.ledger.is_open:
            return []
        places = {(row.strategy_id, row.account or "") for row in self._active_rows()}
        ids = Counter(strategy_id for strategy_id, _ in places)
        return [*sorted(ids), *sorted(place for place in places if ids[place[0]] > 1)]

    def _summary(self) -> str:
        rows = self._active_rows()
        strategies = len({(row.strategy_id, row.account) for row in rows})
        return f"{counted(strategies, 'active strategy', 'active strategies')}, {counted(len(rows), 'leg')}"

    def _open_card(self) -> Card:
        return registry_card(self.uri, self.summary(), self._active_rows())

    # --- following commits, on the writer thread ----------------------------------------------------------------

    def _committed(self, rows: Rows[RegistryRow]) -> None:
        added, removed = self._index.follow(as_rows(rows))
        self.is_active = self._index.look_up
        if not added and not removed:
            return
        for listener in tuple(self._listeners.values()):
            try:
                listener(list(added), list(removed))
            except Exception:  # noqa: BLE001 - one listener's mistake must not keep the change from the others
                _log.exception("a listener of the registry failed; the change stands")


def _one_account(account: str | None) -> str | None:
    return None if account is None else check_text("account", account, empty_allowed=True)
