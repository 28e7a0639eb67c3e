"""What a real ib_async client sees of each thing that can happen to a gateway in a day."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING

import ib_async
import pytest
from tests.patience import DEADLINE
from v6kit.gateway import Hours, SimulatedGateway

if TYPE_CHECKING:
    from collections.abc import Callable

    from v6kit.clock import FakeClock
    from v6kit.contracts import Instrument

    Errors = asyncio.Queue[tuple[int, int, str]]
    ErrorsOf = Callable[[ib_async.IB], Errors]
    Routed = Callable[[Instrument], ib_async.Contract]


class Watch:
    """A client with a clock that it can move: what was sent by then has arrived afterwards."""

    def __init__(self, gateway: SimulatedGateway, clock: FakeClock, ib: ib_async.IB) -> None:
        self.gateway = gateway
        self.clock = clock
        self.ib = ib

    async def settle(self) -> None:
        """Wait until the gateway has looked at the market, and the client at what it sent."""
        async with asyncio.timeout(DEADLINE):
            await self.gateway.ticked()
            await self.ib.reqCurrentTimeAsync()

    async def after(self, seconds: float) -> None:
        """Move the clock, and settle."""
        self.clock.advance(seconds)
        await self.settle()

    async def ticks_of(self, ticker: ib_async.Ticker, seconds: float = 60.0) -> int:
        """Return how many price ticks come to a ticker while its clock moves on."""
        seen = 0

        def count(changed: ib_async.Ticker) -> None:
            nonlocal seen
            seen += len(changed.ticks)

        ticker.updateEvent += count
        await self.after(seconds)
        ticker.updateEvent -= count
        return seen

    async def snapshot(self, contract: ib_async.Contract) -> ib_async.Ticker:
        """Return one snapshot."""
        async with asyncio.timeout(DEADLINE):
            (ticker,) = await self.ib.reqTickersAsync(contract)
        return ticker


@pytest.fixture
def watch(gateway: SimulatedGateway, clock: FakeClock, ib: ib_async.IB) -> Watch:
    """A client and its clock."""
    return Watch(gateway, clock, ib)


@pytest.fixture
def option(gateway: SimulatedGateway) -> Instrument:
    """A leg that the account holds."""
    return gateway.account.positions[0].instrument


def stock(gateway: SimulatedGateway, symbol: str) -> Instrument:
    """Return a symbol's stock."""
    return gateway.market.find(symbol=symbol, sec_type="STK")[0]


def codes(errors: Errors) -> list[tuple[int, int]]:
    """Return the (request id, code) of all errors so far."""
    return [errors.get_nowait()[:2] for _ in range(errors.qsize())]


# The market's hours


async def test_before_the_open_live_quotes_are_minus_one_and_frozen_ones_are_there(
    watch: Watch, gateway: SimulatedGateway, option: Instrument, routed: Routed
) -> None:
    """Type 1 has no bid and ask, type 2 has the last known ones; the open brings a stream to life."""
    gateway.pre_market()
    ticker = watch.ib.reqMktData(routed(option))
    await watch.settle()
    assert gateway.market.hours is Hours.PRE_MARKET
    assert (ticker.bid, ticker.ask) == (-1.0, -1.0)
    assert await watch.ticks_of(ticker) == 0
    watch.ib.reqMarketDataType(2)
    frozen = await watch.snapshot(routed(option))
    assert (frozen.bid, frozen.ask) == (gateway.market.quote(option.conid).bid, gateway.market.quote(option.conid).ask)
    gateway.open_market()
    assert await watch.ticks_of(ticker) > 0
    assert 0 < ticker.bid < ticker.ask


