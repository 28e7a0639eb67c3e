"""The broker's requests through TCP, with the real ib_async client against the simulated gateway."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from broker_helpers import DEADLINE, PATIENT, Heard, connected, options_of, requests_for
from v6kit.broker import ConnectionState, LineBudget
from v6kit.broker.pacing import BURST
from v6kit.contracts import Instrument, Quality, Source
from v6kit.errors import GatewayUnavailableError, LineLimitError, RequestFailedError
from v6kit.gateway import Answer, answers

if TYPE_CHECKING:
    from conftest import GatewayMaker
    from v6kit.broker import Broker
    from v6kit.gateway import Position, SimulatedGateway
    from v6kit.gateway.answers import Message


def unrouted(instrument: Instrument) -> Instrument:
    """Return an instrument as positions give it: without its exchange."""
    return replace(instrument, exchange="")


async def everything_was_sent(broker: Broker) -> None:
    """Wait until the gateway handled all that was sent so far: it answers in order."""
    await broker.current_time()


def remembered(broker: Broker) -> int:
    """Return how many requests ib_async holds on to."""
    session = broker._connection.session
    assert session is not None
    return session.remembered()


async def test_after_connecting_positions_and_portfolio_are_those_of_the_account(gateway: SimulatedGateway):
    """The start-up reads every position and every portfolio value."""
    async with connected(gateway) as broker:
        held = {each.instrument.conid: each.quantity for each in gateway.account.positions}
        assert broker.state is ConnectionState.LIVE
        assert broker.hold is None
        assert broker.accounts == (gateway.account.account_id,)
        assert broker.server_version == 178
        assert broker.is_simulated
        assert {row.instrument.conid: row.position for row in await broker.positions()} == held
        assert {row.instrument.conid: row.position for row in await broker.portfolio()} == held


async def test_a_snapshot_carries_the_prices_of_the_market(gateway: SimulatedGateway):
    """Bid, ask, last, close, sizes and greeks of an option come through unchanged."""
    option = unrouted(options_of(gateway)[0])
    async with connected(gateway) as broker:
        quote = await broker.snapshot(option)
    market = gateway.market.quote(option.conid)
    assert market.greeks is not None
    assert (quote.bid, quote.ask, quote.last, quote.close) == (market.bid, market.ask, market.last, market.close)
    assert (quote.bid_size, quote.ask_size) == (market.bid_size, market.ask_size)
    assert quote.model_price == pytest.approx(market.model, abs=1e-6)
    assert quote.delta == pytest.approx(market.greeks.delta, abs=1e-6)
    assert (quote.quality, quote.source, quote.error_code) == (Quality.OK, Source.SNAPSHOT, None)
    assert quote.requested_at <= quote.received_at


async def test_sixty_concurrent_snapshots_keep_to_a_small_line_limit(make_gateway: GatewayMaker):
    """Sixty at once are all answered, and neither the lines nor the rates of the gateway are ever exceeded."""
    gateway = await make_gateway(80, line_limit=10)
    options = [unrouted(each) for each in options_of(gateway)[:60]]
    async with connected(gateway, lines=LineBudget(10, 2), requests_per_second=40) as broker:
        quotes = await asyncio.gather(*(broker.snapshot(each) for each in options))
        assert [quote.conid for quote in quotes] == [each.conid for each in options]
        assert all(quote.quality is Quality.OK for quote in quotes)
        assert broker.lines.used == 0
        assert broker.lines.peak <= 8
    assert gateway.line_peak <= 8
    assert not gateway.log.refused


async def test_messages_go_out_evenly_not_in_a_burst(make_gateway: GatewayMaker):
    """Thirty requests take as long as the rate demands of all but a small burst; a slow machine only adds to it."""
    gateway = await make_gateway(60)
    async with connected(gateway, requests_per_second=20) as broker:
        began = time.monotonic()
        await asyncio.gather(*(broker.snapshot(each) for each in options_of(gateway)[:30]))
        assert time.monotonic() - began >= (30 - BURST) / 20
    assert gateway.log.received["REQ_MKT_DATA"] == 30


@pytest.mark.parametrize("code", [200, 354, 10089, 10168, 10197, 321, 162])
async def test_an_error_fails_the_request_that_it_names_and_no_other(gateway: SimulatedGateway, code: int):
    """Of two snapshots in flight only the refused one fails, with the code, and both lines come back."""
    bad, good = options_of(gateway)[:2]
    gateway.faults.error_by_conid[bad.conid] = code
    async with connected(gateway) as broker:
        failed, quote = await asyncio.gather(broker.snapshot(bad), broker.snapshot(good), return_exceptions=True)
        assert isinstance(failed, RequestFailedError)
        assert failed.code == code
        assert not isinstance(quote, BaseException)
        assert quote.quality is Quality.OK
        assert broker.lines.used == 0


async def test_a_refused_snapshot_never_returns_the_prices_of_an_earlier_one(gateway: SimulatedGateway):
    """After a good snapshot an error is an error, and does not come back as the old quote."""
    option = options_of(gateway)[0]
    async with connected(gateway) as broker:
        await broker.snapshot(option)
        gateway.faults.error_by_conid[option.conid] = 354
        with pytest.raises(RequestFailedError) as failure:
            await broker.snapshot(option)
    assert failure.value.code == 354


@pytest.mark.parametrize("code", [10090, 10091, 10092, 10167])
async def test_a_soft_code_marks_the_data_that_still_comes(gateway: SimulatedGateway, code: int):
    """Partial and delayed data do not end the snapshot; the quote says which code came with it."""
    option = options_of(gateway)[0]
    gateway.faults.soft_by_conid[option.conid] = (code,)
    async with connected(gateway) as broker:
        quote = await broker.snapshot(option)
    assert quote.error_code == code
    assert quote.quality is Quality.OK
    assert quote.market_data_type == (3 if code == 10167 else 1)


async def test_a_silent_request_times_out_and_gives_its_line_back(gateway: SimulatedGateway):
    """No tick and no end: the snapshot fails by itself, and line, request and memory are free at both ends."""
    option = options_of(gateway)[0]
    gateway.faults.silent_conids.add(option.conid)
    async with connected(gateway, snapshot_timeout=0.1) as broker:
        before = remembered(broker)
        with pytest.raises(RequestFailedError) as failure:
            await broker.snapshot(option)
        assert failure.value.code is None
        assert broker.lines.used == 0
        assert remembered(broker) == before
        await everything_was_sent(broker)
        assert gateway.lines_in_use == 0


async def test_a_cancelled_snapshot_gives_its_line_back(gateway: SimulatedGateway):
    """Cancelling the caller cancels the request at the gateway, and leaves nothing behind."""
    option = options_of(gateway)[0]
    gateway.faults.hold_by_conid[option.conid] = math.inf
    async with connected(gateway) as broker:
        await everything_was_sent(broker)
        before = remembered(broker)
        task = asyncio.create_task(broker.snapshot(option))
        await asyncio.sleep(0)
        await everything_was_sent(broker)
        assert gateway.lines_in_use == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert broker.lines.used == 0
        assert remembered(broker) == before
        await everything_was_sent(broker)
        assert gateway.lines_in_use == 0


async def test_many_snapshots_leave_nothing_behind_in_ib_async(make_gateway: GatewayMaker):
    """ib_async's tables are as large after fifty snapshots, refused ones among them, as after the first."""
    gateway = await make_gateway(80)
    options = options_of(gateway)[:51]
    gateway.faults.error_by_conid.update({each.conid: 200 for each in options[10:20]})
    async with connected(gateway, requests_per_second=40) as broker:
        await broker.snapshot(options[0])
        before = remembered(broker)
        await asyncio.gather(*(broker.snapshot(each) for each in options[1:]), return_exceptions=True)
        assert remembered(broker) == before


