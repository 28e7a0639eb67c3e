"""What each request does: one function per message id, and the table that finds it.

Each function reads its fields, asks the market, and sends; a field that cannot be read raises `WireError`, which the
session answers with error 320. Market data is handed on to `marketdata`; what is asked about accounts is `holdings`,
and what is rarely asked, or not simulated, is `reference`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from v6kit.gateway import answers, holdings, reference
from v6kit.gateway.answers import DELAYED_FROZEN, LIVE, NO_REQUEST
from v6kit.gateway.requests import ContractQuery, MarketDataRequest
from v6kit.gateway.wire import Answer, Fields, Request, WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from v6kit.gateway.session import Session

FIRST_ORDER_ID = 1
INCLUDE_EXPIRED = 15  # its place in reqContractDetails, after the contract


def start_api(session: Session, fields: Fields) -> None:
    """Log the client in, or send it away if its id is taken."""
    client_id = fields.integer(2)
    if client_id < 0 or session.is_started:
        raise WireError(f"startApi must come once, with a client id of 0 or more, got {client_id}")
    if any(each.client_id == client_id for each in session.shared.sessions):
        session.refuse(NO_REQUEST, 326)
        session.close()
        return
    session.client_id = client_id
    session.send(
        (Answer.MANAGED_ACCOUNTS, 1, ",".join(session.shared.accounts)),
        (Answer.NEXT_VALID_ID, 1, FIRST_ORDER_ID),
        *(answers.error(session.version, NO_REQUEST, code) for code in (2104, 2106, 2158)),
        *answers.outages(session.version, linked=session.shared.linked, broken_farms=session.shared.broken_farms),
    )


def contract_details(session: Session, fields: Fields) -> None:
    """Send all contracts that fit a description, or error 200."""
    req_id = fields.integer(2)
    market = session.shared.market
    include_expired = fields.flag(INCLUDE_EXPIRED)
    found = ContractQuery.parse(fields).resolve(market, include_expired=include_expired)
    if not found:
        session.refuse(req_id, 200)
        return
    session.send(*(answers.contract_details(session.version, req_id, each, market) for each in found))
    session.send((Answer.CONTRACT_DETAILS_END, 1, req_id))


def option_parameters(session: Session, fields: Fields) -> None:
    """Send an underlying's option expiries and strikes, or error 200 for a symbol that is not listed."""
    req_id, symbol = fields.integer(1), fields.text(2)
    if session.shared.market.underlying(symbol) is None:
        session.refuse(req_id, 200)
        return
    session.send(*answers.option_chain(req_id, symbol, session.shared.market))
    session.send((Answer.SEC_DEF_OPT_PARAMS_END, req_id))


def market_data(session: Session, fields: Fields) -> None:
    """Start a stream or a snapshot, unless this is the request at which the line is to be cut."""
    if session.shared.faults.takes_the_fatal_request():
        session.abort()
    else:
        session.market_data.request(MarketDataRequest.parse(fields))


def cancel_market_data(session: Session, fields: Fields) -> None:
    """End a stream or a snapshot."""
    session.market_data.cancel(fields.integer(2))


def market_data_type(session: Session, fields: Fields) -> None:
    """Set the type of all market data requests to come."""
    data_type = fields.integer(2)
    if LIVE <= data_type <= DELAYED_FROZEN:
        session.market_data.data_type = data_type
    else:
        session.refuse(NO_REQUEST, 321, answers.invalid(f"Market data type must be 1 to 4, got {data_type}"))


def current_time(session: Session, _fields: Fields) -> None:
    """Tell the time."""
    session.send((Answer.CURRENT_TIME, 1, int(session.shared.market.clock.now().timestamp())))


def next_valid_id(session: Session, _fields: Fields) -> None:
    """Name the next order id; always the first, because no order is ever taken."""
    session.send((Answer.NEXT_VALID_ID, 1, FIRST_ORDER_ID))


def open_orders(session: Session, _fields: Fields) -> None:
    """There are no open orders."""
    session.send((Answer.OPEN_ORDER_END, 1))


def completed_orders(session: Session, _fields: Fields) -> None:
    """There are no completed orders."""
    session.send((Answer.COMPLETED_ORDERS_END,))


def executions(session: Session, fields: Fields) -> None:
    """There are no executions."""
    session.send((Answer.EXECUTION_END, 1, fields.integer(2)))


def place_order(session: Session, fields: Fields) -> None:
    """Refuse every order."""
    session.refuse(fields.integer(1), 201, "Order rejected - reason:the simulated gateway takes no orders")


HANDLERS: dict[int, Callable[[Session, Fields], None]] = {
    **reference.HANDLERS,
    Request.REQ_MKT_DATA: market_data,
    Request.CANCEL_MKT_DATA: cancel_market_data,
    Request.PLACE_ORDER: place_order,
    Request.REQ_OPEN_ORDERS: open_orders,
    Request.REQ_ACCOUNT_UPDATES: holdings.account_updates,
    Request.REQ_EXECUTIONS: executions,
    Request.REQ_IDS: next_valid_id,
    Request.REQ_CONTRACT_DETAILS: contract_details,
    Request.REQ_ALL_OPEN_ORDERS: open_orders,
    Request.REQ_MANAGED_ACCOUNTS: holdings.managed_accounts,
    Request.REQ_CURRENT_TIME: current_time,
    Request.REQ_MARKET_DATA_TYPE: market_data_type,
    Request.REQ_POSITIONS: holdings.positions,
    Request.REQ_ACCOUNT_SUMMARY: holdings.account_summary,
    Request.CANCEL_POSITIONS: holdings.cancel_positions,
    Request.START_API: start_api,
    Request.REQ_ACCOUNT_UPDATES_MULTI: holdings.account_updates_multi,
    Request.REQ_SEC_DEF_OPT_PARAMS: option_parameters,
    Request.REQ_PNL_SINGLE: holdings.pnl_single,
    Request.CANCEL_PNL_SINGLE: holdings.cancel_pnl,
    Request.REQ_PNL: holdings.pnl,
    Request.CANCEL_PNL: holdings.cancel_pnl,
    Request.REQ_POSITIONS_MULTI: holdings.positions_multi,
    Request.REQ_COMPLETED_ORDERS: completed_orders,
}