async def test_what_expires_today_leaves_the_account_at_the_close(
    watch: Watch, gateway: SimulatedGateway, errors_of: ErrorsOf, routed: Routed
) -> None:
    """Position 0 is pushed, the profit is that of settling in cash, and requests for it get 200."""
    market, account = gateway.market, gateway.account
    call, put = (market.find(symbol="SPY", expiry="20261120", strike=500.0, right=right)[0] for right in "CP")
    gateway.trade(call.conid, 2, price=90.0)
    gateway.trade(put.conid, -3, price=1.5)
    await watch.settle()
    assert {each.contract.conId: each.position for each in watch.ib.positions()}[put.conid] == -3
    pushed: dict[int, float] = {}
    watch.ib.positionEvent += lambda each: pushed.update({each.contract.conId: each.position})
    expiring = [each.instrument.conid for each in account.positions if each.instrument.expiry == "20261120"]
    gateway.close_market()
    await watch.settle()
    assert {call.conid, put.conid} <= set(expiring)
    assert pushed == dict.fromkeys(expiring, 0.0)
    assert account.realized(call.conid) == pytest.approx(200 * (market.spot("SPY") - 590.0), abs=0.1)
    assert account.realized(put.conid) == 300 * 1.5
    assert all(each.instrument.expiry != "20261120" for each in account.positions)
    with pytest.raises(ValueError, match=r"conid must not have expired, got .*, whose last day was 20261120"):
        gateway.trade(call.conid, 1)
    errors = errors_of(watch.ib)
    async with asyncio.timeout(DEADLINE):
        assert await watch.ib.reqContractDetailsAsync(ib_async.Contract(conId=call.conid)) == []
    await watch.snapshot(routed(put))
    assert [code for _, code in codes(errors)] == [200, 200]


async def test_a_halted_symbol_is_quoted_no_more_until_it_resumes(
    watch: Watch, gateway: SimulatedGateway, routed: Routed
) -> None:
    """Tick 49 turns 1 for the stock and its options, others go on; resumed, it turns 0 and ticks come."""
    leg = gateway.market.find(symbol="AAPL", sec_type="OPT", expiry="20261218")[40]
    halted = [watch.ib.reqMktData(routed(each)) for each in (stock(gateway, "AAPL"), leg)]
    other = watch.ib.reqMktData(routed(stock(gateway, "MSFT")))
    await watch.settle()
    gateway.halt("AAPL")
    await watch.settle()
    assert [each.halted for each in halted] == [1.0, 1.0]
    assert other.halted == 0.0
    prices = [(each.bid, each.ask, each.last) for each in halted]
    assert await watch.ticks_of(halted[0]) == await watch.ticks_of(halted[1]) == 0
    assert await watch.ticks_of(other) > 0
    assert [(each.bid, each.ask, each.last) for each in halted] == prices
    assert (await watch.snapshot(routed(leg))).halted == 1.0
    gateway.resume("AAPL")
    await watch.settle()
    assert [each.halted for each in halted] == [0.0, 0.0]
    assert [(each.bid, each.ask, each.last) for each in halted] != prices


async def test_frozen_data_becomes_live_when_the_market_opens(
    watch: Watch, gateway: SimulatedGateway, option: Instrument, routed: Routed
) -> None:
    """A stream of type 2 is told that it is live from the open to the close, and frozen before and after."""
    gateway.pre_market()
    watch.ib.reqMarketDataType(2)
    ticker = watch.ib.reqMktData(routed(option))
    told = []
    for change in (gateway.open_market, gateway.close_market):
        await watch.after(60)
        told.append(ticker.marketDataType)
        change()
    await watch.after(60)
    assert [*told, ticker.marketDataType] == [2, 1, 2]
    assert ticker.bid == gateway.market.quote(option.conid).bid


# Market data


