"""What clients ask about accounts: positions, portfolio, values, profit. Each function answers one message id.

A login has one account or several. Where a request names an account, an unknown one gets error 321, and so does none at
all when there are several; reqAccountUpdates follows one account at a time.

Source for 2100 and 2101: IB's table of message codes. For 321 and its texts: what users report of their gateways.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from v6kit.gateway import answers
from v6kit.gateway.answers import NO_REQUEST
from v6kit.gateway.wire import Answer, Fields

if TYPE_CHECKING:
    from v6kit.gateway.account import Account
    from v6kit.gateway.session import Session

ALL = "ALL"


def positions(session: Session, _fields: Fields) -> None:
    """Send all positions of all accounts and their end, and follow their changes from now on."""
    shared = session.shared
    session.follows_positions = True
    rows = [answers.position(name, each) for name, account in shared.accounts.items() for each in account.positions]
    session.send(*rows[: shared.faults.position_limit])
    end = (Answer.POSITION_END, 1)
    if shared.faults.position_end_delay:
        session.later(shared.faults.position_end_delay, lambda: session.send(end))
    else:
        session.send(end)


def cancel_positions(session: Session, _fields: Fields) -> None:
    """Follow position changes no longer."""
    session.follows_positions = False


def positions_multi(session: Session, fields: Fields) -> None:
    """Send the positions of one account, or of all, once."""
    req_id, model = fields.integer(2), fields.text(4)
    accounts = _accounts(session, req_id, fields.text(3))
    if accounts is None:
        return
    for account in accounts:
        session.send(*(answers.position_multi(req_id, account.account_id, model, each) for each in account.positions))
    session.send((Answer.POSITION_MULTI_END, 1, req_id))


def account_updates(session: Session, fields: Fields) -> None:
    """Follow one account's values and portfolio, or stop following.

    A client that follows an account and asks for another one follows the new one only, and hears so (2100), as it does
    when it stops. While another client follows a different account, the request is turned down (2101).
    """
    before, ended = session.followed_account, answers.error(session.version, NO_REQUEST, 2100)
    if not fields.flag(2):
        session.followed_account = ""
        if before:
            session.send(ended)
        return
    account = _account(session, NO_REQUEST, fields.text(3))
    if account is None:
        return
    others = session.shared.sessions - {session}
    busy = sorted(each.client_id for each in others if each.followed_account not in ("", account.account_id))
    if busy:
        session.refuse(NO_REQUEST, 2101, f"{answers.TEXTS[2101]} {', '.join(map(str, busy))}")
        return
    if before not in ("", account.account_id):
        session.send(ended)
    session.followed_account = account.account_id
    if account.account_id not in session.shared.faults.silent_accounts:
        session.send_portfolio()
        session.send((Answer.ACCOUNT_DOWNLOAD_END, 1, account.account_id))


def account_updates_multi(session: Session, fields: Fields) -> None:
    """Send the values of one account, or of all, once."""
    req_id, model = fields.integer(2), fields.text(4)
    accounts = _accounts(session, req_id, fields.text(3))
    if accounts is None or any(each.account_id in session.shared.faults.silent_accounts for each in accounts):
        return
    for account in accounts:
        session.send(*answers.account_values_multi(req_id, account.account_id, model, account.totals()))
    session.send((Answer.ACCOUNT_UPDATE_MULTI_END, 1, req_id))


def account_summary(session: Session, fields: Fields) -> None:
    """Send the values that were asked for by tag, of all accounts or of one that is named instead of a group."""
    req_id, tags = fields.integer(2), fields.text(4).split(",")
    accounts = _accounts(session, req_id, fields.text(3))
    if accounts is None:
        return
    for account in accounts:
        if account.account_id not in session.shared.faults.silent_accounts:
            session.send(*answers.account_summary(req_id, account.account_id, tags, account.totals()))
    session.send((Answer.ACCOUNT_SUMMARY_END, 1, req_id))


def pnl(session: Session, fields: Fields) -> None:
    """Follow one account's profit."""
    _follow_profit(session, fields.integer(1), fields.text(2), conid=0)


def pnl_single(session: Session, fields: Fields) -> None:
    """Follow one position's profit."""
    req_id, conid = fields.integer(1), fields.integer(4)
    if session.shared.market.instrument(conid) is None:
        session.refuse(req_id, 321, answers.invalid(f"Invalid contract id {conid}"))
    else:
        _follow_profit(session, req_id, fields.text(2), conid)


def cancel_pnl(session: Session, fields: Fields) -> None:
    """Follow an account's or a position's profit no longer."""
    session.pnl.pop(fields.integer(1), None)


def managed_accounts(session: Session, _fields: Fields) -> None:
    """Name the accounts."""
    session.send((Answer.MANAGED_ACCOUNTS, 1, ",".join(session.shared.accounts)))


def _follow_profit(session: Session, req_id: int, account_id: str, conid: int) -> None:
    account = _account(session, req_id, account_id)
    if account is not None:
        session.pnl[req_id] = (account.account_id, conid, None)
        session.send_pnl(req_id)


def _account(session: Session, req_id: int, account_id: str) -> Account | None:
    """Return the account that a request names, or refuse the request; none need be named if there is only one."""
    accounts = session.shared.accounts
    if account_id in accounts:
        return accounts[account_id]
    if not account_id and len(accounts) == 1:
        return session.shared.account
    cause = (
        f"Invalid account code '{account_id}'." if account_id else "The account code is required for this operation."
    )
    session.refuse(req_id, 321, answers.invalid(cause))
    return None


def _accounts(session: Session, req_id: int, account_id: str) -> list[Account] | None:
    """Return all accounts for "All" or for none named, else the one that is named; or refuse the request."""
    if account_id.upper() in ("", ALL):
        return list(session.shared.accounts.values())
    account = _account(session, req_id, account_id)
    return None if account is None else [account]
