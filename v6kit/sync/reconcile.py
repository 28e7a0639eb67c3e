"""Where account, registry and book disagree: one frame of findings, and what taking their proposals means.

Pure: owns no state and does no I/O. It proposes; nothing is changed until somebody hands findings back.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from v6kit.contracts import AccountPosition, ActiveContract, Instrument
from v6kit.errors import RegistryError
from v6kit.ledger import Decision, Moment
from v6kit.positions import BookRow
from v6kit.registry import RegistryRow
from v6kit.registry.rows import RegistryState

QUANTITY, MISSING, CLOSED, UNASSIGNED = "quantity", "missing", "closed", "unassigned"
KINDS = (QUANTITY, MISSING, CLOSED, UNASSIGNED)  # the most urgent first
# Positions in no strategy are what the queue is for; the others mean that a strategy or the book is wrong.
ALARMING = frozenset({QUANTITY, MISSING, CLOSED})
_DIGITS = 9  # IB counts fractions of a share in at most eight


class Finding(NamedTuple):
    """One disagreement; a row of the frame.

    Attributes:
        finding: `quantity`: strategies want another number than is held. `missing`: a leg that no account holds.
            `closed`: a row of the book that the account no longer holds. `unassigned`: a position in no strategy.
        account: Who holds it; several are joined by a comma, `None` when nobody does.
        conid: IB's contract id.
        label: The contract as a trader writes it.
        strategy_id: The strategy that the proposal is about, or `None`.
        held: Signed number in the account; for legs the sum of all accounts.
        wanted: Signed number that all strategies together want.
        registered: The quantity of this strategy's leg, or `None` without one.
        becomes: What that quantity becomes when the proposal is applied; 0 removes the leg, `None` leaves it.
        proposal: What to do, in words.
    """

    finding: str
    account: str | None
    conid: int
    label: str
    strategy_id: str | None
    held: float
    wanted: float
    registered: float | None
    becomes: float | None
    proposal: str


SCHEMA: dict[str, pl.DataType] = {
    "finding": pl.String(),
    "account": pl.String(),
    "conid": pl.Int64(),
    "label": pl.String(),
    "strategy_id": pl.String(),
    "held": pl.Float64(),
    "wanted": pl.Float64(),
    "registered": pl.Float64(),
    "becomes": pl.Float64(),
    "proposal": pl.String(),
}

# --- finding --------------------------------------------------------------------------------------------------------


def findings(
    positions: Iterable[AccountPosition],
    legs: Iterable[ActiveContract],
    rows: Iterable[BookRow],
    accounts: Collection[str],
) -> pl.DataFrame:
    """Return where account, registry and book disagree.

    Args:
        positions: The complete answer of one session, never half of one.
        legs: The legs of active strategies.
        rows: The book's rows of what is held.
        accounts: Those that the positions are complete for. What the book knows of others counts as held: that this
            login does not see them does not make them flat.

    Returns:
        One row per finding with the fields of `Finding`, by urgency, strategy and label; the same columns when empty.
    """
    held = {(each.account, each.instrument.conid): each for each in positions if each.position}
    known = list(rows)
    holders: dict[int, dict[str, float]] = defaultdict(dict)
    for (account, conid), position in held.items():
        holders[conid][account] = position.position
    for row in known:
        if row.account not in accounts:
            holders[row.conid][row.account] = row.position
    contracts: dict[int, list[ActiveContract]] = defaultdict(list)
    for leg in legs:
        contracts[leg.conid].append(leg)
    found = [
        *_of_strategies(contracts, holders, accounts),
        *(_closed(row, contracts) for row in known if row.account in accounts and (row.account, row.conid) not in held),
        *(_unassigned(position) for (_, conid), position in held.items() if conid not in contracts),
    ]
    found.sort(key=lambda each: (KINDS.index(each.finding), each.strategy_id or "", each.label, each.account or ""))
    return pl.DataFrame(found, schema=SCHEMA, orient="row")


def counted(frame: pl.DataFrame) -> str:
    """Return how many findings of which kind there are, e.g. `2 quantity, 16 unassigned`."""
    kinds = Counter(frame["finding"])
    return ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind])


def is_alarming(frame: pl.DataFrame) -> bool:
    """Tell whether a strategy or the book is wrong; positions in no strategy alone are nothing to worry about."""
    return not ALARMING.isdisjoint(frame["finding"])


def _of_strategies(
    contracts: Mapping[int, Sequence[ActiveContract]],
    holders: Mapping[int, Mapping[str, float]],
    accounts: Collection[str],
) -> Iterator[Finding]:
    missing = {conid for conid, legs in contracts.items() if conid not in holders and _one_way(legs)}
    alive = {leg.strategy_id for conid, legs in contracts.items() if conid not in missing for leg in legs}
    for conid, legs in contracts.items():
        if conid in missing:
            yield from (_missing(leg, legs, is_alive=leg.strategy_id in alive) for leg in legs)
        elif _sum(holders.get(conid, {}).values()) != _wanted(legs):
            yield from (_quantity(leg, legs, holders.get(conid, {}), accounts) for leg in legs)


def _one_way(legs: Sequence[ActiveContract]) -> bool:
    """Tell whether strategies hold a contract on the same side; opposite ones may well add up to nothing."""
    return len({leg.quantity > 0 for leg in legs}) == 1


def _missing(leg: ActiveContract, legs: Sequence[ActiveContract], *, is_alive: bool) -> Finding:
    name = repr(leg.strategy_id)
    proposal = (
        f"remove the leg from strategy {name}" if is_alive else f"remove strategy {name}: none of its legs is held"
    )
    return _of_leg(MISSING, leg, legs, {}, becomes=0.0, proposal=f"not held; {proposal}")


def _quantity(
    leg: ActiveContract, legs: Sequence[ActiveContract], holders: Mapping[str, float], accounts: Collection[str]
) -> Finding:
    rest = round(leg.quantity + _sum(holders.values()) - _wanted(legs), _DIGITS)
    becomes: float | None = rest
    name = repr(leg.strategy_id)
    taken = f"{rest:g} instead of {leg.quantity:g}" if rest else "remove the leg"
    together = f"{len(legs)} strategies hold it, and one of them takes the difference"
    if elsewhere := sorted(holders.keys() - set(accounts)):
        text = f"{', '.join(elsewhere)} is no account of this login, so its last known quantity may be old; look there"
        becomes = None
    elif len(legs) == 1:
        text = f"strategy {name} takes what is held: {taken}"
    elif rest * leg.quantity < 0:
        text = f"{together}; not {name}, whose side it would turn"
        becomes = None
    else:
        text = f"{together}; if it is {name}: {taken}"
    return _of_leg(QUANTITY, leg, legs, holders, becomes=becomes, proposal=text)


def _of_leg(
    kind: str,
    leg: ActiveContract,
    legs: Sequence[ActiveContract],
    holders: Mapping[str, float],
    *,
    becomes: float | None,
    proposal: str,
) -> Finding:
    return Finding(
        finding=kind,
        account=", ".join(sorted(holders)) or None,
        conid=leg.conid,
        label=leg.label(),
        strategy_id=leg.strategy_id,
        held=_sum(holders.values()),
        wanted=_wanted(legs),
        registered=leg.quantity,
        becomes=becomes,
        proposal=proposal,
    )


def _closed(row: BookRow, contracts: Mapping[int, Sequence[ActiveContract]]) -> Finding:
    text = f"the book still has {row.position:g}; the next sync closes it"
    wanted = _wanted(contracts.get(row.conid, ()))
    return Finding(CLOSED, row.account, row.conid, row.label(), None, 0.0, wanted, None, None, text)


def _unassigned(position: AccountPosition) -> Finding:
    instrument, held = position.instrument, position.position
    text = f"in no strategy; to stream it: {_registering(instrument, held)}"
    return Finding(
        UNASSIGNED, position.account, instrument.conid, instrument.label(), None, held, 0.0, None, None, text
    )


def _registering(instrument: Instrument, quantity: float) -> str:
    """Return the call that registers a position, with a strategy id to be filled in."""
    fields: dict[str, object] = {
        "right": instrument.right and str(instrument.right),
        "strike": instrument.strike,
        "expiry": instrument.expiry,
        "sec_type": None if instrument.sec_type == "OPT" else instrument.sec_type,
        "quantity": quantity,
    }
    given = "".join(f", {name}={value!r}" for name, value in fields.items() if value is not None)
    return f"await desk.registry.add_active({instrument.conid}, {instrument.symbol!r}{given}, strategy_id=...)"


def _wanted(legs: Iterable[ActiveContract]) -> float:
    return _sum(leg.quantity for leg in legs)


def _sum(quantities: Iterable[float]) -> float:
    return round(math.fsum(quantities), _DIGITS)


# --- applying -------------------------------------------------------------------------------------------------------


def as_findings(frame: pl.DataFrame) -> list[Finding]:
    """Return a frame's rows, each once.

    Raises:
        TypeError, ValueError: It is no frame of findings, or would change one contract twice.
    """
    if not isinstance(frame, pl.DataFrame):
        raise TypeError(f"findings must be rows of the frame that reconcile() returned, got {frame!r}")
    if lacking := [name for name in SCHEMA if name not in frame.columns]:
        raise ValueError(f"findings must have all columns of the frame that reconcile() returned; no {lacking[0]!r}")
    rows = [Finding(*row) for row in dict.fromkeys(frame.select(SCHEMA.keys()).rows())]
    takers = defaultdict(list)
    for each in rows:
        if each.finding == QUANTITY and each.becomes is not None:
            takers[each.conid].append(each)
    for rivals in takers.values():
        if len(rivals) > 1:
            names = ", ".join(repr(each.strategy_id) for each in rivals)
            raise ValueError(f"{rivals[0].label}: only one of {names} can take the difference; leave the others out")
    return rows


def to_fix(chosen: Iterable[Finding], now: pl.DataFrame) -> list[Finding]:
    """Return the chosen findings that change the registry.

    Args:
        chosen: What is to be applied.
        now: What is found at present: a look of an hour ago must not take a leg away that has been bought since.

    Raises:
        RegistryError: One of them is not found any more, or not like this.
    """
    current = {Finding(*row) for row in now.rows()}
    fixes = [each for each in chosen if each.becomes is not None]
    for each in fixes:
        if each not in current:
            raise _outdated(each)
    return fixes


def fixed(state: RegistryState, moment: Moment, *, fixes: Sequence[Finding]) -> Decision[RegistryRow, None]:
    """Take proposals over into the registry: all of them, or none.

    Raises:
        RegistryError: A leg is no longer as it was found.
    """
    rows = []
    for each in fixes:
        row = state.rows.get((each.strategy_id or "", each.conid))
        if row is None or row.removed_at is not None or row.quantity != each.registered:
            raise _outdated(each)
        if each.becomes:
            rows.append(row._replace(quantity=each.becomes, change="UPDATE"))
        else:
            rows.append(row._replace(removed_at=moment.now, change="REMOVE"))
    return Decision(rows, None)


def _outdated(each: Finding) -> RegistryError:
    return RegistryError(
        f"{each.label} in strategy {each.strategy_id!r} is no longer as it was found ({each.finding}: held "
        f"{each.held:g}, wanted {each.wanted:g}); nothing was changed. Look again with reconcile()"
    )
