"""The broker's link through TCP: connecting, losing it in every way, and having everything restored."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from broker_helpers import (
    DEADLINE,
    PATIENT,
    QUICK,
    Heard,
    broker_for,
    connected,
    options_of,
    reached,
    requests_for,
    states_of,
)
from v6kit.broker import Broker, ConnectionState
from v6kit.contracts import Quality
from v6kit.errors import GatewayUnavailableError
from v6kit.gateway import Answer, answers

if TYPE_CHECKING:
    from conftest import GatewayMaker
    from v6kit.clock import FakeClock
    from v6kit.gateway import SimulatedGateway


async def test_a_gateway_that_is_not_there_is_told_at_once_with_the_next_step(make_gateway: GatewayMaker):
    """The message names host, port and client id, and where to look."""
    gateway = await make_gateway(5)
    await gateway.stop()
    broker = broker_for(gateway, connect_timeout=30)
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(GatewayUnavailableError, match=rf"127\.0\.0\.1:{gateway.port} \(client id 7\).*7497"):
            await broker.connect()
    assert broker.state is ConnectionState.DOWN
    assert "7497" in broker.state_reason
    with pytest.raises(GatewayUnavailableError):
        await broker.positions()


async def test_a_client_id_in_use_is_told_as_such_and_fast(gateway: SimulatedGateway):
    """Error 326 does not wait out the connect time-out, and the first connection is not disturbed."""
    async with connected(gateway) as first:
        second = broker_for(gateway, connect_timeout=30)
        async with asyncio.timeout(DEADLINE):
            with pytest.raises(GatewayUnavailableError, match="client id 7 is in use"):
                await second.connect()
        assert first.state is ConnectionState.LIVE
        assert gateway.client_ids == [7]


async def test_a_gateway_that_shakes_hands_and_says_no_more_times_out(gateway: SimulatedGateway):
    """Half a handshake is no connection."""
    gateway.faults.handshake_only = True
    broker = broker_for(gateway, connect_timeout=0.2)
    with pytest.raises(GatewayUnavailableError, match="no answer"):
        await broker.connect()
    assert broker.state is ConnectionState.DOWN


async def test_a_gateway_that_hangs_up_on_us_is_told_fast(gateway: SimulatedGateway):
    """A socket that is closed during the handshake does not wait out the time-out."""
    gateway.faults.refuse_connections = True
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(GatewayUnavailableError, match="hung up"):
            await broker_for(gateway, connect_timeout=30).connect()


@pytest.mark.parametrize("silent", [Answer.POSITION_END, Answer.ACCOUNT_DOWNLOAD_END])
async def test_an_incomplete_start_is_no_connection(gateway: SimulatedGateway, silent: Answer):
    """Positions or account without their end: connecting fails, and the client id is free again."""
    gateway.faults.silent_answers.add(silent)
    with pytest.raises(GatewayUnavailableError, match="did not send its positions and account"):
        await broker_for(gateway, connect_timeout=0.2).connect()
    gateway.faults.clear()
    async with connected(gateway) as broker:
        assert broker.state is ConnectionState.LIVE


async def test_an_account_that_the_login_does_not_manage_is_refused(gateway: SimulatedGateway):
    """The error names the argument and the accounts that there are."""
    with pytest.raises(ValueError, match=f"account must be one of {gateway.account.account_id}, got 'DU9'"):
        await broker_for(gateway, account="DU9").connect()


@pytest.mark.parametrize(
    ("argument", "value"),
    [("client_id", 0), ("market_data_type", 5), ("connect_timeout", 0), ("requests_per_second", -1)],
)
def test_a_wrong_argument_is_named_with_its_value(argument: str, value: int):
    """Client id 0 is among them: it would take over the orders that were placed by hand."""
    with pytest.raises(ValueError, match=f"{argument} must be .*{value}"):
        Broker("127.0.0.1", 7497, **({"client_id": 1} | {argument: value}))


async def test_a_drop_in_the_middle_of_a_batch_fails_what_was_in_flight_and_restores_the_rest(
    make_gateway: GatewayMaker,
):
    """In-flight snapshots raise, what is known stays known, streams come back, and snapshots work again."""
    gateway = await make_gateway(60)
    options = options_of(gateway)
    async with connected(gateway, market_data_type=2) as broker:
        states, quotes = states_of(broker), Heard(broker.on_quote)
        await broker.subscribe(options[0])
        await quotes.until(lambda quote: quote.quality is Quality.OK)
        gateway.faults.drop_after, gateway.faults.snapshot_hold = 5, 60.0  # none ends before the drop
        results = await asyncio.gather(*(broker.snapshot(each) for each in options[1:21]), return_exceptions=True)
        gateway.faults.clear()
        quotes.drain()
        assert sum(isinstance(each, GatewayUnavailableError) for each in results) == 20
        assert len(await broker.portfolio()) == 60
        stale = broker.latest(options[0].conid)
        assert stale is not None
        assert stale.bid is not None
        assert [new for _, new, _ in [await states.next() for _ in range(3)]] == [
            ConnectionState.DOWN,
            ConnectionState.SYNCING,
            ConnectionState.LIVE,
        ]
        await quotes.until(lambda quote: quote.conid == options[0].conid and quote.quality is Quality.OK)
        assert gateway.client_ids == [7]
        assert broker.lines.used == 1
        assert (await broker.snapshot(options[30])).quality is Quality.OK
    types = [record.name for record in gateway.log.records if record.name in ("REQ_MARKET_DATA_TYPE", "REQ_MKT_DATA")]
    assert types[0] == "REQ_MARKET_DATA_TYPE"
    assert requests_for(gateway, "REQ_MARKET_DATA_TYPE") == [("59", "1", "2")] * 2
    assert len(requests_for(gateway, "REQ_MKT_DATA", options[0].conid)) == 2
    restored = len(types) - types[::-1].index("REQ_MARKET_DATA_TYPE") - 1
    assert types[restored:] == ["REQ_MARKET_DATA_TYPE", "REQ_MKT_DATA", "REQ_MKT_DATA"]


async def test_a_streamed_quote_is_stale_while_the_link_is_down(gateway: SimulatedGateway):
    """The last quote stays readable after a drop, and says that it is old."""
    option = options_of(gateway)[0]
    async with connected(gateway) as broker:
        states, quotes = states_of(broker), Heard(broker.on_quote)
        await broker.subscribe(option)
        await quotes.until(lambda quote: quote.quality is Quality.OK)
        gateway.faults.refuse_connections = True
        gateway.drop_clients()
        await reached(states, ConnectionState.DOWN)
        quote = broker.latest(option.conid)
        assert quote is not None
        assert (quote.quality, quote.bid) == (Quality.STALE, gateway.market.quote(option.conid).bid)
        assert broker.streaming == {option.conid}
        assert "down" in (broker.hold or "")


async def test_a_gateway_that_restarts_is_found_again(gateway: SimulatedGateway):
    """Reconnecting goes on until it works, under the same client id."""
    async with connected(gateway) as broker:
        states = states_of(broker)
        await gateway.stop()
        await reached(states, ConnectionState.DOWN)
        await gateway.start()
        await reached(states, ConnectionState.LIVE)
        assert gateway.client_ids == [7]
        assert len(await broker.positions()) == len(gateway.account.positions)


async def test_a_stalled_link_is_found_by_the_heartbeat_and_replaced(gateway: SimulatedGateway):
    """An open socket that says nothing is a drop: requests in flight end, and the link comes back with the gateway."""
    option = options_of(gateway)[0]
    async with connected(gateway, timings=QUICK) as broker:
        states = states_of(broker)
        gateway.faults.stalled = True
        with pytest.raises(GatewayUnavailableError, match="stalled"):
            await broker.snapshot(option)
        gateway.faults.stalled = False
        await reached(states, ConnectionState.LIVE)
        assert (await broker.snapshot(option)).quality is Quality.OK


async def test_1100_stops_sending_and_1102_goes_on(gateway: SimulatedGateway):
    """While the gateway has no link to IB nothing is sent; afterwards the streams simply continue."""
    option = options_of(gateway)[0]
    async with connected(gateway, timings=replace(PATIENT, quiet_stream=30.0)) as broker:
        states = states_of(broker)
        await broker.subscribe(option)
        gateway.broadcast(1100)
        assert "1100" in await reached(states, ConnectionState.DEGRADED)
        assert "degraded" in (broker.hold or "")
        with pytest.raises(GatewayUnavailableError, match="degraded"):
            await broker.snapshot(option)
        gateway.broadcast(1102)
        await reached(states, ConnectionState.LIVE)
        assert broker.hold is None
        assert (await broker.snapshot(option)).quality is Quality.OK
    assert len(requests_for(gateway, "REQ_MKT_DATA", option.conid)) == 1


async def test_after_1102_a_stream_that_stays_silent_is_asked_for_again(gateway: SimulatedGateway):
    """IB says that the data was kept; the stream that shows otherwise is replaced, the others are left alone."""
    quiet, lively = options_of(gateway)[:2]
    gateway.faults.silent_conids.add(quiet.conid)
    async with connected(gateway) as broker:
        quotes = Heard(broker.on_quote)
        await broker.subscribe(quiet)
        await broker.subscribe(lively)
        await quotes.until(lambda quote: quote.conid == lively.conid)
        gateway.broadcast(1100)
        gateway.faults.silent_conids.clear()
        gateway.faults.silent_conids.add(lively.conid)
        gateway.broadcast(1102)
        await quotes.until(lambda quote: quote.conid == quiet.conid)
    assert gateway.log.refused[300] == 0


async def test_farms_that_come_back_together_have_each_quiet_stream_asked_for_once(gateway: SimulatedGateway):
    """A second cancel would meet error 300, which ends a stream."""
    quiet = options_of(gateway)[:3]
    gateway.faults.silent_conids |= {each.conid for each in quiet}
    async with connected(gateway) as broker:
        errors = Heard(broker.on_stream_error)
        for option in quiet:
            await broker.subscribe(option)
        for code in (2103, 2104):
            for farm in ("usopt", "usfarm"):
                gateway.broadcast(code, answers.farm_news(code, farm))
        await broker.current_time()
        await asyncio.gather(*broker._streams._repairs)
        await broker.current_time()
        assert errors.drain() == []
        assert broker.streaming == {each.conid for each in quiet}
        assert gateway.lines_in_use == 3
    assert [len(requests_for(gateway, "REQ_MKT_DATA", each.conid)) for each in quiet] == [2, 2, 2]
    assert gateway.log.refused[300] == 0


async def test_1101_asks_for_all_streams_again(gateway: SimulatedGateway):
    """IB lost the subscriptions: each is sent once more, after the market data type, and no line is counted twice."""
    options = options_of(gateway)[:3]
    async with connected(gateway) as broker:
        states, quotes = states_of(broker), Heard(broker.on_quote)
        for option in options:
            await broker.subscribe(option)
        gateway.broadcast(1100)
        await reached(states, ConnectionState.DEGRADED)
        quotes.drain()
        gateway.broadcast(1101)
        await reached(states, ConnectionState.LIVE)
        waiting = {each.conid for each in options}
        while waiting:
            (quote,) = await quotes.next()
            waiting.discard(quote.conid)
        assert broker.lines.used == gateway.lines_in_use == 3
    assert [len(requests_for(gateway, "REQ_MKT_DATA", each.conid)) for each in options] == [2, 2, 2]
    assert len(requests_for(gateway, "REQ_MARKET_DATA_TYPE")) == 2


@pytest.mark.parametrize("code", [1101, 1102])
async def test_servers_that_are_lost_while_streams_are_restored_stop_the_sending(gateway: SimulatedGateway, code: int):
    """The rest is asked for when they are back, whatever the gateway says of its data: it has not heard of the rest."""
    options = options_of(gateway)[:4]

    def sent() -> list[int]:
        return [len(requests_for(gateway, "REQ_MKT_DATA", each.conid)) for each in options]

    timings = replace(PATIENT, quiet_stream=DEADLINE)
    async with connected(gateway, requests_per_second=4, timings=timings) as broker:
        for option in options:
            await broker.subscribe(option)
        states, notices = states_of(broker), Heard(broker.on_notice)
        gateway.broadcast(1100)
        await reached(states, ConnectionState.DEGRADED)
        gateway.broadcast(1101)
        await gateway.log.wait_for("REQ_MKT_DATA", 5)
        gateway.broadcast(1100)
        await reached(states, ConnectionState.DEGRADED)
        assert sent() == [2, 1, 1, 1]
        assert "1100" in (broker.hold or "")
        gateway.broadcast(code)
        await notices.until(lambda heard, _text: heard == code)
        await reached(states, ConnectionState.LIVE)
        assert sent() == ([3, 2, 2, 2] if code == 1101 else [2, 2, 2, 2])
        await broker.current_time()
        assert broker.lines.used == gateway.lines_in_use == 4


async def test_1300_replaces_the_link(gateway: SimulatedGateway):
    """The gateway announces that it closes the socket; we do not wait for it."""
    async with connected(gateway) as broker:
        states = states_of(broker)
        gateway.broadcast(1300)
        assert "1300" in await reached(states, ConnectionState.DOWN)
        await reached(states, ConnectionState.LIVE)


async def test_a_competing_session_pauses_snapshots_and_keeps_streams(gateway: SimulatedGateway):
    """Code 10197 sets the hold with its reason; the streams stay subscribed."""
    option, refused = options_of(gateway)[:2]
    gateway.faults.error_by_conid[refused.conid] = 10197
    async with connected(gateway) as broker:
        notices = Heard(broker.on_notice)
        await broker.subscribe(option)
        gateway.broadcast(10197)
        await notices.until(lambda code, _text: code == 10197)
        assert "10197" in (broker.hold or "")
        assert broker.state is ConnectionState.LIVE
        assert broker.streaming == {option.conid}
        await broker.subscribe(refused)
        await broker.current_time()
        assert broker.streaming == {option.conid, refused.conid}


@pytest.mark.parametrize("outage", ["farm", "servers", "session"])
async def test_ticks_from_before_an_outage_do_not_hide_it(make_gateway: GatewayMaker, clock: FakeClock, outage: str):
    """Both may come in one packet, and ib_async tells of ticks at a packet's end."""
    gateway = await make_gateway(40)
    option = options_of(gateway)[0]
    async with connected(gateway) as broker:
        quotes = Heard(broker.on_quote)
        await broker.subscribe(option)
        (first,) = await quotes.until(lambda quote: quote.quality is Quality.OK)
        gateway.faults.coalesce_seconds = 0.2
        ticks = gateway.log.sent["TICK_PRICE"]
        clock.advance(60)
        await gateway.ticked()
        assert gateway.log.sent["TICK_PRICE"] > ticks
        begin = {
            "farm": lambda: gateway.break_farm("usopt"),
            "servers": lambda: gateway.broadcast(1100),
            "session": gateway.begin_competing_session,
        }
        begin[outage]()
        await broker.current_time()  # its answer comes after both
        latest = broker.latest(option.conid)
        assert latest is not None
        assert latest.received_at > first.received_at
        assert latest.quality is Quality.STALE


