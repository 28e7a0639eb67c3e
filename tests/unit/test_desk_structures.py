"""The shapes of strategies and their legs, out of the chains that the simulated market lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from v6kit.clock import FakeClock
from v6kit.contracts import Instrument, Right
from v6kit.desk.structures import STRUCTURES, first_strikes, legs_of, nearest, strikes_of, with_wings
from v6kit.gateway.market import Market

MARKET = Market(clock=FakeClock())
EXPIRY = MARKET.expiries[2]
CHAIN = [
    each
    for each in MARKET.instruments()
    if (each.symbol, each.sec_type, each.expiry, each.trading_class) == ("SPY", "OPT", EXPIRY, "SPY")
]
PRICE = MARKET.spot("SPY")
SHAPES = st.sampled_from(sorted(STRUCTURES))


def strikes(*wanted: float) -> dict[str, float]:
    """Return the strikes of an iron condor."""
    return dict(zip(("long put", "short put", "short call", "long call"), wanted, strict=True))


@given(
    shape=SHAPES,
    price=st.floats(0.95 * PRICE, 1.05 * PRICE) | st.none(),
    quantity=st.sampled_from([-3.0, -1.0, 0.5, 2.0]),
)
def test_every_shape_begins_with_strikes_that_make_legs(shape: str, price: float | None, quantity: float):
    """Wherever the underlying stands, or if nobody knows: strikes are listed, and signs are as the shape says."""
    structure = STRUCTURES[shape]
    found = first_strikes(structure, CHAIN, price)
    assert set(found) == {role.name for role in structure.roles}
    for role in structure.roles:
        assert found[role.name] in strikes_of(CHAIN, role.right)
    legs = legs_of(structure, CHAIN, found, quantity)
    assert [leg.quantity for leg in legs] == [role.sign * quantity for role in structure.roles]
    assert [leg.right for leg in legs] == [role.right for role in structure.roles]


def test_a_condor_begins_out_of_the_money_with_wings_of_one_width():
    """Short legs about 4 % away on either side, long ones beyond them."""
    found = first_strikes(STRUCTURES["iron_condor"], CHAIN, PRICE)
    assert found["long put"] < found["short put"] < PRICE < found["short call"] < found["long call"]
    assert abs(found["short put"] - PRICE * 0.96) <= abs(found["short put"] - found["long put"])
    assert found["short put"] - found["long put"] == found["long call"] - found["short call"]


@pytest.mark.parametrize("shape", ["bull_put", "bear_call", "bull_call", "bear_put"])
def test_a_vertical_follows_the_leg_that_is_chosen(shape: str):
    """Its wing lies a width away, on the side that the name says."""
    structure = STRUCTURES[shape]
    [chosen] = [role for role in structure.roles if not role.wing]
    [wing] = [role for role in structure.roles if role.wing]
    at = strikes_of(CHAIN, chosen.right)[len(CHAIN) // 4]
    found = with_wings(structure, CHAIN, {chosen.name: at}, 10.0)
    assert found[wing.name] == nearest(strikes_of(CHAIN, wing.right), at + wing.wing * 10.0)


def test_an_empty_chain_has_no_strikes():
    """Nor does it raise: nothing is chosen yet."""
    assert first_strikes(STRUCTURES["iron_condor"], [], 600.0) == {}
    assert with_wings(STRUCTURES["iron_condor"], [], {"short put": 590.0}, 5.0) == {"short put": 590.0}


def test_the_nearest_strike_is_the_lower_one_of_two():
    """So that the same question has the same answer."""
    assert nearest([90.0, 100.0, 110.0], 105.0) == 100.0


@pytest.mark.parametrize(
    ("wrong", "quantity", "says"),
    [
        ({"short put": 1.0}, 1, "no short put is listed at 1"),
        ({"short put": None}, 1, "the strike of the short put is missing"),
        ({}, 0, "quantity"),
        ({}, float("nan"), "quantity"),
    ],
    ids=["not listed", "missing", "nothing", "nan"],
)
def test_what_makes_no_legs_is_named(wrong: dict[str, float | None], quantity: float, says: str):
    """Before anything is registered."""
    listed = strikes_of(CHAIN, Right.PUT)
    middle = len(listed) // 2
    chosen = strikes(listed[middle - 4], listed[middle - 2], listed[middle + 2], listed[middle + 4]) | wrong
    known = {name: strike for name, strike in chosen.items() if strike is not None}
    with pytest.raises(ValueError, match=says):
        legs_of(STRUCTURES["iron_condor"], CHAIN, known, quantity)


def test_strikes_out_of_order_are_refused_with_both_of_them():
    """A condor whose put lies above its call is another thing."""
    low, high = strikes_of(CHAIN, Right.PUT)[2], strikes_of(CHAIN, Right.PUT)[6]
    with pytest.raises(ValueError, match=f"the long put must lie below the short put, got {high:g} and {low:g}"):
        legs_of(STRUCTURES["bull_put"], CHAIN, {"long put": high, "short put": low}, 1)
    with pytest.raises(ValueError, match="must lie below"):
        legs_of(STRUCTURES["bull_put"], CHAIN, {"long put": low, "short put": low}, 1)


def test_an_iron_butterfly_is_a_condor_whose_short_strikes_meet():
    """Put and call at one strike are two contracts."""
    listed = strikes_of(CHAIN, Right.PUT)
    middle = len(listed) // 2
    chosen = strikes(listed[middle - 3], listed[middle], listed[middle], listed[middle + 3])
    legs = legs_of(STRUCTURES["iron_condor"], CHAIN, chosen, 2)
    assert [leg.quantity for leg in legs] == [2.0, -2.0, -2.0, 2.0]
    assert len({leg.conid for leg in legs}) == 4
    assert all(isinstance(each, Instrument) for each in CHAIN)
