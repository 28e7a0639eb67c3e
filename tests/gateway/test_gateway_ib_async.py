"""The simulated gateway with the real ib_async client, over TCP: answers, limits, faults."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import TYPE_CHECKING

import ib_async
import pytest
from tests.patience import DEADLINE
from v6kit.gateway import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from v6kit.clock import FakeClock
    from v6kit.contracts import Instrument
    from v6kit.gateway import SimulatedGateway

    Errors = asyncio.Queue[tuple[int, int, str]]
    ErrorsOf = Callable[[ib_async.IB], Errors]
    Routed = Callable[[Instrument], ib_async.Contract]


async def error_with(errors: Errors, code: int) -> tuple[int, int, str]:
    """Wait for the next error with a code."""
    async with asyncio.timeout(DEADLINE):
        while True:
            error = await errors.get()
            if error[1] == code:
                return error


async def happens(event: object) -> tuple[object, ...]:
    """Wait for an ib_async event."""
    waiting = asyncio.get_running_loop().create_future()
    listener = lambda *values: waiting.done() or waiting.set_result(values)  # noqa: E731 - taken off again below
    event.connect(listener)
    try:
        async with asyncio.timeout(DEADLINE):
            return await waiting
    finally:
        event.disconnect(listener)


async def round_trip(ib: ib_async.IB) -> None:
    """Wait until all that was sent before is answered."""
    async with asyncio.timeout(DEADLINE):
        await ib.reqCurrentTimeAsync()


@pytest.fixture
def option(gateway: SimulatedGateway) -> Instrument:
    """A leg that the account holds."""
    return gateway.account.positions[0].instrument


# Start-up, positions, account


async def test_a_client_starts_up_with_the_whole_account(gateway: SimulatedGateway, ib: ib_async.IB) -> None:
    """After connecting, positions, portfolio and account values are there and agree with the account."""
    held = {each.instrument.conid: (each.quantity, each.avg_cost) for each in gateway.account.positions}
    assert ib.client.serverVersion() == 178
    assert ib.managedAccounts() == ["DU0000001"]
    assert {each.contract.conId: (each.position, each.avgCost) for each in ib.positions()} == held
    assert {each.contract.conId for each in ib.portfolio()} == set(held)
    values = {each.tag: each.value for each in ib.accountValues()}
    assert values["AccountType"] == "SIMULATED"
    assert float(values["NetLiquidation"]) > 0
    assert gateway.client_ids == [1]


async def test_positions_of_options_and_futures_name_no_exchange(ib: ib_async.IB) -> None:
    """As at IB, a position's contract cannot be requested as it comes."""
    exchanges = {each.contract.secType: each.contract.exchange for each in ib.positions()}
    assert exchanges["OPT"] == exchanges["FUT"] == ""
    assert exchanges["STK"]


async def test_the_portfolio_carries_price_value_and_profit(gateway: SimulatedGateway, ib: ib_async.IB) -> None:
    """A portfolio item is the account's own valuation."""
    item = ib.portfolio()[0]
    valued = gateway.account.value(gateway.account.position(item.contract.conId))
    assert (item.marketPrice, item.marketValue, item.unrealizedPNL) == (valued.price, valued.value, valued.unrealized)


async def test_a_position_change_is_pushed(gateway: SimulatedGateway, ib: ib_async.IB, option: Instrument) -> None:
    """A subscribed client hears of a trade by itself, as position and as portfolio item."""
    gateway.account.set_position(option.conid, 9)
    (position,), (item,) = await asyncio.gather(happens(ib.positionEvent), happens(ib.updatePortfolioEvent))
    assert (position.contract.conId, position.position) == (option.conid, 9)
    assert (item.contract.conId, item.position) == (option.conid, 9)


async def test_a_closed_position_is_pushed_as_zero(
    gateway: SimulatedGateway, ib: ib_async.IB, option: Instrument
) -> None:
    """A position that is gone comes once more, with quantity 0."""
    gateway.account.set_position(option.conid, 0)
    (position,) = await happens(ib.positionEvent)
    assert (position.contract.conId, position.position) == (option.conid, 0)
    assert option.conid not in {each.contract.conId for each in ib.positions()}


