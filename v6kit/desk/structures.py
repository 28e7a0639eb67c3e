"""The shapes of option strategies, and their legs out of a chain. Pure; chooses strikes only where it was told how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from v6kit.contracts import Instrument, Leg, Right, check_float


class Role(NamedTuple):
    """One leg of a shape.

    Attributes:
        name: For the user.
        right: `C` or `P`.
        sign: +1 bought, −1 sold, when the quantity is positive.
        wing: 0 if its strike is chosen; else it lies a width lower (−1) or higher (+1) than the role beside it.
    """

    name: str
    right: Right
    sign: int
    wing: int = 0


@dataclass(frozen=True, slots=True)
class Structure:
    """A shape.

    Attributes:
        kind: What the registry calls it.
        title: What traders call it.
        roles: Its legs, lowest strike first.
    """

    kind: str
    title: str
    roles: tuple[Role, ...]


_P, _C = Right.PUT, Right.CALL
STRUCTURES = {
    "iron_condor": Structure(
        "IRON_CONDOR",
        "iron condor",
        (
            Role("long put", _P, 1, -1),
            Role("short put", _P, -1),
            Role("short call", _C, -1),
            Role("long call", _C, 1, 1),
        ),
    ),
    "bull_put": Structure("VERTICAL", "bull put spread", (Role("long put", _P, 1, -1), Role("short put", _P, -1))),
    "bear_call": Structure("VERTICAL", "bear call spread", (Role("short call", _C, -1), Role("long call", _C, 1, 1))),
    "bull_call": Structure("VERTICAL", "bull call spread", (Role("long call", _C, 1), Role("short call", _C, -1, 1))),
    "bear_put": Structure("VERTICAL", "bear put spread", (Role("short put", _P, -1, -1), Role("long put", _P, 1))),
    "call": Structure("SINGLE", "single call", (Role("call", _C, 1),)),
    "put": Structure("SINGLE", "single put", (Role("put", _P, 1),)),
}
_APART = 0.04  # of the price: where chosen strikes lie at first, out of the money


def strikes_of(chain: Sequence[Instrument], right: Right) -> list[float]:
    """Return the strikes that a chain lists for a right, lowest first."""
    return sorted(each.strike for each in chain if each.right == right and each.strike is not None)


def first_strikes(structure: Structure, chain: Sequence[Instrument], price: float | None) -> dict[str, float]:
    """Return strikes to begin with: those to be chosen 4 % out of the money, the wings two strikes beside them.

    Args:
        structure: The shape.
        chain: Of one series.
        price: Of the underlying; `None` if unknown, then the middle of the chain.
    """
    found: dict[str, float] = {}
    for role in structure.roles:
        listed = strikes_of(chain, role.right)
        if not role.wing and listed:
            middle = price if price is not None else listed[len(listed) // 2]
            found[role.name] = nearest(listed, middle * (1 + (_APART if role.right is Right.CALL else -_APART)))
    steps = [high - low for low, high in pairwise(listed)] if chain else []
    return with_wings(structure, chain, found, 2 * min(steps, default=1.0))


def with_wings(
    structure: Structure, chain: Sequence[Instrument], strikes: Mapping[str, float], width: float
) -> dict[str, float]:
    """Return strikes with each wing so far beside the role that it protects, or as near to that as is listed."""
    found = dict(strikes)
    for at, role in enumerate(structure.roles):
        if role.wing:
            beside = structure.roles[at - role.wing].name
            listed = strikes_of(chain, role.right)
            if beside in strikes and listed:
                found[role.name] = nearest(listed, strikes[beside] + role.wing * width)
    return found


def nearest(listed: Sequence[float], wanted: float) -> float:
    """Return the strike that is nearest; of two, the lower one."""
    return min(listed, key=lambda strike: (abs(strike - wanted), strike))


def legs_of(
    structure: Structure, chain: Sequence[Instrument], strikes: Mapping[str, float], quantity: float
) -> list[Leg]:
    """Return the legs of a structure.

    Args:
        structure: The shape.
        chain: All options of one series.
        strikes: By the role's name.
        quantity: Signed number of structures; negative: the other way round.

    Raises:
        ValueError: A strike is missing, not listed or out of order, or the quantity is 0; says which.
    """
    quantity = check_float("quantity", quantity)
    listed = {(each.right, each.strike): each for each in chain}
    legs: list[Leg] = []
    for role in structure.roles:
        if role.name not in strikes:
            raise ValueError(f"the strike of the {role.name} is missing")
        option = listed.get((role.right, strikes[role.name]))
        if option is None:
            raise ValueError(f"no {role.name} is listed at {strikes[role.name]:g}")
        legs.append(Leg.of(option, role.sign * quantity))
    for low, high, leg, after in zip(structure.roles, structure.roles[1:], legs, legs[1:], strict=False):
        if (leg.strike or 0.0) > (after.strike or 0.0) or leg.conid == after.conid:
            raise ValueError(f"the {low.name} must lie below the {high.name}, got {leg.strike:g} and {after.strike:g}")
    return legs
