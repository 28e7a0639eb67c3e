"""The streamer through TCP: routing, following registry and account, lost links, refused streams, quotes."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from broker_helpers import DEADLINE, PATIENT, options_of, reached, states_of
from sync_helpers import FAST, Breakage, Rig, asked, legs_of, rigged, without_throttle
from v6kit.broker import ConnectionState, LineBudget
from v6kit.contracts import AccountPosition, Instrument, Leg
from v6kit.errors import GatewayUnavailableError, RequestFailedError, StorageError
from v6kit.gateway import Answer
from v6kit.queue import PositionQueue
from v6kit.registry import StrategyRegistry
from v6kit.sync import BookWriter
from v6kit.sync import streamer as streamer_module
from v6kit.sync import writer as writer_module

if TYPE_CHECKING:
    from conftest import GatewayMaker
    from v6kit.clock import FakeClock
    from v6kit.gateway import SimulatedGateway


SHORT = replace(PATIENT, request_timeout=0.5)  # for an answer that does not come


@pytest.fixture(autouse=True)
def unthrottled():
    """The pace is the broker's to keep, and tested there."""
    with without_throttle():
        yield


@pytest.fixture
def quick_flush(monkeypatch: pytest.MonkeyPatch):
    """Write quotes more often than once per second."""
    monkeypatch.setattr(writer_module, "WRITE_SECONDS", 0.02)


@pytest.fixture
async def gateway(make_gateway: GatewayMaker) -> SimulatedGateway:
    """A running gateway with 40 positions and no limit of pace."""
    return await make_gateway(40, **FAST)


async def condor(rig: Rig, number: int = 0) -> set[int]:
    """Register one of the account's iron condors; return its conids."""
    legs = legs_of(*rig.gateway.account.iron_condors[number])
    await rig.registry.add_strategy(number + 1, legs, "IRON_CONDOR")
    return {leg.conid for leg in legs}


async def test_active_contracts_stream_and_the_others_queue(
    make_gateway: GatewayMaker, tmp_path: Path, clock: FakeClock
):
    """Of 500 positions the eight legs of two condors get a line each, and 492 a request of priority 2."""
    gateway = await make_gateway(500, **FAST)
    async with rigged(gateway, tmp_path, clock) as rig:
        active = await condor(rig, 0) | await condor(rig, 1)
        streamer = rig.streamer()
        await streamer.start()
        assert streamer.streaming == active == rig.broker.streaming
        assert gateway.lines_in_use == 8
        assert rig.queue.stats().by_priority == {2: 492}
        assert not active & {each.conid for each in rig.requests()}
        assert len(rig.book.rows()) == 500
        await streamer.stop()
        await rig.until(lambda: gateway.lines_in_use == 0)