async def test_a_position_may_be_changed_from_another_thread(
    gateway: SimulatedGateway, ib: ib_async.IB, option: Instrument
) -> None:
    """The push finds its way to the gateway's loop."""
    thread = threading.Thread(target=gateway.account.set_position, args=(option.conid, 3))
    thread.start()
    (position,) = await happens(ib.positionEvent)
    thread.join()
    assert position.position == 3


async def test_cancelled_positions_are_pushed_no_longer(
    gateway: SimulatedGateway, ib: ib_async.IB, option: Instrument
) -> None:
    """After cancelPositions a trade shows in the portfolio only."""
    ib.client.cancelPositions()
    await round_trip(ib)
    before = gateway.log.sent["POSITION"]
    gateway.account.set_position(option.conid, 9)
    await happens(ib.updatePortfolioEvent)
    assert gateway.log.sent["POSITION"] == before


async def test_the_portfolio_is_pushed_from_time_to_time(make_gateway, connect) -> None:
    """Without a trade, IB sends the portfolio every three minutes; here the interval is short."""
    ib = await connect(await make_gateway(portfolio_interval=0.05))
    (item,) = await happens(ib.updatePortfolioEvent)
    assert item.contract.conId


async def test_the_time_is_the_clocks(clock: FakeClock, ib: ib_async.IB) -> None:
    """The gateway tells the time of the clock that it was given."""
    async with asyncio.timeout(DEADLINE):
        assert await ib.reqCurrentTimeAsync() == clock.now()


async def test_an_account_summary_has_the_tags_that_were_asked_for(ib: ib_async.IB) -> None:
    """Known tags come back, each with its currency."""
    async with asyncio.timeout(DEADLINE):
        summary = {each.tag: each.currency for each in await ib.accountSummaryAsync()}
    assert summary["NetLiquidation"] == "USD"


async def test_profit_of_one_position_follows_the_price(
    gateway: SimulatedGateway, clock: FakeClock, ib: ib_async.IB, option: Instrument
) -> None:
    """A P&L subscription sends the current profit and sends it again when it changes."""
    pnl = ib.reqPnLSingle("DU0000001", "", option.conid)
    await happens(ib.pnlSingleEvent)
    valued = gateway.account.value(gateway.account.position(option.conid))
    assert (pnl.unrealizedPnL, pnl.value) == (valued.unrealized, valued.value)
    clock.advance(60)
    await happens(ib.pnlSingleEvent)
    assert pnl.value != valued.value
    ib.cancelPnLSingle("DU0000001", "", option.conid)
    await round_trip(ib)


# Contracts


async def test_details_of_a_contract_by_its_id(ib: ib_async.IB, option: Instrument) -> None:
    """The details complete what a position leaves out."""
    async with asyncio.timeout(DEADLINE):
        (details,) = await ib.reqContractDetailsAsync(ib_async.Contract(conId=option.conid))
    contract = details.contract
    assert (contract.symbol, contract.right, contract.strike) == (option.symbol, option.right, option.strike)
    assert (contract.exchange, contract.multiplier) == ("SMART", "100")
    assert details.underSymbol == option.symbol
    assert details.longName.startswith("Simulated")


async def test_a_future_is_found_under_its_own_exchange_only(gateway: SimulatedGateway, ib: ib_async.IB) -> None:
    """SMART routes no futures."""
    future = gateway.market.find(sec_type="FUT")[0]
    async with asyncio.timeout(DEADLINE):
        (details,) = await ib.reqContractDetailsAsync(ib_async.Contract(conId=future.conid))
        none = await ib.reqContractDetailsAsync(ib_async.Contract(conId=future.conid, exchange="SMART"))
    assert details.contract.exchange == "CME"
    assert none == []


