"""What users hand in, brought into one form: strategy ids as text, legs as checked `Leg` objects."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any, SupportsIndex

import polars as pl

from v6kit.contracts import OPTION_TYPES, Leg, check_text

Legs = Iterable[Leg | Mapping[str, Any]] | pl.DataFrame


def as_strategy_id(value: str | SupportsIndex) -> str:
    """Return a strategy's id as text, given as that or as a whole number, a column's of another library too.

    Raises:
        TypeError, ValueError: It is neither, or empty.
    """
    if isinstance(value, str):
        return check_text("strategy_id", value)
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"strategy_id must be text or a whole number, got {value!r} ({type(value).__name__})")
    return str(operator.index(value))


def as_legs(legs: Legs) -> list[Leg]:
    """Return checked legs; a conid must not come twice.

    Raises:
        TypeError, ValueError: Naming the leg, the field and the value.
    """
    if isinstance(legs, Leg | Mapping | str) or not isinstance(legs, Iterable | pl.DataFrame):
        raise TypeError(f"legs must be several legs or a frame of them, got {legs!r}")
    given = legs.iter_rows(named=True) if isinstance(legs, pl.DataFrame) else legs
    checked = [_as_leg(index, leg) for index, leg in enumerate(given)]
    if not checked:
        raise ValueError(f"legs must not be empty, got {legs!r}")
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
    if missing := [name for name in ("conid", "symbol") if name not in leg]:
        raise ValueError(f"leg {index}: {missing[0]} is missing, got {dict(leg)!r}")
    try:
        return Leg(**leg)
    except (TypeError, ValueError) as error:
        raise type(error)(f"leg {index}: {error}") from None


def fields_of(contract: Any) -> dict[str, Any]:  # noqa: ANN401 - ib_async is not imported here
    """Return the fields of a leg for an `ib_async` contract, or for any object with its attributes.

    Raises:
        ValueError: It is a combo, or has no conId yet.
    """
    if getattr(contract, "secType", "") == "BAG":
        raise ValueError("a combo is registered by its legs: await desk.register(contract, strategy_id) finds them out")
    conid = getattr(contract, "conId", None)
    if not conid:
        raise ValueError(f"contract must be qualified, so that it has a conId; got {contract!r}")
    option = contract.secType in OPTION_TYPES
    return {
        "conid": conid,
        "symbol": contract.symbol,
        "right": contract.right if option else None,
        "strike": contract.strike if option else None,
        # IB may put a time and a zone behind the date
        "expiry": contract.lastTradeDateOrContractMonth.partition(" ")[0] or None,
        "sec_type": contract.secType,
    }