async def test_a_sync_that_finds_nothing_new_writes_nothing(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """Reading the same positions again is no commit, neither in the book nor in the queue."""
    async with rigged(gateway, tmp_path, clock) as rig:
        streamer = rig.streamer()
        await streamer.sync()
        versions = rig.book.ledger.version, rig.queue.ledger.version
        await streamer.sync()
        assert (rig.book.ledger.version, rig.queue.ledger.version) == versions


async def test_the_registry_is_followed_live(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """A strategy that is added streams, and its requests are cancelled; removed, its positions are queued again."""
    async with rigged(gateway, tmp_path, clock) as rig:
        streamer = rig.streamer()
        await streamer.start()
        legs = await condor(rig)
        await rig.until(lambda: streamer.streaming == legs)
        await rig.until(lambda: not any(rig.live(conid) for conid in legs))
        assert {rig.requests(conid)[0].status for conid in legs} == {"CANCELLED"}
        await rig.registry.remove_strategy(1)
        await rig.until(lambda: all(rig.live(conid) for conid in legs))
        assert streamer.streaming == frozenset()
        await rig.until(lambda: gateway.lines_in_use == 0)


async def test_another_process_registers_a_strategy_and_it_streams(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
):
    """What another handle on the registry's table commits is seen without waiting for the next sync."""
    monkeypatch.setattr(streamer_module, "REGISTRY_SECONDS", 0.02)
    async with rigged(gateway, tmp_path, clock) as rig:
        streamer = rig.streamer()
        await streamer.start()
        async with StrategyRegistry(rig.registry.uri, clock=clock) as elsewhere:
            leg = Leg.of(options_of(gateway)[0])
            await elsewhere.add_strategy("theirs", [leg])
            await rig.until(lambda: streamer.streaming == {leg.conid})
            await elsewhere.remove_strategy("theirs")
            await rig.until(lambda: not streamer.streaming)


async def test_more_active_contracts_than_lines_are_demoted_loudly_and_promoted_later(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
):
    """The surplus is queued at priority 1 with a warning; a line that comes free is used for it."""
    lines = LineBudget(16, 10, clock=clock)
    async with rigged(gateway, tmp_path, clock, lines=lines) as rig:
        first, second = await condor(rig, 0), await condor(rig, 1)
        streamer = rig.streamer()
        await streamer.start()
        assert (len(streamer.streaming), len(streamer.demoted)) == (6, 2)
        assert streamer.demoted == (first | second) - streamer.streaming
        assert {rig.live(conid).priority for conid in streamer.demoted} == {1}
        await streamer.sync()
        (warning,) = [record.message for record in caplog.records if "no market data line" in record.message]
        assert warning.startswith("2 of 8 active contracts have no market data line: ")
        await rig.registry.remove_strategy(1)
        await rig.until(lambda: streamer.streaming == second)
        assert streamer.demoted == set()
        assert "without a line" not in repr(streamer)


async def test_a_demoted_contract_is_refreshed_on_a_line_that_streams_leave(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """With a floor for snapshots, what found no line for a stream is refreshed by the worker, before the others."""
    lines = LineBudget(16, 10, snapshot_floor=1, clock=clock)
    async with rigged(gateway, tmp_path, clock, lines=lines) as rig:
        await condor(rig, 0), await condor(rig, 1)
        streamer = rig.streamer()
        await streamer.start()
        assert len(streamer.demoted) == 3
        report = await rig.worker(batch_size=3).run_cycle()
        assert report.settled == 3
        assert {rig.row(conid).quality for conid in streamer.demoted} == {"ok"}
        assert gateway.line_peak <= 6


@pytest.mark.usefixtures("quick_flush")
async def test_a_lost_link_makes_streams_stale_and_a_reconnect_restores_all(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """Rows of streams become stale, not flat; then streams, positions and quotes come back, each stream once."""
    async with rigged(gateway, tmp_path, clock) as rig:
        legs = await condor(rig)
        streamer = rig.streamer()
        await streamer.start()
        await rig.until(lambda: all(rig.row(conid).quality == "ok" for conid in legs))
        gateway.faults.refuse_connections = True
        gateway.drop_clients()
        await rig.until(lambda: all(rig.row(conid).quality == "stale" for conid in legs))
        assert len(rig.book.rows()) == 40
        assert all(rig.row(conid).bid is not None for conid in legs)
        other = next(each for each in options_of(gateway) if each.conid not in legs)
        gateway.account.set_position(other.conid, 77)
        clock.advance(1)
        gateway.faults.refuse_connections = False
        await rig.until(lambda: all(rig.row(conid).quality == "ok" for conid in legs))
        await rig.until(lambda: rig.row(other.conid).position == 77)
        assert streamer.streaming == legs
        assert gateway.lines_in_use == 4
        assert all(rig.broker.lines.references(conid) == 1 for conid in legs)


async def test_a_reconnect_before_the_next_commit_leaves_fresh_quotes_fresh(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """A stream that was lost and is back within one second must not end up stale in a quiet market."""
    async with rigged(gateway, tmp_path, clock) as rig:
        legs = await condor(rig)
        streamer = rig.streamer()
        await streamer.start()
        await rig.until(lambda: legs == streamer._writer.inflow.quotes.keys())
        await streamer._writer.write()
        states = states_of(rig.broker)
        gateway.drop_clients()
        await reached(states, ConnectionState.LIVE)
        await rig.until(lambda: legs == streamer._writer.inflow.quotes.keys())
        await streamer._writer.write()
        assert {rig.row(conid).quality for conid in legs} == {"ok"}


@pytest.mark.usefixtures("quick_flush")
async def test_lost_data_is_subscribed_again(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """After 1100 the streams are stale; after 1101, which lost them at the gateway, they tick again."""
    async with rigged(gateway, tmp_path, clock) as rig:
        legs = await condor(rig)
        streamer = rig.streamer()
        await streamer.start()
        await rig.until(lambda: all(rig.row(conid).quality == "ok" for conid in legs))
        gateway.broadcast(1100)
        await rig.until(lambda: all(rig.row(conid).quality == "stale" for conid in legs))
        gateway.broadcast(1101)
        await rig.until(lambda: all(rig.row(conid).quality == "ok" for conid in legs))
        assert gateway.lines_in_use == 4


@pytest.mark.usefixtures("quick_flush")
async def test_a_changed_position_is_booked_and_refreshed_first(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """A trade is in the book without waiting for a sync, and its contract goes before the others."""
    conid = options_of(gateway)[0].conid
    async with rigged(gateway, tmp_path, clock) as rig:
        streamer = rig.streamer()
        await streamer.start()
        assert rig.live(conid).priority == 2
        gateway.account.set_position(conid, 42)
        await rig.until(lambda: rig.row(conid).position == 42)
        await rig.until(lambda: rig.live(conid).priority == 1)
        assert rig.row(conid).unrealized_pnl is not None


@pytest.mark.usefixtures("quick_flush")
async def test_a_new_position_is_booked_and_a_closed_one_leaves(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """A position of 0 closes the row; opening a contract that was not held adds one and queues it."""
    closed = options_of(gateway)[0].conid
    opened = next(each for each in gateway.market.find(sec_type="OPT") if gateway.account.position(each.conid) is None)
    async with rigged(gateway, tmp_path, clock) as rig:
        streamer = rig.streamer()
        await streamer.start()
        gateway.account.set_position(closed, 0)
        gateway.account.set_position(opened.conid, -3)
        await rig.until(lambda: rig.row(closed) is None)
        await rig.until(lambda: rig.live(opened.conid) is not None)
        assert rig.row(opened.conid).position == -3
        assert rig.live(opened.conid).priority == 1


@pytest.mark.usefixtures("quick_flush")
async def test_a_position_that_opens_under_a_quiet_stream_has_its_quote(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """A leg may be registered before it is held: the newest quote is booked although the market stands still."""
    opened = next(each for each in gateway.market.find(sec_type="OPT") if gateway.account.position(each.conid) is None)
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.registry.add_strategy("early", [Leg.of(opened)])
        streamer = rig.streamer()
        await streamer.start()
        await rig.until(lambda: rig.broker.latest(opened.conid) is not None)
        await rig.until(lambda: not streamer._writer.inflow.quotes)
        gateway.account.set_position(opened.conid, 1)
        row = await rig.until(lambda: rig.row(opened.conid))
        assert (row.change, row.source, row.quality) == ("OPEN", "stream", "ok")


async def test_an_incomplete_list_leaves_the_book_alone(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """A list of positions without its end is an error that reaches the caller, never "flat"."""
    async with rigged(gateway, tmp_path, clock, timings=SHORT) as rig:
        streamer = rig.streamer()
        await streamer.sync()
        version = rig.book.ledger.version
        gateway.faults.position_limit = 3
        gateway.faults.silent_answers.add(Answer.POSITION_END)
        with pytest.raises(RequestFailedError, match="positions"):
            await streamer.sync()
        assert len(rig.book.rows()) == 40
        assert rig.book.ledger.version == version


def following() -> list[str]:
    """Return the names of a streamer's tasks that run."""
    names = {"v6kit position sync", "v6kit quote writer", "v6kit registry look", "v6kit line-up"}
    return [name for task in asyncio.all_tasks() if (name := task.get_name()) in names]


async def test_a_start_that_fails_follows_nothing(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """The error reaches the caller; no task, callback or stream is left, and a second start works."""
    async with rigged(gateway, tmp_path, clock, timings=SHORT) as rig:
        legs = await condor(rig)
        gateway.faults.silent_answers.add(Answer.POSITION_END)
        streamer = rig.streamer()
        with pytest.raises(RequestFailedError):
            await streamer.start()
        assert not streamer.is_running
        assert following() == []
        states = states_of(rig.broker)
        gateway.faults.clear()
        gateway.drop_clients()  # the end of that list will never come on this link
        await reached(states, ConnectionState.LIVE)
        await streamer.start()
        assert streamer.streaming == legs
        assert len(following()) == 4


async def test_a_link_lost_while_subscribing_leaks_no_subscription(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """Half of the streams have begun when the link drops: the error arrives, then each streams exactly once."""
    # so slow that the loss is noticed before the last request goes out
    async with rigged(gateway, tmp_path, clock, requests_per_second=10) as rig:
        legs = await condor(rig, 0) | await condor(rig, 1)
        streamer = rig.streamer()
        gateway.faults.drop_after = 3
        states = states_of(rig.broker)
        streamer._connect()
        with pytest.raises(GatewayUnavailableError):
            await streamer.sync()
        await reached(states, ConnectionState.LIVE)
        await asyncio.gather(streamer.sync(), streamer.sync())
        assert streamer.streaming == legs == rig.broker.streaming
        assert {rig.broker.lines.references(conid) for conid in legs} == {1}
        await streamer.stop()
        assert rig.broker.lines.used == 0
        await rig.until(lambda: gateway.lines_in_use == 0)


async def test_a_refused_stream_rests_and_its_contract_is_queued(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
):
    """A stream that the gateway ends is not asked for in a hot loop; the queue takes it at priority 1 meanwhile."""
    async with rigged(gateway, tmp_path, clock) as rig:
        legs = await condor(rig)
        refused = min(legs)
        gateway.faults.error_by_conid[refused] = 420
        streamer = rig.streamer()
        await streamer.start()
        await rig.until(lambda: streamer.demoted == {refused})
        await rig.until(lambda: (request := rig.live(refused)) and request.priority == 1)
        for _ in range(3):
            await streamer.sync()
        assert asked(gateway).count(refused) == 1
        gateway.faults.clear()
        clock.advance(60)  # the sync_interval
        await streamer.sync()
        assert streamer.streaming == legs
        assert asked(gateway).count(refused) == 2
    assert any("the queue takes it at priority 1" in record.message for record in caplog.records)


@pytest.mark.usefixtures("quick_flush")
async def test_a_contract_without_data_is_parked(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """354 on a stream: the row says so, nothing asks again in this session, a new session may."""
    async with rigged(gateway, tmp_path, clock) as rig:
        legs = await condor(rig)
        refused = min(legs)
        gateway.faults.error_by_conid[refused] = 354
        streamer = rig.streamer()
        await streamer.start()
        await rig.until(lambda: refused in streamer.parked)
        await rig.until(lambda: rig.row(refused).quality == "error")
        assert rig.row(refused).error_code == 354
        await streamer.sync()
        assert rig.live(refused) is None
        assert asked(gateway).count(refused) == 1
        assert "1 parked" in repr(streamer)
        gateway.faults.clear()
        gateway.drop_clients()
        await rig.until(lambda: streamer.streaming == legs)
        assert streamer.parked == {}


@pytest.mark.usefixtures("quick_flush")
async def test_a_refused_leg_streams_once_its_redriven_request_is_answered(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """What is parked is shared: the worker finds out that the contract is subscribed now, and the streamer takes it."""
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.book.sync(await rig.broker.positions())
        conid = options_of(gateway)[0].conid
        gateway.faults.error_by_conid[conid] = 354
        parked: dict[int, str] = {}
        worker, streamer = rig.worker(parked=parked), rig.streamer(parked=parked)
        await rig.queue.insert(conid, "SPY", account=rig.row(conid).account)
        await worker.run_cycle()
        await rig.registry.add_strategy(1, legs_of(gateway.account.position(conid)))
        await streamer.start()
        assert (streamer.streaming, set(parked)) == (set(), {conid})
        gateway.faults.clear()
        clock.advance(60)
        await rig.queue.redrive([each for each in rig.requests(conid) if each.status == "FAILED"])
        await worker.run_cycle()
        await streamer.sync()
        assert streamer.streaming == {conid}


async def test_ib_servers_coming_back_parks_on(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """1100 and 1102 are no new session: what was refused stays so."""
    async with rigged(gateway, tmp_path, clock) as rig:
        streamer = rig.streamer()
        await streamer.start()
        streamer.parked[1] = "354"
        states = states_of(rig.broker)
        gateway.broadcast(1100)
        await reached(states, ConnectionState.DEGRADED)
        gateway.broadcast(1102)
        await reached(states, ConnectionState.LIVE)
        assert streamer.parked == {1: "354"}


async def test_quotes_are_written_once_per_second_as_one_commit(
    make_gateway: GatewayMaker, tmp_path: Path, clock: FakeClock
):
    """Fifty ticks per second of four streams are about one commit per second, and each has the newest quotes."""
    gateway = await make_gateway(20, **FAST)
    async with rigged(gateway, tmp_path, clock) as rig:
        legs = await condor(rig)
        streamer = rig.streamer()
        await streamer.start()
        commits: list[set[int]] = []
        rig.book.ledger.on_commit(lambda rows: commits.append({row.conid for row in rows}))
        async with asyncio.timeout(DEADLINE):
            while len(commits) < 2:
                before = len(commits)
                for _ in range(10):
                    clock.advance(0.25)
                    await asyncio.sleep(0.01)
                assert len(commits) - before <= 1
        assert commits == [legs, legs]
        ticks = gateway.log.sent["TICK_PRICE"]
        assert ticks > 100


@pytest.mark.usefixtures("quick_flush")
async def test_quotes_that_could_not_be_written_are_written_later(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """A book that is out of order for a moment loses no quote and no position event, also in a quiet market."""
    conid = options_of(gateway)[-1].conid
    async with rigged(gateway, tmp_path, clock) as rig:
        streamer = rig.streamer()
        await streamer.start()
        breakage = Breakage(rig.book)
        legs = await condor(rig)
        gateway.account.set_position(conid, 42)
        await rig.until(lambda: isinstance(streamer.last_error, StorageError))
        breakage.mend()
        await rig.until(lambda: all(rig.row(leg).quality == "ok" for leg in legs))
        await rig.until(lambda: rig.row(conid).position == 42)
        await rig.until(lambda: streamer.last_error is None)
        assert rig.live(conid).priority == 1


async def test_a_cycle_takes_streamed_quotes_along_in_its_own_commit(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
):
    """Worker and streamer share a writer, so that a busy worker does not double the commits of the book."""
    monkeypatch.setattr(writer_module, "WRITE_SECONDS", 3600)
    async with rigged(gateway, tmp_path, clock) as rig:
        legs = await condor(rig)
        writer = BookWriter(rig.queue, rig.broker, rig.book, parked={})
        await rig.streamer(writer=writer).start()
        worker = rig.worker(batch_size=3, writer=writer)
        commits: list[set[int]] = []
        await rig.until(lambda: legs == writer.inflow.quotes.keys())
        rig.book.ledger.on_commit(lambda rows: commits.append({row.conid for row in rows}))
        report = await worker.run_cycle()
        assert report.claimed == 3
        assert len(commits[-1]) == 3 + len(legs)
        assert legs < commits[-1]


async def test_a_cancelled_commit_keeps_what_came_in(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """`stop` may meet a commit halfway: what it was to write is written by the last one."""
    conid = options_of(gateway)[-1].conid
    async with rigged(gateway, tmp_path, clock) as rig:
        streamer = rig.streamer()
        await streamer.start()
        gateway.account.set_position(conid, 42)
        await rig.until(lambda: streamer._writer.inflow.positions)
        writing = asyncio.create_task(streamer._writer.write())
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait({writing})
        await streamer.stop()
        assert rig.row(conid).position == 42


async def test_stop_unsubscribes_although_the_book_cannot_be_written(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """The error reaches the caller, and the lines are free nevertheless."""
    async with rigged(gateway, tmp_path, clock) as rig:
        await condor(rig)
        streamer = rig.streamer()
        await streamer.start()
        await rig.until(lambda: streamer._writer.inflow.quotes)
        breakage = Breakage(rig.book)
        with pytest.raises(StorageError):
            await streamer.stop()
        breakage.mend()
        assert not streamer.is_running
        await rig.until(lambda: gateway.lines_in_use == 0)


async def test_a_request_that_another_worker_finishes_does_not_stop_the_sync(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """Requests of contracts that stream now are cancelled; one that is done meanwhile is left, the others still go."""
    async with rigged(gateway, tmp_path, clock) as rig:
        streamer = rig.streamer()
        await streamer.start()
        done, *others = sorted(each.instrument.conid for each in gateway.account.iron_condors[0])
        async with PositionQueue(rig.queue.uri, clock=clock) as other:
            batch = await other.get_batch(50)
            await other.mark_success([item for item in batch if item.conid == done])
            await other.release([item for item in batch if item.conid != done])
        await streamer._retire([done, *others])  # while our handle still believes that all of them wait
        assert [each.status for each in rig.requests(done)] == ["SUCCESS"]
        assert {rig.requests(conid)[0].status for conid in others} == {"CANCELLED"}


async def test_positions_of_another_login_are_left_alone(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """Two logins may share a lake: a complete list says nothing about accounts that it does not cover."""
    theirs = AccountPosition(
        account="U7", instrument=Instrument(conid=1, symbol="X", sec_type="STK"), position=5, avg_cost=1.0
    )
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.book.sync([theirs])
        await rig.streamer().sync()
        assert len(rig.book.rows()) == 41
        assert rig.row(1).position == 5


async def test_streams_begin_once_whoever_asks(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """Syncs by hand, by the registry and by time meet: each contract is subscribed once."""
    async with rigged(gateway, tmp_path, clock) as rig:
        streamer = rig.streamer(sync_interval=0.01)
        await streamer.start()
        legs = await condor(rig)
        await asyncio.gather(*(streamer.sync() for _ in range(5)))
        assert streamer.streaming == legs
        assert set(Counter(asked(gateway)).values()) == {1}
        assert {rig.broker.lines.references(conid) for conid in legs} == {1}


async def test_a_streamer_can_be_stopped_twice_and_started_again(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """Stopping is idempotent and leaves no task; the registry's changes after it are nobody's business."""
    async with rigged(gateway, tmp_path, clock) as rig:
        async with rig.streamer() as streamer:
            await streamer.start()
            assert streamer.is_running
        await streamer.stop()
        assert following() == []
        legs = await condor(rig)
        assert streamer.streaming == frozenset()
        await streamer.start()
        assert streamer.streaming == legs


async def test_only_what_is_not_fresh_is_queued(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """A refreshed position is queued again when its quote is older than the sync interval, not before."""
    async with rigged(gateway, tmp_path, clock) as rig:
        streamer = rig.streamer(sync_interval=60)
        await streamer.sync()
        assert (await rig.worker().run_cycle()).settled == 40
        await streamer.sync()
        assert rig.statuses() == {"SUCCESS": 40}
        clock.advance(timedelta(seconds=60))
        await streamer.sync()
        assert rig.statuses() == {"SUCCESS": 40, "PENDING": 40}


@pytest.mark.usefixtures("quick_flush")
async def test_an_unforeseen_error_is_heard_and_the_following_goes_on(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
):
    """A mistake of ours in a background step is logged with its traceback and kept, and the step is tried again."""
    caplog.set_level(logging.ERROR)
    async with rigged(gateway, tmp_path, clock) as rig:
        streamer = rig.streamer()
        await streamer.start()
        streamer._writer.inflow.errors[1] = 1
        good, streamer._writer.inflow = streamer._writer.inflow, None
        await rig.until(lambda: isinstance(streamer.last_error, AttributeError))
        streamer._writer.inflow = good
        await rig.until(lambda: streamer.last_error is None)
    assert any(record.exc_info for record in caplog.records)
