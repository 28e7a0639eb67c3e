"""Scenarios: reading and checking them, and when what is due. Pure; what clients see of them is test_gateway_day.py."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from v6kit.clock import FakeClock
from v6kit.gateway import Account, Event, Market, Scenario, scenario
from v6kit.gateway.naming import ContractName
from v6kit.gateway.scenario import ACTIONS, ENDS, built_in

OPENING = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)


def written(folder: Path, text: str) -> Path:
    """Write a scenario file."""
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def market() -> Market:
    """A market on an expiry day, that no test changes."""
    return Market(7, FakeClock())


@pytest.fixture(scope="module")
def account(market: Market) -> Account:
    """An account with iron condors."""
    return Account.generate(100, market=market)


def test_a_scenario_in_toml_equals_the_same_in_python(tmp_path: Path) -> None:
    """Every way to write an instant and an end, and a named contract, come to the same."""
    file = written(
        tmp_path,
        """
        zone = "America/New_York"
        start = 2026-11-20T09:20:00
        end = "16:30"

        [[event]]
        at = 09:30:00
        action = "open_market"

        [[event]]
        after = "15 min"
        action = "trade"
        contract = { symbol = "SPY", right = "PUT", moneyness = 0.98, expiry = 2026-12-18 }
        quantity = -2

        [[event]]
        at = "11:00"
        action = "halt"
        symbol = "AAPL"
        until = "11:05:30"

        [[event]]
        after = 7200
        action = "take_lines"
        count = 20
        for = "1 h"
        """,
    )
    put = {"symbol": "SPY", "right": "P", "moneyness": 0.98, "expiry": "20261218"}
    events = [
        Event("open_market", at="09:30"),
        Event("trade", after=timedelta(minutes=15), contract=put, quantity=-2.0),
        Event("halt", at=time(11), until="11:05:30", symbol="AAPL"),
        Event("take_lines", after="2 h", lasts="1 h", count=20),
    ]
    assert Scenario.load(file) == Scenario(events, start="2026-11-20 09:20", end="16:30")


def test_events_are_due_in_order_of_time_and_then_as_written() -> None:
    """Instants of the zone become UTC, an end is the action that ends, and ties keep their order."""
    scenario = Scenario(
        [
            Event("halt", at="10:00", lasts="30 min", symbol="SPY"),
            Event("close_market", at="16:00"),
            Event("halt", at="10:00", until="10:10", symbol="QQQ"),
            Event("open_market", after=0),
        ]
    )
    planned = [(f"{each.at:%H:%M}", each.number, each.action) for each in scenario.schedule(OPENING)]
    assert planned == [
        ("14:30", 4, "open_market"),
        ("15:00", 1, "halt"),
        ("15:00", 3, "halt"),
        ("15:10", 3, "resume"),
        ("15:30", 1, "resume"),
        ("21:00", 2, "close_market"),
    ]
    assert scenario.ends_at(OPENING) == datetime(2026, 11, 20, 21, tzinfo=UTC)


def test_times_of_day_follow_daylight_saving_time() -> None:
    """Half past nine in New York is another instant in summer."""
    scenario = Scenario([Event("open_market", at="09:30")], start="2026-07-01 09:00")
    assert scenario.schedule(OPENING)[0].at == datetime(2026, 7, 1, 13, 30, tzinfo=UTC)


def test_a_scenario_ends_when_it_says_but_not_before_its_last_event() -> None:
    """An end that is earlier than an event would cut it off."""
    early = Scenario([Event("close_market", at="16:00")], end="15:00")
    late = Scenario([Event("close_market", at="16:00")], end="17:00")
    assert [each.ends_at(OPENING).hour for each in (early, late)] == [21, 22]


def test_the_trading_day_keeps_what_happens_apart() -> None:
    """The built-in day runs from 09:20 to 16:30, and no two instants are closer than three minutes."""
    day = Scenario.load("trading_day")
    instants = sorted({each.at for each in day.schedule(OPENING)})
    assert built_in() == ["trading_day"]
    assert (instants[0], day.ends_at(OPENING)) == (day.start, datetime(2026, 11, 20, 21, 30, tzinfo=UTC))
    assert min(b - a for a, b in itertools.pairwise(instants)) >= timedelta(minutes=3)


def test_what_ends_by_itself_is_ended_by_an_action_with_the_same_arguments() -> None:
    """Each pair of the table takes the same parameters, so an end can be called like its begin."""
    for begin, end in ENDS.items():
        assert [each.name for each in ACTIONS[begin]] == [each.name for each in ACTIONS[end]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[event]]\nat='09:30'\naction='hault'", "mine.toml, event 1 (hault): action must be one of pre_market, "),
        ("[[event]]\nat='09:30'", "mine.toml, event 1 (None): action must be one of "),
        (
            "[[event]]\nat='9:30'\naction='open_market'",
            "mine.toml, event 1 (open_market): at must be a time of day such as 09:30 or 09:30:15, got '9:30'",
        ),
        (
            "[[event]]\nat='25:00'\naction='open_market'",
            "mine.toml, event 1 (open_market): at must be a time of day such as 09:30 or 09:30:15, got '25:00'",
        ),
        (
            "[[event]]\nafter='5 weeks'\naction='open_market'",
            "after must be seconds, 0 or more, or a text such as 90 s, 5 min or 1 h; got '5 weeks'",
        ),
        ("[[event]]\nafter=-1\naction='open_market'", "after must be seconds, 0 or more"),
        ("[[event]]\naction='open_market'", "an event needs either at or after, got at=None and after=None"),
        ("[[event]]\nat='09:30'\nafter=1\naction='open_market'", "an event needs either at or after"),
        (
            "[[event]]\nat='09:30'\naction='open_market'\nfor='1 h'",
            "for is allowed for halt, begin_competing_session, break_farm, take_lines only, got '1 h' for open_market",
        ),
        (
            "[[event]]\nat='09:30'\naction='halt'\nsymbol='SPY'\nuntil='09:10'",
            "until must be later than at, 09:30:00; got 09:10:00",
        ),
        (
            "[[event]]\nat='09:30'\naction='halt'\nsymbol='SPY'\nuntil='10:10'\nfor=5",
            "an event ends either until or for, got until='10:10' and for=5",
        ),
        (
            "[[event]]\nat='09:30'\naction='halt'\nsymbl='SPY'",
            "symbl is no field of halt, got 'SPY'; allowed are action, at, after, until, for, symbol",
        ),
        ("[[event]]\nat='09:30'\naction='halt'", "symbol is needed for halt, got none; its fields are symbol"),
        ("[[event]]\nat='09:30'\naction='halt'\nsymbol='XYZ'", "symbol must be one of SPY, QQQ, "),
        (
            "[[event]]\nat='09:30'\naction='break_farm'\nfarm='x'",
            "farm must be one of usopt, usfarm, usfuture, got 'x'",
        ),
        (
            "[[event]]\nat='09:30'\naction='take_lines'\ncount=0",
            "mine.toml, event 1 (take_lines): count must be at least 1, got 0",
        ),
        (
            "[[event]]\nat='09:30'\naction='trade'\ncontract={conid=1}\nquantity=0",
            "quantity must not be 0, got 0; what is bought is positive",
        ),
        (
            "[[event]]\nat='09:30'\naction='trade'\ncontract={symbol='SPY',strike=580}\nquantity=1",
            "contract must have the fields {conid} or {condor, leg} or ",
        ),
        (
            "[[event]]\nat='09:30'\naction='trade'\ncontract='SPY'\nquantity=1",
            "contract must be a table of fields such as {symbol = 'SPY'}, got 'SPY'",
        ),
        (
            "[[event]]\nat='09:30'\naction='trade'\ncontract={condor=1, leg=5}\nquantity=1",
            "leg must be 1 to 4, got 5",
        ),
        (
            "[[event]]\nat='09:30'\naction='open_market'\n[[event]]\nat='09:31'\naction='restart'\nseconds=0",
            "mine.toml, event 2 (restart): seconds must be finite and greater than 0, got 0.0",
        ),
        ("zone='Nowhere/At_All'", "mine.toml: zone must be a time zone such as America/New_York, got 'Nowhere/At_All'"),
        ("start='noon'", "mine.toml: start must be a date and time such as 2026-11-20 09:20, got 'noon'"),
        ("end='late'", "mine.toml: end must be a time of day such as 09:30 or 09:30:15, got 'late'"),
        ("finish='16:00'", "mine.toml: finish is no field of a scenario, got '16:00'; allowed are zone, start, end"),
        ("event=3", "mine.toml: event must be tables, each below a line [[event]], got 3"),
        ("[[event]", "mine.toml cannot be read as a scenario: "),
    ],
)
def test_a_wrong_scenario_says_in_one_sentence_what_is_wrong_where(tmp_path: Path, text: str, message: str) -> None:
    """File, event, field, value, and what is allowed."""
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the whole sentence is looked at below
        Scenario.load(written(tmp_path, text))
    said = str(refused.value)
    assert message in said
    assert said.startswith("mine.toml")
    assert "\n" not in said.partition("cannot be read")[0]


def test_an_unknown_scenario_names_those_that_there_are(tmp_path: Path) -> None:
    """A name that is not built in, and a file that is not there."""
    with pytest.raises(ValueError, match=r"must be a path that ends with .toml or one of trading_day, got 'holiday'"):
        Scenario.load("holiday")
    with pytest.raises(ValueError, match=r"gone\.toml cannot be read as a scenario"):
        Scenario.load(tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ({"symbol": "GLD"}, {"sec_type": "STK", "symbol": "GLD"}),
        ({"symbol": "ES", "expiry": 1}, {"sec_type": "FUT", "expiry": "20261218"}),
        ({"symbol": "SPY", "right": "put", "strike": 580, "expiry": "20261218"}, {"right": "P", "strike": 580.0}),
        ({"symbol": "SPY", "right": "C", "moneyness": 1.021, "expiry": 1}, {"strike": 605.0, "expiry": "20261120"}),
        ({"symbol": "SPY", "right": "C", "moneyness": 9.0, "expiry": 2}, {"strike": 715.0, "expiry": "20261218"}),
    ],
)
def test_a_contract_is_found_by_what_it_is(
    market: Market, account: Account, name: dict[str, Any], expected: dict[str, Any]
) -> None:
    """A stock, a future, and options by strike or by moneyness, with today's expiry as the first."""
    found = ContractName.parse(name).find(market, account)
    assert {field: getattr(found, field) for field in expected} == expected


