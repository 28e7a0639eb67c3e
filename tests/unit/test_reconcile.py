"""What reconciliation finds and proposes, and what taking a proposal does to the registry."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from v6kit.clock import FakeClock
from v6kit.contracts import AccountPosition, ActiveContract, Instrument, PositionUpdate, Right
from v6kit.errors import RegistryError
from v6kit.positions import BookRow, merge
from v6kit.sync import reconcile

NOW = FakeClock().now()
ACCOUNTS = {"DU1"}


def option(conid: int) -> Instrument:
    """Return a call whose strike is its conid."""
    return Instrument(
        conid=conid, symbol="SPY", sec_type="OPT", right=Right.CALL, strike=float(conid), expiry="20261218"
    )


def held(conid: int, quantity: float, account: str = "DU1") -> AccountPosition:
    """Return a position of the account."""
    return AccountPosition(account=account, instrument=option(conid), position=quantity, avg_cost=1.0)


def leg(conid: int, quantity: float, strategy: str = "A", account: str | None = None) -> ActiveContract:
    """Return a leg of an active strategy."""
    return ActiveContract(
        conid=conid,
        symbol="SPY",
        right=Right.CALL,
        strike=float(conid),
        expiry="20261218",
        quantity=quantity,
        strategy_id=strategy,
        strategy="CUSTOM",
        added_at=NOW,
        account=account,
    )


def booked(conid: int, quantity: float, account: str = "DU1") -> BookRow:
    """Return a position as the book has it."""
    row = merge(None, PositionUpdate(account=account, instrument=option(conid), position=quantity, avg_cost=1.0))
    assert row is not None
    return row


def found(
    positions: list[AccountPosition], legs: list[ActiveContract], rows: list[BookRow] | None = None
) -> list[dict[str, object]]:
    """Return the findings of a login that manages DU1."""
    return reconcile.findings(positions, legs, rows or [], ACCOUNTS).to_dicts()


def brief(row: dict[str, object]) -> tuple[object, ...]:
    """Return what a finding says, without its texts."""
    return tuple(row[name] for name in ("finding", "strategy_id", "held", "wanted", "registered", "becomes"))


def test_agreement_is_an_empty_frame_with_all_columns():
    """Nothing found has the same columns and types as something found."""
    nothing = reconcile.findings([held(1, 2)], [leg(1, 2)], [booked(1, 2)], ACCOUNTS)
    something = reconcile.findings([held(1, 2)], [], [], ACCOUNTS)
    assert nothing.is_empty()
    assert nothing.schema == something.schema == pl.Schema(reconcile.SCHEMA)
    assert something.columns == list(reconcile.Finding._fields)


def test_a_leg_with_another_quantity_takes_what_is_held():
    """One strategy holds it, so there is one answer."""
    (row,) = found([held(1, -3)], [leg(1, -2)])
    assert brief(row) == ("quantity", "A", -3.0, -2.0, -2.0, -3.0)
    assert row["account"] == "DU1"
    assert row["label"] == "SPY 261218 C 1"
    assert row["proposal"] == "strategy 'A' takes what is held: -3 instead of -2"


def test_a_contract_of_two_strategies_is_compared_with_their_sum():
    """2 + 1 strategies' contracts are 3 in the account: nothing is wrong."""
    assert found([held(1, 3)], [leg(1, 2, "A"), leg(1, 1, "B")]) == []
    assert found([], [leg(1, 2, "A"), leg(1, -2, "B")]) == []


def test_fractions_are_compared_without_the_noise_of_floats():
    """0.1 + 0.2 shares are 0.3 shares."""
    assert found([held(1, 0.3)], [leg(1, 0.1, "A"), leg(1, 0.2, "B")]) == []


def test_two_strategies_are_offered_the_difference_one_each():
    """Which one it belongs to is the trader's to say; a row that would turn a side around cannot take it."""
    one, two = found([held(1, 3)], [leg(1, 2, "A"), leg(1, 4, "B")])
    assert brief(one) == ("quantity", "A", 3.0, 6.0, 2.0, None)
    assert brief(two) == ("quantity", "B", 3.0, 6.0, 4.0, 1.0)
    assert "whose side it would turn" in str(one["proposal"])
    assert "if it is 'B': 1 instead of 4" in str(two["proposal"])


def test_a_strategy_that_takes_all_of_the_difference_may_lose_its_leg():
    """Taking over 0 is removing the leg, and the proposal says so."""
    one, _two = found([held(1, 4)], [leg(1, 2, "A"), leg(1, 4, "B")])
    assert brief(one) == ("quantity", "A", 4.0, 6.0, 2.0, 0.0)
    assert str(one["proposal"]).endswith("if it is 'A': remove the leg")


