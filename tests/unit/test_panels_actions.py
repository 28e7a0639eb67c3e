"""Buttons: to which rows, when, and the second click before something is destroyed."""

from __future__ import annotations

import pytest
from v6kit.panels.actions import Action, Buttons


async def nothing(_keys):
    """Do no work; the buttons only hand it on."""


@pytest.fixture
def rows() -> list[str]:
    """What is selected."""
    return ["a", "b"]


@pytest.fixture
def buttons(rows: list[str]) -> Buttons:
    """One that destroys, and one that is not about rows."""
    cancel = Action(
        name="cancel", label="Cancel…", hint="", run=nothing, applies=lambda: tuple(rows), question="Cancel {}?".format
    )
    return Buttons([cancel, Action(name="run", label="Run", hint="", run=nothing)])


def drawn(buttons: Buttons, name: str) -> dict[str, object]:
    """Return one button as the page draws it."""
    return next(each for each in buttons.draw(closed=False) if each["name"] == name)


def test_what_destroys_asks_in_place_with_the_count_and_acts_at_the_second_click(buttons: Buttons):
    """The first click only changes the button's label."""
    assert drawn(buttons, "cancel")["label"] == "Cancel… 2"
    assert buttons.click("cancel") is None
    assert drawn(buttons, "cancel")["label"] == "Cancel 2?"
    action, keys = buttons.click("cancel")
    assert (action.name, keys) == ("cancel", ("a", "b"))


def test_a_second_click_counts_only_for_the_rows_of_the_first(buttons: Buttons, rows: list[str]):
    """Whoever said yes to two requests has not said yes to three."""
    buttons.click("cancel")
    rows.append("c")
    assert buttons.click("cancel") is None
    assert drawn(buttons, "cancel")["label"] == "Cancel 3?"


def test_a_question_is_forgotten_when_the_rows_change_or_something_else_is_pressed(buttons: Buttons, rows: list[str]):
    """A button that asks about what is no longer there would be a trap."""
    buttons.click("cancel")
    rows.append("c")
    assert drawn(buttons, "cancel")["label"] == "Cancel… 3"
    buttons.click("cancel")
    buttons.click("run")
    assert buttons.click("cancel") is None


def test_a_question_can_be_taken_back(buttons: Buttons):
    """Its button asks anew at the next click."""
    buttons.click("cancel")
    buttons.forget()
    assert drawn(buttons, "cancel")["label"] == "Cancel… 2"
    assert buttons.click("cancel") is None


def test_a_button_at_work_cannot_be_pressed_again(buttons: Buttons):
    """Until its work is done."""
    assert buttons.click("run") is not None
    assert drawn(buttons, "run")["off"]
    assert drawn(buttons, "run")["busy"]
    assert buttons.click("run") is None
    buttons.done("run")
    assert buttons.click("run") is not None


def test_a_button_without_rows_is_off(buttons: Buttons, rows: list[str]):
    """Nothing is selected, so there is nothing to do."""
    rows.clear()
    assert drawn(buttons, "cancel")["off"]
    assert buttons.click("cancel") is None
    assert drawn(buttons, "cancel")["label"] == "Cancel…"


def test_a_button_that_has_no_place_now_is_not_drawn_and_cannot_be_pressed():
    """What belongs to a form stands there while the form does."""
    is_open = False
    buttons = Buttons([Action(name="close", label="Close form", hint="", run=nothing, shown=lambda: is_open)])
    assert buttons.draw(closed=False) == []
    assert buttons.click("close") is None
    is_open = True
    assert drawn(buttons, "close")["label"] == "Close form"
    assert buttons.click("close") is not None


def test_every_button_of_a_closed_panel_is_off(buttons: Buttons):
    """It keeps its picture and does nothing."""
    assert all(each["off"] for each in buttons.draw(closed=True))


def test_a_button_that_is_not_there_is_named_with_those_that_are(buttons: Buttons):
    """The error carries the next step."""
    with pytest.raises(ValueError, match="must be one of cancel, run, got 'cancle'"):
        buttons.click("cancle")
