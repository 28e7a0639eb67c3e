"""The legs of a contract that is to be registered: a combo's, or the contract itself.

Owns reading a combo. A combo is never asked for as such: it is streamed, priced and queued by its legs.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from v6kit.broker import Broker
from v6kit.contracts import Leg, check_float, check_int

COMBO = "BAG"
_SIGNS = {"BUY": 1.0, "SELL": -1.0}


def quantities(contract: Any, quantity: float) -> dict[int, float]:  # noqa: ANN401 - ib_async is not imported here
    """Return what holding a contract comes to: the signed number of contracts per conid.

    Args:
        contract: An `ib_async` contract, or any object with its attributes.
        quantity: Signed number of contracts, or of combos.

    Raises:
        ValueError: It has no conId; a combo has no legs, or one with a wrong action or ratio; or legs cancel out.
    """
    quantity = check_float("quantity", quantity)
    if getattr(contract, "secType", "") != COMBO:
        return {_conid(contract, "contract"): quantity}
    legs = getattr(contract, "comboLegs", None) or ()
    if not legs:
        raise ValueError(f"contract is a combo without comboLegs, got {contract!r}")
    found: defaultdict[int, float] = defaultdict(float)
    for leg in legs:
        if leg.action not in _SIGNS:
            raise ValueError(f"the action of a combo's leg must be 'BUY' or 'SELL', got {leg.action!r}")
        found[_conid(leg, "a combo's leg")] += _SIGNS[leg.action] * check_int("ratio", leg.ratio) * quantity
    if empty := [conid for conid, number in found.items() if number == 0]:
        raise ValueError(f"the legs of conid {empty[0]} add up to 0; a leg that is not held does not belong to it")
    return dict(found)


async def legs_of(contract: Any, quantity: float, broker: Broker) -> list[Leg]:  # noqa: ANN401 - see above
    """Return the legs of a contract, as the gateway describes each of them.

    Raises:
        BrokerError: The details of a leg cannot be had.
        ValueError: As in `quantities`.
    """
    numbers = quantities(contract, quantity)
    details = await asyncio.gather(*map(broker.contract_details, numbers))
    return [Leg.of(instrument, number) for instrument, number in zip(details, numbers.values(), strict=True)]


def _conid(thing: Any, name: str) -> int:  # noqa: ANN401 - see above
    conid = getattr(thing, "conId", 0)
    if not conid:
        raise ValueError(f"{name} must be qualified, so that it has a conId; got {thing!r}")
    return check_int("conId", conid)
