"""IB's message codes, and what each one asks of us: a table and a pure function.

Owns the meaning of the codes. Does not act on them: `broker.py` dispatches what concerns the link and the pace,
`requests.py` what concerns one request.

Source: https://interactivebrokers.github.io/tws-api/message_codes.html, and for the wording of 321 the gateway's texts.
"""

from __future__ import annotations

from enum import StrEnum


class Action(StrEnum):
    """What a message from the gateway asks for."""

    LOG = "log"
    """Information; nothing to do."""
    FARM_BROKEN = "farm_broken"
    """A data farm is out: some quotes stand still until `FARM_BACK`."""
    FARM_BACK = "farm_back"
    """A data farm is there again."""
    SOFT = "soft"
    """Partial or delayed data: remember the code, the data still comes."""
    FAIL = "fail"
    """This request is over; the others are not concerned."""
    FORGET = "forget"
    """The gateway does not know this request: drop our record of it."""
    NOT_SUBSCRIBED = "not_subscribed"
    """The login has no live data for this contract: over for this session, and delayed data may be had."""
    UNKNOWN_CONTRACT = "unknown_contract"
    """No such contract at that exchange, or no longer: look its details up once; without news it is over."""
    BACK_OFF = "back_off"
    """Snapshots were asked for too fast: wait a moment and ask again."""
    FIX_EXCHANGE = "fix_exchange"
    """The exchange is missing: take it from the contract's details and ask once more."""
    NEW_REQUEST_ID = "new_request_id"
    """The id was used before, which is our mistake: ask again under a new one."""
    LINE_LIMIT = "line_limit"
    """No market data line is left for this request: the budget was too large."""
    SLOW_DOWN = "slow_down"
    """More messages per second than the gateway takes."""
    COMPETING_SESSION = "competing_session"
    """The same login takes market data elsewhere: nothing new comes until that ends."""
    ACCOUNT_UPDATES_TAKEN = "account_updates_taken"
    """Another client subscribed to the account updates, which ended ours."""
    LINK_BROKEN = "link_broken"
    """The gateway lost IB's servers: stop sending, what we have is stale."""
    LINK_BACK_DATA_LOST = "link_back_data_lost"
    """IB's servers are back, the subscriptions are not: ask for all of them again."""
    LINK_BACK_DATA_KEPT = "link_back_data_kept"
    """IB's servers are back and the subscriptions go on."""
    SOCKET_RESET = "socket_reset"
    """The gateway is about to close this socket."""
    CLIENT_ID_IN_USE = "client_id_in_use"
    """Another program is connected under our client id."""


ENDS_REQUEST = frozenset({Action.FAIL, Action.FORGET, Action.LINE_LIMIT, Action.NOT_SUBSCRIBED})
"""The actions after which the gateway serves a stream no longer, and asking again at once would not help."""

# What a code means whoever it is addressed to: the link, the login and the pace are everybody's.
_SYSTEM = {
    100: Action.SLOW_DOWN,
    326: Action.CLIENT_ID_IN_USE,
    1100: Action.LINK_BROKEN,
    1101: Action.LINK_BACK_DATA_LOST,
    1102: Action.LINK_BACK_DATA_KEPT,
    1300: Action.SOCKET_RESET,
    2100: Action.ACCOUNT_UPDATES_TAKEN,
    2103: Action.FARM_BROKEN,
    2104: Action.FARM_BACK,
    2110: Action.LINK_BROKEN,
    10197: Action.COMPETING_SESSION,
}

# What a code means when it carries the id of a request that is still open; 321 depends on its text, and any other code
# fails that request.
_REQUEST = {
    101: Action.LINE_LIMIT,
    102: Action.NEW_REQUEST_ID,
    200: Action.UNKNOWN_CONTRACT,
    300: Action.FORGET,
    310: Action.FORGET,
    322: Action.NEW_REQUEST_ID,
    354: Action.NOT_SUBSCRIBED,
    10089: Action.NOT_SUBSCRIBED,
    10090: Action.SOFT,
    10091: Action.SOFT,
    10092: Action.SOFT,
    10167: Action.SOFT,
    10168: Action.NOT_SUBSCRIBED,
}

_VALIDATION_ERROR = 321
_WARNINGS = range(2100, 2200)  # information, as far as they do not concern the system
_FARM_NEWS = frozenset({2105, 2106, 2107, 2108, 2119, 2158})

CODES = frozenset(_SYSTEM) | frozenset(_REQUEST) | {_VALIDATION_ERROR} | _FARM_NEWS
"""Every code whose meaning is known here."""

_ADVICE = {Action.NOT_SUBSCRIBED: "market_data_type=3 asks for delayed data instead"}


def action_for(code: int, *, ours: bool, message: str = "") -> Action:
    """Return what a message asks for.

    Args:
        code: IB's message code.
        ours: Whether it carries the id of a request of ours that is still open.
        message: The text, which alone tells the cases of code 321 apart.
    """
    if code in _SYSTEM:
        return _SYSTEM[code]
    if not ours or code in _WARNINGS:
        return Action.LOG
    if code == _VALIDATION_ERROR:
        return _validation_error(message)
    return _REQUEST.get(code, Action.FAIL)


def reason_of(action: Action, text: str) -> str:
    """Return why a request was refused: IB's text, and the next step if there is one."""
    advice = _ADVICE.get(action)
    return f"{text} ({advice})" if advice else text


def _validation_error(message: str) -> Action:
    text = message.casefold()
    if "snapshot requests limitation" in text:
        return Action.BACK_OFF
    if "exchange" in text:
        return Action.FIX_EXCHANGE
    return Action.FAIL
