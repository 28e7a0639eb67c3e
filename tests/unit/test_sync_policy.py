"""Who streams, as pure functions: candidates, ranking, and the choice that does not flap."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from v6kit.contracts import ActiveContract
from v6kit.positions import BookRow
from v6kit.sync import Candidate, default_policy
from v6kit.sync.policy import candidates, check_policy, choose, exposure_of, ranked

NOW = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
HOLD = timedelta(seconds=60)


def candidate(conid: int, **fields: Any) -> Candidate:
    """Return a candidate of which nothing is known but the given."""
    blank = {"label": f"C{conid}", "strategies": ("s",), "priority": 2, "days_to_expiry": None, "exposure": None}
    return Candidate(**{"conid": conid, "held": False, "streaming_since": None} | blank | fields)


def row(conid: int, **fields: Any) -> BookRow:
    """Return a row of the book that knows nothing but the given."""
    blank = dict.fromkeys(BookRow._fields) | {"account": "DU1", "symbol": "SPY", "multiplier": 100.0, "position": 1.0}
    return BookRow(**(blank | {"conid": conid} | fields))


def leg(conid: int, strategy_id: str = "s", **fields: Any) -> ActiveContract:
    """Return an active stock leg, or an option's with the given fields."""
    return ActiveContract(
        **{"conid": conid, "symbol": "SPY", "sec_type": "STK", "strategy_id": strategy_id, "strategy": "X"}
        | {"added_at": NOW}
        | fields
    )


def conids(ranking: tuple[Candidate, ...]) -> list[int]:
    """Return the conids in order."""
    return [each.conid for each in ranking]


# --- candidates ---------------------------------------------------------------------------------------------------


def test_a_contract_of_two_strategies_is_one_candidate_with_the_better_priority():
    """Both strategies are named, in order."""
    legs = [leg(1, "b"), leg(1, "a", priority=1), leg(2, "b")]
    one, two = candidates([], legs, {1: NOW}, NOW.date())
    assert (one.strategies, one.priority, one.streaming_since) == (("a", "b"), 1, NOW)
    assert (two.strategies, two.priority, two.streaming_since, two.held) == (("b",), 2, None, False)


def test_days_to_expiry_count_from_today_and_stocks_have_none():
    """Today is 0, and an expired leg negative."""
    option = {"sec_type": "OPT", "right": "C", "strike": 600.0}
    legs = [leg(1)] + [leg(n, expiry=f"202611{day}", **option) for n, day in ((2, 19), (3, 20), (4, 24))]
    assert [each.days_to_expiry for each in candidates([], legs, {}, date(2026, 11, 20))] == [None, -1, 0, 4]


@pytest.mark.parametrize(
    ("known", "exposure"),
    [
        ({"delta": -0.25, "underlying_price": 600.0, "market_value": 900.0, "avg_cost": 500.0}, 2 * 100 * 0.25 * 600),
        ({"delta": -0.25, "market_value": -900.0, "avg_cost": 500.0}, 900.0),
        ({"avg_cost": 500.0}, 1000.0),
        ({}, 0.0),
    ],
    ids=["greeks", "value", "cost", "nothing"],
)
def test_exposure_is_the_best_that_is_known(known: dict[str, float], exposure: float):
    """What it moves like, else what it is worth, else what it cost; never negative."""
    assert exposure_of(row(1, position=-2.0, **known)) == exposure


def test_exposure_of_all_accounts_adds_up_and_does_not_net():
    """Long in one account and short in another is twice the risk of a wrong price, not none."""
    rows = [row(1, position=3.0, avg_cost=10.0), row(1, account="DU2", position=-3.0, avg_cost=10.0)]
    (one,) = candidates(rows, [leg(1)], {}, NOW.date())
    assert (one.exposure, one.held) == (60.0, True)


def test_why_says_what_the_default_policy_goes_by():
    """In words, as a trader says it."""
    each = candidate(1, strategies=("condor-3",), priority=1, days_to_expiry=4, exposure=12_340.4)
    assert each.why() == "strategy condor-3, priority 1, 4 days to expiry, exposure 12,340"
    assert candidate(1, strategies=("a", "b")).why() == "strategies a, b, priority 2, not held"
    assert "expires today" in candidate(1, days_to_expiry=0).why()
    assert "expired" in candidate(1, days_to_expiry=-3).why()


# --- ranking ------------------------------------------------------------------------------------------------------


def test_the_default_is_priority_then_days_then_exposure_then_conid():
    """Stocks, which do not expire, come after options of the same priority."""
    given = [
        candidate(1),
        candidate(2, days_to_expiry=4, exposure=1.0),
        candidate(3, days_to_expiry=4, exposure=9.0),
        candidate(4, days_to_expiry=3),
        candidate(6, priority=1),
        candidate(5, priority=1),
    ]
    assert conids(ranked(given, default_policy)) == [5, 6, 4, 3, 2, 1]


def test_among_equals_who_streams_stays():
    """A challenger must be better, not only have the lower conid."""
    given = [candidate(1), candidate(2, streaming_since=NOW), candidate(3)]
    assert conids(ranked(given, lambda _each: 0)) == [2, 1, 3]


@pytest.mark.parametrize(
    "key", [None, math.nan, (1, math.nan), (1, (2, None)), [math.nan], {1: 2}], ids=["none", "nan", *"abcd"]
)
def test_a_key_that_cannot_rank_is_refused(key: object):
    """`None` is what a function returns that forgot to; NaN would rank at random."""
    with pytest.raises((TypeError, ValueError)):
        ranked([candidate(1), candidate(2)], lambda _each: key)


