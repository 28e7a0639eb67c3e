"""The form of the Strategies panel as plain state: what may be filled in, what is still missing, and its code."""

from __future__ import annotations

import ast
from datetime import date
from typing import Any

import pytest
from v6kit.clock import FakeClock
from v6kit.contracts import OptionSeries
from v6kit.desk.structures import STRUCTURES
from v6kit.gateway.market import Market
from v6kit.panels.register import Form

MARKET = Market(clock=FakeClock())
SERIES = [OptionSeries(expiry=expiry, trading_class="SPY") for expiry in MARKET.expiries[:4]]
CHAIN = [
    each
    for each in MARKET.instruments()
    if (each.symbol, each.sec_type, each.expiry, each.trading_class) == ("SPY", "OPT", SERIES[2].expiry, "SPY")
]
TODAY = FakeClock().now().date()


@pytest.fixture
def form() -> Form:
    """A form in which underlying and expiry are chosen, of a login with two accounts."""
    made = Form(strategy_id="7", accounts=("DU1", "DU2"))
    made.list_series("SPY", SERIES, MARKET.spot("SPY"))
    made.take_chain(SERIES[2], CHAIN)
    return made


def field(form: Form, name: str) -> dict[str, Any] | None:
    """Return a field as the page draws it; `None` if it is not there."""
    return next((each for each in form.part(TODAY)["fields"] if each["name"] == name), None)


def test_it_says_step_by_step_what_is_missing():
    """From the underlying to the id; then there are legs and code."""
    form = Form()
    assert form.lacks() == "choose an underlying"
    form.list_series("SPX", [], None)
    assert form.lacks() == "no options are listed on SPX"
    form.list_series("SPY", SERIES, None)
    assert form.lacks() == "choose an expiry"
    form.take_chain(SERIES[2], CHAIN)
    assert form.lacks() == "give the strategy an id"
    assert form.code == ""
    form.fill("strategy_id", "  7 ")
    assert form.lacks() == ""
    assert len(form.part(TODAY)["rows"]) == 4


def test_wings_that_cannot_lie_where_they_were_wanted_are_not_moved_without_a_word(form: Form):
    """A lopsided condor is another trade: the form names the nearest strike, and takes it only when it is chosen."""
    form.fill("width", "7")
    assert form.lacks().startswith("no long put is listed 7 away; the nearest is 5 away, at ")
    assert form.code == ""
    form.fill("long put", str(form.strikes["long put"]))
    assert form.lacks() == ""
    assert form.width is None
    form.fill("width", "10")
    assert form.lacks() == ""


def test_the_account_is_asked_for_where_there_are_several(form: Form):
    """The first is chosen at first; any of them is a choice, and a single account none."""
    assert field(form, "account")["value"] == "DU1"
    assert [value for value, _ in field(form, "account")["choices"]] == ["DU1", "DU2", "any"]
    assert (form.options, form.key) == ({"account": "DU1"}, "7@DU1")
    form.fill("account", "any")
    assert (form.options, form.key, form.account) == ({}, "7", None)
    for accounts in ((), ("DU1",)):
        alone = Form(accounts=accounts)
        assert field(alone, "account") is None
        assert alone.account is None


def test_the_priority_is_that_of_add_strategy_unless_another_one_is_chosen(form: Form):
    """Only what is no default is said in the code."""
    assert field(form, "priority")["value"] == "2"
    assert "priority" not in form.code
    form.fill("priority", "1")
    assert form.options == {"account": "DU1", "priority": 1}
    assert form.code.endswith("add_strategy('7', legs, kind='IRON_CONDOR', account='DU1', priority=1)")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("account", "DU3", r"account must be one of DU1, DU2, any, got 'DU3'; did you mean 'DU"),
        ("priority", "high", "priority must be a whole number, and 1 goes first, got 'high'"),
        ("priority", "1.5", "priority must be a whole number"),
        ("priority", "0", "priority must be a whole number"),
        ("priority", "", "priority must be a whole number"),
        ("shape", "iron condor", r"shape must be one of .*, got 'iron condor'; did you mean 'iron_condor'\?"),
        ("width", "-5", "width must be"),
        ("width", "wide", "width must be a number, got 'wide'"),
        ("quantity", "two", "quantity must be a number, got 'two'"),
        ("width", "2,5", "width must be a number, got '2,5'"),
        ("quantity", "1,0", "quantity must be a number, got '1,0'"),
        ("short put", "", "short put must be a number, got ''"),
        ("strategyid", "9", r"field must be one of symbol, .*, got 'strategyid'; did you mean 'strategy_id'\?"),
    ],
)
def test_what_is_wrong_is_refused_when_it_is_filled_in(form: Form, name: str, value: str, says: str):
    """By the field's name and the value, with what may be meant; what was there stays."""
    before = form.part(TODAY)
    with pytest.raises(ValueError, match=says):
        form.fill(name, value)
    assert form.part(TODAY) == before


