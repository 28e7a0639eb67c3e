"""How fresh positions are said to be: rows, streams, targets and a moment in, numbers and words out."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from v6kit.clock import FakeClock
from v6kit.contracts import Instrument, PositionUpdate
from v6kit.positions import BookRow, merge
from v6kit.sync import Freshness, Targets
from v6kit.sync.freshness import Capacity, look

NOW = FakeClock().now()
TARGETS = Targets(active=15, other=60)
PLENTY = Capacity(lines=50, pace=20.0, hold=2.0)


def ago(seconds: float) -> datetime:
    """Return an instant."""
    return NOW - timedelta(seconds=seconds)


def row(conid: int, age: float | None, source: str | None = "snapshot", **fields: object) -> BookRow:
    """Return a position whose quote came so many seconds ago, or that has none and was opened 100 s ago."""
    made = merge(
        None,
        PositionUpdate(
            account="DU1", instrument=Instrument(conid=conid, symbol=f"S{conid}", sec_type="STK"), position=1.0
        ),
    )
    at = None if age is None else ago(age)
    known = {"source": source if at else None, "quality": "ok" if at else None, "received_at": at, "requested_at": at}
    return made._replace(**{"updated_at": ago(100)} | known | fields)


def seen(*rows: BookRow, active: set[int] = frozenset(), **settings: object) -> Freshness:
    """Return how fresh these are."""
    wanted = {"targets": TARGETS, "streams": set(), "is_live": True, "parked": {}, "capacity": PLENTY} | settings
    return look(rows, now=NOW, is_active=active.__contains__, **wanted)


def test_a_healthy_stream_is_current_however_long_ago_its_last_tick():
    """Silence is no staleness; a stream that has ended, or lost its link, is overdue since its last tick."""
    quiet = row(1, 7_200, "stream")
    fresh = seen(quiet, active={1}, streams={1})
    assert fresh.positions.select("kind", "age_seconds", "overdue_seconds", "why").row(0) == (
        "streamed",
        0.0,
        -15.0,
        None,
    )
    ended = seen(quiet, active={1})
    assert ended.positions.select("kind", "age_seconds", "overdue_seconds").row(0) == ("active, by queue", 7_200, 7_200)
    assert seen(quiet, streams={1}, is_live=False).positions["age_seconds"].to_list() == [7_200]
    lost = seen(quiet._replace(quality="stale"), active={1}, streams={1})
    assert lost.positions.select("age_seconds", "why").row(0) == (
        7_200,
        "no quote has come since link or market data were out",
    )


def test_the_most_overdue_position_comes_first_and_says_what_is_wrong():
    """Age, source, quality, target and reason of each."""
    fresh = seen(
        row(1, 10),
        row(2, 61),
        row(3, 5, quality="stale"),
        row(4, None, quality="error", error_code=321),
        row(5, None),
        row(6, 8, "portfolio", quality="partial"),
        row(7, 20),
        row(8, None, quality="error", error_code=200),
        active={7},
        parked={8: "no security definition"},
    )
    told = {each["conid"]: each for each in fresh.positions.to_dicts()}
    overdue = fresh.positions["overdue_seconds"].to_list()
    assert overdue == sorted(overdue, reverse=True)
    assert [told[conid]["overdue_seconds"] for conid in range(1, 9)] == [-50, 1, 5, 100, 100, 8, 5, 100]
    assert [told[conid]["age_seconds"] for conid in range(1, 9)] == [10, 61, 5, None, None, None, 20, None]
    assert [told[conid]["why"] for conid in range(1, 9)] == [
        None,
        None,
        "no quote has come since link or market data were out",
        "the gateway refused it with code 321",
        "no quote yet",
        "only the portfolio's valuation so far",
        None,
        "not asked for again in this session: no security definition",
    ]
    assert (told[7]["kind"], told[7]["target_seconds"]) == ("active, by queue", 15)
    assert fresh.needed == pytest.approx(1 / 15 + 6 / 60), "nothing is asked for what is parked"


def test_a_position_of_a_lost_account_is_overdue_and_asks_for_nothing():
    """Nothing could refresh it, so it must not make the targets look out of reach."""
    fresh = seen(row(1, 100, quality="stale"), row(2, 10, account="DU2"), lost={"DU1"})
    assert fresh.positions.select("account", "overdue_seconds", "why").rows() == [
        ("DU1", 100.0, "nobody refreshes it: no account of this login any more"),
        ("DU2", -50.0, None),
    ]
    assert fresh.needed == pytest.approx(1 / 60)


@given(ages=st.lists(st.one_of(st.none(), st.integers(0, 200)), min_size=1, max_size=60))
def test_the_numbers_of_a_kind_are_those_of_its_positions(ages: list[int | None]):
    """Percentiles are ages that occur: so many of the positions are not older."""
    fresh = seen(*(row(conid, age) for conid, age in enumerate(ages, 1)))
    (kind,) = fresh.kinds.to_dicts()
    known = sorted(age for age in ages if age is not None)
    assert (kind["positions"], kind["unquoted"]) == (len(ages), len(ages) - len(known))
    assert kind["max"] == (known[-1] if known else None)
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        if known:
            assert kind[name] in known
            assert sum(age <= kind[name] for age in known) >= share * len(known) - 1
            assert sum(age < kind[name] for age in known) <= share * len(known)
    assert kind["within"] == pytest.approx(sum(age is not None and age <= 60 for age in ages) / len(ages))


def test_targets_beyond_what_lines_and_pace_allow_are_said_so():
    """By how much, and who pays: the active ones go first, the others share what is left."""
    rows = [row(conid, 30) for conid in range(1, 301)]
    fresh = seen(*rows, active=set(range(1, 101)), capacity=Capacity(lines=9, pace=20.0, hold=1.0))
    assert not fresh.is_feasible
    assert "cannot be met: they need 10.0 refreshes per second, there are 9.0 (9 lines, held 1.0 s each;" in repr(fresh)
    expected = dict(fresh.kinds.select("kind", "expected_seconds").rows())
    assert expected["active, by queue"] == 15
    assert expected["other, by queue"] == pytest.approx(200 / (9 - 100 / 15))
    enough = seen(*rows, active=set(range(1, 101)), capacity=Capacity(lines=10, pace=20.0, hold=1.0))
    assert enough.is_feasible
    assert enough.kinds["expected_seconds"].to_list() == pytest.approx([15, 60])


def test_what_nothing_is_left_for_is_never_refreshed():
    """Priority 1 takes all, and it is said."""
    rows = [row(conid, 30) for conid in range(1, 101)]
    fresh = seen(*rows, active=set(range(1, 100)), capacity=Capacity(lines=1, pace=20.0, hold=1.0))
    assert fresh.kinds["expected_seconds"].to_list() == [99, math.inf]
    assert "never" in repr(fresh)


def test_pace_bounds_what_lines_allow():
    """And before the first snapshot nobody knows how long it holds a line."""
    assert Capacity(lines=50, pace=20.0, hold=0.7).per_second == 20
    assert Capacity(lines=50, pace=20.0, hold=11.0).per_second == pytest.approx(50 / 11)
    unknown = seen(row(1, 1), capacity=Capacity(lines=50, pace=20.0, hold=None))
    assert "hold not measured yet" in unknown.verdict


def test_a_gateway_that_is_down_is_the_verdict():
    """Whatever the targets."""
    fresh = seen(row(1, 1), held_back="the gateway is DOWN")
    assert fresh.verdict == "nothing is refreshed by snapshot now: the gateway is DOWN"
    assert fresh.kinds["expected_seconds"].to_list() == [math.inf]


def test_an_empty_account_has_empty_frames_and_a_display():
    """The same columns as ever."""
    fresh, full = seen(), seen(row(1, 1))
    assert (fresh.positions.height, fresh.kinds.height) == (0, 0)
    assert fresh.positions.schema == full.positions.schema
    assert fresh.kinds.schema == full.kinds.schema
    assert "Freshness of 0 positions" in repr(fresh)
    assert "<table" in fresh._repr_html_()
    assert "the targets need 0.0 refreshes per second" in fresh.verdict


def test_a_notebook_shows_ages_to_a_tenth_of_a_second_and_the_verdict_as_text():
    """Digits that mean nothing hide those that do, and a reason is no markup."""
    shown = seen(row(1, 12.987234), held_back="tick Configuration > API")._repr_html_()
    assert ">13.0 s</td>" in shown
    assert "987" not in shown
    assert "Configuration &gt; API" in shown


@pytest.mark.parametrize("wrong", [0, -1, math.nan, "15", None, True])
def test_a_target_that_is_no_duration_is_refused(wrong: object):
    """By its name."""
    with pytest.raises((TypeError, ValueError), match="active must be"):
        Targets(active=wrong)
