"""What the gateway says: server-to-client messages as tuples of fields, for the negotiated version. Pure.

Versions matter, because official clients read by position and drop a message with a field too many. Source of each
version bound: the published decoders of IB's own client and of ib_async.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from v6kit.gateway.market import COARSE_FROM, COARSE_TICK, FUTURE_TICK, TICK, Market, TopOfBook, min_tick
from v6kit.gateway.requests import exchanges
from v6kit.gateway.wire import Answer, Field

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from v6kit.contracts import Instrument
    from v6kit.gateway.account import Account, Position, Valuation
    from v6kit.gateway.pricing import Greeks

Message = tuple[Field, ...]

NO_REQUEST = -1
FROM_SIZE_RULES = 164  # contract details lose two fields and gain three
FROM_ADVANCED_REJECT = 166  # errors gain a field
FROM_DESCRIPTION = 176  # matching symbols gain two fields

RULES = {"OPT": 26, "STK": 27, "FUT": 28, "IND": 28}
PRICE_STEPS = {
    RULES["OPT"]: ((0.0, TICK), (COARSE_FROM, COARSE_TICK)),
    RULES["STK"]: ((0.0, TICK),),
    RULES["FUT"]: ((0.0, FUTURE_TICK),),
}
"""By the id of a market rule: from which price on valid prices are how far apart."""

TEXTS = {
    100: "Max rate of messages per second has been exceeded",
    101: "Max number of tickers has been reached",
    102: "Duplicate ticker id",
    200: "No security definition has been found for the request",
    300: "Can't find EId with tickerId",
    326: "Unable to connect as the client id is already in use. Retry with a unique client id.",
    354: "Requested market data is not subscribed. Delayed market data is available.",
    1100: "Connectivity between IBKR and Trader Workstation has been lost.",
    1101: "Connectivity between IBKR and Trader Workstation has been restored - data lost.",
    1102: "Connectivity between IBKR and Trader Workstation has been restored - data maintained.",
    2100: "API client has been unsubscribed from account data.",
    2101: "Unable to subscribe to account as the following clients are subscribed to a different account.",
    2103: "Market data farm connection is broken:simulated",
    2104: "Market data farm connection is OK:simulated",
    2106: "HMDS data farm connection is OK:simulated",
    2110: "Connectivity between Trader Workstation and server is broken. It will be restored automatically.",
    2158: "Sec-def data farm connection is OK:simulated",
    10089: "Requested market data requires additional subscription for API. Delayed market data is available.",
    10090: "Part of requested market data is not subscribed. Subscription-independent ticks are still active.",
    10167: "Requested market data is not subscribed. Displaying delayed market data.",
    10168: "Requested market data is not subscribed. Delayed market data is not enabled.",
    10197: "No market data during competing live session",
}


def error(version: int, req_id: int, code: int, text: str | None = None) -> Message:
    """Return an error or a notice; IB uses the same message for both."""
    words = TEXTS.get(code, f"Simulated error {code}") if text is None else text
    message = (Answer.ERROR, 2, req_id, code, words)
    return (*message, "") if version >= FROM_ADVANCED_REJECT else message


def outages(version: int, *, linked: bool, broken_farms: Iterable[str]) -> Iterator[Message]:
    """Return what a client is told of at its start because it has missed the beginning."""
    for farm in sorted(broken_farms):
        yield error(version, NO_REQUEST, 2103, farm_news(2103, farm))
    if not linked:
        yield error(version, NO_REQUEST, 2110)


def farm_news(code: int, farm: str) -> str:
    """Return the text of 2103 or 2104 for a market data farm."""
    return TEXTS[code].replace("simulated", farm)


def invalid(cause: str) -> str:
    """Return the text of error 321 in IB's wording."""
    return f"Error validating request.-'bW' : cause - {cause}"


def _contract(instrument: Instrument, *exchange: str) -> Message:
    """Return the contract fields of position and portfolio messages; stocks have no multiplier there."""
    return (
        instrument.conid,
        instrument.symbol,
        instrument.sec_type,
        instrument.expiry or "",
        instrument.strike or 0.0,
        instrument.right or "",
        instrument.multiplier if instrument.expiry else "",
        *exchange,
        instrument.currency,
        instrument.local_symbol,
        instrument.trading_class,
    )


def position(account_id: str, held: Position) -> Message:
    """Return a position; like IB, it names no exchange for what expires."""
    exchange = "" if held.instrument.expiry else held.instrument.exchange
    return (Answer.POSITION, 3, account_id, *_contract(held.instrument, exchange), held.quantity, held.avg_cost)


def position_multi(req_id: int, account_id: str, model: str, held: Position) -> Message:
    """Return a position as an answer to reqPositionsMulti."""
    _, _, *fields = position(account_id, held)
    return (Answer.POSITION_MULTI, 1, req_id, *fields, model)


