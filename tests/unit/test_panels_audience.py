"""Who looks at a panel: views that come, give signs and leave, and those that fall silent."""

from __future__ import annotations

from v6kit.panels.audience import PATIENCE, Audience


def test_a_panel_has_an_audience_while_any_view_of_it_is_seen():
    """The same panel may be shown twice; it rests only when both are out of sight."""
    audience = Audience()
    assert not audience.is_there
    audience.sees("one")
    audience.sees("two")
    audience.leaves("one")
    assert audience.is_there
    audience.leaves("two")
    audience.leaves("two")  # a page that closes may say so twice
    assert not audience.is_there


def test_a_view_that_falls_silent_is_gone():
    """A closed laptop says nothing, and must not be drawn for all night."""
    audience = Audience()
    audience.sees("one")
    for _ in range(PATIENCE - 1):
        audience.breathe()
    assert audience.is_there
    audience.breathe()
    assert not audience.is_there


def test_a_view_that_gives_signs_stays():
    """However long it is."""
    audience = Audience()
    for _ in range(3 * PATIENCE):
        audience.sees("one")
        audience.breathe()
        audience.breathe()
    assert audience.is_there