def test_opposite_legs_that_do_not_cancel_are_no_missing_legs():
    """Long 2 and short 1 want 1; nothing held does not tell which of them is gone."""
    rows = found([], [leg(1, 2, "A"), leg(1, -1, "B")])
    assert [brief(row) for row in rows] == [
        ("quantity", "A", 0.0, 1.0, 2.0, 1.0),
        ("quantity", "B", 0.0, 1.0, -1.0, -2.0),
    ]


def test_a_missing_leg_is_removed_from_its_strategy():
    """The other leg is held, so the strategy stays."""
    (row,) = found([held(1, 1)], [leg(1, 1), leg(2, -1)])
    assert brief(row) == ("missing", "A", 0.0, -1.0, -1.0, 0.0)
    assert row["account"] is None
    assert row["proposal"] == "not held; remove the leg from strategy 'A'"


def test_a_strategy_of_which_nothing_is_held_is_to_go():
    """Each leg says it; a strategy that shares its leg with another one is judged by itself."""
    rows = found([held(1, 1)], [leg(1, 1, "A"), leg(2, 1, "A"), leg(2, 1, "B"), leg(3, 1, "B")])
    assert [(row["strategy_id"], row["conid"], row["becomes"]) for row in rows] == [
        ("A", 2, 0.0),
        ("B", 2, 0.0),
        ("B", 3, 0.0),
    ]
    assert ["remove strategy" in str(row["proposal"]) for row in rows] == [False, True, True]


def test_a_row_of_the_book_that_is_not_held_is_closed():
    """The sync closes it; the registry has nothing to take over."""
    (row,) = found([], [], [booked(1, 4)])
    assert brief(row) == ("closed", None, 0.0, 0.0, None, None)
    assert "the book still has 4" in str(row["proposal"])


def test_accounts_of_another_login_are_not_flat():
    """What this login cannot see counts as the book has it; without agreement it is nobody's to fix here."""
    rows = [booked(1, 2, "U9")]
    assert found([], [leg(1, 2)], rows) == []
    (row,) = found([held(1, 1)], [leg(1, 2)], rows)
    assert brief(row) == ("quantity", "A", 3.0, 2.0, 2.0, None)
    assert row["account"] == "DU1, U9"
    assert "U9 is not followed here" in str(row["proposal"])


def test_positions_of_several_accounts_add_up():
    """A strategy may be spread over accounts; a position in no strategy is one row per account."""
    accounts = {"DU1", "DU2"}
    positions = [held(1, 1), held(1, 2, "DU2"), held(2, 5), held(2, 5, "DU2")]
    rows = reconcile.findings(positions, [leg(1, 3)], [], accounts).to_dicts()
    assert [(row["finding"], row["account"], row["conid"]) for row in rows] == [
        ("unassigned", "DU1", 2),
        ("unassigned", "DU2", 2),
    ]


def test_the_most_urgent_findings_come_first():
    """Wrong strategies before rows of the book, and positions in no strategy last."""
    frame = reconcile.findings([held(1, 1), held(2, 2)], [leg(2, 1), leg(3, 1)], [booked(4, 1)], ACCOUNTS)
    assert frame["finding"].to_list() == list(reconcile.KINDS)
    assert reconcile.counted(frame) == "1 quantity, 1 missing, 1 closed, 1 unassigned"


def test_positions_in_no_strategy_alone_are_no_alarm():
    """They are what the queue is for; anything else is one."""
    assert not reconcile.is_alarming(reconcile.findings([held(1, 1)], [], [], ACCOUNTS))
    assert reconcile.is_alarming(reconcile.findings([], [leg(1, 1)], [], ACCOUNTS))


def test_fixes_are_amendments_of_legs_as_they_were_found():
    """Quantities and removals of several strategies, each with what the leg was."""
    legs = [leg(1, 1), leg(2, 2), leg(3, 3, "B")]
    now = reconcile.findings([held(1, 5)], legs, [], ACCOUNTS)
    fixes = reconcile.to_fix(reconcile.as_findings(now), now)
    assert reconcile.amendments(fixes) == [
        ("A", None, 1, 1.0, 5.0),
        ("A", None, 2, 2.0, 0.0),
        ("B", None, 3, 3.0, 0.0),
    ]


def test_what_is_not_found_any_more_is_not_applied():
    """A leg that was bought back since the look stays."""
    before = reconcile.findings([], [leg(1, 1)], [], ACCOUNTS)
    now = reconcile.findings([held(1, 1)], [leg(1, 1)], [], ACCOUNTS)
    with pytest.raises(RegistryError, match="nothing was changed"):
        reconcile.to_fix(reconcile.as_findings(before), now)


def test_what_changes_nothing_in_the_registry_does_not_get_old():
    """The next sync may have closed a row of the book already; that is no reason to refuse."""
    before = reconcile.findings([held(2, 1)], [], [booked(1, 1)], ACCOUNTS)
    assert before.height == 2
    assert reconcile.to_fix(reconcile.as_findings(before), before.clear()) == []