async def test_a_future_is_asked_for_at_its_native_exchange(gateway: SimulatedGateway):
    """A position of a future has no exchange; it is looked up once and remembered."""
    future = next(each.instrument for each in gateway.account.positions if each.instrument.sec_type == "FUT")
    async with connected(gateway) as broker:
        assert (await broker.snapshot(unrouted(future))).quality is Quality.OK
        assert (await broker.snapshot(unrouted(future))).quality is Quality.OK
        assert (await broker.contract_details(future.conid)).exchange == future.exchange
    assert [fields[10] for fields in requests_for(gateway, "REQ_MKT_DATA")] == [future.exchange] * 2
    assert len(requests_for(gateway, "REQ_CONTRACT_DETAILS")) == 1


async def test_a_missing_exchange_is_repaired_once(gateway: SimulatedGateway):
    """Error 321 for a missing exchange leads to the contract's details, and then to the data."""
    option = options_of(gateway)[0]
    async with connected(gateway) as broker:
        session = broker._connection.session
        assert session is not None
        quote = await broker._snapshots.take(session, option.conid, "")
        await broker._streams.add(session, option.conid, "")
        quotes = Heard(broker.on_quote)
        await quotes.next()
    assert quote.quality is Quality.OK
    assert gateway.log.refused[321] == 2


