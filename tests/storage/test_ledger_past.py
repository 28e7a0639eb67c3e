"""The past: as of a version or an instant, differences, timelines, versions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest
from deltalake import write_deltalake
from tallies import count
from v6kit.errors import TableMissingError, VersionUnavailableError
from v6kit.ledger import Past
from v6kit.ledger.reads import VERSIONS_SCHEMA

START = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)


@pytest.fixture
def past(ledger, clock) -> Past:
    """A ledger with four changes, ten seconds apart: SPY 1, QQQ 1, SPY 2, IWM 1."""
    for name in ("SPY", "QQQ", "SPY", "IWM"):
        ledger.submit(count(name)).result()
        clock.advance(10)
    return Past(ledger.uri, ["name"], clock=clock)


def counts(frame: pl.DataFrame) -> dict[str, int]:
    """Return name → count."""
    return dict(zip(frame["name"], frame["count"], strict=True))


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (0, {}),
        (1, {"SPY": 1}),
        (3, {"QQQ": 1, "SPY": 2}),
        (4, {"QQQ": 1, "SPY": 2, "IWM": 1}),
        (START, {"SPY": 1}),
        (np.int64(1), {"SPY": 1}),
        (START + timedelta(seconds=9), {"SPY": 1}),
        (START + timedelta(seconds=20), {"QQQ": 1, "SPY": 2}),
        (START + timedelta(seconds=40), {"QQQ": 1, "SPY": 2, "IWM": 1}),
        ("2026-11-20T14:30:10+00:00", {"SPY": 1, "QQQ": 1}),
        ("2026-11-20 15:30:10+01:00", {"SPY": 1, "QQQ": 1}),
        ("2026-11-20T14:30:10Z", {"SPY": 1, "QQQ": 1}),
        (datetime(2026, 11, 20, 9, 30, 10, tzinfo=timezone(timedelta(hours=-5))), {"SPY": 1, "QQQ": 1}),
    ],
)
def test_as_of_returns_what_was_known_then(past, when, expected):
    """A version, an instant in any zone, or ISO text lead to the same past."""
    assert counts(past.as_of(when)) == expected


@pytest.mark.parametrize(
    ("when", "error", "text"),
    [
        (5, VersionUnavailableError, "version 5 .* does not exist; there are 0 to 4"),
        (-1, VersionUnavailableError, "version -1"),
        (START - timedelta(seconds=1), VersionUnavailableError, "the first change was at 2026-11-20 14:30:00"),
        (START + timedelta(seconds=41), VersionUnavailableError, "is in the future"),
        (datetime(2026, 11, 20, 14, 30), ValueError, "when must be an aware datetime"),  # noqa: DTZ001 - on purpose
        ("2026-11-20", ValueError, r"as 2026-11-20T00:00:00\+00:00 does, got '2026-11-20'"),
        ("yesterday", ValueError, "when must be ISO text .* got 'yesterday'"),
        (True, TypeError, "when must be a version, a datetime or ISO text, got True"),
        (1.5, TypeError, "got 1.5"),
        (None, TypeError, "got None"),
    ],
)
def test_as_of_refuses_what_is_no_moment_of_the_past(past, when, error, text):
    """What was before the beginning, is still to come, or would be a guess is refused with the reason."""
    with pytest.raises(error, match=text):
        past.as_of(when)


def test_the_error_carries_the_versions_that_there_are(past):
    """A program can read oldest and newest from it."""
    with pytest.raises(VersionUnavailableError) as caught:
        past.as_of(99)
    assert (caught.value.oldest, caught.value.newest) == (0, 4)


def test_an_empty_ledger_has_no_instant(ledger, clock):
    """Nothing was ever written, so there is no state at any instant."""
    past = Past(ledger.uri, ["name"], clock=clock)
    assert past.as_of(0).is_empty()
    assert past.versions().is_empty()
    with pytest.raises(VersionUnavailableError, match="nothing was ever written"):
        past.as_of(clock.now())


def test_versions_tell_when_what_and_who(past):
    """One row per version that changed something, oldest first."""
    versions = past.versions()
    assert dict(versions.schema) == dict(VERSIONS_SCHEMA)
    assert versions["version"].to_list() == [1, 2, 3, 4]
    assert versions["changes"].to_list() == ["COUNT 1"] * 4
    assert versions["updated_at"].to_list() == [START + timedelta(seconds=10 * n) for n in range(4)]


def test_diff_shows_added_changed_and_gone_with_both_values(past):
    """Signs tell which; old and new values stand side by side; going back swaps them."""
    forth = past.diff(1, 4)
    assert forth.select("diff", "name", "count", "count_old").rows() == [
        ("+", "IWM", 1, None),
        ("+", "QQQ", 1, None),
        ("~", "SPY", 2, 1),
    ]
    back = past.diff(4, 1)
    assert back.select("diff", "name", "count", "count_old").rows() == [
        ("-", "IWM", None, 1),
        ("-", "QQQ", None, 1),
        ("~", "SPY", 1, 2),
    ]
    assert past.diff(2, 2).is_empty()


def test_timeline_shows_every_state_of_one_key_and_how_long_it_lasted(past):
    """The newest state has no end."""
    line = past.timeline("SPY")
    assert line.select("count", "version", "lasted").rows() == [(1, 1, timedelta(seconds=20)), (2, 3, None)]
    assert past.timeline("never").is_empty()
    with pytest.raises(ValueError, match="key must be 1 value"):
        past.timeline("SPY", 2)


def test_the_past_follows_a_ledger_that_goes_on(past, ledger):
    """The same object sees later versions."""
    ledger.submit(count("SPY")).result()
    assert counts(past.as_of(5))["SPY"] == 3
    assert past.versions().height == 5


def test_a_place_without_a_ledger_says_so(tmp_path):
    """No table, and a table without the book-keeping columns, are told apart."""
    with pytest.raises(TableMissingError, match="no Delta table"):
        Past(tmp_path / "nothing", ["name"]).versions()
    write_deltalake(tmp_path / "plain", pl.DataFrame({"name": ["SPY"]}))
    with pytest.raises(ValueError, match="has no column change, seq"):
        Past(tmp_path / "plain", ["name"]).versions()
