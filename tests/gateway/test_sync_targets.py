"""Targets kept through TCP: who is refreshed when, in which order, at which cost, and what the desk says of it."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import v6kit
from broker_helpers import options_of, reached, states_of
from sync_helpers import FAST, Rig, asked, legs_of, rigged, without_throttle
from v6kit.broker import ConnectionState, LineBudget
from v6kit.clock import FakeClock
from v6kit.contracts import PositionUpdate
from v6kit.errors import GatewayUnavailableError
from v6kit.gateway import SimulatedGateway
from v6kit.positions import PositionBook
from v6kit.sync import Feed, QueueWorker, Targets
from v6kit.sync.asking import Asker

if TYPE_CHECKING:
    from conftest import GatewayMaker

TARGETS = Targets(active=15, other=60)


@pytest.fixture(autouse=True)
def unthrottled():
    """The pace is the broker's to keep, and tested there."""
    with without_throttle():
        yield


@pytest.fixture
async def gateway(make_gateway: GatewayMaker) -> SimulatedGateway:
    """A running gateway with 40 positions and no limit of pace."""
    return await make_gateway(40, **FAST)


def feed_of(rig: Rig, targets: Targets = TARGETS) -> Feed:
    """Return what queues a rig's positions in time."""
    return Feed(rig.registry, rig.queue, rig.broker, rig.book, targets, parked={})


async def fed(rig: Rig, **settings: object) -> QueueWorker:
    """Return a worker that has refreshed every position just now."""
    await rig.book.sync(await rig.broker.positions())
    worker = rig.worker(feed=feed_of(rig), **settings)
    while (report := await worker.run_cycle()).claimed or report.in_flight:
        pass
    assert {row.quality for row in rig.book.rows()} == {"ok"}
    return worker