async def test_a_chain_is_found_by_symbol_expiry_and_right(gateway: SimulatedGateway, ib: ib_async.IB) -> None:
    """Fields that are left empty match every contract."""
    expiry = gateway.market.expiries[1]
    async with asyncio.timeout(DEADLINE):
        chain = await ib.reqContractDetailsAsync(ib_async.Option("SPY", expiry, 0.0, "P", "SMART"))
    assert [each.contract.strike for each in chain] == gateway.market.strikes("SPY")


async def test_an_underlyings_expiries_and_strikes_are_told(gateway: SimulatedGateway, ib: ib_async.IB) -> None:
    """Option parameters agree with the listing."""
    stock = gateway.market.find(symbol="IWM", sec_type="STK")[0]
    async with asyncio.timeout(DEADLINE):
        chains = await ib.reqSecDefOptParamsAsync("IWM", "", "STK", stock.conid)
    smart = next(each for each in chains if each.exchange == "SMART")
    assert smart.expirations == gateway.market.expiries
    assert smart.strikes == gateway.market.strikes("IWM")


async def test_an_unknown_or_expired_contract_gives_200(
    gateway: SimulatedGateway, ib: ib_async.IB, errors_of: ErrorsOf, routed: Routed
) -> None:
    """Details and market data alike; includeExpired finds the expired one's details."""
    errors = errors_of(ib)
    gone = gateway.market.find(symbol="SPY", expiry=gateway.market.past_expiry, include_expired=True)[0]
    async with asyncio.timeout(DEADLINE):
        assert await ib.reqContractDetailsAsync(ib_async.Contract(conId=5)) == []
        assert await ib.reqContractDetailsAsync(ib_async.Contract(conId=gone.conid)) == []
        assert await ib.reqContractDetailsAsync(ib_async.Contract(conId=gone.conid, includeExpired=True))
        await ib.reqTickersAsync(routed(gone))
    assert [code for _, code, _ in [errors.get_nowait() for _ in range(3)]] == [200, 200, 200]


# Market data


async def test_a_snapshot_brings_prices_greeks_and_its_end(
    gateway: SimulatedGateway, ib: ib_async.IB, option: Instrument, routed: Routed
) -> None:
    """All default ticks arrive, and the line is free again after the end."""
    async with asyncio.timeout(DEADLINE):
        (ticker,) = await ib.reqTickersAsync(routed(option))
    quote = gateway.market.quote(option.conid)
    assert (ticker.bid, ticker.ask, ticker.last, ticker.close) == (quote.bid, quote.ask, quote.last, quote.close)
    assert (ticker.bidSize, ticker.askSize) == (quote.bid_size, quote.ask_size)
    assert ticker.modelGreeks.delta == pytest.approx(quote.greeks.delta)
    assert ticker.modelGreeks.undPrice == pytest.approx(gateway.market.spot(option.symbol), abs=1e-3)
    assert ticker.marketDataType == 1
    assert (gateway.line_peak, gateway.lines_in_use) == (1, 0)
    assert gateway.log.sent["TICK_SNAPSHOT_END"] == 1


async def test_a_snapshot_of_a_stock_and_of_a_future_has_no_greeks(
    gateway: SimulatedGateway, ib: ib_async.IB, routed: Routed
) -> None:
    """Only options have greeks."""
    found = [gateway.market.find(sec_type=kind)[0] for kind in ("STK", "FUT")]
    async with asyncio.timeout(DEADLINE):
        tickers = await ib.reqTickersAsync(*map(routed, found))
    assert [each.modelGreeks for each in tickers] == [None, None]
    assert all(each.bid < each.ask for each in tickers)


async def test_a_stream_follows_the_price_until_it_is_cancelled(
    gateway: SimulatedGateway, clock: FakeClock, ib: ib_async.IB, option: Instrument, routed: Routed
) -> None:
    """Greeks and prices change with the clock; a cancel frees the line."""
    ticker = ib.reqMktData(routed(option))
    await happens(ticker.updateEvent)
    first = ticker.modelGreeks
    clock.advance(30)
    await happens(ticker.updateEvent)
    assert ticker.modelGreeks.undPrice != first.undPrice
    assert (ticker.bid, ticker.ask) == (gateway.market.quote(option.conid).bid, gateway.market.quote(option.conid).ask)
    assert gateway.lines_in_use == 1
    ib.cancelMktData(ticker.contract)
    await round_trip(ib)
    assert gateway.lines_in_use == 0