def test_a_contract_is_found_by_its_place_in_an_iron_condor(market: Market, account: Account) -> None:
    """Condors and legs are counted from one; the conid itself does as well."""
    leg = account.iron_condors[2][3].instrument
    assert ContractName.parse({"condor": 3, "leg": 4}).find(market, account) == leg
    assert ContractName.parse({"conid": leg.conid}).find(market, account) == leg


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ({"conid": 5}, "contract must be listed in the simulated market and not expired, got {conid = 5}"),
        ({"condor": 99, "leg": 1}, "contract must name one of the account's 13 iron condors"),
        ({"symbol": "SPY", "right": "C", "moneyness": 1.0, "expiry": 9}, "one of 7 listed expiries"),
        ({"symbol": "SPY", "right": "C", "strike": 581.0, "expiry": 1}, "strike = 581.0, expiry = 1}"),
    ],
)
def test_a_contract_that_is_not_there_is_refused(
    market: Market, account: Account, name: dict[str, Any], message: str
) -> None:
    """The sentence repeats the name as it was given."""
    with pytest.raises(ValueError, match="contract must") as refused:
        ContractName.parse(name).find(market, account)
    assert message in str(refused.value)


def test_the_example_in_the_documentation_is_a_scenario(tmp_path: Path) -> None:
    """What the module shows can be copied into a file and played."""
    lines = (scenario.__doc__ or "").splitlines()
    example = "\n".join(line[4:] for line in lines if line.startswith("    "))
    halt = Event("halt", at="11:00", until="11:05", symbol="AAPL")
    assert Scenario.load(written(tmp_path, example)) == Scenario([halt], start="2026-11-20 09:20")