@pytest.mark.parametrize("policy", [None, "priority", 3], ids=str)
def test_what_is_no_function_is_no_policy(policy: Any):
    """Refused where it is handed in, not at the first look."""
    with pytest.raises(TypeError, match="policy"):
        check_policy(policy)


def test_a_coroutine_function_is_no_policy():
    """It would give a coroutine for a key."""

    async def later(_each: Candidate) -> int:
        return 1

    with pytest.raises(TypeError, match="later"):
        check_policy(later)


# --- choosing -----------------------------------------------------------------------------------------------------


def picked(ranking: list[Candidate], room: int, now: datetime = NOW) -> set[int]:
    """Choose with a hold of a minute."""
    return set(choose(ranking, room, now=now, minimum_hold=HOLD))


def test_the_best_stream_and_nobody_when_there_is_no_room():
    """Nor when there is less than no room, because others hold more lines than a shrunk budget has."""
    ranking = [candidate(conid) for conid in (7, 3, 5)]
    assert (picked(ranking, 2), picked(ranking, 9), picked(ranking, 0), picked(ranking, -4)) == (
        {7, 3},
        {7, 3, 5},
        set(),
        set(),
    )


def test_a_better_one_waits_for_the_hold_of_a_worse_one_and_no_longer():
    """At its sixtieth second a stream may be displaced."""
    ranking = [candidate(1), candidate(2, streaming_since=NOW)]
    assert picked(ranking, 1, NOW + timedelta(seconds=59.9)) == {2}
    assert picked(ranking, 1, NOW + HOLD) == {1}


def test_streams_over_a_room_that_shrank_go_worst_first_even_within_their_hold():
    """More streams than lines cannot be."""
    ranking = [candidate(1), *(candidate(conid, streaming_since=NOW) for conid in (2, 3, 4))]
    assert picked(ranking, 2) == {2, 3}


def test_a_clock_that_was_set_back_protects_nobody():
    """A stream from the future would otherwise be held until the clock has come to it."""
    ranking = [candidate(1), candidate(2, streaming_since=NOW + timedelta(hours=1))]
    assert picked(ranking, 1) == {1}


AGES = st.one_of(st.none(), st.integers(-10, 200))
CANDIDATES = st.lists(
    st.builds(
        lambda conid, age, exposure, priority: candidate(
            conid,
            streaming_since=None if age is None else NOW - timedelta(seconds=age),
            exposure=exposure,
            priority=priority,
        ),
        st.integers(1, 30),
        AGES,
        st.integers(0, 5),
        st.integers(1, 3),
    ),
    unique_by=lambda each: each.conid,
)


@settings(deadline=None)
@given(CANDIDATES, st.integers(-1, 12))
def test_the_choice_fills_the_room_with_the_best_and_breaks_no_hold_without_need(given: list[Candidate], room: int):
    """Never more than room and never less than can be had; who is out is worse than all that are in by rank alone."""
    ranking = ranked(given, default_policy)
    chosen = choose(ranking, room, now=NOW, minimum_hold=HOLD)
    assert len(chosen) == max(0, min(room, len(given)))
    held = {
        each.conid
        for each in given
        if each.streaming_since is not None and timedelta(0) <= NOW - each.streaming_since < HOLD
    }
    assert held <= chosen or chosen <= held
    place = {conid: index for index, conid in enumerate(conids(ranking))}
    outside = [place[conid] for conid in place.keys() - chosen - (set() if held <= chosen else place.keys() - held)]
    inside = [place[conid] for conid in chosen - (held if held <= chosen else set())]
    assert not inside or not outside or max(inside) < min(outside)


def run(exposures: list[dict[int, int]], room: int, step: timedelta) -> list[dict[int, datetime]]:
    """Look again every `step` with the exposures of that moment; return who streamed since when after each look."""
    streams: dict[int, datetime] = {}
    looks = []
    for index, moment in enumerate(exposures):
        now = NOW + index * step
        given = [candidate(conid, exposure=size, streaming_since=streams.get(conid)) for conid, size in moment.items()]
        chosen = choose(ranked(given, default_policy), room, now=now, minimum_hold=HOLD)
        streams = {conid: streams.get(conid, now) for conid in chosen}
        looks.append(dict(streams))
    return looks


@settings(deadline=None)
@given(st.dictionaries(st.integers(1, 20), st.integers(0, 3), min_size=1), st.integers(0, 8))
def test_what_stays_the_same_changes_nothing(exposures: dict[int, int], room: int):
    """However long one looks, and however many are equal."""
    first, *others = run([exposures] * 12, room, timedelta(seconds=15))
    assert all(look == first for look in others)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 100), min_size=6, max_size=6), min_size=2, max_size=60),
    st.integers(1, 5),
    st.sampled_from([1, 7, 15, 59, 60]),
)
def test_exposures_that_alternate_switch_each_line_at_most_once_per_hold(sizes: list[list[int]], room: int, step: int):
    """Each line changes hands no more often than elapsed time ÷ hold, and no stream ends before its hold."""
    looks = run([dict(enumerate(each, start=1)) for each in sizes], room, timedelta(seconds=step))
    switches = 0
    for index, (before, after) in enumerate(pairwise(looks), start=1):
        ended = before.keys() - after.keys()
        switches += len(ended)
        now = NOW + index * timedelta(seconds=step)
        assert all(now - before[conid] >= HOLD for conid in ended)
    elapsed = (len(sizes) - 1) * timedelta(seconds=step)
    assert switches <= room * (elapsed // HOLD)