async def test_a_competing_session_silences_streams_and_refuses_snapshots(
    watch: Watch, gateway: SimulatedGateway, errors_of: ErrorsOf, option: Instrument, routed: Routed
) -> None:
    """Each request gets 10197 under its id, streams keep their lines, and tick again when it is over."""
    ticker = watch.ib.reqMktData(routed(option))
    await watch.settle()
    errors = errors_of(watch.ib)
    gateway.begin_competing_session()
    await watch.settle()
    ((stream_id, code),) = codes(errors)
    assert code == 10197
    assert watch.ib.wrapper.reqId2Ticker[stream_id] is ticker
    assert await watch.ticks_of(ticker) == 0
    later = watch.ib.reqMktData(routed(stock(gateway, "QQQ")))
    await watch.snapshot(routed(stock(gateway, "IWM")))
    assert [code for _, code in codes(errors)] == [10197, 10197]
    assert gateway.lines_in_use == 2
    gateway.end_competing_session()
    await watch.settle()
    assert ticker.bid == gateway.market.quote(option.conid).bid
    assert later.bid == gateway.market.quote(stock(gateway, "QQQ").conid).bid
    assert await watch.ticks_of(ticker) > 0


async def test_a_snapshot_in_flight_ends_when_a_session_begins_to_compete(make_gateway, connect, routed: Routed):
    """It gets 10197 and gives its line back, long before its time."""
    gateway = await make_gateway(snapshot_hold=600.0)
    ib = await connect(gateway)
    asked = asyncio.ensure_future(ib.reqTickersAsync(routed(stock(gateway, "SPY"))))
    await gateway.ticked()
    assert gateway.lines_in_use == 1
    gateway.begin_competing_session()
    async with asyncio.timeout(DEADLINE):
        await asked
    assert gateway.lines_in_use == 0
    assert gateway.log.refused[10197] == 1


async def test_a_farm_that_is_out_takes_only_what_it_serves(
    watch: Watch, gateway: SimulatedGateway, errors_of: ErrorsOf, option: Instrument, routed: Routed
) -> None:
    """Options stand still while stocks tick, 2103 and 2104 name the farm, and a newcomer is told, too."""
    errors = errors_of(watch.ib)
    ticker, other = (watch.ib.reqMktData(routed(each)) for each in (option, stock(gateway, "SPY")))
    await watch.settle()
    gateway.break_farm("usopt")
    await watch.settle()
    assert await watch.ticks_of(ticker) == 0
    assert await watch.ticks_of(other) > 0
    assert await watch.snapshot(routed(gateway.account.positions[1].instrument))
    gateway.restore_farm("usopt")
    assert await watch.ticks_of(ticker) > 0
    news = [errors.get_nowait() for _ in range(errors.qsize())]
    assert [(req_id, code, text) for req_id, code, text in news if code in (2103, 2104)] == [
        (-1, 2103, "Market data farm connection is broken:usopt"),
        (-1, 2104, "Market data farm connection is OK:usopt"),
    ]


async def test_who_connects_during_an_outage_is_told_of_it(gateway: SimulatedGateway, errors_of: ErrorsOf) -> None:
    """A farm that is out comes as 2103, a lost link as 2110."""
    gateway.break_farm("usfuture")
    gateway.broadcast(1100)
    newcomer = ib_async.IB()
    errors = errors_of(newcomer)
    try:
        async with asyncio.timeout(DEADLINE):
            await newcomer.connectAsync(gateway.host, gateway.port, clientId=8)
    finally:
        newcomer.disconnect()
    told = [errors.get_nowait()[1:] for _ in range(errors.qsize())]
    assert (2103, "Market data farm connection is broken:usfuture") in told
    assert 2110 in [code for code, _ in told]


async def test_a_link_that_lost_its_data_has_forgotten_snapshots_too(make_gateway, connect, routed: Routed) -> None:
    """After 1101 a snapshot that was in flight never ends, and no line is held."""
    gateway = await make_gateway(snapshot_hold=600.0)
    ib = await connect(gateway)
    ib.reqMktData(routed(stock(gateway, "SPY")))
    ib.reqMktData(routed(stock(gateway, "QQQ")), "", snapshot=True)
    await gateway.ticked()
    assert gateway.lines_in_use == 2
    gateway.broadcast(1100)
    gateway.broadcast(1101)
    assert gateway.lines_in_use == 0
    async with asyncio.timeout(DEADLINE):
        await ib.reqCurrentTimeAsync()
    assert gateway.log.sent["TICK_SNAPSHOT_END"] == 0


