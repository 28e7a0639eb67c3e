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
from v6kit.positions import BookRow
from v6kit.registry import Amendment

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
        strategy_account: The account that the strategy is bound to; `None`: any.
        held: Signed number that is there for these strategies: see `findings`.
        wanted: Signed number that all strategies want that are bound to this account, or to none.
        registered: The quantity of this strategy's leg, or `None` without one.
        becomes: What that quantity becomes when the proposal is applied; 0 removes the leg, `None` leaves it.
        proposal: What to do, in words.
    """

    finding: str
    account: str | None
    conid: int
    label: str
    strategy_id: str | None
    strategy_account: str | None
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
    "strategy_account": pl.String(),
    "held": pl.Float64(),
    "wanted": pl.Float64(),
    "registered": pl.Float64(),
    "becomes": pl.Float64(),
    "proposal": pl.String(),
}

# --- finding --------------------------------------------------------------------------------------------------------


class _Claim(NamedTuple):
    """All legs of one contract that are bound to one account, or to none, and what is there for them.

    Attributes:
        account: That they are bound to; `None`: any.
        legs: At least one.
        held: By account, what is there for them; never 0.
    """

    account: str | None
    legs: Sequence[ActiveContract]
    held: Mapping[str, float]

    @property
    def is_missing(self) -> bool:
        """Whether nothing is there, and all legs are on one side: opposite ones may well add up to nothing."""
        return not self.held and len({leg.quantity > 0 for leg in self.legs}) == 1

    @property
    def rest(self) -> float:
        """What is there beyond what the legs want."""
        return _sum((*self.held.values(), *(-leg.quantity for leg in self.legs)))


def findings(
    positions: Iterable[AccountPosition],
    legs: Iterable[ActiveContract],
    rows: Iterable[BookRow],
    accounts: Collection[str],
) -> pl.DataFrame:
    """Return where accounts, registry and book disagree.

    The rule, contract by contract: legs that are bound to an account are compared with the position of that account,
    legs of any account with the sum of what the bound ones leave. Of an account that holds more than its bound legs
    want, the surplus is left, as long as there are legs of any account to take it; an account that holds less leaves
    nothing, and its bound legs alone are found wrong. So each contract that is too many or too few is told once.

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
    claims = [claim for conid, group in contracts.items() for claim in _claims(group, holders.get(conid, {}))]
    found = [
        *_of_strategies(claims, accounts),
        *(_closed(row, contracts) for row in known if row.account in accounts and (row.account, row.conid) not in held),
        *(
            _unassigned(position, is_one_of_many=len(accounts) > 1)
            for (account, conid), position in held.items()
            if not _of_account(contracts.get(conid, ()), account)
        ),
    ]
    found.sort(key=lambda each: (KINDS.index(each.finding), each.strategy_id or "", each.label, each.account or ""))
    return pl.DataFrame(found, schema=SCHEMA, orient="row")


def _claims(legs: Sequence[ActiveContract], holders: Mapping[str, float]) -> Iterator[_Claim]:
    """Share out what is held of one contract: first to the legs that are bound to an account, then to the others."""
    bound: dict[str | None, list[ActiveContract]] = defaultdict(list)
    for leg in legs:
        bound[leg.account].append(leg)
    unbound = bound.pop(None, [])
    left = dict(holders)
    for account, group in bound.items():
        assert account is not None  # noqa: S101 - for the type checker: None has been taken out
        here, wanted = holders.get(account, 0.0), _wanted(group)
        surplus = _sum((here, -wanted))
        is_short = surplus * wanted < 0
        left.pop(account, None)
        if unbound and surplus and not is_short:
            left[account] = surplus
            here = wanted
        yield _Claim(account, group, {account: here} if here else {})
    if unbound:
        yield _Claim(None, unbound, left)


def _of_account(legs: Iterable[ActiveContract], account: str) -> list[ActiveContract]:
    """Return those of the legs that an account may hold."""
    return [leg for leg in legs if leg.account in (None, account)]


def counted(frame: pl.DataFrame) -> str:
    """Return how many findings of which kind there are, e.g. `2 quantity, 16 unassigned`."""
    kinds = Counter(frame["finding"])
    return ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind])


def is_alarming(frame: pl.DataFrame) -> bool:
    """Tell whether a strategy or the book is wrong; positions in no strategy alone are nothing to worry about."""
    return not ALARMING.isdisjoint(frame["finding"])


