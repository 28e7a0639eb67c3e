"""A gateway that plays a scenario: when things happen, what is kept of them, how it ends, and that it repeats."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import ib_async
import pytest
from tests.patience import DEADLINE
from v6kit.clock import FakeClock, FastClock
from v6kit.engine import Engine
from v6kit.errors import GatewayUnavailableError
from v6kit.gateway import Event, Scenario, SimulatedGateway

if TYPE_CHECKING:
    from pathlib import Path

CLOSE = datetime(2026, 11, 20, 21, 30, tzinfo=UTC)


async def test_events_happen_when_the_clock_has_passed_them(make_gateway, clock: FakeClock) -> None:
    """Nothing before its instant, everything after it, and an end by itself; what happened is kept with its instant."""
    gateway = await make_gateway()
    gateway.play(Scenario([Event("halt", after="10 min", lasts="5 min", symbol="SPY")], start="2026-11-20 09:30"))
    clock.advance(599)
    await gateway.ticked()
    assert (gateway.market.halted, gateway.events) == ([], [])
    clock.advance(1)
    await gateway.ticked()
    assert gateway.market.halted == ["SPY"]
    clock.advance(300)
    await gateway.ticked()
    assert gateway.market.halted == []
    assert [str(each) for each in gateway.events] == ["09:40:00 halt(symbol='SPY')", "09:45:00 resume(symbol='SPY')"]
    async with asyncio.timeout(DEADLINE):
        await gateway.played()


async def test_what_became_due_together_happens_in_order(make_gateway, clock: FakeClock) -> None:
    """A clock that leaps over a day leaves the last word to what comes last."""
    gateway = await make_gateway()
    events = [
        Event("close_market", at="16:00"),
        Event("pre_market", at="09:31"),
        Event("open_market", at="09:32"),
        Event("trade", at="09:33", contract={"symbol": "SPY"}, quantity=500, price=10),
        Event("trade", at="09:34", contract={"symbol": "SPY"}, quantity=-600, price=11),
    ]
    gateway.play(Scenario(events))
    clock.advance(86_400)
    await gateway.ticked()
    assert [each.action for each in gateway.events] == ["pre_market", "open_market", "trade", "trade", "close_market"]
    assert not gateway.market.is_open


async def test_an_event_that_fails_is_told_and_does_not_stop_the_day(make_gateway, clock: FakeClock, caplog) -> None:
    """Its cause is in the log and with the event; the next one happens."""
    gateway = await make_gateway()
    account = {"account": "U7654321"}  # is known to be wrong only by the gateway that plays it
    events = [
        Event("trade", after=1, contract={"symbol": "SPY"}, quantity=1, **account),
        Event("halt", after=2, symbol="SPY"),
    ]
    gateway.play(Scenario(events, name="mine"))
    clock.advance(5)
    await gateway.ticked()
    failed, halted = gateway.events
    assert failed.error == "account must be one of DU0000001, got 'U7654321'"
    assert "mine, event 1 (trade) failed" in caplog.text
    assert failed.error in caplog.text
    assert (halted.action, halted.error) == ("halt", "")


async def test_a_contract_is_followed_through_a_corporate_action(make_gateway, clock: FakeClock) -> None:
    """A scenario names contracts as they are at its start, whatever becomes of them during the day."""
    gateway = await make_gateway()
    events = [
        Event("corporate_action", after=1, symbol="NVDA", ratio=2),
        Event("trade", after=2, contract={"symbol": "NVDA"}, quantity=7),
    ]
    before = gateway.market.find(symbol="NVDA", sec_type="STK")[0].conid
    gateway.play(Scenario(events))
    clock.advance(2)
    await gateway.ticked()
    now = gateway.market.find(symbol="NVDA", sec_type="STK")[0].conid
    assert gateway.events[-1].arguments == {"conid": now, "quantity": 7.0}
    assert now == gateway.market.successor(before) != before


async def test_a_scenario_that_does_not_fit_is_refused_before_anything_happens(make_gateway, clock: FakeClock) -> None:
    """One that is over, one with an unknown contract, a second one beside the first, and none at all."""
    gateway = await make_gateway()
    with pytest.raises(ValueError, match="no scenario was played"):
        await gateway.played()
    past = Scenario([Event("open_market", at="09:00")], name="past")
    with pytest.raises(
        ValueError, match=r"past is over at 2026-11-20 09:00, but the gateway's clock stands at .* 09:30"
    ):
        gateway.play(past)
    trade = Event("trade", after=1, contract={"conid": 5}, quantity=1)
    with pytest.raises(ValueError, match=r"scenario, event 1 \(trade\): contract must be listed .* {conid = 5}"):
        gateway.play(Scenario([trade]))
    gateway.play("trading_day")
    with pytest.raises(ValueError, match="trading_day is still playing"):
        gateway.play("trading_day")
    clock.advance(86_400)
    await gateway.ticked()
    gateway.play(Scenario([Event("open_market", after=0)]))
    await gateway.ticked()
    assert [each.action for each in gateway.events] == ["open_market"]


async def test_who_waits_for_the_end_hears_that_the_gateway_was_stopped(make_gateway) -> None:
    """A scenario that cannot end any more does not leave anybody waiting."""
    gateway = await make_gateway()
    gateway.play("trading_day")
    waiting = asyncio.ensure_future(gateway.played())
    given_up = asyncio.ensure_future(gateway.played())
    await gateway.ticked()
    given_up.cancel()
    await gateway.ticked()
    assert not waiting.done()
    await gateway.stop()
    with pytest.raises(GatewayUnavailableError, match="stopped before its scenario was over"):
        async with asyncio.timeout(DEADLINE):
            await waiting


async def test_a_file_is_played_by_its_path(make_gateway, clock: FakeClock, tmp_path: Path) -> None:
    """Ten lines of TOML are a scenario."""
    file = tmp_path / "gap.toml"
    file.write_text('[[event]]\nafter = "1 min"\naction = "take_lines"\ncount = 60\nfor = "1 h"\n', encoding="utf-8")
    gateway = await make_gateway()
    assert gateway.play(file).name == "gap"
    clock.advance(60)
    await gateway.ticked()
    assert gateway.lines_taken == 60


def test_a_day_plays_at_the_speed_of_a_fast_clock() -> None:
    """On an engine of that speed, seven hours pass in seconds, and the end can be awaited from another loop."""
    day = Scenario.load("trading_day")
    clock = FastClock(20_000, day.start)
    engine = Engine(speed=clock.speed)
    try:
        gateway = SimulatedGateway(20, clock=clock, tick_interval=30.0)
        gateway.play(day)
        engine.submit(gateway.start()).result(DEADLINE)
        asyncio.run(asyncio.wait_for(gateway.played(), DEADLINE))
        assert clock.now() >= CLOSE
        assert len(gateway.events) == len(day.schedule(day.start))
        assert not any(each.error for each in gateway.events)
        engine.submit(gateway.stop()).result(DEADLINE)
    finally:
        engine.close()


async def test_one_seed_and_one_clock_give_one_day() -> None:
    """Two gateways play the trading day to the same client: what is sent agrees to the last byte, quotes included."""
    first, second = await _recorded_day(), await _recorded_day()
    assert len(first) > 1_000
    assert first == second


async def _recorded_day() -> list[tuple[str, tuple[str, ...]]]:
    """Return all that a gateway sends to a client that streams four legs through the trading day, in order."""
    day = Scenario.load("trading_day")
    clock = FakeClock(day.start)
    gateway = SimulatedGateway(60, clock=clock, tick_interval=0.002, record=True, messages_per_second=None)
    gateway.play(day)
    async with gateway, asyncio.timeout(DEADLINE):
        ib = ib_async.IB()
        while clock.now() < CLOSE:
            if not ib.isConnected() and not gateway.faults.refuse_connections:
                await _connect_and_stream(ib, gateway)
            clock.advance(300)
            await gateway.ticked()
            await gateway.ticked()  # a connection that was cut is gone from both ends by now
            for _ in range(2):  # what ib_async asks by itself when a link is back is answered within this step
                if ib.isConnected():
                    with suppress(ConnectionError):  # the cut is noticed only now
                        await ib.reqCurrentTimeAsync()
        await gateway.played()
        ib.disconnect()
    return [(each.name, each.fields) for each in gateway.log.records if each.direction == "sent"]


async def _connect_and_stream(ib: ib_async.IB, gateway: SimulatedGateway) -> None:
    await ib.connectAsync(gateway.host, gateway.port, clientId=1)
    for leg in gateway.account.iron_condors[0]:
        ib.reqMktData(ib_async.Contract(conId=gateway.market.successor(leg.instrument.conid), exchange="SMART"))
    await ib.reqCurrentTimeAsync()
