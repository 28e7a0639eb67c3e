"""What holding a combo comes to, leg by leg."""

from __future__ import annotations

from typing import Any

import pytest
from ib_async import Bag, ComboLeg, Contract, Option
from v6kit.desk.combos import quantities


def bag(*legs: tuple[int, int, str]) -> Bag:
    """Return a combo of (conid, ratio, action)."""
    return Bag(
        symbol="SPY", comboLegs=[ComboLeg(conId=conid, ratio=ratio, action=action) for conid, ratio, action in legs]
    )


@pytest.mark.parametrize(
    ("quantity", "numbers"), [(1, {5: 1.0, 3: -2.0, 8: 1.0}), (-3, {5: -3.0, 3: 6.0, 8: -3.0})], ids=str
)
def test_each_leg_is_held_in_ratio_times_action_times_quantity(quantity: float, numbers: dict[int, float]):
    """Selling the combo turns every leg round."""
    butterfly = bag((5, 1, "BUY"), (3, 2, "SELL"), (8, 1, "BUY"))
    assert quantities(butterfly, quantity) == numbers


def test_a_contract_that_is_named_twice_adds_up():
    """Two legs on one conid are one position."""
    assert quantities(bag((5, 1, "BUY"), (5, 2, "BUY"), (3, 1, "SELL")), 2) == {5: 6.0, 3: -2.0}


def test_a_single_contract_is_its_own_leg():
    """Its conid is enough."""
    assert quantities(Contract(conId=5), -4) == {5: -4.0}


@pytest.mark.parametrize(
    ("contract", "quantity", "says"),
    [
        (bag(), 1, "comboLegs"),
        (Option("SPY", "20261218", 600, "C"), 1, "conId"),
        (bag((0, 1, "BUY")), 1, "conId"),
        (bag((5, 1, "SSHORT")), 1, "SSHORT"),
        (bag((5, 0, "BUY")), 1, "ratio"),
        (bag((5, 1, "BUY"), (5, 1, "SELL")), 1, "conid 5"),
        (bag((5, 1, "BUY")), float("nan"), "quantity"),
    ],
    ids=["no legs", "no conid", "no leg's conid", "action", "ratio", "nothing left", "quantity"],
)
def test_what_cannot_be_held_is_refused_by_name(contract: Any, quantity: float, says: str):
    """Before the gateway is asked anything."""
    with pytest.raises(ValueError, match=says):
        quantities(contract, quantity)