async def test_error_100_halves_the_rate(gateway: SimulatedGateway):
    """The gateway complains once: messages go out at half the rate, and nothing else changes."""
    async with connected(gateway, requests_per_second=20) as broker:
        notices = Heard(broker.on_notice)
        gateway.broadcast(100)
        await notices.until(lambda code, _text: code == 100)
        assert broker._pacer.rate == 10
        assert broker.hold is None


async def test_account_updates_that_another_client_took_are_asked_for_once_more(gateway: SimulatedGateway):
    """Code 2100 is answered once per connection, so that two clients do not fight for ever."""
    async with connected(gateway) as broker:
        notices = Heard(broker.on_notice)
        for _ in range(2):
            gateway.broadcast(2100)
            await notices.until(lambda code, _text: code == 2100)
        await broker.current_time()
    assert len(requests_for(gateway, "REQ_ACCOUNT_UPDATES")) == 2


async def test_closing_ends_everything_and_may_be_done_twice(make_gateway: GatewayMaker):
    """Requests in flight raise, no task and no socket is left, the client id is free, and the lines are all back."""
    gateway = await make_gateway(40, snapshot_hold=30.0)
    options = options_of(gateway)
    others = asyncio.all_tasks()
    broker = broker_for(gateway, snapshot_timeout=60)
    await broker.connect()
    await broker.connect()
    await broker.subscribe(options[0])
    snapshots = [asyncio.create_task(broker.snapshot(each)) for each in options[1:9]]
    await broker.current_time()
    await broker.close()
    await broker.close()
    results = await asyncio.gather(*snapshots, return_exceptions=True)
    assert all(isinstance(each, GatewayUnavailableError) for each in results)
    assert (broker.state, broker.lines.used, broker.streaming) == (ConnectionState.DOWN, 0, frozenset())
    assert asyncio.all_tasks() == others
    async with connected(gateway):
        assert gateway.client_ids == [7]


