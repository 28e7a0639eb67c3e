"""The domain's types: what they accept, what they refuse, and how they spell it."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pytest
from v6kit.contracts import (
    INT32_END,
    ActiveContract,
    Instrument,
    Leg,
    Quality,
    Quote,
    Right,
    Source,
    check_accounts,
    check_expiry,
    check_float,
    check_instant,
    check_int,
    check_right,
    check_sec_type,
    check_span,
    check_text,
    label,
)

NOW = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
OPTION = {"conid": 1, "symbol": "spy ", "right": "CALL", "strike": 595, "expiry": "20261218"}


class Index:
    """An integer of somebody else's, such as numpy's."""

    def __index__(self) -> int:
        return 7


def test_an_option_leg_is_brought_into_ibs_spelling():
    """Upper case symbol, `C` or `P`, a float strike, `YYYYMMDD`."""
    leg = Leg(**OPTION)
    assert dataclasses.asdict(leg) == {
        "conid": 1, "symbol": "SPY", "right": Right.CALL, "strike": 595.0, "expiry": "20261218", "sec_type": "OPT",
        "quantity": 1.0,
    }  # fmt: skip
    assert leg.right == "C"
    assert leg.label() == "SPY 261218 C 595"


def test_stocks_and_futures_have_none_of_the_option_fields():
    """A future has an expiry, a stock has none."""
    assert Leg(conid=1, symbol="AAPL", sec_type="stk", quantity=-100).label() == "AAPL"
    assert Leg(conid=1, symbol="ES", sec_type="FUT", expiry=date(2026, 12, 18)).label() == "ES 261218"


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"conid": 0}, ValueError, "conid must be at least 1, got 0"),
        ({"conid": "1"}, TypeError, "conid must be an integer, got '1'"),
        ({"conid": 1.0}, TypeError, "conid must be an integer, got 1.0"),
        ({"conid": None}, TypeError, "conid must be an integer, got None"),
        ({"symbol": " "}, ValueError, "symbol must not be empty, got ' '"),
        ({"symbol": 5}, TypeError, "symbol must be a string, got 5"),
        ({"right": "X"}, ValueError, "right must be 'C', 'P', 'CALL' or 'PUT', got 'X'"),
        ({"right": None}, ValueError, "right is needed for a leg of sec_type 'OPT', got None"),
        ({"right": 1}, TypeError, "right must be a string, got 1"),
        ({"right": 0}, TypeError, "right must be a string, got 0"),
        ({"strike": None}, ValueError, "strike is needed"),
        ({"strike": 0}, ValueError, "strike must be finite and greater than 0, got 0.0"),
        ({"strike": ""}, TypeError, "strike must be a number, got ''"),
        ({"strike": 10**400}, ValueError, "strike must be a number, got 1000"),
        ({"strike": -5.0}, ValueError, "strike must be finite and greater than 0, got -5.0"),
        ({"strike": float("nan")}, ValueError, "strike must be finite and greater than 0, got nan"),
        ({"strike": float("inf")}, ValueError, "strike must be finite"),
        ({"strike": "595"}, TypeError, "strike must be a number, got '595'"),
        ({"strike": True}, TypeError, "strike must be a number, got True"),
        ({"expiry": None}, ValueError, "expiry is needed"),
        ({"expiry": "20260230"}, ValueError, "expiry must be a real date written YYYYMMDD, got '20260230'"),
        ({"expiry": "2026-12-18"}, ValueError, "expiry must be a real date written YYYYMMDD, got '2026-12-18'"),
        ({"expiry": 20261218}, TypeError, "expiry must be a string, got 20261218"),
        ({"expiry": 0}, TypeError, "expiry must be a string, got 0"),
        ({"expiry": "2026W511"}, ValueError, "expiry must be a real date written YYYYMMDD, got '2026W511'"),
        ({"sec_type": "OPTION"}, ValueError, "sec_type must be one of OPT, .* got 'OPTION'"),
        ({"quantity": 0}, ValueError, "quantity must not be 0"),
        ({"quantity": float("nan")}, ValueError, "quantity must be finite, got nan"),
        ({"quantity": "1"}, TypeError, "quantity must be a number, got '1'"),
        ({"sec_type": "STK"}, ValueError, "right belongs to options only, got 'CALL' for 'STK'"),
        ({"sec_type": "STK", "right": None}, ValueError, "strike belongs to options only, got 595"),
        ({"sec_type": "STK", "right": None, "strike": None}, ValueError, "expiry belongs to options and futures only"),
    ],
)
def test_a_wrong_field_of_a_leg_is_named_with_its_value(change, error, text):
    """Nothing is guessed or dropped in silence."""
    with pytest.raises(error, match=text):
        Leg(**(OPTION | change))


def test_an_active_contract_is_a_leg_that_a_strategy_holds():
    """It is validated like a leg, and frozen."""
    active = ActiveContract(**OPTION, strategy_id="1", strategy="IRON_CONDOR", added_at=NOW)
    assert active.removed_at is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        active.conid = 2
    with pytest.raises(ValueError, match="strike"):
        ActiveContract(**(OPTION | {"strike": -1}), strategy_id="1", strategy="IRON_CONDOR", added_at=NOW)


@pytest.mark.parametrize("given", ["C", "c", "CALL", "call", " Call ", Right.CALL])
def test_a_call_is_a_call_however_it_is_written(given):
    """IB's letter comes back."""
    assert check_right(given) is Right.CALL


@pytest.mark.parametrize("given", ["20261218", " 20261218 ", date(2026, 12, 18), datetime(2026, 12, 18, tzinfo=UTC)])
def test_an_expiry_is_a_real_date(given):
    """As text or as a date."""
    assert check_expiry(given) == "20261218"


