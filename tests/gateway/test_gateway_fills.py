"""What fills do to quantity, average cost and realized profit: pure arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from v6kit.gateway.fills import fill

QUANTITIES = st.integers(-50, 50).filter(bool)
COSTS = st.integers(0, 100_000).map(lambda cents: cents / 100)


@pytest.mark.parametrize(
    ("held", "avg_cost", "traded", "cost", "expected"),
    [
        (0, 0.0, 2, 100.0, (2, 100.0, 0.0)),  # opens
        (2, 100.0, 2, 200.0, (4, 150.0, 0.0)),  # adds
        (-2, 100.0, -6, 200.0, (-8, 175.0, 0.0)),  # adds to a short
        (4, 100.0, -1, 130.0, (3, 100.0, 30.0)),  # reduces
        (-4, 100.0, 1, 130.0, (-3, 100.0, -30.0)),  # reduces a short
        (4, 100.0, -4, 90.0, (0, 0.0, -40.0)),  # closes
        (4, 100.0, -6, 130.0, (-2, 130.0, 120.0)),  # turns short
        (-4, 100.0, 6, 130.0, (2, 130.0, -120.0)),  # turns long
    ],
)
def test_a_fill_averages_what_it_opens_and_realizes_what_it_closes(held, avg_cost, traded, cost, expected):
    """Each case of the average cost method, long and short."""
    assert fill(held, avg_cost, traded, cost) == expected


@given(st.lists(st.tuples(QUANTITIES, COSTS), min_size=1, max_size=30), COSTS)
def test_no_money_is_made_or_lost_by_accounting(fills: list[tuple[int, float]], price: float) -> None:
    """Cash paid and received, plus what is held at a price, is what was realized plus what is not yet."""
    held, avg_cost, realized = 0.0, 0.0, 0.0
    for traded, cost in fills:
        filled = fill(held, avg_cost, traded, cost)
        held, avg_cost, realized = filled.quantity, filled.avg_cost, realized + filled.realized
    cash = -sum(traded * cost for traded, cost in fills)
    assert held == sum(traded for traded, _ in fills)
    assert realized + held * (price - avg_cost) == pytest.approx(cash + held * price, abs=1e-4)
