"""The table of message codes: pure."""

from __future__ import annotations

import pytest
from v6kit.broker import Action, action_for


@pytest.mark.parametrize(
    ("code", "action"),
    [
        (100, Action.SLOW_DOWN),
        (326, Action.CLIENT_ID_IN_USE),
        (1100, Action.LINK_BROKEN),
        (2110, Action.LINK_BROKEN),
        (1101, Action.LINK_BACK_DATA_LOST),
        (1102, Action.LINK_BACK_DATA_KEPT),
        (1300, Action.SOCKET_RESET),
        (2100, Action.ACCOUNT_UPDATES_TAKEN),
        (2103, Action.FARM_BROKEN),
        (2104, Action.FARM_BACK),
        (10197, Action.COMPETING_SESSION),
    ],
)
@pytest.mark.parametrize("ours", [True, False])
def test_what_concerns_the_link_counts_whoever_it_is_addressed_to(code: int, action: Action, *, ours: bool):
    """System codes mean the same with a request id and without one."""
    assert action_for(code, ours=ours) is action


@pytest.mark.parametrize(
    ("code", "action"),
    [
        (101, Action.LINE_LIMIT),
        (102, Action.NEW_REQUEST_ID),
        (322, Action.NEW_REQUEST_ID),
        (200, Action.UNKNOWN_CONTRACT),
        (300, Action.FORGET),
        (310, Action.FORGET),
        (354, Action.NOT_SUBSCRIBED),
        (10089, Action.NOT_SUBSCRIBED),
        (10168, Action.NOT_SUBSCRIBED),
        (10090, Action.SOFT),
        (10091, Action.SOFT),
        (10092, Action.SOFT),
        (10167, Action.SOFT),
    ],
)
def test_what_concerns_a_request_counts_for_an_open_one_only(code: int, action: Action):
    """A late error for a request that has ended is only logged."""
    assert action_for(code, ours=True) is action
    assert action_for(code, ours=False) is Action.LOG


@pytest.mark.parametrize("code", [2105, 2106, 2107, 2108, 2119, 2158, 2199])
@pytest.mark.parametrize("ours", [True, False])
def test_warnings_are_only_logged(code: int, *, ours: bool):
    """No code of the warning range ends a request."""
    assert action_for(code, ours=ours) is Action.LOG


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (
            "Error validating request.-'bW' : cause - Snapshot requests limitation exceeded:100 per 1 second(s)",
            Action.BACK_OFF,
        ),
        ("Error validating request.-'bW' : cause - Please enter exchange", Action.FIX_EXCHANGE),
        ("Error validating request.-'bW' : cause - Missing order exchange", Action.FIX_EXCHANGE),
        ("Error validating request.-'bW' : cause - Snapshot is not applicable to generic ticks", Action.FAIL),
        ("", Action.FAIL),
    ],
)
def test_code_321_is_told_apart_by_its_text(text: str, action: Action):
    """One code stands for three different mistakes."""
    assert action_for(321, ours=True, message=text) is action


def test_an_unknown_code_fails_the_request_that_it_names_and_nothing_else():
    """A code that IB invents tomorrow cannot stop the broker."""
    assert action_for(99_999, ours=True) is Action.FAIL
    assert action_for(99_999, ours=False) is Action.LOG