def test_accounts_are_one_id_or_several():
    """Each once, in their order; nothing named means all."""
    assert check_accounts("") == check_accounts(()) == check_accounts([""]) == ()
    assert check_accounts(" DU1 ") == ("DU1",)
    assert check_accounts(["DU2", "DU1", "DU2"]) == ("DU2", "DU1")
    for wrong, says in ((5, "an account's id or several, got 5"), ([None], "account must be a string, got None")):
        with pytest.raises(TypeError, match=says):
            check_accounts(wrong)
    with pytest.raises(ValueError, match="account must not be empty"):
        check_accounts([" "])


def test_integers_are_exact():
    """What behaves as an integer is one; booleans and floats are not."""
    assert check_int("n", Index()) == 7
    assert check_int("n", 0, minimum=0) == 0
    assert check_int("n", 2**63 - 1) == 2**63 - 1
    for wrong in (True, 1.0, "1", None, Decimal(1)):
        with pytest.raises(TypeError, match="n must be an integer, got"):
            check_int("n", wrong)
    for wrong in (0, -1, 2**63):
        with pytest.raises(ValueError, match="n must be"):
            check_int("n", wrong)
    assert check_int("n", 2**31 - 1, below=INT32_END) == 2**31 - 1
    with pytest.raises(ValueError, match=r"n must be below 2\*\*31, got 2147483648"):
        check_int("n", 2**31, below=INT32_END)


def test_floats_are_finite():
    """Anything that is a number will do."""
    assert check_float("x", Decimal("1.5")) == 1.5
    assert check_float("x", -3) == -3.0
    for wrong in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="x must be finite"):
            check_float("x", wrong)
    for wrong in (True, "1", None, [1]):
        with pytest.raises(TypeError, match="x must be a number, got"):
            check_float("x", wrong)
    for wrong in (10**400, np.array([1.0, 2.0])):
        with pytest.raises(ValueError, match="x must be a number, got"):
            check_float("x", wrong)


def test_text_loses_its_blanks():
    """And must not be empty unless that is allowed."""
    assert check_text("t", " SPY ") == "SPY"
    assert check_text("t", "", empty_allowed=True) == ""
    for wrong in (None, 5, b"SPY"):
        with pytest.raises(TypeError, match="t must be a string, got"):
            check_text("t", wrong)


def test_instants_are_aware_and_come_back_in_utc():
    """A naive datetime is refused, because its zone would be a guess."""
    there = timezone(timedelta(hours=-5))
    assert check_instant("at", datetime(2026, 11, 20, 9, 30, tzinfo=there)) == NOW
    assert check_instant("at", datetime(2026, 11, 20, 9, 30, tzinfo=there)).tzinfo is UTC
    with pytest.raises(ValueError, match="at must be an aware datetime, got the naive"):
        check_instant("at", datetime(2026, 11, 20))  # noqa: DTZ001 - on purpose
    for wrong in ("2026-11-20", date(2026, 11, 20), 5, None):
        with pytest.raises(TypeError, match="at must be a datetime, got"):
            check_instant("at", wrong)
    with pytest.raises(ValueError, match="at must lie within the years 1 to 9999 of UTC"):
        check_instant("at", datetime.max.replace(tzinfo=there))


def test_spans_are_durations_that_end():
    """A timedelta of more than nothing, short enough to be added to an instant."""
    assert check_span("s", timedelta(seconds=1)) == timedelta(seconds=1)
    assert check_span("s", timedelta(0), zero_allowed=True) == timedelta(0)
    for wrong in (60, None, "1 h"):
        with pytest.raises(TypeError, match="s must be a timedelta, got"):
            check_span("s", wrong)
    for wrong, says in ((timedelta(0), "longer than nothing"), (timedelta.max, "at most 36,500 days, got")):
        with pytest.raises(ValueError, match=f"s must be {says}"):
            check_span("s", wrong)
    with pytest.raises(ValueError, match="s must not be negative, got"):
        check_span("s", timedelta(-1), zero_allowed=True)


def test_security_types_are_ibs():
    """In any case; others are refused."""
    assert check_sec_type(" fop ") == "FOP"
    with pytest.raises(ValueError, match="sec_type must be one of"):
        check_sec_type("SPREAD")


@pytest.mark.parametrize(
    ("prices", "expected"),
    [
        ({"bid": 1.0, "ask": 2.0, "last": 9.0}, (1.5, "mid")),
        ({"bid": 1.0, "last": 9.0, "close": 8.0}, (9.0, "last")),
        ({"ask": 1.0, "model_price": 7.0, "close": 8.0}, (7.0, "model")),
        ({"close": 8.0}, (8.0, "close")),
        ({"bid": 0.0, "ask": 0.0}, (0.0, "mid")),
        ({}, (None, None)),
    ],
)
def test_a_mark_is_the_best_price_there_is_and_says_which(prices, expected):
    """Mid before last before model before close."""
    quote = Quote(conid=1, source=Source.STREAM, requested_at=NOW, received_at=NOW, quality=Quality.OK, **prices)
    assert quote.mark() == expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("SPY", None, None, None), "SPY"),
        (("ES", "20261218", None, None), "ES 261218"),
        (("SPY", "20261218", "C", 595.0), "SPY 261218 C 595"),
        (("SPY", "20261218", "P", 597.5), "SPY 261218 P 597.5"),
    ],
)
def test_labels_are_what_a_trader_writes(parts, expected):
    """Symbol, expiry, right, strike."""
    assert label(*parts) == expected
    symbol, expiry, right, strike = parts
    sec_type = "OPT" if right else "FUT"
    instrument = Instrument(conid=1, symbol=symbol, sec_type=sec_type, right=right, strike=strike, expiry=expiry)
    assert instrument.label() == expected