def test_an_expiry_is_found_by_its_date_or_its_name(form: Form):
    """As on the screen and as traders type it."""
    assert form.find_series(SERIES[1].expiry) == SERIES[1]
    assert form.find_series(f"{SERIES[1].expiry} SPY") == SERIES[1]
    with pytest.raises(ValueError, match=r"expiry must be one of .*, got '20261217'; did you mean '202"):
        form.find_series("20261217")
    with pytest.raises(ValueError, match="expiry must be one of none"):
        Form().find_series("20261217")


def test_an_expiry_in_several_classes_is_not_chosen_by_its_date_alone():
    """They settle at different times, so one of them would be a guess."""
    form, (day, *_) = Form(), MARKET.expiries
    both = [OptionSeries(expiry=day, trading_class=name) for name in ("SPX", "SPXW")]
    form.list_series("SPX", both, None)
    assert form.find_series(f"{day} SPXW") == both[1]
    with pytest.raises(ValueError, match=f"expiry {day} is listed in several classes: {day} SPX, {day} SPXW"):
        form.find_series(day)


def test_a_number_may_be_typed_as_it_is_shown(form: Form):
    """With its thousands apart, and with the minus that panels draw."""
    form.fill("quantity", "−1,250.5")
    assert form.quantity == -1250.5
    assert form.wanted_delta(" 0.16 ") == 0.16
    with pytest.raises(ValueError, match="delta must be a number, got '0,16'"):
        form.wanted_delta("0,16")
    with pytest.raises(ValueError, match="choose an expiry first"):
        Form().wanted_delta("0.16")


def test_wings_follow_at_their_width_until_one_is_chosen_itself(form: Form):
    """Then each stays where it was put."""
    form.fill("width", "10")
    assert form.strikes["short put"] - form.strikes["long put"] == 10.0
    moved = form.strikes["short put"] - 10.0
    form.fill("short put", f"{moved:g}")
    assert form.strikes["long put"] == moved - 10.0
    form.fill("long put", f"{moved - 20.0:g}")
    assert form.width is None
    form.fill("short put", f"{moved - 5.0:g}")
    assert form.strikes["long put"] == moved - 20.0


def test_another_shape_begins_anew_and_asks_for_its_own_strikes(form: Form):
    """Whatever was chosen for the one before."""
    form.fill("shape", "call")
    assert set(form.strikes) == {"call"}
    assert field(form, "width") is None
    assert field(form, "short put") is None
    with pytest.raises(ValueError, match="field must be one of"):
        form.fill("short put", "500")


def test_another_underlying_takes_the_chain_away(form: Form):
    """Its strikes would be those of another symbol."""
    form.list_series("QQQ", SERIES, None)
    assert (form.chosen, form.chain, form.strikes) == (None, (), {})
    assert form.lacks() == "choose an expiry"


@pytest.mark.parametrize("shape", sorted(STRUCTURES))
def test_the_code_is_python_whose_legs_are_those_that_are_shown(form: Form, shape: str):
    """Whatever the id is called."""
    form.fill("shape", shape)
    form.fill("strategy_id", 'it\'s <b>"mine"</b>\\')
    assign, call = ast.parse(f"async def run():\n    {form.code.replace(chr(10), chr(10) + '    ')}").body[0].body
    legs = ast.literal_eval(assign.value)
    assert [leg["conid"] for leg in legs] == [leg.conid for leg in form.legs()]
    assert [leg["quantity"] for leg in legs] == [leg.quantity for leg in form.legs()]
    assert ast.literal_eval(call.value.value.args[0]) == form.strategy_id


def test_the_other_way_round_what_is_bought_is_called_long(form: Form):
    """With a negative quantity the lowest put of a condor is sold; its field keeps its name for Python."""
    names = ["long put", "short put", "short call", "long call"]
    assert [field(form, name)["label"] for name in names] == names
    form.fill("quantity", "-2")
    assert [field(form, name)["label"] for name in names] == ["short put", "long put", "long call", "short call"]
    assert [row[2] for row in form.part(TODAY)["rows"]] == ["sold", "bought", "bought", "sold"]
    form.fill("shape", "call")
    assert field(form, "call")["label"] == "call"


def test_the_code_writes_whole_numbers_as_one_does(form: Form):
    """A strike of 470 and two contracts, and not 470.0 and 2.0; half a point stays."""
    form.fill("quantity", "2")
    assert "'quantity': -2}" in form.code
    assert f"'strike': {form.strikes['short put']:g}," in form.code
    form.fill("quantity", "2.5")
    assert "'quantity': -2.5}" in form.code


def test_the_days_to_expiry_are_told(form: Form):
    """As traders count them."""
    chosen = dict(field(form, "expiry")["choices"])[f"{SERIES[2].expiry} SPY"]
    day = date.fromisoformat(SERIES[2].expiry)
    assert chosen == f"{day:%Y-%m-%d} · {(day - TODAY).days} d"
