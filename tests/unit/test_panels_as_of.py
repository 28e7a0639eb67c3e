"""The instant that panels share, and what may be typed for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from v6kit.panels.as_of import AsOf, typed

NOW = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)


def test_whoever_shares_it_hears_of_each_move_until_he_leaves():
    """In the order of setting; leaving twice is leaving once."""
    as_of, heard, also = AsOf(), [], []
    leave = as_of.listen(heard.append)
    as_of.listen(also.append)
    as_of.at = NOW
    leave()
    leave()
    as_of.at = None
    assert heard == [NOW]
    assert also == [NOW, None]


def test_a_listener_that_leaves_while_it_is_told_disturbs_no_other():
    """A panel may close when it is moved."""
    as_of, heard = AsOf(), []
    leave = as_of.listen(lambda _at: leave())
    as_of.listen(heard.append)
    as_of.at = NOW
    assert heard == [NOW]


@pytest.mark.parametrize(
    "when",
    ["2026-11-20T15:30:00+01:00", datetime(2026, 11, 20, 9, 30, tzinfo=timezone(timedelta(hours=-5))), NOW],
    ids=["text", "elsewhere", "here"],
)
def test_an_instant_is_kept_in_utc(when: datetime | str):
    """Text with an offset counts as much as a datetime."""
    as_of = AsOf()
    as_of.at = when
    assert as_of.at == NOW
    assert as_of.at.tzinfo is UTC


@pytest.mark.parametrize("wrong", ["2026-11-20 14:30", datetime(2026, 11, 20), "tomorrow", 20, b"2026"])  # noqa: DTZ001 - that is what is refused
def test_what_is_no_instant_is_refused_and_the_old_one_stays(wrong: object):
    """A naive datetime too: its zone would be a guess."""
    as_of, heard = AsOf(), []
    as_of.at = NOW
    as_of.listen(heard.append)
    with pytest.raises((ValueError, TypeError)):
        as_of.at = wrong
    assert (as_of.at, heard) == (NOW, [])


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", None),
        ("  ", None),
        ("UTC", None),
        ("14:21", datetime(2026, 11, 20, 14, 21, tzinfo=UTC)),
        ("14:21:05 UTC", datetime(2026, 11, 20, 14, 21, 5, tzinfo=UTC)),
        ("14:21+02:00", datetime(2026, 11, 20, 12, 21, tzinfo=UTC)),
        ("2026-11-19 14:21:05", datetime(2026, 11, 19, 14, 21, 5, tzinfo=UTC)),
        ("2026-11-19", datetime(2026, 11, 19, tzinfo=UTC)),
        ("2026-11-19T14:21:05+02:00", datetime(2026, 11, 19, 12, 21, 5, tzinfo=UTC)),
    ],
)
def test_what_is_typed_is_utc_or_says_its_offset(text: str, meant: datetime | None):
    """A time alone is of today, a date alone its beginning; nothing is now."""
    assert typed(text, NOW) == meant


@pytest.mark.parametrize("text", ["yesterday", "25:00", "2026-13-01", "14:21 CET", "<b>"])
def test_what_cannot_be_meant_is_refused_with_an_example(text: str):
    """In the form that the field shows."""
    with pytest.raises(ValueError, match="as of must be like 2026-11-20 14:30:00 or 14:30:00, in UTC, got"):
        typed(text, NOW)
