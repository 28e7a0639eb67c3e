"""The worker through TCP: cycles, errors, lost links, stale claims, interruptions, and workers that die."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import sys
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from broker_helpers import DEADLINE, options_of, reached, states_of
from sync_helpers import FAST, Breakage, asked, rigged, without_throttle
from v6kit.broker import Broker, ConnectionState
from v6kit.clock import FakeClock
from v6kit.errors import StorageError
from v6kit.queue import Backoff, PositionQueue
from v6kit.sync import QueueWorker

if TYPE_CHECKING:
    from conftest import GatewayMaker
    from v6kit.contracts import Instrument, Quote
    from v6kit.gateway import SimulatedGateway


@pytest.fixture(autouse=True)
def unthrottled():
    """The pace is the broker's to keep, and tested there."""
    with without_throttle():
        yield


@pytest.fixture
async def gateway(make_gateway: GatewayMaker) -> SimulatedGateway:
    """A running gateway with 40 positions and no limit of pace."""
    return await make_gateway(40, **FAST)


async def test_a_cycle_refreshes_a_batch_in_three_commits(make_gateway: GatewayMaker, tmp_path: Path, clock: FakeClock):
    """Claim and settle are one commit of the queue each, the quotes are one of the book; futures are no exception."""
    gateway = await make_gateway(40, **FAST)
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        versions = rig.queue.ledger.version, rig.book.ledger.version
        report = await rig.worker().run_cycle()
        assert (report.claimed, report.settled, report.in_flight, report.problems) == (40, 40, 0, {})
        assert report.versions == (versions[0], versions[0] + 2)
        assert rig.book.ledger.version == versions[1] + 1
        assert rig.statuses() == {"SUCCESS": 40}
        assert {row.sec_type for row in rig.book.rows()} == {"OPT", "STK", "FUT"}
        for row in rig.book.rows():
            assert (row.quality, row.source, row.attempt) == ("ok", "snapshot", 1)
            assert row.bid == gateway.market.quote(row.conid).bid
            assert row.market_value == pytest.approx(row.position * row.multiplier * row.mark)
        assert {row.exchange for row in rig.book.rows() if row.sec_type == "OPT"} == {""}
    assert gateway.lines_in_use == 0