async def test_a_stream_sends_only_what_has_changed(
    gateway: SimulatedGateway, ib: ib_async.IB, option: Instrument, routed: Routed
) -> None:
    """While the clock stands still, a stream is silent."""
    ticker = ib.reqMktData(routed(option))
    await happens(ticker.updateEvent)
    sent = gateway.log.sent["TICK_PRICE"]
    for _ in range(5):
        await round_trip(ib)
    assert gateway.log.sent["TICK_PRICE"] == sent


async def test_cancelling_what_does_not_run_gives_300(ib: ib_async.IB, errors_of: ErrorsOf) -> None:
    """The error carries the id that was not found."""
    errors = errors_of(ib)
    ib.client.cancelMktData(4711)
    assert await error_with(errors, 300) == (4711, 300, "Can't find EId with tickerId:4711")


async def test_cancelling_a_snapshot_in_flight_frees_its_line(make_gateway, connect, routed: Routed) -> None:
    """A snapshot that is given up does not hold its line until its end."""
    gateway = await make_gateway(snapshot_hold=60.0)
    ib = await connect(gateway)
    ticker = ib.reqMktData(routed(gateway.account.positions[0].instrument), "", snapshot=True)
    await happens(ticker.updateEvent)
    assert gateway.lines_in_use == 1
    ib.cancelMktData(ticker.contract)
    await round_trip(ib)
    assert gateway.lines_in_use == 0


async def test_two_gateways_with_one_seed_agree(make_gateway, connect, clock: FakeClock) -> None:
    """Positions and prices of two gateways are the same to the last digit, now and later."""
    first, second = [await connect(await make_gateway(seed=11)) for _ in range(2)]
    assert [each.contract for each in first.positions()] == [each.contract for each in second.positions()]
    contract = ib_async.Contract(conId=first.positions()[0].contract.conId, exchange="SMART")
    for _ in range(2):
        async with asyncio.timeout(DEADLINE):
            (one,), (other,) = await asyncio.gather(first.reqTickersAsync(contract), second.reqTickersAsync(contract))
        assert (one.bid, one.ask, one.modelGreeks) == (other.bid, other.ask, other.modelGreeks)
        clock.advance(77)


async def test_delayed_data_has_ticks_of_its_own(ib: ib_async.IB, option: Instrument, routed: Routed) -> None:
    """Market data type 3 is reported with the request, and the prices are there."""
    ib.reqMarketDataType(3)
    ticker = ib.reqMktData(routed(option))
    await happens(ticker.updateEvent)
    assert ticker.marketDataType == 3
    assert {tick.tickType for tick in ticker.ticks} >= {66, 67, 68}


async def test_a_closed_market_has_no_live_quotes_but_frozen_ones(
    gateway: SimulatedGateway, ib: ib_async.IB, option: Instrument, routed: Routed
) -> None:
    """Type 1 gives -1 for bid and ask, type 2 the last ones."""
    gateway.market.is_open = False
    async with asyncio.timeout(DEADLINE):
        (live,) = await ib.reqTickersAsync(routed(option))
        assert not live.hasBidAsk()
        ib.reqMarketDataType(2)
        (frozen,) = await ib.reqTickersAsync(routed(option))
    assert frozen.bid == gateway.market.quote(option.conid).bid
    assert frozen.marketDataType == 2
    prices = [each.fields for each in gateway.log.records if each.name == "TICK_PRICE"]
    assert [fields[3:6] for fields in prices[:2]] == [("1", "-1", "0"), ("2", "-1", "0")]


# Limits


