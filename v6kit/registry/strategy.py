"""One strategy as a value that can be shown, and the card of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import NamedTuple, overload

import polars as pl

from v6kit.contracts import ActiveContract, label
from v6kit.display import Card, Shown, Table, utc
from v6kit.registry.rows import SPEC, RegistryRow

_TOLD, _OPENED = 20, 10  # strategies, and those with their legs, that a cell shows; the frames have all
_LEG = ("contract", "conid", "quantity", "account", "since")
_LEG_NUMBERS = ("conid", "quantity")
_COLUMNS = [name for name in SPEC.columns if name in ActiveContract.__dataclass_fields__]


@dataclass(frozen=True, slots=True, repr=False)
class Strategy(Shown, Sequence[ActiveContract]):
    """The active legs of one strategy at one moment; a sequence of `ActiveContract`.

    Attributes:
        strategy_id: As it was registered, as text.
        legs: By account and age; at least one.
    """

    strategy_id: str
    legs: tuple[ActiveContract, ...]

    @property
    def kind(self) -> str:
        """What it is, e.g. `IRON_CONDOR`; several kinds if it differs by account."""
        return ", ".join(dict.fromkeys(leg.strategy for leg in self.legs))

    @property
    def accounts(self) -> tuple[str | None, ...]:
        """Which accounts are to hold its legs; `None` stands for legs that are bound to none."""
        return tuple(dict.fromkeys(leg.account for leg in self.legs))

    @property
    def priority(self) -> int:
        """1 goes before 2 where there is not enough for all; the best, if it differs by account."""
        return min(leg.priority for leg in self.legs)

    @property
    def added_at(self) -> datetime:
        """When its oldest leg was registered, aware UTC."""
        return min(leg.added_at for leg in self.legs)

    @property
    def frame(self) -> pl.DataFrame:
        """Its legs, one row each, by account and age; columns as in the registry's table, without the book-keeping."""
        rows = [asdict(leg) for leg in self.legs]
        return pl.DataFrame(rows, schema={name: SPEC.columns[name] for name in _COLUMNS})

    def __len__(self) -> int:
        return len(self.legs)

    def __iter__(self) -> Iterator[ActiveContract]:
        return iter(self.legs)

    @overload
    def __getitem__(self, index: int) -> ActiveContract: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ActiveContract]: ...
    def __getitem__(self, index: int | slice) -> ActiveContract | Sequence[ActiveContract]:
        return self.legs[index]

    def _card(self) -> Card:
        facts = {
            "kind": self.kind,
            "account": ", ".join(map(_account, self.accounts)),
            "priority": str(self.priority),
            "since": utc(self.added_at),
        }
        legs = [_leg(leg.label(), leg) for leg in self.legs[:_TOLD]]
        table = Table(_LEG, legs, len(self.legs) - len(legs), _LEG_NUMBERS)
        return Card(f"Strategy {self.strategy_id}", facts=facts, tables=[table])


class _Group(NamedTuple):
    """The legs of one strategy in one account."""

    strategy_id: str
    account: str
    legs: list[RegistryRow]


def registry_card(uri: str, summary: str, active: Iterable[RegistryRow]) -> Card:
    """Return the card of a registry.

    Args:
        uri: Where it is.
        summary: What it holds, in a few words.
        active: Its active legs, in any order.
    """
    groups: dict[tuple[str, str | None], list[RegistryRow]] = {}
    for row in active:
        groups.setdefault((row.strategy_id, row.account), []).append(row)
    named = sorted((_Group(name, account or "", legs) for (name, account), legs in groups.items()), key=lambda g: g[:2])
    told = [(group, sorted(group.legs, key=lambda row: row.added_at)) for group in named[:_TOLD]]
    rows = [
        [
            group.strategy_id,
            legs[0].strategy,
            _account(group.account),
            str(legs[0].priority),
            f"{len(legs):,}",
            utc(legs[0].added_at),
        ]
        for group, legs in told
    ]
    headings = ("strategy", "kind", "account", "priority", "legs", "since")
    table = Table(headings, rows, len(named) - len(rows), numbers=("priority", "legs"))
    folds = {f"legs of {_where(group)}": _legs(legs) for group, legs in told[:_OPENED]}
    return Card(
        "StrategyRegistry",
        facts={"table": uri, "active": summary},
        notes=[] if rows else ["await registry.add_strategy(id, legs) registers one"],
        tables=[table] if rows else [],
        folds=folds,
    )


def _legs(legs: Sequence[RegistryRow]) -> Table:
    rows = [_leg(label(row.symbol, row.expiry, row.right, row.strike), row) for row in legs[:_OPENED]]
    return Table(_LEG, rows, len(legs) - len(rows), _LEG_NUMBERS)


def _leg(name: str, leg: ActiveContract | RegistryRow) -> list[str]:
    return [name, str(leg.conid), f"{leg.quantity:+g}", _account(leg.account), utc(leg.added_at)]


def _where(group: _Group) -> str:
    return f"{group.strategy_id} in {group.account}" if group.account else group.strategy_id


def _account(account: str | None) -> str:
    return account or "any"