async def test_a_demoted_active_contract_meets_its_own_target_while_others_wait(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """Every 15 s instead of every 60, without any sync in between; when both are due, it goes first."""
    lines = LineBudget(2, 0, snapshot_floor=1, clock=clock)
    async with rigged(gateway, tmp_path, clock, lines=lines) as rig:
        await rig.registry.add_strategy("1", legs_of(*gateway.account.iron_condors[0]))
        feed = feed_of(rig)
        streamer, worker = rig.streamer(feed=feed), rig.worker(interval=1.0, feed=feed)
        await streamer.start()
        demoted = set(streamer.demoted)
        assert len(demoted) == 3
        while (await worker.run_cycle()).claimed:
            pass
        for passed in (14.5, 29.0, 43.5):
            clock.advance(14.5)
            before = len(asked(gateway, snapshots=True))
            assert (await worker.run_cycle()).settled == 3
            assert set(asked(gateway, snapshots=True)[before:]) == demoted, f"after {passed} s"
            assert (await worker.run_cycle()).claimed == 0, "once per target"
        clock.advance(20)
        before = len(asked(gateway, snapshots=True))
        assert (await worker.run_cycle()).claimed == 39
        assert set(asked(gateway, snapshots=True)[before : before + 3]) == demoted
        assert streamer.streaming.isdisjoint(asked(gateway, snapshots=True)), "what streams is never queued"


async def test_what_went_stale_is_refreshed_after_a_reconnect_the_most_overdue_first(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """Whatever its target says, in the order in which the quotes came."""
    async with rigged(gateway, tmp_path, clock) as rig:
        worker = await fed(rig)
        conids = [row.conid for row in rig.book.rows()]
        for first in (20, 0, 30, 10):
            clock.advance(1)
            younger = [{"conid": conid, "symbol": "S"} for conid in conids[first : first + 10]]
            await rig.queue.insert_many(younger)
            await worker.run_cycle()
        states = states_of(rig.broker)
        gateway.faults.refuse_connections = True
        gateway.drop_clients()
        await reached(states, ConnectionState.DOWN)
        await rig.book.mark_stale()
        assert (await worker.run_cycle()).held_back
        assert rig.statuses().keys() == {"SUCCESS"}, "nothing is queued while nothing can be asked for"
        gateway.faults.refuse_connections = False
        await reached(states, ConnectionState.LIVE)
        # A future's exchange is looked up first, so its request may come later than its turn.
        came = {row.conid: row.received_at for row in rig.book.rows() if row.sec_type != "FUT"}
        before = len(asked(gateway))
        assert (await worker.run_cycle()).settled == 40
        order = [came[conid] for conid in asked(gateway)[before:] if conid in came]
        assert order == sorted(came.values())
        assert len(set(order)) == 4


async def test_nothing_due_commits_nothing(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """And what is queued already is not queued again."""
    async with rigged(gateway, tmp_path, clock) as rig:
        worker = await fed(rig, interval=0.1)
        version = rig.queue.ledger.version
        await worker.run_cycle()
        assert await worker.feed.fill() == 0
        clock.advance(60)
        assert await worker.feed.fill() == 40
        assert await worker.feed.fill() == 0
        assert rig.queue.ledger.version == version + 1


async def test_what_another_process_has_refreshed_is_not_queued_again(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """Its own handle on the book has not heard of it when the position seems due."""
    async with rigged(gateway, tmp_path, clock) as rig, PositionBook(rig.book.uri, clock=clock) as other:
        worker = await fed(rig)
        await other.refresh()
        clock.advance(60)
        await worker.run_cycle()
        known = {row.received_at for row in other.rows()}
        assert max(known) < clock.now()
        feed = Feed(rig.registry, rig.queue, rig.broker, other, TARGETS, parked={})
        assert await feed.fill() == 0
        assert {row.received_at for row in other.rows()} == {clock.now()}


async def test_a_contract_without_prices_is_asked_for_once_per_target(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """In a closed market, and when its requests fail: it must not take the lines of all others."""
    async with rigged(gateway, tmp_path, clock) as rig:
        worker = await fed(rig)
        silent = options_of(gateway)[0].conid
        gateway.market.is_open = False
        gateway.faults.error_by_conid[silent] = 162  # means nothing to us: tried again, and failed at last
        clock.advance(60)
        await worker.feed.fill()
        while rig.live(silent) or (await worker.run_cycle()).claimed:
            await worker.run_cycle()
            if waiting := rig.live(silent):
                clock.jump(waiting.available_at)
        assert rig.requests(silent)[-1].status == "FAILED"
        before = len(rig.requests(silent))
        assert await worker.feed.fill(5.0) == 0
        assert len(rig.requests(silent)) == before
        clock.advance(60)
        assert await worker.feed.fill() == 40


async def test_a_worker_that_runs_keeps_its_lines_busy(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """It claims again as soon as its lines run out of work, not only when its interval is over."""
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        worker = rig.worker(interval=600, batch_size=3)
        worker.start()
        await rig.until(lambda: rig.statuses() == {"SUCCESS": 40})
        assert worker.cycles > 10
        assert worker.last_error is None


async def test_one_snapshot_serves_all_accounts_that_hold_the_contract(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """Two requests, one line, two rows with the same prices."""
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.book.sync(await rig.broker.positions())
        first = rig.row(options_of(gateway)[0].conid)
        await rig.book.record([PositionUpdate(account="U2", instrument=first.instrument(), position=3.0, avg_cost=1.0)])
        await rig.queue.insert_many(
            [{"conid": first.conid, "symbol": "S", "account": account} for account in (first.account, "U2")]
        )
        assert (await rig.worker().run_cycle()).settled == 2
        assert asked(gateway) == [first.conid]
        both = [row for row in rig.book.rows() if row.conid == first.conid]
        assert [(row.quality, row.bid) for row in both] == [("ok", gateway.market.quote(first.conid).bid)] * 2
        assert len({row.request_id for row in both}) == 2


async def test_a_shared_snapshot_goes_on_for_who_still_waits(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """Only the last one to go gives the line back; an error reaches all."""
    gateway.faults.snapshot_hold = math.inf
    async with rigged(gateway, tmp_path, clock) as rig:
        asker, instrument = Asker(rig.broker, clock), options_of(gateway)[0]
        tasks = [asyncio.create_task(asker.quote(instrument)) for _ in range(3)]
        await rig.until(lambda: gateway.lines_in_use == 1)
        for number, task in enumerate(tasks, 1):
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            assert number == 3 or rig.broker.lines.snapshots == 1
        await rig.until(lambda: gateway.lines_in_use == rig.broker.lines.used == 0)
        tasks = [asyncio.create_task(asker.quote(instrument)) for _ in range(2)]
        await rig.until(lambda: gateway.lines_in_use == 1)
        gateway.drop_clients()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [GatewayUnavailableError] * 2
        assert asker.hold is None


async def test_the_desk_says_what_the_book_says(tmp_path: Path):
    """Every position, its age and its target, at once after they were changed; and whether they can be met."""
    gateway = SimulatedGateway(20, snapshot_hold=0.02, tick_interval=0.02, **FAST)
    async with await v6kit.open(tmp_path, "simulated", gateway=gateway, targets=Targets(active=5, other=1000)) as desk:
        unquoted = desk.freshness()
        assert unquoted.kinds.select("kind", "positions", "unquoted", "within").rows() == [
            ("other, by queue", 20, 20, 0.0)
        ]
        await desk.registry.add_strategy(1, legs_of(*gateway.account.iron_condors[0]))
        await desk.sync()
        await desk.run_cycle()
        async with asyncio.timeout(5):
            while {row.quality for row in desk.positions.rows()} != {"ok"}:  # noqa: ASYNC110 - streams write by themselves
                await asyncio.sleep(0.01)
        fresh = desk.freshness()
        rows = {row.conid: row for row in desk.positions.rows()}
        assert fresh.positions.height == len(rows) == 20
        for each in fresh.positions.to_dicts():
            row = rows[each["conid"]]
            streams = each["conid"] in desk.streamer.streaming
            assert (each["source"], each["quality"]) == ("stream" if streams else "snapshot", "ok")
            if not streams:
                assert each["received_at"] == row.received_at
                assert each["age_seconds"] == pytest.approx((fresh.at - row.received_at).total_seconds())
                assert each["overdue_seconds"] == pytest.approx(each["age_seconds"] - 1000)
        by_kind = {each["kind"]: each for each in fresh.kinds.to_dicts()}
        assert (by_kind["streamed"]["positions"], by_kind["streamed"]["max"]) == (4, 0.0)
        assert by_kind["other, by queue"]["max"] == fresh.positions["age_seconds"].max()
        assert fresh.is_feasible
        assert fresh.capacity.lines == desk.lines.capacity - 4
        assert fresh.capacity.hold == pytest.approx(desk.worker.hold)
        desk.targets = Targets(active=0.001, other=0.001)
        assert not desk.freshness().is_feasible
        with pytest.raises(TypeError, match="targets must be"):
            desk.targets = 15
    with pytest.raises(TypeError, match="targets must be"):
        await v6kit.open(tmp_path / "other", "simulated", targets={"active": 5})
    assert not (tmp_path / "other").exists()
