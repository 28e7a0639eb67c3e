"""What each change of the registry does, as pure functions: state and moment in, rows out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from v6kit.contracts import DEFAULT_STRATEGY_PRIORITY, ActiveContract, Leg
from v6kit.display import among
from v6kit.errors import ContractConflictError, RegistryError, StrategyNotFoundError
from v6kit.ledger import Decision, Moment
from v6kit.registry.rows import Amendment, RegistryRow, RegistryState

DEFAULT_KIND = "CUSTOM"
Verdict = Decision[RegistryRow, list[ActiveContract]]

_IDENTITY = ("symbol", "sec_type", "right", "strike", "expiry")


def add(
    state: RegistryState,
    moment: Moment,
    *,
    strategy_id: str,
    account: str | None,
    legs: Sequence[Leg],
    kind: str | None,
    priority: int | None,
) -> Verdict:
    """Add legs to a strategy, or take over other quantities, another kind or priority; the rest stays as it is.

    Args:
        state: The registry.
        moment: The commit to come.
        strategy_id: As text.
        account: That is to hold the legs; `None`: any.
        legs: Checked before; each conid once.
        kind: Of the whole strategy; `None`: what it is already.
        priority: Of the whole strategy; `None`: what it is already.
    """
    all_active = state.active()
    active = {row.conid: row for row in all_active}
    mine = {row.conid: row for row in all_active if (row.strategy_id, row.account) == (strategy_id, account)}
    first = next(iter(mine.values()), None)
    kind = kind or (DEFAULT_KIND if first is None else first.strategy)
    priority = priority or (DEFAULT_STRATEGY_PRIORITY if first is None else first.priority)
    rows: dict[int, RegistryRow] = {}
    for leg in legs:
        row = RegistryRow(
            strategy_id, kind, leg.conid, leg.symbol, leg.sec_type, leg.right, leg.strike, leg.expiry, leg.quantity,
            moment.now, None, account, priority, "ADD",
        )  # fmt: skip
        _check_same_contract(active.get(leg.conid, row), row)
        held = mine.get(leg.conid)
        if held is None:
            rows[leg.conid] = row
        elif held.quantity != leg.quantity:
            rows[leg.conid] = held._replace(quantity=leg.quantity, strategy=kind, priority=priority, change="UPDATE")
    for conid, held in mine.items():  # kind and priority are the strategy's, so new ones hold for its other legs too
        if conid not in rows and (held.strategy, held.priority) != (kind, priority):
            rows[conid] = held._replace(strategy=kind, priority=priority, change="UPDATE")
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


def amend(state: RegistryState, moment: Moment, *, amendments: Sequence[Amendment]) -> Verdict:
    """Take over all amendments, or none.

    Raises:
        RegistryError: A leg is no longer as it was seen.
    """
    rows = []
    for each in amendments:
        row = state.rows.get((each.strategy_id, each.account, each.conid))
        if row is None or row.removed_at is not None or row.quantity != each.quantity:
            now = "none" if row is None or row.removed_at is not None else f"{row.quantity:g}"
            raise RegistryError(
                f"conid {each.conid} in strategy {_name(each.strategy_id, each.account)} is no longer as it was seen: "
                f"{each.quantity:g} then, {now} now; nothing was changed. Look again"
            )
        if each.becomes:
            rows.append(row._replace(quantity=each.becomes, change="UPDATE"))
        else:
            rows.append(row._replace(removed_at=moment.now, change="REMOVE"))
    return Decision(rows, [row.contract() for row in rows])


def of_strategy(state: RegistryState, strategy_id: str, account: str | None) -> list[RegistryRow]:
    """Return every leg that a strategy ever had, in one account or in all (`None`).

    Raises:
        StrategyNotFoundError: There never was such a strategy.
    """
    rows = [row for row in state.rows.values() if row.strategy_id == strategy_id and _is_in(row, account)]
    if not rows:
        raise missing(strategy_id, account, state.active())
    return rows


def missing(strategy_id: str, account: str | None, active: Iterable[RegistryRow]) -> StrategyNotFoundError:
    """Return the error about a strategy that is not there: says in which accounts it is, or else which ones are."""
    accounts: dict[str, set[str]] = {}
    for row in active:
        accounts.setdefault(row.strategy_id, set()).add(row.account or "no account")
    where = "" if account is None else f" in {account or 'no account'}"
    there = accounts.get(strategy_id)
    hint = f"it is active in {', '.join(sorted(there))}" if there else among(strategy_id, sorted(accounts), "active")
    return StrategyNotFoundError(f"no active strategy {strategy_id!r}{where}; {hint}")


def of_contract(state: RegistryState, conid: int, strategy_id: str | None, account: str | None) -> list[RegistryRow]:
    """Return every leg that a contract ever was, of one strategy or of all, in one account or in all (`None`).

    Raises:
        StrategyNotFoundError: No such strategy ever had it.
    """
    rows = [
        row
        for row in state.rows.values()
        if row.conid == conid and strategy_id in (None, row.strategy_id) and _is_in(row, account)
    ]
    if not rows:
        whose = "any strategy" if strategy_id is None else f"strategy {_name(strategy_id, account)}"
        raise StrategyNotFoundError(f"conid {conid} was never a leg of {whose}")
    return rows


def _is_in(row: RegistryRow, account: str | None) -> bool:
    """Tell whether a leg is meant: `None` means every account, an empty text the legs that are bound to none."""
    return account is None or (row.account or "") == account


def _name(strategy_id: str, account: str | None) -> str:
    return f"{strategy_id!r} in {account}" if account else repr(strategy_id)


def expired(state: RegistryState, before: str) -> list[RegistryRow]:
    """Return the legs whose expiry (`YYYYMMDD`) lies before this date."""
    return [row for row in state.rows.values() if row.expiry is not None and row.expiry < before]