async def test_too_many_snapshots_per_second_back_off_and_come_through(make_gateway: GatewayMaker):
    """Error 321 "limitation exceeded" is waited out inside the snapshot."""
    gateway = await make_gateway(40, snapshots_per_second=4)
    async with connected(gateway, requests_per_second=40) as broker:
        quotes = await asyncio.gather(*(broker.snapshot(each) for each in options_of(gateway)[:6]))
    assert all(quote.quality is Quality.OK for quote in quotes)
    assert gateway.log.refused[321] > 0


async def test_contract_details_of_an_unknown_conid_fail_with_code_200(gateway: SimulatedGateway):
    """The error reaches the caller by its request id, and leaves nothing behind."""
    async with connected(gateway) as broker:
        before = remembered(broker)
        with pytest.raises(RequestFailedError) as failure:
            await broker.contract_details(1)
        assert failure.value.code == 200
        assert remembered(broker) == before


async def test_a_budget_that_is_too_large_shrinks_at_error_101_and_all_snapshots_come_through(
    make_gateway: GatewayMaker,
):
    """The gateway has three lines and we think eight: the refused snapshots wait for a line and are asked again."""
    gateway = await make_gateway(40, line_limit=3, snapshot_hold=0.2)
    async with connected(gateway, lines=LineBudget(8, 0), requests_per_second=40) as broker:
        quotes = await asyncio.gather(*(broker.snapshot(each) for each in options_of(gateway)[:10]))
        assert all(quote.quality is Quality.OK for quote in quotes)
        assert 1 <= broker.lines.capacity <= 3
        assert broker.lines.used == 0


async def test_error_101_on_a_stream_frees_its_line_and_says_so(make_gateway: GatewayMaker):
    """A refused stream is gone from the books, the budget is what the gateway has, and the user is told."""
    gateway = await make_gateway(40, line_limit=2)
    options = options_of(gateway)[:3]
    async with connected(gateway, lines=LineBudget(5, 0)) as broker:
        errors = Heard(broker.on_stream_error)
        for option in options:
            await broker.subscribe(option)
        conid, code, _ = await errors.next()
        assert (conid, code) == (options[2].conid, 101)
        assert broker.streaming == {each.conid for each in options[:2]}
        assert broker.lines.capacity == 2
        with pytest.raises(LineLimitError, match="2 streams"):
            await broker.subscribe(options[2])


async def test_a_stream_brings_quotes_and_its_newest_one_can_be_read(make_gateway: GatewayMaker):
    """Each packet of ticks is one quote of plain numbers."""
    gateway = await make_gateway(40)
    option = options_of(gateway)[0]
    async with connected(gateway) as broker:
        quotes = Heard(broker.on_quote)
        assert broker.latest(option.conid) is None
        await broker.subscribe(option)
        (quote,) = await quotes.until(lambda quote: quote.quality is Quality.OK and quote.delta is not None)
        market = gateway.market.quote(option.conid)
        assert (quote.bid, quote.ask, quote.source) == (market.bid, market.ask, Source.STREAM)
        assert broker.latest(option.conid) == quote


async def test_a_snapshot_of_a_streamed_contract_sends_no_second_request(gateway: SimulatedGateway):
    """The stream answers, whether the snapshot comes after its first tick or before."""
    option = options_of(gateway)[0]
    async with connected(gateway) as broker:
        await broker.subscribe(option)
        first = await broker.snapshot(option)
        second = await broker.snapshot(option)
    assert (first.source, second.source) == (Source.STREAM, Source.STREAM)
    assert first.quality is Quality.OK
    assert len(requests_for(gateway, "REQ_MKT_DATA", option.conid)) == 1