async def test_who_asks_while_it_closes_is_told_that_there_is_no_link(gateway: SimulatedGateway):
    """Not that they were cancelled: what waited for its turn may come to send just then."""
    async with connected(gateway) as broker:
        session = broker._connection.session
        await broker.current_time()  # by then the link is watched
        await broker.close()
        with pytest.raises(GatewayUnavailableError, match="closed by us"):
            await session.current_time(seconds=DEADLINE)


async def test_closing_during_a_reconnect_ends_the_attempts(gateway: SimulatedGateway):
    """Nothing keeps knocking after close."""
    others = asyncio.all_tasks()
    broker = broker_for(gateway)
    await broker.connect()
    states = states_of(broker)
    gateway.faults.handshake_only = True
    gateway.drop_clients()
    await reached(states, ConnectionState.DOWN)
    await broker.close()
    assert asyncio.all_tasks() == others


async def test_a_cancelled_connect_leaves_nothing_behind(gateway: SimulatedGateway):
    """Interrupting the start-up closes the socket, and the next attempt finds the client id free."""
    gateway.faults.silent_answers.add(Answer.POSITION_END)
    others = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await broker_for(gateway).connect()
    assert asyncio.all_tasks() == others
    gateway.faults.clear()
    async with connected(gateway) as broker:
        assert broker.state is ConnectionState.LIVE