def portfolio(account_id: str, valued: Valuation) -> Message:
    """Return a position with its price, value and profit; costs the client no market data line."""
    held = valued.position
    primary = held.instrument.exchange if held.instrument.sec_type != "OPT" else ""
    return (
        Answer.PORTFOLIO_VALUE,
        8,
        *_contract(held.instrument, primary),
        held.quantity,
        valued.price,
        valued.value,
        held.avg_cost,
        valued.unrealized,
        valued.realized,
        account_id,
    )


def account_values(account_id: str, totals: dict[str, str]) -> Iterator[Message]:
    """Return account values as account updates carry them."""
    for key, value, currency in _keyed(account_id, totals):
        yield (Answer.ACCOUNT_VALUE, 2, key, value, currency, account_id)


def account_values_multi(req_id: int, account_id: str, model: str, totals: dict[str, str]) -> Iterator[Message]:
    """Return account values of one account and model."""
    for key, value, currency in _keyed(account_id, totals):
        yield (Answer.ACCOUNT_UPDATE_MULTI, 1, req_id, account_id, model, key, value, currency)


def account_summary(req_id: int, account_id: str, tags: Iterable[str], totals: dict[str, str]) -> Iterator[Message]:
    """Return the account values that were asked for by tag; unknown tags are left out, as IB does."""
    known = {key: (value, currency) for key, value, currency in _keyed(account_id, totals)}
    for tag in tags:
        if tag in known:
            yield (Answer.ACCOUNT_SUMMARY, 1, req_id, account_id, tag, *known[tag])