async def test_a_snapshot_of_a_stream_that_says_nothing_times_out(gateway: SimulatedGateway):
    """A silent stream does not keep a snapshot waiting for ever."""
    option = options_of(gateway)[0]
    gateway.faults.silent_conids.add(option.conid)
    async with connected(gateway, snapshot_timeout=0.1) as broker:
        await broker.subscribe(option)
        with pytest.raises(RequestFailedError, match="sent nothing"):
            await broker.snapshot(option)
        assert broker.streaming == {option.conid}


async def test_two_users_of_a_stream_share_one_line_until_both_have_let_go(gateway: SimulatedGateway):
    """Subscribing twice sends one request; only the second unsubscribe cancels it."""
    option = options_of(gateway)[0]
    async with connected(gateway) as broker:
        await asyncio.gather(broker.subscribe(option), broker.subscribe(option))
        assert (broker.lines.streams, broker.lines.references(option.conid)) == (1, 2)
        await broker.unsubscribe(option.conid)
        assert broker.streaming == {option.conid}
        await broker.unsubscribe(option.conid)
        await broker.unsubscribe(option.conid)
        assert (broker.streaming, broker.lines.used) == (frozenset(), 0)
        await everything_was_sent(broker)
        assert gateway.lines_in_use == 0
    assert len(requests_for(gateway, "REQ_MKT_DATA", option.conid)) == 1
    assert len(requests_for(gateway, "CANCEL_MKT_DATA")) == 1
    assert not gateway.log.refused


async def test_a_stream_can_be_had_again_right_after_it_was_given_up(gateway: SimulatedGateway):
    """Subscribing while the cancel of the last subscription waits for its turn starts a new stream."""
    option = options_of(gateway)[0]
    async with connected(gateway) as broker:
        quotes = Heard(broker.on_quote)
        await broker.subscribe(option)
        await asyncio.gather(broker.unsubscribe(option.conid), broker.subscribe(option))
        assert broker.streaming == {option.conid}
        quotes.drain()
        await quotes.next()
        assert broker.lines.references(option.conid) == 1


async def test_a_stream_waits_for_a_snapshot_to_end_and_goes_before_those_that_wait(make_gateway: GatewayMaker):
    """Snapshots hold all lines only for a moment, so a stream is served with the next line that becomes free."""
    gateway = await make_gateway(40, snapshot_hold=0.1)
    options = options_of(gateway)
    async with connected(gateway, lines=LineBudget(2, 0), requests_per_second=40) as broker:
        snapshots = [asyncio.create_task(broker.snapshot(each)) for each in options[:8]]
        await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE):
            await broker.subscribe(options[9])
        assert sum(task.done() for task in snapshots) <= 4
        await asyncio.gather(*snapshots)
    assert gateway.line_peak <= 2


async def test_a_stream_does_not_wait_for_a_snapshot_of_its_contract_that_waits_itself(make_gateway: GatewayMaker):
    """The snapshot, far behind in the queue for lines, is answered by the stream then."""
    gateway = await make_gateway(40, snapshot_hold=0.1)
    options = options_of(gateway)
    async with connected(gateway, lines=LineBudget(2, 0), requests_per_second=40) as broker:
        snapshots = [asyncio.create_task(broker.snapshot(each)) for each in options[:8]]
        await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE):
            await broker.subscribe(options[7])
        assert sum(task.done() for task in snapshots) <= 4
        assert (await asyncio.gather(*snapshots))[7].source is Source.STREAM
        assert broker.lines.used == 1
    assert len(requests_for(gateway, "REQ_MKT_DATA", options[7].conid)) == 1
    assert gateway.line_peak <= 2


async def test_a_changed_position_is_announced_and_an_unchanged_list_is_not(gateway: SimulatedGateway):
    """Pushed changes reach the listener, size 0 included; reading the same list again is no news."""
    held = gateway.account.positions[0]
    conid = held.instrument.conid
    async with connected(gateway) as broker:
        changes, values = Heard(broker.on_position), Heard(broker.on_portfolio)
        await broker.positions()
        assert changes.drain() == []
        gateway.account.set_position(conid, held.quantity + 1)
        (row,) = await changes.next()
        assert (row.instrument.conid, row.position) == (conid, held.quantity + 1)
        await values.until(lambda row: row.instrument.conid == conid and row.position == held.quantity + 1)
        gateway.account.set_position(conid, 0)
        (row,) = await changes.next()
        assert (row.instrument.conid, row.position) == (conid, 0)
        assert conid not in {row.instrument.conid for row in await broker.positions()}