async def test_the_next_requests_can_be_refused(
    watch: Watch, gateway: SimulatedGateway, errors_of: ErrorsOf, routed: Routed
) -> None:
    """So many requests get the code and the text; the one after them gets data."""
    errors = errors_of(watch.ib)
    gateway.refuse_requests(2, 354, "Not today")
    wanted = [routed(each.instrument) for each in gateway.account.positions[:3]]
    tickers = [await watch.snapshot(each) for each in wanted]
    assert [errors.get_nowait()[1:] for _ in range(errors.qsize())] == [(354, "Not today")] * 2
    assert [each.bid > 0 for each in tickers] == [False, False, True]


async def test_lines_that_tws_takes_are_missing_to_new_requests_only(
    make_gateway, connect, clock: FakeClock, errors_of: ErrorsOf, routed: Routed
) -> None:
    """Streams that run go on over the limit, a new one gets 101, and has a line again when TWS gives some back."""
    gateway = await make_gateway(line_limit=4)
    watch = Watch(gateway, clock, await connect(gateway))
    errors = errors_of(watch.ib)
    tickers = [watch.ib.reqMktData(routed(each.instrument)) for each in gateway.account.positions[:3]]
    await watch.settle()
    gateway.take_lines(2)
    watch.ib.reqMktData(routed(stock(gateway, "SPY")))
    await watch.settle()
    assert [code for _, code in codes(errors)] == [101]
    assert all([await watch.ticks_of(each) > 0 for each in tickers])
    gateway.give_lines_back(2)
    assert (await watch.snapshot(routed(stock(gateway, "SPY")))).bid > 0
    gateway.line_limit = 3
    await watch.snapshot(routed(stock(gateway, "QQQ")))
    assert [code for _, code in codes(errors)] == [101]
    assert gateway.lines_in_use == 3


# Connections


async def test_a_restart_drops_everybody_and_keeps_the_account(
    watch: Watch, gateway: SimulatedGateway, connect, option: Instrument, routed: Routed
) -> None:
    """Nobody gets in until it is over by the gateway's clock; then positions are the same, and no line is held."""
    held = {each.contract.conId: each.position for each in watch.ib.positions()}
    watch.ib.reqMktData(routed(option))
    await watch.settle()
    gone = asyncio.get_running_loop().create_future()
    watch.ib.disconnectedEvent += lambda: gone.set_result(None)
    gateway.restart(seconds=120)
    async with asyncio.timeout(DEADLINE):
        await gone
    watch.clock.advance(119)
    await gateway.ticked()
    with pytest.raises((ConnectionError, TimeoutError)):
        await connect(gateway, timeout=0.5)
    watch.clock.advance(1)
    await gateway.ticked()
    again = await connect(gateway)
    assert {each.contract.conId: each.position for each in again.positions()} == held
    assert gateway.lines_in_use == 0


# The account


async def test_fills_change_position_cost_and_profit_as_ib_counts_them(watch: Watch, gateway: SimulatedGateway) -> None:
    """Opening averages, reducing keeps the cost and realizes, a flip begins anew; all of it is on the wire."""
    conid = next(each.conid for each in gateway.market.find(sec_type="STK") if not gateway.account.position(each.conid))
    seen = []
    for quantity, price in ((100, 50.0), (100, 60.0), (-50, 70.0), (-250, 40.0), (100, 45.0)):
        gateway.trade(conid, quantity, price=price)
        await watch.settle()
        (item,) = [each for each in watch.ib.portfolio() if each.contract.conId == conid] or [None]
        seen.append(item and (item.position, item.averageCost, item.realizedPNL))
    assert seen == [
        (100, 50.0, 0.0),
        (200, 55.0, 0.0),
        (150, 55.0, 750.0),
        (-100, 40.0, 750.0 - 150 * 15.0),
        None,  # ib_async drops a portfolio item at 0
    ]
    assert gateway.account.realized(conid) == 750.0 - 150 * 15.0 - 100 * 5.0
    async with asyncio.timeout(DEADLINE):
        summary = {each.tag: each.value for each in await watch.ib.accountSummaryAsync()}
    assert float(summary["TotalCashValue"]) == 1_000_000 + gateway.account.realized()
    profits = [watch.ib.reqPnL("DU0000001"), watch.ib.reqPnLSingle("DU0000001", "", conid)]
    await watch.settle()
    assert [each.realizedPnL for each in profits] == [gateway.account.realized()] * 2