async def test_a_callback_that_raises_disturbs_nobody_and_is_heard(gateway: SimulatedGateway):
    """The error reaches the loop's exception handler; other listeners, and the link, go on."""
    failures: asyncio.Queue[dict[str, object]] = asyncio.Queue()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.put_nowait(context))

    def fail(*_: object) -> None:
        raise RuntimeError("a listener's own mistake")

    async with connected(gateway) as broker:
        broker.on_position(fail)
        changes = Heard(broker.on_position)
        gateway.account.set_position(gateway.account.positions[0].instrument.conid, 99)
        await changes.next()
        assert isinstance((await failures.get())["exception"], RuntimeError)
        changes.stop()
        assert broker.state is ConnectionState.LIVE


async def test_the_broker_reads_only(gateway: SimulatedGateway):
    """Nothing that concerns orders is ever sent."""
    async with connected(gateway) as broker:
        await broker.positions()
        await broker.snapshot(options_of(gateway)[0])
    assert not {name for name in gateway.log.received if "ORDER" in name or name == "REQ_EXECUTIONS"}


async def test_losing_the_link_is_logged_and_closing_it_is_not(
    gateway: SimulatedGateway, caplog: pytest.LogCaptureFixture
):
    """A drop is a warning of `v6kit.broker`; an end that we wanted is none."""
    async with connected(gateway) as broker:
        states = states_of(broker)
        gateway.drop_clients()
        await reached(states, ConnectionState.LIVE)
    warnings = [
        each.getMessage() for each in caplog.records if each.name == "v6kit.broker" and each.levelno >= logging.WARNING
    ]
    assert len(warnings) == 1
    assert "closed the connection" in warnings[0]