async def test_more_streams_than_lines_give_101(make_gateway, connect, errors_of: ErrorsOf, routed: Routed) -> None:
    """The stream over the limit is refused; the others keep their lines."""
    gateway = await make_gateway(line_limit=2)
    ib = await connect(gateway)
    errors = errors_of(ib)
    for each in gateway.account.positions[:3]:
        ib.reqMktData(routed(each.instrument))
    assert (await error_with(errors, 101))[2] == "Max number of tickers has been reached"
    assert (gateway.lines_in_use, gateway.line_peak, gateway.log.refused[101]) == (2, 2, 1)


@pytest.mark.parametrize(("takes", "refused"), [(True, 1), (False, 0)])
async def test_snapshots_in_flight_take_lines_if_so_configured(
    *, make_gateway, connect, routed: Routed, takes: bool, refused: int
) -> None:
    """With `snapshots_use_lines` a snapshot beside a stream needs a line of its own."""
    gateway = await make_gateway(line_limit=1, snapshots_use_lines=takes)
    ib = await connect(gateway)
    first, second = (each.instrument for each in gateway.account.positions[:2])
    ib.reqMktData(routed(first))
    async with asyncio.timeout(DEADLINE):
        await ib.reqTickersAsync(routed(second))
    assert gateway.log.refused[101] == refused


async def test_too_many_snapshots_in_a_second_give_321(
    make_gateway, connect, errors_of: ErrorsOf, routed: Routed
) -> None:
    """The text is IB's, with the limit in it."""
    gateway = await make_gateway(snapshots_per_second=3)
    ib = await connect(gateway)
    errors = errors_of(ib)
    for each in gateway.account.positions[:4]:
        ib.reqMktData(routed(each.instrument), "", snapshot=True)
    _, _, text = await error_with(errors, 321)
    assert "Snapshot requests limitation exceeded:3 per 1 second(s)" in text
    assert gateway.log.snapshot_peak == 3


@pytest.mark.parametrize(
    ("generic", "regulatory", "exchange", "cause"),
    [("106", False, "SMART", "generic ticks"), ("", True, "SMART", "cost money"), ("", False, "", "enter exchange")],
)
async def test_a_request_that_ib_would_not_accept_gives_321(
    *,
    ib: ib_async.IB,
    errors_of: ErrorsOf,
    option: Instrument,
    generic: str,
    regulatory: bool,
    exchange: str,
    cause: str,
) -> None:
    """Generic ticks on a snapshot, a regulatory snapshot, a contract without an exchange."""
    errors = errors_of(ib)
    contract = ib_async.Contract(conId=option.conid, exchange=exchange)
    ib.reqMktData(contract, generic, snapshot=True, regulatorySnapshot=regulatory)
    assert cause in (await error_with(errors, 321))[2]


async def test_a_request_id_in_use_gives_102(ib: ib_async.IB, errors_of: ErrorsOf, option: Instrument, routed) -> None:
    """Two requests cannot share an id."""
    errors = errors_of(ib)
    for _ in range(2):
        ib.client.reqMktData(50, routed(option), "", False, False, [])
    assert (await error_with(errors, 102))[0] == 50


async def test_a_client_id_in_use_gives_326_and_the_door(gateway: SimulatedGateway, ib: ib_async.IB, connect) -> None:
    """The second client is sent away; the first one stays."""
    other = ib_async.IB()
    codes: list[int] = []
    other.errorEvent += lambda _req_id, code, _text, _contract: codes.append(code)
    with pytest.raises(TimeoutError):
        await other.connectAsync(gateway.host, gateway.port, clientId=1, timeout=0.3)
    assert codes == [326]
    await round_trip(ib)
    assert gateway.client_ids == [1]
    await connect(gateway, 2)
    assert gateway.client_ids == [1, 2]


async def test_a_burst_of_messages_gives_100_once(make_gateway, connect, errors_of: ErrorsOf) -> None:
    """Messages over the limit are discarded, and the client hears of it once."""
    gateway = await make_gateway(messages_per_second=20)
    ib = await connect(gateway)
    ib.client.MaxRequests = 0  # the client's own brake is off
    errors = errors_of(ib)
    for _ in range(30):
        ib.client.setServerLogLevel(1)
    assert "max=20" in (await error_with(errors, 100))[2]
    await gateway.stop()
    assert gateway.log.refused[100] >= 10
    assert gateway.log.sent["ERROR"] == 3 + 1
    assert gateway.log.message_peak > 20