def test_only_one_strategy_takes_a_difference():
    """Applying both offers would take it twice; one of them is fine."""
    frame = reconcile.findings([held(1, 5)], [leg(1, 2, "A"), leg(1, 2, "B")], [], ACCOUNTS)
    with pytest.raises(ValueError, match="SPY 261218 C 1: only one of 'A', 'B' can take the difference"):
        reconcile.as_findings(frame)
    (chosen,) = reconcile.as_findings(frame.filter(strategy_id="B"))
    assert (chosen.strategy_id, chosen.becomes) == ("B", 3.0)


def test_a_frame_of_something_else_is_refused():
    """The missing column is named; no frame at all is a TypeError; a row that comes twice counts once."""
    frame = reconcile.findings([held(1, 5)], [leg(1, 2)], [], ACCOUNTS)
    with pytest.raises(ValueError, match="no 'becomes'"):
        reconcile.as_findings(frame.drop("becomes"))
    with pytest.raises(TypeError, match="rows of the frame that reconcile"):
        reconcile.as_findings(frame.to_dicts())  # type: ignore[arg-type]
    assert len(reconcile.as_findings(pl.concat([frame, frame]))) == 1


# --- several accounts -----------------------------------------------------------------------------------------------

TWO = {"DU1", "DU2"}


def told(positions: list[AccountPosition], legs: list[ActiveContract]) -> list[tuple[object, ...]]:
    """Return the findings of a login with two accounts: kind, account, strategy, its account, held, wanted, becomes."""
    names = ("finding", "account", "strategy_id", "strategy_account", "held", "wanted", "becomes")
    return reconcile.findings(positions, legs, [], TWO).select(names).rows()


def test_a_leg_of_an_account_is_compared_with_that_account_alone():
    """What another account holds is neither enough nor too much for it."""
    legs = [leg(1, 2, account="DU1")]
    assert told([held(1, 2)], legs) == []
    assert told([held(1, 2), held(1, 7, "DU2")], legs) == [("unassigned", "DU2", None, None, 7.0, 0.0, None)]
    assert told([held(1, 2, "DU2")], legs) == [
        ("missing", None, "A", "DU1", 0.0, 2.0, 0.0),
        ("unassigned", "DU2", None, None, 2.0, 0.0, None),
    ]
    assert told([held(1, 3)], legs) == [("quantity", "DU1", "A", "DU1", 3.0, 2.0, 3.0)]


def test_one_strategy_in_two_accounts_is_judged_in_each():
    """A mistake in one account says nothing of the other, and a whole strategy goes in one account only."""
    legs = [leg(1, 1, account="DU1"), leg(1, 1, account="DU2"), leg(2, 1, account="DU2")]
    frame = reconcile.findings([held(1, 1)], legs, [], TWO)
    assert frame.select("finding", "conid", "strategy_account").rows() == [("missing", 1, "DU2"), ("missing", 2, "DU2")]
    assert frame["proposal"][0] == "not held; remove strategy 'A' in DU2: none of its legs is held"


def test_legs_of_any_account_get_what_the_bound_ones_leave():
    """Bound legs are served first; a surplus and whole accounts without bound legs are what is left, in sum."""
    bound, free = leg(1, 2, "A", "DU1"), leg(1, 3, "B")
    assert told([held(1, 5)], [bound, free]) == []
    assert told([held(1, 4), held(1, 1, "DU2")], [bound, free]) == []
    assert told([held(1, 4)], [bound, free]) == [("quantity", "DU1", "B", None, 2.0, 3.0, 2.0)]
    assert told([held(1, 2)], [bound, free]) == [("missing", None, "B", None, 0.0, 3.0, 0.0)]


def test_a_shortage_is_told_once_and_where_it_is():
    """An account that holds less than its bound legs want leaves nothing, and owes the others nothing."""
    bound, free = leg(1, 2, "A", "DU1"), leg(1, 3, "B")
    assert told([held(1, 1), held(1, 3, "DU2")], [bound, free]) == [("quantity", "DU1", "A", "DU1", 1.0, 2.0, 1.0)]


def test_nothing_is_proposed_where_accounts_hold_both_sides():
    """Long in one and short in the other come to 0: removing the leg would be wrong, binding it is what helps."""
    (row,) = reconcile.findings([held(1, 2), held(1, -2, "DU2")], [leg(1, 1)], [], TWO).to_dicts()
    assert brief(row) == ("quantity", "A", 0.0, 1.0, 1.0, None)
    assert row["account"] == "DU1, DU2"
    assert "bind the strategy" in str(row["proposal"])