async def test_an_idle_cycle_writes_nothing(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """Nothing due: no commit anywhere, and the report says so."""
    async with rigged(gateway, tmp_path, clock) as rig:
        versions = rig.queue.ledger.version, rig.book.ledger.version
        report = await rig.worker(interval=0.1).run_cycle()
        assert (report.claimed, report.settled) == (0, 0)
        assert (rig.queue.ledger.version, rig.book.ledger.version) == versions


async def test_a_worker_opens_its_tables_by_itself(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """Nobody needs to initialize queue and book before the first cycle."""
    async with rigged(gateway, tmp_path / "other", clock) as rig:
        fresh = QueueWorker(
            PositionQueue(tmp_path / "q", clock=clock), rig.broker, type(rig.book)(tmp_path / "b", clock=clock)
        )
        assert (await fresh.run_cycle()).claimed == 0
        await fresh.queue.close()
        await fresh.book.close()


@pytest.mark.parametrize("code", [200, 354])
async def test_a_refused_contract_fails_once_and_is_not_asked_again(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, code: int
):
    """Expired (200) and not subscribed (354): the row says so, and a new request of this session ends unasked."""
    conid = options_of(gateway)[0].conid
    gateway.faults.error_by_conid[conid] = code
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        worker = rig.worker()
        report = await worker.run_cycle()
        assert (report.failed, report.settled) == (1, 39)
        assert [each.status for each in rig.requests(conid)] == ["FAILED"]
        row = rig.row(conid)
        assert (row.quality, row.error_code, row.bid) == ("error", code, None)
        assert str(code) in worker.parked[conid]
        await rig.queue.insert(conid, "again", account=row.account)
        assert (await worker.run_cycle()).failed == 1
        assert "not asked for again in this session" in rig.requests(conid)[-1].error_message
        assert asked(gateway).count(conid) == 1


@pytest.mark.parametrize("code", [200, 354])
async def test_a_redrive_asks_once_more_for_a_refused_contract(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, code: int
):
    """Who redrives has done something about it, such as subscribing: one more question, and if it is answered, more."""
    conid = options_of(gateway)[0].conid
    gateway.faults.error_by_conid[conid] = code
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        worker = rig.worker()
        await worker.run_cycle()
        clock.advance(60)
        await rig.queue.redrive()
        assert (await worker.run_cycle()).failed == 1
        assert asked(gateway).count(conid) == 2  # refused again, and left alone again
        assert str(code) in worker.parked[conid]
        gateway.faults.clear()
        clock.advance(60)
        await rig.queue.redrive()
        assert (await worker.run_cycle()).settled == 1
        assert asked(gateway).count(conid) == 3
        row = rig.row(conid)
        assert (row.quality, row.error_code) == ("ok", None)
        assert worker.parked == {}
        await rig.queue.insert(conid, "again", account=row.account)
        assert (await worker.run_cycle()).settled == 1


async def test_an_expired_option_is_parked(make_gateway: GatewayMaker, tmp_path: Path, clock: FakeClock):
    """A held option past its expiry ends in 200 by itself, without a fault being asked for."""
    gateway = await make_gateway(20)
    option = min(options_of(gateway), key=lambda each: each.expiry)
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        clock.jump(datetime.strptime(option.expiry, "%Y%m%d").replace(tzinfo=UTC) + timedelta(days=1, hours=15))
        worker = rig.worker()
        await worker.run_cycle()
        assert rig.requests(option.conid)[0].status == "FAILED"
        assert rig.row(option.conid).error_code == 200


async def test_soft_codes_are_kept_beside_the_data(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """10090 and 10167 end no request: the row has prices, the code, and the kind of data."""
    partial, delayed = (each.conid for each in options_of(gateway)[:2])
    gateway.faults.soft_by_conid.update({partial: (10090,), delayed: (10167,)})
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        report = await rig.worker().run_cycle()
        assert report.settled == 40
        assert (rig.row(partial).error_code, rig.row(partial).market_data_type) == (10090, 1)
        assert (rig.row(delayed).error_code, rig.row(delayed).market_data_type) == (10167, 3)
        assert rig.row(delayed).mark is not None


async def test_a_closed_market_leaves_good_prices_alone(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """IB's -1 never reaches the book, and what was good stays, with the time at which it was."""
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        worker = rig.worker()
        await worker.run_cycle()
        before = {row.conid: row for row in rig.book.rows()}
        gateway.market.is_open = False
        clock.advance(timedelta(minutes=1))
        await rig.fill()
        assert (await worker.run_cycle()).settled == 40
        for row in rig.book.rows():
            known = before[row.conid]
            assert (row.bid, row.ask, row.mark, row.received_at) == (
                known.bid,
                known.ask,
                known.mark,
                known.received_at,
            )
            assert row.requested_at > known.requested_at


async def test_a_closed_market_gives_partial_quality(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """Without bid, ask and last a first quote is partial, valued at a model's or yesterday's price."""
    gateway.market.is_open = False
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        await rig.worker().run_cycle()
        assert {row.quality for row in rig.book.rows()} == {"partial"}
        assert {row.bid for row in rig.book.rows()} == {None}


async def test_a_silent_request_is_tried_again_and_fails_at_last(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """A time-out counts as an attempt; each waits longer; the last one fails the request and says why."""
    conid = options_of(gateway)[0].conid
    gateway.faults.silent_conids.add(conid)
    async with rigged(gateway, tmp_path, clock, snapshot_timeout=0.1) as rig:
        rig.queue.backoff = Backoff(base=timedelta(seconds=5), jitter=0)
        await rig.fill(max_attempts=2)
        worker = rig.worker()
        report = await worker.run_cycle()
        assert (report.retried, report.settled) == (1, 39)
        waiting = rig.live(conid)
        assert (waiting.attempt, waiting.available_at - waiting.updated_at) == (1, timedelta(seconds=5))
        assert (await worker.run_cycle()).claimed == 0
        clock.advance(5)
        report = await worker.run_cycle()
        assert (report.claimed, report.retried, report.failed) == (1, 0, 1)
        assert "attempts used up (2 of 2): snapshot of conid" in rig.requests(conid)[0].error_message
    assert gateway.lines_in_use == 0


async def test_a_drop_in_the_middle_of_a_batch_loses_nothing(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """All claims come back uncounted; after the reconnect the same requests are refreshed."""
    gateway.faults.snapshot_hold = math.inf
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        states = states_of(rig.broker)
        worker = rig.worker()
        cycle = asyncio.create_task(worker.run_cycle())
        await rig.until(lambda: gateway.lines_in_use == 40)
        gateway.drop_clients()
        report = await cycle
        assert (report.released, report.settled, report.in_flight) == (40, 0, 0)
        assert {(each.status, each.attempt) for each in rig.requests()} == {("PENDING", 0)}
        assert rig.queue.held_claims() == ()
        gateway.faults.clear()
        await reached(states, ConnectionState.LIVE)
        assert (await worker.run_cycle()).settled == 40
        assert rig.statuses() == {"SUCCESS": 40}


async def test_nothing_is_claimed_while_the_gateway_is_down(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """The report says why, and the queue is not touched."""
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        states = states_of(rig.broker)
        await gateway.stop()
        await reached(states, ConnectionState.DOWN)
        report = await rig.worker(interval=0.1).run_cycle()
        assert report.claimed == 0
        assert report.held_back.startswith("the gateway is down")
        assert rig.statuses() == {"PENDING": 40}


async def test_an_empty_answer_without_ib_servers_counts_for_nothing(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """After 1100 snapshots end without a tick: that is no answer, so the claims are given back uncounted."""
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        states = states_of(rig.broker)
        gateway.faults.stalled = True
        cycle = asyncio.create_task((worker := rig.worker()).run_cycle())
        await rig.until(lambda: worker.in_flight == 40)
        gateway.broadcast(1100)
        gateway.faults.stalled = False
        await reached(states, ConnectionState.DEGRADED)
        report = await cycle
        assert (report.settled, report.released) == (0, 40)
        assert {each.attempt for each in rig.requests()} == {0}


@pytest.mark.parametrize("code", [10197, 101])
async def test_a_login_at_its_limits_costs_no_attempt(
    make_gateway: GatewayMaker, tmp_path: Path, clock: FakeClock, code: int
):
    """A competing session (10197) or no line left (101) says nothing about the request that met it."""
    gateway = await make_gateway(20, **FAST)
    gateway.faults.error_by_conid.update({each.instrument.conid: code for each in gateway.account.positions})
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        report = await rig.worker().run_cycle()
        assert report.released == 20
        assert {(each.status, each.attempt) for each in rig.requests()} == {("PENDING", 0)}


async def test_what_is_not_held_is_cancelled_with_the_reason(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """A request for a contract that no account holds is not sent to the gateway."""
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.queue.insert(12345, "SPY")
        assert (await rig.worker().run_cycle()).cancelled == 1
        assert rig.requests()[0].status == "CANCELLED"
        assert "conid 12345 is not held in any account" in rig.requests()[0].error_message
        assert asked(gateway) == []


async def test_stop_gives_back_what_is_under_way_and_keeps_what_has_ended(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """A cycle that waits ends at once: finished requests are settled, the others pending and uncounted, lines free."""
    slow = {each.conid for each in options_of(gateway)[:3]}
    gateway.faults.hold_by_conid.update(dict.fromkeys(slow, math.inf))
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        worker = rig.worker(interval=60)
        worker.start()
        await rig.until(lambda: sum(task.done() for task in worker._flights.values()) == 37)
        async with asyncio.timeout(DEADLINE):
            await worker.stop()
        assert not worker.is_running
        assert rig.statuses() == {"PENDING": 3, "SUCCESS": 37}
        assert {(each.conid, each.attempt) for each in rig.requests() if each.status == "PENDING"} == {
            (conid, 0) for conid in slow
        }
        await worker.stop()
        await rig.until(lambda: gateway.lines_in_use == 0)


async def test_stop_ends_a_cycle_that_was_started_by_hand(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """`stop` does not wait out the interval of a cycle in another task; that one still gets its report."""
    gateway.faults.snapshot_hold = math.inf
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        worker = rig.worker(interval=60)
        cycle = asyncio.create_task(worker.run_cycle())
        await rig.until(lambda: gateway.lines_in_use == 40)
        async with asyncio.timeout(DEADLINE):
            await worker.stop()
            assert (await cycle).released == 40
        assert rig.statuses() == {"PENDING": 40}


async def test_a_cycle_cancelled_within_its_claim_keeps_the_claim(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """A claim that is committed while the waiter is cancelled is not lost: `stop` gives it back."""
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        committed, go_on = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def hold_writer(rows):
            if rows[0].change == "CLAIM":
                loop.call_soon_threadsafe(committed.set)
                go_on.wait(DEADLINE)

        rig.queue.ledger.on_commit(hold_writer)
        worker = rig.worker()
        cycle = asyncio.create_task(worker.run_cycle())
        await committed.wait()
        cycle.cancel()
        loop.call_soon(go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await cycle
        assert worker.in_flight == 40
        await worker.stop()
        assert {(each.status, each.attempt) for each in rig.requests() if each.status != "SUCCESS"} <= {("PENDING", 0)}
        assert rig.queue.held_claims() == ()


async def test_a_cancelled_cycle_is_carried_into_the_next(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """An interrupted cell does no harm: what was under way is settled by the next cycle, asked for once."""
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        gateway.faults.stalled = True
        worker = rig.worker()
        cycle = asyncio.create_task(worker.run_cycle())
        await rig.until(lambda: worker.phase == "fetch")
        cycle.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cycle
        gateway.faults.stalled = False
        report = await worker.run_cycle()
        assert (report.claimed, report.settled) == (0, 40)
        assert max(Counter(asked(gateway)).values()) == 1


async def test_a_slow_request_is_carried_over_and_its_line_is_used_meanwhile(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """The slowest of a batch holds nobody up: the cycle ends after its interval, and the rest of the batch is free."""
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        slow = rig.book.rows()[0].conid
        gateway.faults.hold_by_conid[slow] = math.inf
        worker = rig.worker(interval=0.5, batch_size=20)
        first = await worker.run_cycle()
        assert (first.claimed, first.settled, first.in_flight) == (20, 19, 1)
        second = await worker.run_cycle()
        assert (second.claimed, second.settled, second.in_flight) == (19, 19, 1)
        assert rig.live(slow).status == "PROCESSING"


async def test_a_long_flight_keeps_its_lease(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """While the worker lives nobody else gets what it holds, however long that takes."""
    conid = options_of(gateway)[0].conid
    gateway.faults.hold_by_conid[conid] = math.inf
    async with rigged(gateway, tmp_path, clock, snapshot_timeout=60) as rig:
        await rig.fill()
        worker = rig.worker(interval=0.5)
        await worker.run_cycle()
        worker.interval = 0.01
        async with PositionQueue(rig.queue.uri, clock=clock) as other:
            for _ in range(8):
                clock.advance(25)
                assert (await worker.run_cycle()).stale == 0
                assert await other.get_batch() == []
        assert rig.live(conid).attempt == 1


def test_a_lease_outlasts_the_interval(tmp_path: Path):
    """Whoever sets long cycles must not lose the claims within each of them."""
    worker = QueueWorker(PositionQueue(tmp_path / "q"), None, None, interval=600)
    assert worker._lease == timedelta(minutes=30)


async def test_a_cancelled_request_does_not_hold_up_the_worker(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """One claim that is no longer ours is counted as too late; the others are settled or given back as ever."""
    first, second = (each.conid for each in options_of(gateway)[:2])
    gateway.faults.hold_by_conid.update({first: math.inf, second: math.inf})
    async with rigged(gateway, tmp_path, clock, snapshot_timeout=60) as rig:
        await rig.fill()
        worker = rig.worker(interval=0.5)
        await worker.run_cycle()
        await rig.queue.cancel(rig.live(first))
        clock.advance(40)  # so that the leases are to be extended
        report = await worker.run_cycle()
        assert (report.stale, report.in_flight) == (1, 1)
        await rig.until(lambda: gateway.lines_in_use == 1)
        await rig.queue.cancel(rig.live(second))
        gateway.drop_clients()
        report = await worker.run_cycle()
        assert (report.stale, report.released, report.in_flight) == (1, 0, 0)
        assert rig.statuses() == {"CANCELLED": 2, "SUCCESS": 38}


async def test_stop_survives_claims_that_are_no_longer_its_own(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """A laptop that slept past its leases can still be closed; what others took on stays theirs."""
    gateway.faults.snapshot_hold = math.inf
    async with rigged(gateway, tmp_path, clock, snapshot_timeout=60) as rig:
        await rig.fill()
        worker = rig.worker(interval=0.5, batch_size=10)
        await worker.run_cycle()
        clock.advance(timedelta(hours=1))
        async with PositionQueue(rig.queue.uri, clock=clock) as other:
            taken = await other.get_batch(5)
            await worker.stop()
            await other.mark_success(taken)
            await rig.queue.refresh()
        assert worker.in_flight == 0
        assert rig.statuses()["SUCCESS"] == 5


async def test_a_claim_that_was_slept_through_is_taken_up_again(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """The worker finds its own expired requests first: one flight each, the old ones end, and no line is lost."""
    gateway.faults.snapshot_hold = math.inf
    async with rigged(gateway, tmp_path, clock, snapshot_timeout=60) as rig:
        await rig.fill()
        worker = rig.worker(interval=0.2, batch_size=40)
        await worker.run_cycle()
        worker.batch_size = 80
        clock.advance(timedelta(hours=1))
        report = await worker.run_cycle()
        assert (report.claimed, report.in_flight, report.stale) == (40, 40, 0)
        assert {each.attempt for each in rig.requests()} == {2}
        gateway.faults.clear()
        gateway.drop_clients()
        states = states_of(rig.broker)
        worker.interval = 5.0  # from here on each cycle ends when its requests do
        assert (await worker.run_cycle()).released == 40
        if rig.broker.state is not ConnectionState.LIVE:
            await reached(states, ConnectionState.LIVE)
        assert (await worker.run_cycle()).settled == 40
        assert rig.broker.lines.used == 0


class ShakyBroker(Broker):
    """A broker with a fault of its own for some contracts."""

    shaky: set[int]

    async def snapshot(self, instrument: Instrument) -> Quote:
        """Fail in a way that nobody foresaw."""
        if instrument.conid in self.shaky:
            raise KeyError(instrument.conid)
        return await super().snapshot(instrument)


async def test_an_unforeseen_error_fails_its_request_only(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
):
    """It is logged with its traceback, costs an attempt, and does not end the worker."""
    conid = options_of(gateway)[0].conid
    async with rigged(gateway, tmp_path, clock) as rig:
        rig.broker.__class__, rig.broker.shaky = ShakyBroker, {conid}
        await rig.fill(max_attempts=1)
        report = await rig.worker().run_cycle()
        assert (report.settled, report.failed) == (39, 1)
        assert f"KeyError: {conid}" in rig.requests(conid)[0].error_message
    assert any(record.exc_info for record in caplog.records)


class MoodyBroker(Broker):
    """A broker that fails twice when it is asked whether snapshots may start."""

    moods: int

    @property
    def hold(self) -> str | None:
        """Fail in a way that nobody foresaw."""
        self.moods -= 1
        if self.moods >= 0:
            raise KeyError("mood")
        return super().hold


async def test_an_unforeseen_error_of_a_cycle_is_heard_and_the_next_one_runs(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
):
    """Nobody awaits the worker's task, so it must neither die nor be silent."""
    async with rigged(gateway, tmp_path, clock) as rig:
        rig.broker.__class__, rig.broker.moods = MoodyBroker, 2
        await rig.fill()
        worker = rig.worker(interval=0.05)
        worker.start()
        await rig.until(lambda: isinstance(worker.last_error, KeyError))
        await rig.until(lambda: rig.statuses() == {"SUCCESS": 40})
        await rig.until(lambda: worker.last_error is None)
        await worker.stop()
    assert any(record.exc_info for record in caplog.records)


async def test_cycles_go_on_after_the_storage_failed(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
):
    """A lake that is gone for a moment fails cycles, which is logged and kept; then the work goes on by itself."""
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        worker = rig.worker(interval=0.05)
        breakage = Breakage(rig.queue)
        worker.start()
        await rig.until(lambda: isinstance(worker.last_error, StorageError))
        with pytest.raises(StorageError):
            await worker.run_cycle()
        breakage.mend()
        await rig.until(lambda: rig.statuses() == {"SUCCESS": 40})
        await rig.until(lambda: worker.last_error is None)
        await worker.stop()
    assert any("the next one starts" in record.message for record in caplog.records)


async def test_a_book_that_cannot_be_written_settles_nothing(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
):
    """Quotes that are not durable are no success: they are written later, without asking the gateway again."""
    caplog.set_level(logging.ERROR)
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        worker = rig.worker()
        breakage = Breakage(rig.book)
        with pytest.raises(StorageError):
            await worker.run_cycle()
        assert rig.statuses() == {"PROCESSING": 40}
        breakage.mend()
        assert (await worker.run_cycle()).settled == 40
        assert len(asked(gateway)) == 40


async def test_two_workers_refresh_no_request_twice(make_gateway: GatewayMaker, tmp_path: Path, clock: FakeClock):
    """Two programs on one lake share the work: each request has one attempt, each contract one snapshot."""
    gateway = await make_gateway(60, **FAST)
    async with (
        rigged(gateway, tmp_path, clock, client_id=1) as one,
        rigged(gateway, tmp_path, clock, client_id=2) as two,
    ):
        await one.fill()
        await asyncio.gather(two.book.refresh(), two.queue.refresh())
        workers = one.worker(batch_size=7), two.worker(batch_size=7)

        async def drain(worker: QueueWorker) -> int:
            done = 0
            while (report := await worker.run_cycle()).claimed:
                done += report.settled
                assert report.stale == 0
            return done

        shares = await asyncio.gather(*map(drain, workers))
        await one.queue.refresh()
        assert sum(shares) == 60
        assert {(each.status, each.attempt) for each in one.requests()} == {("SUCCESS", 1)}
        assert max(Counter(asked(gateway)).values()) == 1


async def test_what_a_killed_worker_held_is_refreshed_by_the_survivor(make_gateway: GatewayMaker, tmp_path: Path):
    """A process that is killed with a batch in hand costs its lease, an attempt, and nothing else."""
    gateway = await make_gateway(20, **FAST)
    now = datetime.now(UTC)
    async with rigged(gateway, tmp_path, FakeClock(now)) as rig:
        await rig.fill()
        gateway.faults.snapshot_hold = math.inf
        child = await asyncio.create_subprocess_exec(
            sys.executable, Path(__file__).with_name("sync_child.py"), tmp_path, str(gateway.port)
        )
        await rig.until(lambda: gateway.lines_in_use == 20)
        child.send_signal(signal.SIGKILL)
        await child.wait()
        gateway.faults.clear()
        later = FakeClock(datetime.now(UTC))
        rig.queue.ledger.clock = rig.queue.clock = later
        worker = rig.worker()
        assert (await worker.run_cycle()).claimed == 0
        assert rig.statuses() == {"PROCESSING": 20}
        later.advance(61)
        assert (await worker.run_cycle()).settled == 20
        assert {(each.status, each.attempt) for each in rig.requests()} == {("SUCCESS", 2)}


async def test_calls_from_another_thread_hop_to_the_worker(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """A button's callback may run on any thread or loop; the worker stays on its own."""
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.fill()
        worker = rig.worker()

        def elsewhere() -> int:
            report = asyncio.run(worker.run_cycle())
            worker.start()
            assert worker.is_running
            asyncio.run(worker.stop())
            return report.settled

        assert await asyncio.to_thread(elsewhere) == 40
        assert worker.home is asyncio.get_running_loop()
