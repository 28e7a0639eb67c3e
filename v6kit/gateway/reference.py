"""Requests beside market data and accounts: what the gateway knows of them, and IB's own error for what it does not.

No request ends in silence, except those that IB answers with silence, too: cancels of what runs, settings, and
subscriptions to news that never come. A client waits for an answer, so an error that names the request is the honest
one; error 321 is left for what IB has no code of its own for, because ib_async takes it for a warning and waits on.

Source of the codes: IB's table of message codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from v6kit.gateway import answers
from v6kit.gateway.answers import NO_REQUEST
from v6kit.gateway.requests import request_id
from v6kit.gateway.wire import Answer, Fields, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from v6kit.gateway.session import Session

ABSENT = "not part of the simulated gateway"
NO_HISTORY = f"Historical Market Data Service error message:history is {ABSENT}"
NO_EVENTS = f"Wall Street Horizon is {ABSENT}"
NO_ADVISOR = "FA data operations ignored for non FA customers."

REFUSALS: dict[int, tuple[int, str]] = {
    Request.REQ_MKT_DEPTH: (10092, f"Deep market data is {ABSENT}"),
    Request.REQ_HISTORICAL_DATA: (162, NO_HISTORY),
    Request.EXERCISE_OPTIONS: (201, "Order rejected - reason:the simulated gateway takes no orders"),
    Request.REQ_SCANNER_SUBSCRIPTION: (162, f"Historical Market Data Service error message:the scanner is {ABSENT}"),
    Request.REQ_REAL_TIME_BARS: (420, f"Invalid Real-time Query:bars are {ABSENT}"),
    Request.REQ_FUNDAMENTAL_DATA: (430, f"The fundamentals data for the security specified is {ABSENT}"),
    Request.REQ_CALC_IMPLIED_VOLAT: (321, answers.invalid(f"Calculations are {ABSENT}")),
    Request.REQ_CALC_OPTION_PRICE: (321, answers.invalid(f"Calculations are {ABSENT}")),
    Request.REQ_NEWS_ARTICLE: (10172, f"Failed to request news article:news are {ABSENT}"),
    Request.REQ_HISTORICAL_NEWS: (10276, f"News feed is not allowed:news are {ABSENT}"),
    Request.REQ_HEAD_TIMESTAMP: (162, NO_HISTORY),
    Request.REQ_HISTOGRAM_DATA: (10188, f"Failed to request histogram data:history is {ABSENT}"),
    Request.REQ_HISTORICAL_TICKS: (10187, f"Failed to request historical ticks:history is {ABSENT}"),
    Request.REQ_TICK_BY_TICK_DATA: (10189, f"Failed to request tick-by-tick data:it is {ABSENT}"),
    Request.REQ_WSH_META_DATA: (10279, f"Failed to request WSH meta data:{NO_EVENTS}"),
    Request.REQ_WSH_EVENT_DATA: (10283, f"Failed to request WSH event data:{NO_EVENTS}"),
}
"""Error code and text by the id of a request that is turned down."""

UNKNOWN_SUBSCRIPTIONS = (
    Request.CANCEL_SCANNER_SUBSCRIPTION,
    Request.CANCEL_HISTORICAL_DATA,
    Request.CANCEL_REAL_TIME_BARS,
    Request.CANCEL_FUNDAMENTAL_DATA,
    Request.CANCEL_CALC_IMPLIED_VOLAT,
    Request.CANCEL_CALC_OPTION_PRICE,
    Request.CANCEL_HISTOGRAM_DATA,
    Request.CANCEL_HEAD_TIMESTAMP,
    Request.CANCEL_TICK_BY_TICK_DATA,
    Request.CANCEL_WSH_META_DATA,
    Request.CANCEL_WSH_EVENT_DATA,
)
"""Cancels of what was turned down, so that nothing runs under their id."""


def refuse(session: Session, fields: Fields) -> None:
    """Turn down a request that is not simulated, in IB's words."""
    code, text = REFUSALS[fields.integer(0)]
    session.refuse(request_id(fields), code, text)


def cancel_unknown(session: Session, fields: Fields) -> None:
    """Answer a cancel of what does not run."""
    req_id = request_id(fields)
    session.refuse(req_id, 300, f"{answers.TEXTS[300]}:{req_id}")


def cancel_depth(session: Session, fields: Fields) -> None:
    """Answer a cancel of market depth, which does not run."""
    req_id = fields.integer(2)
    session.refuse(req_id, 310, f"Can't find the subscribed market depth with tickerId:{req_id}")


def cancel_order(session: Session, fields: Fields) -> None:
    """There is no order that could be cancelled."""
    order_id = fields.integer(2)
    session.refuse(order_id, 10147, f"OrderId {order_id} that needs to be cancelled is not found.")


def advisor(session: Session, _fields: Fields) -> None:
    """The login is nobody's adviser."""
    session.refuse(NO_REQUEST, 321, answers.invalid(NO_ADVISOR))