async def test_the_third_burst_ends_the_connection(make_gateway, connect) -> None:
    """A client that does not slow down is dropped."""
    gateway = await make_gateway(messages_per_second=12)
    ib = await connect(gateway)
    ib.client.MaxRequests = 0
    gone = asyncio.ensure_future(happens(ib.disconnectedEvent))
    while not gone.done():
        ib.client.setServerLogLevel(1)
        await asyncio.wait({gone}, timeout=0.02)
    await gone
    rates = [each.fields[-2] for each in gateway.log.records if each.name == "ERROR" and each.fields[3] == "100"]
    assert [text[-3:] for text in rates] == ["(1)", "(2)", "(3)"]


# Faults


async def test_a_contract_can_be_refused_with_any_code(
    gateway: SimulatedGateway, ib: ib_async.IB, errors_of: ErrorsOf, option: Instrument, routed: Routed
) -> None:
    """A contract without subscription gives 354, its neighbour its prices."""
    gateway.faults.error_by_conid[option.conid] = 354
    errors = errors_of(ib)
    neighbour = gateway.account.positions[1].instrument
    async with asyncio.timeout(DEADLINE):
        refused, served = await ib.reqTickersAsync(routed(option), routed(neighbour))
    assert (await error_with(errors, 354))[2].startswith("Requested market data is not subscribed")
    assert math.isnan(refused.bid)
    assert served.bid > 0
    assert gateway.lines_in_use == 0


async def test_soft_codes_come_before_the_data(
    gateway: SimulatedGateway, ib: ib_async.IB, errors_of: ErrorsOf, option: Instrument, routed: Routed
) -> None:
    """After 10167 the data is delayed; after 10090 it is live."""
    other = gateway.account.positions[1].instrument
    gateway.faults.soft_by_conid = {option.conid: (10167,), other.conid: (10090,)}
    errors = errors_of(ib)
    delayed, live = ib.reqMktData(routed(option)), ib.reqMktData(routed(other))
    await error_with(errors, 10167)
    await error_with(errors, 10090)
    await round_trip(ib)
    assert (delayed.marketDataType, live.marketDataType) == (3, 1)
    assert delayed.bid > 0
    assert live.bid > 0


async def test_a_silent_contract_never_answers(
    gateway: SimulatedGateway, ib: ib_async.IB, option: Instrument, routed: Routed
) -> None:
    """Its snapshot holds a line and has neither tick nor end."""
    gateway.faults.silent_conids.add(option.conid)
    ticker = ib.reqMktData(routed(option), "", snapshot=True)
    neighbour = gateway.account.positions[1].instrument
    async with asyncio.timeout(DEADLINE):
        await ib.reqTickersAsync(routed(neighbour))
    assert ticker.ticks == []
    assert gateway.lines_in_use == 1
    assert gateway.log.sent["TICK_SNAPSHOT_END"] == 1


async def test_a_slow_snapshot_can_be_one_contracts_own(
    gateway: SimulatedGateway, ib: ib_async.IB, option: Instrument, routed: Routed
) -> None:
    """The hold of a contract goes before the hold of all, which goes before the gateway's."""
    gateway.faults.hold_by_conid[option.conid] = math.inf
    gateway.faults.snapshot_hold = 0.0
    endless = ib.reqMktData(routed(option), "", snapshot=True)
    async with asyncio.timeout(DEADLINE):
        await ib.reqTickersAsync(routed(gateway.account.positions[1].instrument))
    assert endless.bid > 0
    assert gateway.lines_in_use == 1


async def test_dropped_clients_lose_everything(
    gateway: SimulatedGateway, ib: ib_async.IB, connect, option: Instrument, routed: Routed
) -> None:
    """The connection is gone, its lines are free, and its id can be used again."""
    ib.reqMktData(routed(option))
    await round_trip(ib)
    gateway.drop_clients(1)
    await happens(ib.disconnectedEvent)
    assert (gateway.lines_in_use, gateway.client_ids) == (0, [])
    await connect(gateway, 1)