def test_a_leg_of_an_account_that_the_login_does_not_have_is_nobodys_to_fix_here():
    """It may be a slip of the pen or another login's; the proposal says where to look and changes nothing."""
    (row,) = found([], [leg(1, 2, account="U9")])
    assert brief(row) == ("missing", "A", 0.0, 2.0, 2.0, None)
    assert "U9 is not followed here" in str(row["proposal"])
    assert found([], [leg(1, 2, account="U9")], [booked(1, 2, "U9")]) == []
    (row,) = found([], [leg(1, 2, account="U9")], [booked(1, 1, "U9")])
    assert brief(row) == ("quantity", "A", 1.0, 2.0, 2.0, None)


def test_only_one_leg_per_account_takes_a_difference():
    """Differences of two accounts may be taken at once, two of one account may not."""
    legs = [leg(1, 2, "A", "DU1"), leg(1, 2, "B", "DU2")]
    frame = reconcile.findings([held(1, 3), held(1, 5, "DU2")], legs, [], TWO)
    assert [each.becomes for each in reconcile.as_findings(frame)] == [3.0, 5.0]
    frame = reconcile.findings([held(1, 9)], [leg(1, 2, "A", "DU1"), leg(1, 2, "B", "DU1")], [], TWO)
    with pytest.raises(ValueError, match="only one of 'A', 'B' can take the difference"):
        reconcile.as_findings(frame)


def test_with_several_accounts_a_position_is_registered_with_its_own():
    """The call that a finding offers can be copied as it stands, but for the strategy's id."""
    frame = reconcile.findings([held(1, 2, "DU2")], [], [], TWO)
    assert "quantity=2, account='DU2', strategy_id=..." in frame["proposal"][0]


QUANTITIES = st.sampled_from([-3.0, -2.0, -1.0, -0.1, 0.1, 0.2, 1.0, 2.0, 3.0])
POSITIONS = st.dictionaries(st.tuples(st.sampled_from(["DU1", "DU2", "DU3"]), st.integers(1, 2)), QUANTITIES)
LEGS = st.dictionaries(
    st.tuples(st.sampled_from("AB"), st.sampled_from([None, "DU1", "DU2", "U9"]), st.integers(1, 2)), QUANTITIES
)


@settings(max_examples=500, deadline=None)
@given(POSITIONS, LEGS, st.randoms(use_true_random=False))
def test_after_all_proposals_are_applied_nothing_is_left_to_apply(positions, legs, chance):
    """One pass is enough: what remains needs a person, and each contract, account and strategy is told of once."""
    accounts = ["DU1", "DU2", "DU3"]
    there = [held(conid, quantity, account) for (account, conid), quantity in positions.items()]

    def look() -> pl.DataFrame:
        return reconcile.findings(
            there, [leg(conid, n, name, account) for (name, account, conid), n in legs.items()], [], accounts
        )

    frame = look()
    assert frame.select("finding", "account", "conid", "strategy_id", "strategy_account").is_unique().all()
    by_difference: dict[object, list[reconcile.Finding]] = {}
    for row in frame.rows():
        each = reconcile.Finding(*row)
        if each.becomes is not None:
            name = (each.conid, each.strategy_account, each.strategy_id if each.finding == reconcile.MISSING else "")
            by_difference.setdefault(name, []).append(each)
    for each in map(chance.choice, by_difference.values()):
        assert each.becomes is not None
        name = (each.strategy_id, each.strategy_account, each.conid)
        if each.becomes:
            legs[name] = each.becomes
        else:
            del legs[name]
    rest = look()
    assert rest["becomes"].null_count() == rest.height
    needs_a_person = frame.filter(pl.col("becomes").is_null()).select("finding", "conid", "strategy_account")
    left = rest.filter(pl.col("finding") != "unassigned").select("finding", "conid", "strategy_account")
    assert left.join(needs_a_person, on=left.columns, how="anti", nulls_equal=True).is_empty()


@settings(max_examples=300, deadline=None)
@given(POSITIONS, LEGS)
def test_what_is_found_without_accounts_is_the_sum_of_what_is_found(positions, legs):
    """Contracts that are too many or too few are counted once: all differences and what is in no strategy add up."""
    legs = {key: quantity for key, quantity in legs.items() if key[1] != "U9"}
    there = [held(conid, quantity, account) for (account, conid), quantity in positions.items()]
    frame = reconcile.findings(
        there, [leg(conid, n, name, account) for (name, account, conid), n in legs.items()], [], ["DU1", "DU2", "DU3"]
    )
    once = frame.unique(["finding", "account", "conid", "strategy_account"])
    for conid in (1, 2):
        of = once.filter(pl.col("conid") == conid)
        held_here = sum(quantity for (_, held_conid), quantity in positions.items() if held_conid == conid)
        wanted = sum(quantity for (_, _, leg_conid), quantity in legs.items() if leg_conid == conid)
        assert of["held"].sum() - of["wanted"].sum() == pytest.approx(held_here - wanted)