def verification(session: Session, _fields: Fields) -> None:
    """There is nothing to be verified."""
    session.refuse(NO_REQUEST, 321, answers.invalid(f"Verification is {ABSENT}"))


def matching_symbols(session: Session, fields: Fields) -> None:
    """Name what is listed under a symbol that begins so."""
    req_id, pattern = fields.integer(1), fields.text(2).upper()
    market = session.shared.market
    listed = [each for each in market.instruments() if pattern and each.sec_type in ("STK", "IND")]
    found = [each for each in listed if each.symbol.startswith(pattern)]
    session.send(answers.symbol_samples(session.version, req_id, found, market))


def market_rule(session: Session, fields: Fields) -> None:
    """Name the price steps of a rule that contract details name."""
    rule = fields.integer(1)
    if rule in answers.PRICE_STEPS:
        session.send(answers.market_rule(rule))
    else:
        session.refuse(NO_REQUEST, 321, answers.invalid(f"Invalid market rule id {rule}"))


def family_codes(session: Session, _fields: Fields) -> None:
    """Name the accounts; they are no family."""
    accounts = session.shared.accounts
    session.send((Answer.FAMILY_CODES, len(accounts), *(field for each in accounts for field in (each, ""))))


def scanner_parameters(session: Session, _fields: Fields) -> None:
    """There is nothing to scan for."""
    session.send((Answer.SCANNER_PARAMETERS, 1, "<ScanParameterResponse/>"))


def display_groups(session: Session, fields: Fields) -> None:
    """There are no windows that could be grouped."""
    session.send((Answer.DISPLAY_GROUP_LIST, 1, fields.integer(2), ""))


def group_events(session: Session, fields: Fields) -> None:
    """A group of windows shows no contract."""
    session.send((Answer.DISPLAY_GROUP_UPDATED, 1, fields.integer(2), "none"))


def user_info(session: Session, fields: Fields) -> None:
    """The user belongs to no other brand."""
    session.send((Answer.USER_INFO, fields.integer(1), ""))


def empty_list(answer: Answer, *, has_request_id: bool) -> Callable[[Session, Fields], None]:
    """Return a function that answers with a list of nothing."""

    def send(session: Session, fields: Fields) -> None:
        session.send((answer, *((fields.integer(1),) if has_request_id else ()), 0))

    return send


def nothing(_session: Session, _fields: Fields) -> None:
    """Take a message that asks for nothing, or takes back what was answered once and for all."""


HANDLERS: dict[int, Callable[[Session, Fields], None]] = {
    **dict.fromkeys(REFUSALS, refuse),
    **dict.fromkeys(UNKNOWN_SUBSCRIPTIONS, cancel_unknown),
    Request.CANCEL_MKT_DEPTH: cancel_depth,
    Request.CANCEL_ORDER: cancel_order,
    Request.REQ_FA: advisor,
    Request.REPLACE_FA: advisor,
    Request.VERIFY_REQUEST: verification,
    Request.VERIFY_MESSAGE: verification,
    Request.VERIFY_AND_AUTH_REQUEST: verification,
    Request.VERIFY_AND_AUTH_MESSAGE: verification,
    Request.REQ_SCANNER_PARAMETERS: scanner_parameters,
    Request.QUERY_DISPLAY_GROUPS: display_groups,
    Request.SUBSCRIBE_TO_GROUP_EVENTS: group_events,
    Request.REQ_SOFT_DOLLAR_TIERS: empty_list(Answer.SOFT_DOLLAR_TIERS, has_request_id=True),
    Request.REQ_FAMILY_CODES: family_codes,
    Request.REQ_MATCHING_SYMBOLS: matching_symbols,
    Request.REQ_MKT_DEPTH_EXCHANGES: empty_list(Answer.MKT_DEPTH_EXCHANGES, has_request_id=False),
    Request.REQ_SMART_COMPONENTS: empty_list(Answer.SMART_COMPONENTS, has_request_id=True),
    Request.REQ_NEWS_PROVIDERS: empty_list(Answer.NEWS_PROVIDERS, has_request_id=False),
    Request.REQ_MARKET_RULE: market_rule,
    Request.REQ_USER_INFO: user_info,
    **dict.fromkeys(
        (
            Request.REQ_NEWS_BULLETINS,
            Request.CANCEL_NEWS_BULLETINS,
            Request.SET_SERVER_LOG_LEVEL,
            Request.REQ_AUTO_OPEN_ORDERS,
            Request.REQ_GLOBAL_CANCEL,
            Request.UPDATE_DISPLAY_GROUP,
            Request.UNSUBSCRIBE_FROM_GROUP_EVENTS,
            Request.CANCEL_ACCOUNT_SUMMARY,
            Request.CANCEL_ACCOUNT_UPDATES_MULTI,
            Request.CANCEL_POSITIONS_MULTI,
        ),
        nothing,
    ),
}
"""What answers the requests of this module, by message id."""