async def test_the_line_can_be_cut_in_the_middle_of_a_batch(
    gateway: SimulatedGateway, ib: ib_async.IB, routed: Routed
) -> None:
    """The third request finds no answer; the two before it did."""
    gateway.faults.drop_after = 3
    for each in gateway.account.positions[:6]:
        ib.reqMktData(routed(each.instrument))
    await happens(ib.disconnectedEvent)
    assert gateway.log.received["REQ_MKT_DATA"] == 3
    assert gateway.log.sent["MARKET_DATA_TYPE"] == 2
    assert gateway.faults.drop_after is None


async def test_new_connections_can_be_refused_for_a_while(
    gateway: SimulatedGateway, clock: FakeClock, ib: ib_async.IB, connect
) -> None:
    """Open connections stay; new ones are closed until the time is over on the gateway's clock."""
    gateway.refuse_connections_for(60)
    with pytest.raises((TimeoutError, ConnectionError)):
        await connect(gateway, 2, timeout=0.05)
    await round_trip(ib)
    clock.advance(60)
    await gateway.ticked()
    await connect(gateway, 2)
    assert gateway.client_ids == [1, 2]


async def test_a_stalled_link_is_silent_and_comes_back(gateway: SimulatedGateway, ib: ib_async.IB) -> None:
    """Nothing is answered while stalled, the socket stays open, and the answer comes afterwards."""
    gateway.faults.stalled = True
    waiting = asyncio.ensure_future(ib.reqCurrentTimeAsync())
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    assert ib.isConnected()
    gateway.faults.stalled = False
    async with asyncio.timeout(DEADLINE):
        await waiting


async def test_a_snapshot_that_ends_while_stalled_ends_afterwards(
    gateway: SimulatedGateway, ib: ib_async.IB, option: Instrument, routed: Routed
) -> None:
    """An answer that became due during a stall is not lost."""
    gateway.faults.snapshot_hold = 0.05
    snapshot = asyncio.ensure_future(ib.reqTickersAsync(routed(option)))
    await happens(ib.pendingTickersEvent)
    gateway.faults.stalled = True
    done, _ = await asyncio.wait({snapshot}, timeout=0.2)
    assert not done
    assert gateway.lines_in_use == 0
    gateway.faults.stalled = False
    async with asyncio.timeout(DEADLINE):
        await snapshot


async def test_a_handshake_may_be_all_there_is(gateway: SimulatedGateway, connect) -> None:
    """The version comes and then nothing, so the client's start-up times out."""
    gateway.faults.handshake_only = True
    with pytest.raises(TimeoutError):
        await connect(gateway, timeout=0.2)


async def test_a_start_up_answer_can_be_left_out(gateway: SimulatedGateway, connect) -> None:
    """Without the end of the account download the start-up is incomplete, and says so."""
    gateway.faults.silent_answers.add(Answer.ACCOUNT_DOWNLOAD_END)
    with pytest.raises(ConnectionError, match="account updates request timed out"):
        await connect(gateway, timeout=0.3)


async def test_positions_can_break_off_without_an_end(gateway: SimulatedGateway, ib: ib_async.IB) -> None:
    """Some positions came, their end did not: the request stays open."""
    gateway.faults.position_limit = 5
    gateway.faults.silent_answers.add(Answer.POSITION_END)
    before = gateway.log.sent["POSITION"]
    request = asyncio.ensure_future(ib.reqPositionsAsync())
    await round_trip(ib)
    assert gateway.log.sent["POSITION"] - before == 5
    assert not request.done()
    request.cancel()


async def test_the_end_of_positions_can_come_late(gateway: SimulatedGateway, ib: ib_async.IB) -> None:
    """Other answers overtake the end, which still comes."""
    gateway.faults.position_end_delay = 0.1
    request = asyncio.ensure_future(ib.reqPositionsAsync())
    await round_trip(ib)
    assert not request.done()
    async with asyncio.timeout(DEADLINE):
        assert len(await request) == 40


