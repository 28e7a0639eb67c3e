"""What a fill does to a position: quantity, average cost, realized profit. Pure arithmetic.

Source: IB's average cost method. A fill that opens or adds averages the cost, one that reduces keeps it and realizes
the difference, and one that turns long into short (or back) starts again at its own price.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Filled(NamedTuple):
    """A position after a fill.

    Attributes:
        quantity: Signed number of contracts or shares.
        avg_cost: Per contract, multiplier included; 0 when nothing is held.
        realized: Profit that the fill has realized.
    """

    quantity: float
    avg_cost: float
    realized: float


def fill(held: float, avg_cost: float, traded: float, cost: float) -> Filled:
    """Return what a position becomes by a fill.

    Args:
        held: Signed quantity before.
        avg_cost: Its average cost per contract, multiplier included.
        traded: Signed quantity of the fill: bought is positive.
        cost: Price of the fill per contract, multiplier included.
    """
    quantity = held + traded
    if held * traded >= 0:
        average = (held * avg_cost + traded * cost) / quantity if quantity else 0.0
        return Filled(quantity, average, 0.0)
    closed = math.copysign(min(abs(held), abs(traded)), held)
    realized = closed * (cost - avg_cost)
    if not quantity:
        return Filled(0.0, 0.0, realized)
    return Filled(quantity, avg_cost if quantity * held > 0 else cost, realized)