def _keyed(account_id: str, totals: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    yield "AccountCode", account_id, ""
    yield "AccountType", "SIMULATED", ""
    for key, value in totals.items():
        yield key, value, "USD"


def contract_details(version: int, req_id: int, instrument: Instrument, market: Market) -> Message:
    """Return all that is known about a contract."""
    underlying = market.underlying(instrument.symbol)
    under_conid = market.find(symbol=instrument.symbol)[0].conid if instrument.expiry else 0
    name = underlying.name if underlying else instrument.symbol
    before = version < FROM_SIZE_RULES
    hours = _hours(market.clock.now())
    routed = "SMART" if instrument.sec_type == "STK" else instrument.exchange
    primary = "" if instrument.sec_type == "OPT" else instrument.exchange
    head: Message = (instrument.symbol, instrument.sec_type, instrument.expiry or "", instrument.strike or 0.0)
    names: Message = (instrument.right or "", routed, instrument.currency, instrument.local_symbol)
    kind: Message = (instrument.symbol, instrument.trading_class, instrument.conid, min_tick(instrument.sec_type, 0.0))
    return (
        *((Answer.CONTRACT_DETAILS, 8) if before else (Answer.CONTRACT_DETAILS,)),
        *(req_id, *head, *names, *kind),
        *((100,) if before else ()),  # market data size multiplier
        *(
            instrument.multiplier if instrument.expiry else "",
            "LMT,MKT",
            ",".join(exchanges(instrument)),
            1,
            under_conid,
        ),
        *(name, primary, (instrument.expiry or "")[:6], "", "", "", "US/Eastern", hours, hours, "", 0.0, 0),
        *(1, instrument.symbol if under_conid else "", _under_type(instrument), str(RULES[instrument.sec_type])),
        *(instrument.expiry or "", "COMMON" if instrument.sec_type == "STK" else ""),
        *(() if before else (1, 1, 100)),  # smallest size, size increment, suggested size increment
    )


def market_rule(rule: int) -> Message:
    """Return the price steps of a rule: from which price on, and how far apart."""
    steps = PRICE_STEPS[rule]
    return (Answer.MARKET_RULE, rule, len(steps), *(field for step in steps for field in step))


def symbol_samples(version: int, req_id: int, found: list[Instrument], market: Market) -> Message:
    """Return contracts that a symbol stands for, each with what is derived from it."""
    fields: list[Field] = []
    for each in found:
        derived = sorted({other.sec_type for other in market.find(symbol=each.symbol)} - {each.sec_type})
        fields += (each.conid, each.symbol, each.sec_type, each.exchange, each.currency, len(derived), *derived)
        if version >= FROM_DESCRIPTION:
            underlying = market.underlying(each.symbol)
            fields += (underlying.name if underlying else "", "")
    return (Answer.SYMBOL_SAMPLES, req_id, len(found), *fields)


def _under_type(instrument: Instrument) -> str:
    return {"OPT": "STK", "FUT": "IND"}.get(instrument.sec_type, "")


def _hours(now: datetime) -> str:
    """Return five days of trading hours, all day long, because the simulated market never closes by itself."""
    days = (now + timedelta(days=i) for i in range(5))
    return ";".join(f"{day:%Y%m%d}:0000-{day:%Y%m%d}:2359" for day in days)


def option_chain(req_id: int, symbol: str, market: Market) -> Iterator[Message]:
    """Return a symbol's expiries and strikes, once per exchange; nothing for a symbol without options."""
    listed = market.find(symbol=symbol, sec_type="OPT")
    if not listed:
        return
    expiries = sorted({each.expiry or "" for each in listed})
    strikes = market.strikes(symbol)
    under_conid = market.find(symbol=symbol, sec_type="STK")[0].conid
    for exchange in exchanges(listed[0]):
        start = (Answer.SEC_DEF_OPT_PARAMS, req_id, exchange, under_conid, symbol, listed[0].multiplier)
        yield (*start, len(expiries), *expiries, len(strikes), *strikes)


def pnl_single(req_id: int, account: Account, conid: int) -> Message:
    """Return one position's profit: daily, unrealized, realized, and its value; of a closed one what it realized."""
    held = account.position(conid)
    if held is None:
        return (Answer.PNL_SINGLE, req_id, 0, 0.0, 0.0, account.realized(conid), 0.0)
    valued = account.value(held)
    profit = (valued.daily, valued.unrealized, valued.realized)
    return (Answer.PNL_SINGLE, req_id, held.quantity, *profit, valued.value)


def pnl(req_id: int, account: Account) -> Message:
    """Return an account's profit: daily, unrealized, realized."""
    valued = [account.value(each) for each in account.positions]
    daily, unrealized = sum(each.daily for each in valued), sum(each.unrealized for each in valued)
    return (Answer.PNL, req_id, round(daily, 2), round(unrealized, 2), account.realized())


# Market data. Delayed ticks have ids of their own.

LIVE, FROZEN, DELAYED, DELAYED_FROZEN = 1, 2, 3, 4
PRICE_TICKS = {"bid": (1, 66), "ask": (2, 67), "last": (4, 68), "close": (9, 75)}
SIZE_TICKS = {"bid": (0, 69), "ask": (3, 70), "last": (5, 71), "volume": (8, 74)}
GREEK_TICKS = {"bid": (10, 80), "ask": (11, 81), "last": (12, 82), "model": (13, 83)}
LAST_TIME_TICKS = (45, 88)
HALTED_TICK = 49


def ticks(req_id: int, top: TopOfBook, data_type: int, *, is_open: bool) -> list[Message]:
    """Return all ticks of a contract, each as its own message.

    A closed market has no live quotes: type 1 then gives -1 without a size for bid and ask, and the close.
    """
    kind = int(data_type in (DELAYED, DELAYED_FROZEN))
    if data_type == LIVE and not is_open:
        gone = [(Answer.TICK_PRICE, 6, req_id, PRICE_TICKS[side][0], -1.0, 0, 0) for side in ("bid", "ask")]
        return [*gone, (Answer.TICK_PRICE, 6, req_id, PRICE_TICKS["close"][0], top.close, 0, 0)]
    prices = {"bid": (top.bid, top.bid_size), "ask": (top.ask, top.ask_size), "last": (top.last, top.last_size)}
    found: list[Message] = []
    for side, (price, size) in prices.items():
        found.append((Answer.TICK_PRICE, 6, req_id, PRICE_TICKS[side][kind], price, size, int(side != "last")))
        found.append((Answer.TICK_SIZE, 6, req_id, SIZE_TICKS[side][kind], size))
    found.append((Answer.TICK_SIZE, 6, req_id, SIZE_TICKS["volume"][kind], top.volume))
    found.append((Answer.TICK_PRICE, 6, req_id, PRICE_TICKS["close"][kind], top.close, 0, 0))
    found.append((Answer.TICK_STRING, 6, req_id, LAST_TIME_TICKS[kind], str(top.last_at)))
    if not kind:
        found.append((Answer.TICK_GENERIC, 6, req_id, HALTED_TICK, float(top.halted)))
    if top.greeks:
        for side, price in (("bid", top.bid), ("ask", top.ask), ("last", top.last), ("model", top.model)):
            found.append(_computation(req_id, GREEK_TICKS[side][kind], price, top.greeks))
    return found


def _computation(req_id: int, tick: int, price: float, greeks: Greeks) -> Message:
    """Return greeks; the volatility that a quoted price implies is taken to first order around the model's.

    Where vega is too small to say, the volatility is IB's -1: not computed.
    """
    vol = greeks.implied_vol
    if price != greeks.price:
        vol = vol + (price - greeks.price) / greeks.vega / 100.0 if greeks.vega > 0.001 else -1.0  # noqa: PLR2004 - 0.1 cent
    values = (vol if vol > 0 else -1.0, greeks.delta, price, 0.0, greeks.gamma, greeks.vega, greeks.theta)
    rounded = (round(value, 8) for value in values)
    return (Answer.TICK_OPTION_COMPUTATION, req_id, tick, 0, *rounded, round(greeks.underlying_price, 4))