@pytest.mark.parametrize("code", [1100, 1102, 2103, 2104, 10197])
async def test_a_system_code_reaches_all_clients(gateway: SimulatedGateway, connect, errors_of, code: int) -> None:
    """Every client hears it, without a request id."""
    heard = [errors_of(await connect(gateway, client_id)) for client_id in (1, 2)]
    gateway.broadcast(code)
    assert [(await error_with(errors, code))[0] for errors in heard] == [-1, -1]


@pytest.mark.parametrize(("code", "survives"), [(1101, False), (1102, True)])
async def test_streams_survive_1102_and_not_1101(
    *,
    gateway: SimulatedGateway,
    clock: FakeClock,
    ib: ib_async.IB,
    errors_of: ErrorsOf,
    option: Instrument,
    routed: Routed,
    code: int,
    survives: bool,
) -> None:
    """After 1100 nothing ticks; 1102 brings the streams back, 1101 has lost them with their lines."""
    errors = errors_of(ib)
    ticker = ib.reqMktData(routed(option))
    await happens(ticker.updateEvent)
    gateway.broadcast(1100)
    await error_with(errors, 1100)
    clock.advance(60)
    sent = gateway.log.sent["TICK_PRICE"]
    for _ in range(5):
        await round_trip(ib)
    assert gateway.log.sent["TICK_PRICE"] == sent
    ticks = asyncio.create_task(happens(ticker.updateEvent))
    await asyncio.sleep(0)  # it listens from here on: they may come in one packet with the code
    gateway.broadcast(code)
    await error_with(errors, code)
    assert gateway.lines_in_use == int(survives)
    if survives:
        await ticks
        assert ticker.bid == gateway.market.quote(option.conid).bid
    else:
        ticks.cancel()
        ib.cancelMktData(ticker.contract)
        await error_with(errors, 300)


@pytest.mark.parametrize(
    "fault",
    [
        {"chunk_bytes": 7},
        {"coalesce_seconds": 0.02},
        {"duplicate_frames": True},
        {"chunk_bytes": 1000, "coalesce_seconds": 0.01},
    ],
    ids=str,
)
async def test_torn_lumped_and_doubled_frames_do_not_confuse_a_client(
    make_gateway, connect, routed: Routed, fault: dict[str, float]
) -> None:
    """However the bytes arrive, start-up, positions and a snapshot come through."""
    gateway = await make_gateway(12)
    for name, value in fault.items():
        setattr(gateway.faults, name, value)
    ib = await connect(gateway)
    assert len(ib.positions()) == 12
    async with asyncio.timeout(DEADLINE):
        (ticker,) = await ib.reqTickersAsync(routed(gateway.account.positions[0].instrument))
    assert ticker.bid > 0


async def test_faults_are_all_taken_back_at_once(gateway: SimulatedGateway, ib: ib_async.IB) -> None:
    """After `clear` the gateway is healthy again."""
    gateway.faults.stalled = True
    gateway.faults.silent_answers.add(Answer.CURRENT_TIME)
    gateway.faults.clear()
    await round_trip(ib)


# What is not simulated


async def test_orders_are_rejected(ib: ib_async.IB, errors_of: ErrorsOf, option: Instrument, routed: Routed) -> None:
    """No order is ever taken, and the client is told so."""
    errors = errors_of(ib)
    ib.placeOrder(routed(option), ib_async.MarketOrder("BUY", 1))
    assert "takes no orders" in (await error_with(errors, 201))[2]


async def test_what_is_not_simulated_is_refused_by_name(
    ib: ib_async.IB, errors_of: ErrorsOf, option: Instrument, routed: Routed
) -> None:
    """A request outside the model gets an error with its id instead of silence."""
    errors = errors_of(ib)
    ib.client.reqHistoricalData(77, routed(option), "", "1 D", "1 min", "TRADES", 1, 1, False, [])
    req_id, _, text = await error_with(errors, 162)
    assert req_id == 77
    assert "not part of the simulated gateway" in text
