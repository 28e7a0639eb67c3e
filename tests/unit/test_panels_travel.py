"""Where in the past one looks, and the bars: pure, of versions that are made up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from v6kit.ledger import Summary
from v6kit.ledger.moments import VERSIONS_SCHEMA
from v6kit.panels import versionbars
from v6kit.panels.travel import Known, Travel, instant

START = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)


def known(*numbers: int, first: int = 0, lost: tuple[int, ...] = ()) -> Known:
    """Return versions that were made a minute apart, each of which added a row."""
    rows = [
        (n, START + timedelta(minutes=n), 1, "ADD 1", "me", "ADD", 1, 0, 0, n not in lost) for n in numbers
    ]  # fmt: skip
    versions = pl.DataFrame(rows, schema=dict(VERSIONS_SCHEMA), orient="row")
    return Known(Summary(first, max(numbers, default=first), first, len(lost), 1, None), versions)


def test_it_follows_what_is_new_until_a_version_is_chosen():
    """And again after the way back."""
    travel = Travel(known(1, 2, 3))
    travel.learn(known(1, 2, 3, 4))
    assert (travel.old, travel.new, travel.at) == (3, 4, None)
    travel.go(2)
    travel.learn(known(1, 2, 3, 4, 5))
    assert (travel.old, travel.new, travel.at) == (1, 2, START + timedelta(minutes=2))
    travel.back_to_now()
    assert (travel.old, travel.new, travel.at) == (4, 5, None)


def test_steps_go_from_change_to_change_and_stop_at_the_ends():
    """Versions in between that changed nothing are passed over."""
    travel = Travel(known(1, 4, 9))
    travel.step(-1)
    assert travel.new == 4
    travel.step(-1)
    travel.step(-1)
    assert travel.new == 0
    travel.step(-1)
    assert travel.new == 0
    travel.step(1)
    assert travel.new == 1
    travel.go(6)
    travel.step(1)
    assert travel.new == 9
    travel.step(1)
    assert travel.new == 9
    travel.go(6)
    travel.step(-1)
    assert travel.new == 4


def test_a_comparison_is_always_from_the_earlier_to_the_later():
    """Whichever was clicked first; it stays while one steps on, and goes when one steps before it."""
    travel = Travel(known(1, 2, 3, 4, 5))
    travel.go(2)
    travel.compare(4)
    assert (travel.old, travel.new) == (2, 4)
    travel.step(1)
    assert (travel.old, travel.new) == (2, 5)
    travel.step_old(1)
    assert (travel.old, travel.new) == (3, 5)
    for _ in range(5):
        travel.step_old(1)
    assert travel.old == 5
    travel.compare(3)
    travel.step(-1)
    travel.step(-1)
    assert (travel.old, travel.new) == (2, 3)


def test_an_empty_past_has_nowhere_to_go():
    """No step moves, and there is no bar."""
    travel = Travel(known())
    travel.step(-1)
    travel.step(1)
    assert (travel.old, travel.new, travel.row(0)) == (0, 0, None)
    assert travel.bars()["bars"] == []


def test_an_instant_finds_the_version_that_was_the_newest():
    """To the microsecond; before the first there is none."""
    travel = Travel(known(1, 4))
    assert travel.found(START + timedelta(minutes=4)) == 4
    assert travel.found(START + timedelta(minutes=4, microseconds=-1)) == 1
    assert travel.found(START) is None


def test_going_to_an_instant_before_the_first_change_shows_the_first_version_and_says_so():
    """What is told to have been asked for stays the instant."""
    travel = Travel(known(2, 4, first=1))
    asked = START + timedelta(minutes=3)
    assert travel.go_to(asked)
    assert (travel.old, travel.new, travel.at) == (1, 2, asked)
    assert not travel.go_to(START)
    assert (travel.new, travel.at) == (1, START)


def test_many_versions_are_a_window_around_the_cursor_or_several_to_a_bar():
    """Never more bars than can be hit, and no version is lost from them."""
    travel = Travel(known(*range(1, 5001)))
    window = travel.bars()
    assert len(window["bars"]) == versionbars.MOST
    assert window["bars"][window["new"]][1] == 5000
    travel.go(2000)
    window = travel.bars()
    assert window["bars"][window["new"]][:2] == [2000, 2000]
    start = window["bars"][0]
    travel.step(1)
    assert travel.bars()["bars"][0] == start  # the window stands still while the cursor is in it
    travel.show_all(everything=True)
    everything = travel.bars()["bars"]
    assert len(everything) <= versionbars.MOST
    assert sum(bar[2] for bar in everything) == 5000
    assert (everything[0][0], everything[-1][1]) == (1, 5000)


def test_what_was_pruned_or_vacuumed_is_marked():
    """What lies before the horizon is one bar at the left; of a bar that holds several, how many are lost."""
    travel = Travel(known(41, 42, 43, first=40, lost=(42,)))
    pruned, *others = travel.bars()["bars"]
    assert pruned[:2] == [0, 40]
    assert pruned[5] == 41
    assert [bar[5] for bar in others] == [0, 1, 0]
    assert "stroke-dasharray" in versionbars.svg(travel.bars() | {"text": "<b>&"})
    assert "<b>&" not in versionbars.svg(travel.bars() | {"text": "<b>&"})


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (" v20 ", 20),
        ("20", 20),
        ("2026-11-22 14:21:00 UTC", "2026-11-22 14:21:00+00:00"),
        ("2026-11-22T14:21:00+01:00", "2026-11-22T14:21:00+01:00"),
        ("tomorrow", "tomorrow"),
    ],
)
def test_what_is_typed_is_a_version_or_iso_text(typed: str, meant: int | str):
    """As the panel itself writes it."""
    assert instant(typed) == meant
