"""What each change of the registry does, as pure functions: state and moment in, rows out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from v6kit.contracts import ActiveContract, Leg
from v6kit.errors import ContractConflictError, StrategyNotFoundError
from v6kit.ledger import Decision, Moment
from v6kit.registry.rows import RegistryRow, RegistryState

DEFAULT_KIND = "CUSTOM"
Verdict = Decision[RegistryRow, list[ActiveContract]]

_IDENTITY = ("symbol", "sec_type", "right", "strike", "expiry")


def add(state: RegistryState, moment: Moment, *, strategy_id: str, kind: str | None, legs: Sequence[Leg]) -> Verdict:
    """Add legs to a strategy, or take over other quantities and another kind; what is there already stays as it is.

    Args:
        state: The registry.
        moment: The commit to come.
        strategy_id: As text.
        kind: Of the whole strategy; `None`: what it is already.
        legs: Checked before; each conid once.
    """
    active = {row.conid: row for row in state.active()}
    mine = {row.conid: row for row in state.active() if row.strategy_id == strategy_id}
    kind = kind or next((row.strategy for row in mine.values()), DEFAULT_KIND)
    rows: dict[int, RegistryRow] = {}
    for leg in legs:
        row = RegistryRow(
            strategy_id, kind, leg.conid, leg.symbol, leg.sec_type, leg.right, leg.strike, leg.expiry, leg.quantity,
            moment.now, None, "ADD",
        )  # fmt: skip
        _check_same_contract(active.get(leg.conid, row), row)
        held = mine.get(leg.conid)
        if held is None:
            rows[leg.conid] = row
        elif held.quantity != leg.quantity:
            rows[leg.conid] = held._replace(quantity=leg.quantity, strategy=kind, change="UPDATE")
    for conid, held in mine.items():  # a strategy is of one kind, so a new one holds for its other legs too
        if conid not in rows and held.strategy != kind:
            rows[conid] = held._replace(strategy=kind, change="UPDATE")
    return Decision(list(rows.values()), [row.contract() for row in (mine | rows).values()])


def _check_same_contract(known: RegistryRow, row: RegistryRow) -> None:
    for name in _IDENTITY:
        if getattr(known, name) != getattr(row, name):
            raise ContractConflictError(
                f"conid {row.conid} is active in strategy {known.strategy_id!r} with {name} "
                f"{getattr(known, name)!r}, got {getattr(row, name)!r}; a conid names one contract"
            )


def remove(
    state: RegistryState, moment: Moment, *, chosen: Callable[[RegistryState], list[RegistryRow]], change: str
) -> Verdict:
    """Remove those of the chosen legs that are held."""
    held = [row for row in chosen(state) if row.removed_at is None]
    rows = [row._replace(removed_at=moment.now, change=change) for row in held]
    return Decision(rows, [row.contract() for row in held])


def of_strategy(state: RegistryState, strategy_id: str) -> list[RegistryRow]:
    """Return every leg that a strategy ever had.

    Raises:
        StrategyNotFoundError: There never was such a strategy.
    """
    rows = [row for row in state.rows.values() if row.strategy_id == strategy_id]
    if not rows:
        known = sorted({row.strategy_id for row in state.active()})
        raise StrategyNotFoundError(f"no strategy {strategy_id!r}; active are {', '.join(known) or 'none'}")
    return rows


def of_contract(state: RegistryState, conid: int, strategy_id: str | None) -> list[RegistryRow]:
    """Return every leg that a contract ever was, of one strategy or of all (`None`).

    Raises:
        StrategyNotFoundError: No such strategy ever had it.
    """
    rows = [row for row in state.rows.values() if row.conid == conid and strategy_id in (None, row.strategy_id)]
    if not rows:
        whose = "any strategy" if strategy_id is None else f"strategy {strategy_id!r}"
        raise StrategyNotFoundError(f"conid {conid} was never a leg of {whose}")
    return rows


def expired(state: RegistryState, before: str) -> list[RegistryRow]:
    """Return the legs whose expiry (`YYYYMMDD`) lies before this date."""
    return [row for row in state.rows.values() if row.expiry is not None and row.expiry < before]