async def test_a_fill_at_the_market_pays_the_spread(gateway: SimulatedGateway, option: Instrument) -> None:
    """What is bought costs the ask, what is sold brings the bid."""
    quote = gateway.market.quote(option.conid)
    cash = gateway.account.cash
    gateway.trade(option.conid, 1)
    gateway.trade(option.conid, -1)
    assert gateway.account.cash - cash == pytest.approx(-100 * (quote.ask - quote.bid))


async def test_a_fill_from_another_thread_reaches_the_client(
    watch: Watch, gateway: SimulatedGateway, option: Instrument
) -> None:
    """Every method may be called from any thread."""
    before = gateway.account.position(option.conid).quantity
    for act in (lambda: gateway.trade(option.conid, 50), lambda: gateway.halt(option.symbol)):
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()
    await watch.settle()
    assert {each.contract.conId: each.position for each in watch.ib.positions()}[option.conid] == before + 50
    assert gateway.market.halted == [option.symbol]


def test_fills_from_many_threads_are_all_counted() -> None:
    """Each builds on the one before: no quantity, cash or profit is lost between two threads."""
    gateway = SimulatedGateway(4)
    conid, cash = stock(gateway, "SPY").conid, gateway.account.cash
    before = gateway.account.position(conid)
    held = before.quantity if before else 0
    together = threading.Barrier(8)

    def buy() -> None:
        together.wait()
        for _ in range(200):
            gateway.trade(conid, 2, price=10.0)
            gateway.trade(conid, -1, price=11.0)

    threads = [threading.Thread(target=buy) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # as many chances to get in between as there can be
    try:
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        sys.setswitchinterval(interval)
    assert gateway.account.position(conid).quantity == held + 1600
    assert gateway.account.cash == cash - 1600 * 20.0 + 1600 * 11.0


async def test_a_fill_may_be_another_accounts(make_gateway, connect) -> None:
    """The account that is named changes, and no other; an unknown one is refused."""
    gateway = await make_gateway(accounts=("DU0000001", "DU0000002"))
    ib = await connect(gateway, account="DU0000002")
    conid = gateway.accounts["DU0000002"].positions[0].instrument.conid
    before = gateway.account.position(conid)
    gateway.trade(conid, 30, account="DU0000002")
    async with asyncio.timeout(DEADLINE):
        await ib.reqCurrentTimeAsync()
    held = {(each.account, each.contract.conId): each.position for each in ib.positions()}
    assert held["DU0000002", conid] == gateway.accounts["DU0000002"].position(conid).quantity
    assert gateway.account.position(conid) == before
    with pytest.raises(ValueError, match="account must be one of DU0000001, DU0000002, got 'U1'"):
        gateway.trade(conid, 1, account="U1")


async def test_a_split_gives_new_conids_and_keeps_what_is_held_worth_the_same(
    watch: Watch, gateway: SimulatedGateway, errors_of: ErrorsOf, routed: Routed
) -> None:
    """Old positions go to 0 and new ones appear with half the strike, twice the contracts and half the cost."""
    market, account = gateway.market, gateway.account
    old = account.positions[0]
    symbol, spot = old.instrument.symbol, market.spot(old.instrument.symbol)
    worth = {each.instrument.strike: account.value(each).value for each in account.positions}
    ticker = watch.ib.reqMktData(routed(old.instrument))
    await watch.settle()
    pushed: dict[int, float] = {}
    watch.ib.positionEvent += lambda each: pushed.update({each.contract.conId: each.position})
    gateway.corporate_action(symbol, ratio=2)
    await watch.settle()
    new = account.position(market.successor(old.instrument.conid))
    assert (new.quantity, new.avg_cost) == (2 * old.quantity, pytest.approx(old.avg_cost / 2, abs=1e-4))
    assert new.instrument.strike == old.instrument.strike / 2
    assert market.spot(symbol) == pytest.approx(spot / 2)
    assert account.value(new).value == pytest.approx(worth[old.instrument.strike], rel=0.05)
    assert (pushed[old.instrument.conid], pushed[new.instrument.conid]) == (0, new.quantity)
    assert await watch.ticks_of(ticker) == 0
    errors = errors_of(watch.ib)
    await watch.snapshot(routed(old.instrument))
    assert [code for _, code in codes(errors)] == [200]
    assert (await watch.snapshot(routed(new.instrument))).bid > 0
    async with asyncio.timeout(DEADLINE):
        (details,) = await watch.ib.reqContractDetailsAsync(ib_async.Contract(conId=new.instrument.conid))
    assert details.contract.localSymbol == new.instrument.local_symbol
    assert round(new.instrument.strike * 1000) == int(new.instrument.local_symbol[-8:])


async def test_a_symbol_can_be_reissued_twice(gateway: SimulatedGateway) -> None:
    """The last conid is found from the first one, and none is used again."""
    spy = stock(gateway, "SPY")
    gateway.corporate_action("SPY")
    second = stock(gateway, "SPY")
    gateway.corporate_action("SPY", ratio=3)
    third = stock(gateway, "SPY")
    assert len({spy.conid, second.conid, third.conid}) == 3
    assert gateway.market.successor(spy.conid) == third.conid
    assert gateway.market.instrument(spy.conid) is None


async def test_what_is_set_before_the_start_holds_after_it(make_gateway, connect) -> None:
    """A stopped gateway takes all of it, too, and a restart of the program keeps it."""
    gateway = await make_gateway()
    await gateway.stop()
    gateway.close_market()
    gateway.halt("SPY")
    gateway.trade(stock(gateway, "SPY").conid, 7, price=1.0)
    await gateway.start()
    ib = await connect(gateway)
    assert not gateway.market.is_open
    assert gateway.market.halted == ["SPY"]
    assert stock(gateway, "SPY").conid in {each.contract.conId for each in ib.positions()}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda gateway: gateway.halt("XYZ"), "symbol must be one of SPY, QQQ"),
        (lambda gateway: gateway.break_farm("farm"), "farm must be one of usopt, usfarm, usfuture, got 'farm'"),
        (lambda gateway: gateway.corporate_action("ES"), "symbol must be one of SPY, .*, got 'ES'"),
        (lambda gateway: gateway.corporate_action("SPY", 0), "ratio must be finite and greater than 0, got 0.0"),
        (lambda gateway: gateway.take_lines(0), "count must be at least 1, got 0"),
        (lambda gateway: gateway.refuse_requests(1, 0), "code must be at least 1, got 0"),
        (lambda gateway: gateway.restart(-1), "seconds must be finite and greater than 0"),
        (lambda gateway: gateway.trade(5, 1), "conid must be listed in the simulated market, got 5"),
        (lambda gateway: gateway.trade(5, 0), "quantity must not be 0, got 0"),
        (lambda gateway: gateway.trade(5, 1, -1.0), "price must be 0 or more, got -1.0"),
        (lambda gateway: setattr(gateway, "line_limit", -1), "line_limit must be at least 0, got -1"),
    ],
)
def test_a_wrong_argument_is_refused_where_it_is_given(call, message) -> None:
    """In the caller's thread, with its name, its value, and what is allowed."""
    with pytest.raises(ValueError, match=message):
        call(SimulatedGateway(4))
