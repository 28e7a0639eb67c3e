"""What a leg is in the table and in memory: the row, the table's columns, and the fold of all rows.

Owns no decision and does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

import polars as pl

from v6kit.contracts import DEFAULT_STRATEGY_PRIORITY, ActiveContract
from v6kit.ledger import INSTANT, NO_INSTANT, STAMP, Moment, Rows, TableSpec

Key = tuple[str, str | None, int]


class RegistryRow(NamedTuple):
    """One leg of one strategy, as the table has it.

    A strategy is named by its id and its account: legs under one id in two accounts are two strategies.
    """

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
    account: str | None
    priority: int
    change: str
    seq: int = 0
    version: int = 0
    updated_at: datetime = NO_INSTANT
    updated_by: str = ""

    @property
    def key(self) -> Key:
        """What names the leg in the table."""
        return self.strategy_id, self.account, self.conid

    def contract(self) -> ActiveContract:
        """Return the leg as users see it."""
        fields = {name: getattr(self, name) for name in ActiveContract.__dataclass_fields__}
        return ActiveContract(**fields)


_DOMAIN = RegistryRow._fields.index("change")  # so many fields say what a leg is, the others how it came to be so


def restored(then: RegistryRow | None, now: RegistryRow | None, moment: Moment) -> RegistryRow | None:
    """Return the row that makes a leg what it was then; a leg that did not exist then is removed, not erased."""
    if then is None:
        if now is None or now.removed_at is not None:
            return None
        return now._replace(removed_at=moment.now, change="RESTORE")
    then = then._replace(priority=then.priority or DEFAULT_STRATEGY_PRIORITY)  # null in rows of the first schema
    if now is not None and now[:_DOMAIN] == then[:_DOMAIN]:
        return None
    return then._replace(change="RESTORE")


SPEC: TableSpec[RegistryRow] = TableSpec(
    name="active_strategies",
    key=("strategy_id", "account", "conid"),
    version=2,  # 1 had neither account nor priority: null in its rows, which mean any account and the default
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
        "account": pl.String(),
        "priority": pl.Int32(),
        **STAMP,
    },
    row=RegistryRow,
    restored=restored,
)


class Amendment(NamedTuple):
    """Another quantity for a leg, on the condition that it is still as it was seen.

    Attributes:
        strategy_id: As text.
        account: That the leg is bound to, or `None`.
        conid: IB's contract id.
        quantity: As it was seen.
        becomes: What it is to be; 0 removes the leg.
    """

    strategy_id: str
    account: str | None
    conid: int
    quantity: float
    becomes: float


class RegistryState:
    """Every leg by its key, removed ones included."""

    def __init__(self) -> None:
        self.rows: dict[Key, RegistryRow] = {}

    def active(self) -> list[RegistryRow]:
        """Return the legs that are held, by strategy, account and the order in which they were added."""
        held = [row for row in self.rows.values() if row.removed_at is None]
        return sorted(held, key=lambda row: (row.strategy_id, row.account or "", row.added_at))

    def held(self) -> list[Rows[RegistryRow]]:
        """Return all rows."""
        return [list(self.rows.values())]

    def apply(self, rows: Rows[RegistryRow]) -> Callable[[], None]:
        """Take rows in; return what takes exactly these back."""
        before = dict(self.rows)
        self.rows.update((row.key, row) for row in as_rows(rows))

        def take_back() -> None:
            self.rows = before

        return take_back


def as_rows(rows: Rows[RegistryRow]) -> Sequence[RegistryRow]:
    """Return what a commit brought as rows, in seq order; those from before there were priorities get the default."""
    if isinstance(rows, pl.DataFrame):
        return SPEC.to_rows(rows.with_columns(pl.col("priority").fill_null(DEFAULT_STRATEGY_PRIORITY)))
    return rows