def _of_strategies(claims: Sequence[_Claim], accounts: Collection[str]) -> Iterator[Finding]:
    alive = {_named(leg) for claim in claims if not claim.is_missing for leg in claim.legs}
    for claim in claims:
        if claim.is_missing:
            yield from (_missing(leg, claim, accounts, is_alive=_named(leg) in alive) for leg in claim.legs)
        elif claim.rest:
            yield from (_quantity(leg, claim, accounts) for leg in claim.legs)


def _missing(leg: ActiveContract, claim: _Claim, accounts: Collection[str], *, is_alive: bool) -> Finding:
    becomes: float | None = 0.0
    if claim.account is not None and claim.account not in accounts:
        text = f"{claim.account} is not followed here, and the book knows nothing of it; look there"
        becomes = None
    elif is_alive:
        text = f"not held; remove the leg from strategy {_named(leg)}"
    else:
        text = f"not held; remove strategy {_named(leg)}: none of its legs is held"
    return _of_leg(MISSING, leg, claim, becomes=becomes, proposal=text)


def _quantity(leg: ActiveContract, claim: _Claim, accounts: Collection[str]) -> Finding:
    rest = _sum((leg.quantity, claim.rest))
    becomes: float | None = None
    name = _named(leg)
    taken = f"{rest:g} instead of {leg.quantity:g}" if rest else "remove the leg"
    together = f"{len(claim.legs)} strategies hold it, and one of them takes the difference"
    if elsewhere := sorted(({*claim.held, claim.account} - {None}) - set(accounts), key=str):
        names = ", ".join(map(str, elsewhere))
        text = f"{names} is not followed here, so its last known quantity may be old; look there"
    elif not rest and len(claim.held) > 1 and len(claim.legs) == 1:
        text = "accounts hold it on both sides and come to nothing together; bind the strategy to the account it is of"
    elif len(claim.legs) == 1:
        text = f"strategy {name} takes what is held: {taken}"
        becomes = rest
    elif rest * leg.quantity < 0:
        text = f"{together}; not {name}, whose side it would turn"
    else:
        text = f"{together}; if it is {name}: {taken}"
        becomes = rest
    return _of_leg(QUANTITY, leg, claim, becomes=becomes, proposal=text)


def _of_leg(kind: str, leg: ActiveContract, claim: _Claim, *, becomes: float | None, proposal: str) -> Finding:
    return Finding(
        finding=kind,
        account=", ".join(sorted(claim.held)) or None,
        conid=leg.conid,
        label=leg.label(),
        strategy_id=leg.strategy_id,
        strategy_account=leg.account,
        held=_sum(claim.held.values()),
        wanted=_wanted(claim.legs),
        registered=leg.quantity,
        becomes=becomes,
        proposal=proposal,
    )


def _named(leg: ActiveContract) -> str:
    return repr(leg.strategy_id) if leg.account is None else f"{leg.strategy_id!r} in {leg.account}"


def _closed(row: BookRow, contracts: Mapping[int, Sequence[ActiveContract]]) -> Finding:
    text = f"the book still has {row.position:g}; the next sync closes it"
    wanted = _wanted(_of_account(contracts.get(row.conid, ()), row.account))
    return Finding(CLOSED, row.account, row.conid, row.label(), None, None, 0.0, wanted, None, None, text)


def _unassigned(position: AccountPosition, *, is_one_of_many: bool) -> Finding:
    instrument, held = position.instrument, position.position
    where = position.account if is_one_of_many else None
    text = f"in no strategy; to stream it: {_registering(instrument, held, where)}"
    return Finding(
        UNASSIGNED, position.account, instrument.conid, instrument.label(), None, None, held, 0.0, None, None, text
    )


def _registering(instrument: Instrument, quantity: float, account: str | None) -> str:
    """Return the call that registers a position, with a strategy id to be filled in."""
    fields: dict[str, object] = {
        "right": instrument.right and str(instrument.right),
        "strike": instrument.strike,
        "expiry": instrument.expiry,
        "sec_type": None if instrument.sec_type == "OPT" else instrument.sec_type,
        "quantity": quantity,
        "account": account,
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
            takers[each.conid, each.strategy_account].append(each)
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


def amendments(fixes: Iterable[Finding]) -> list[Amendment]:
    """Return what the findings ask of the registry, on the condition that each leg is still as it was found."""
    return [
        Amendment(
            each.strategy_id or "", each.strategy_account, each.conid, each.registered or 0.0, each.becomes or 0.0
        )
        for each in fixes
    ]


def _outdated(each: Finding) -> RegistryError:
    return RegistryError(
        f"{each.label} in strategy {each.strategy_id!r} is no longer as it was found ({each.finding}: held "
        f"{each.held:g}, wanted {each.wanted:g}); nothing was changed. Look again with reconcile()"
    )