async def test_positions_without_an_end_raise_and_never_return_half(gateway: SimulatedGateway):
    """A list that broke off is an error, however many rows of it came."""
    async with connected(gateway, timings=replace(PATIENT, request_timeout=0.4)) as broker:
        gateway.faults.position_limit = 3
        gateway.faults.silent_answers.add(Answer.POSITION_END)
        with pytest.raises(RequestFailedError, match="positions"):
            await broker.positions()


@pytest.mark.parametrize(("field", "value"), [("conid", "x"), ("multiplier", "ten"), ("position", "nan")])
async def test_a_position_that_cannot_be_read_leaves_the_list_incomplete(
    gateway: SimulatedGateway, monkeypatch: pytest.MonkeyPatch, field: str, value: str
):
    """Left out, it would look flat; ib_async only logs that it could not read a message."""
    place = {"conid": 3, "multiplier": 9, "position": 14}[field]
    odd, as_ib_says_it = gateway.account.positions[0].instrument, answers.position

    def garbled(account_id: str, held: Position) -> Message:
        message = as_ib_says_it(account_id, held)
        return (*message[:place], value, *message[place + 1 :]) if held.instrument == odd else message

    async with connected(gateway) as broker:
        with monkeypatch.context() as patched:
            patched.setattr(answers, "position", garbled)
            with pytest.raises(RequestFailedError, match="cannot be read") as caught:
                await broker.positions()
            assert {value, odd.symbol} <= {*str(caught.value).split()}
        assert len(await broker.positions()) == len(gateway.account.positions)


async def test_a_late_end_of_positions_is_not_taken_for_the_end_of_the_next_list(gateway: SimulatedGateway):
    """The request after one that was given up waits for the late end first, and returns the whole list."""
    async with connected(gateway, timings=replace(PATIENT, request_timeout=0.4)) as broker:
        gateway.faults.position_end_delay = 0.6
        with pytest.raises(RequestFailedError):
            await broker.positions()
        gateway.faults.position_end_delay = 0.0
        assert len(await broker.positions()) == len(gateway.account.positions)


async def test_positions_that_never_end_cost_the_connection_and_come_whole_from_the_next(gateway: SimulatedGateway):
    """An answer that stays open would mix with the next one, so the link is replaced."""
    async with connected(gateway, timings=replace(PATIENT, request_timeout=0.4)) as broker:
        states = Heard(broker.on_state)
        gateway.faults.silent_answers.add(Answer.POSITION_END)
        with pytest.raises(RequestFailedError):
            await broker.positions()
        with pytest.raises((RequestFailedError, GatewayUnavailableError)):
            await broker.positions()
        gateway.faults.clear()
        await states.until(lambda _old, new, _reason: new is ConnectionState.LIVE)
        assert len(await broker.positions()) == len(gateway.account.positions)


async def test_concurrent_position_requests_are_all_answered_in_full(gateway: SimulatedGateway):
    """ib_async would forget the first of two; here each gets the whole list."""
    async with connected(gateway) as broker:
        lists = await asyncio.gather(*(broker.positions() for _ in range(3)))
    assert [len(rows) for rows in lists] == [len(gateway.account.positions)] * 3


@pytest.mark.parametrize(
    "fault",
    [{"chunk_bytes": 7}, {"coalesce_seconds": 0.05}, {"duplicate_frames": True}],
    ids=lambda fault: next(iter(fault)),
)
async def test_torn_lumped_and_repeated_frames_change_nothing(gateway: SimulatedGateway, fault: dict[str, object]):
    """However the bytes arrive, positions and prices are the same."""
    option = options_of(gateway)[0]
    async with connected(gateway) as broker:
        for name, value in fault.items():
            setattr(gateway.faults, name, value)
        assert len(await broker.positions()) == len(gateway.account.positions)
        assert (await broker.snapshot(option)).bid == gateway.market.quote(option.conid).bid
