"""Every code of the error table through TCP: what it does on the wire, in the queue and in the book.

Three tables: the code refuses a snapshot, it hits a stream that runs, or it carries no request id at all.
"""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from broker_helpers import (
    DEADLINE,
    PATIENT,
    Heard,
    broker_for,
    connected,
    options_of,
    reached,
    requests_for,
    states_of,
)
from sync_helpers import FAST, Rig, asked, eventually, legs_of, rigged, without_throttle
from v6kit.broker import ConnectionState, LineBudget, actions
from v6kit.contracts import Quality
from v6kit.errors import GatewayUnavailableError
from v6kit.gateway import answers
from v6kit.sync import decisions
from v6kit.sync import writer as writer_module

if TYPE_CHECKING:
    from conftest import GatewayMaker
    from v6kit.clock import FakeClock
    from v6kit.gateway import SimulatedGateway
    from v6kit.sync import PositionStreamer

LIMITATION = answers.invalid("Snapshot requests limitation exceeded:100 per 1 second(s)")
NO_EXCHANGE = answers.invalid("Please enter exchange")
UNHEARD_OF = 420
COVERED: set[int] = set()


def covers(*codes: int) -> pytest.MarkDecorator:
    """Run a test once per code, and note that the code has one."""
    COVERED.update(codes)
    return pytest.mark.parametrize("code", codes)


class Once(dict[int, int]):
    """Refusals that come one time each, as a fault of the gateway."""

    def get(self, key: int, default: int | None = None) -> int | None:  # type: ignore[override]
        """Return the code, and have it gone."""
        return self.pop(key, default)


@pytest.fixture(autouse=True)
def unthrottled():
    """The pace is the broker's to keep."""
    with without_throttle():
        yield


@pytest.fixture(autouse=True)
def quick_flush(monkeypatch: pytest.MonkeyPatch):
    """Write quotes more often than once per second."""
    monkeypatch.setattr(writer_module, "WRITE_SECONDS", 0.02)


@pytest.fixture
async def gateway(make_gateway: GatewayMaker) -> SimulatedGateway:
    """A running gateway with 40 positions and no limit of pace."""
    return await make_gateway(40, **FAST)


async def queue_up(rig: Rig, *conids: int) -> None:
    """Take in all positions, and queue these."""
    await rig.book.sync(await rig.broker.positions())
    await rig.queue.insert_many([decisions.wanted(row, 2) for row in rig.book.rows() if row.conid in conids])


async def stream_condor(rig: Rig) -> tuple[PositionStreamer, list[int]]:
    """Stream an iron condor of the account until each of its legs has a good row; return its conids."""
    legs = legs_of(*rig.gateway.account.iron_condors[0])
    conids = [leg.conid for leg in legs]
    await rig.registry.add_strategy(1, legs, "IRON_CONDOR")
    streamer = rig.streamer()
    await streamer.start()
    await rig.until(lambda: all(rig.row(conid).quality == "ok" for conid in conids))
    return streamer, conids


def request_ids(gateway: SimulatedGateway, conid: int) -> list[int]:
    """Return the ids under which market data of a contract was asked for."""
    return [int(fields[2]) for fields in requests_for(gateway, "REQ_MKT_DATA", conid)]


def say(gateway: SimulatedGateway, req_id: int, code: int, text: str | None = None, *, ends: bool = False) -> None:
    """Send a code for a request that runs; if it ends it, the gateway serves it no longer."""
    (session,) = gateway._shared.sessions
    if ends:
        session.market_data.cancel(req_id)
    session.refuse(req_id, code, text)


async def everything_was_heard(rig: Rig) -> None:
    """Wait until both sides handled all that was sent so far: answers come in order."""
    await rig.broker.current_time()


# --- on a snapshot ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnSnapshot:
    """A code that comes as the answer to a snapshot of an option, and what follows.

    Attributes:
        text: IB's, where the code alone does not tell.
        lasts: Whether each further request is answered so too.
        asked: Requests for its market data, all in all.
        details: Requests for its details.
        ends: Status and attempt of the queue's request.
        row: Quality and code in the book.
        parked: Whether the contract is left alone for this session.
    """

    code: int
    text: str | None = None
    lasts: bool = False
    asked: int = 1
    details: int = 0
    ends: tuple[str, int] = ("PENDING", 1)
    row: tuple[str | None, int | None] = (None, None)
    parked: bool = False

    def __str__(self) -> str:
        return f"{self.code}{' limitation' if self.text is LIMITATION else ' exchange' if self.text else ''}"


REFRESHED, FAILED, UNTRIED = ("SUCCESS", 1), ("FAILED", 1), ("PENDING", 0)
ON_SNAPSHOT = [
    *(OnSnapshot(code, asked=2, ends=REFRESHED, row=("ok", None)) for code in (101, 102, 322)),
    OnSnapshot(321, LIMITATION, asked=2, ends=REFRESHED, row=("ok", None)),
    OnSnapshot(321, NO_EXCHANGE, lasts=True, details=1, ends=FAILED, row=("error", 321)),
    OnSnapshot(200, lasts=True, details=1, ends=FAILED, row=("error", 200), parked=True),
    *(OnSnapshot(code, lasts=True, ends=FAILED, row=("error", code), parked=True) for code in (354, 10089, 10168)),
    *(OnSnapshot(code) for code in (300, 310, UNHEARD_OF)),
    OnSnapshot(10197, ends=UNTRIED),
]
COVERED |= {case.code for case in ON_SNAPSHOT}


@pytest.mark.parametrize("case", ON_SNAPSHOT, ids=str)
async def test_a_code_on_a_snapshot_has_its_action(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, case: OnSnapshot
):
    """The refused request ends as the table says, its neighbour is refreshed, and no line is left in use."""
    bad, good = (each.conid for each in options_of(gateway)[:2])
    if case.text is not None:
        monkeypatch.setitem(answers.TEXTS, case.code, case.text)
    gateway.faults.error_by_conid = (dict if case.lasts else Once)({bad: case.code})
    async with rigged(gateway, tmp_path, clock) as rig:
        await queue_up(rig, bad, good)
        worker = rig.worker()
        await worker.run_cycle()
        request, row = rig.requests(bad)[-1], rig.row(bad)
        assert (request.status, request.attempt) == case.ends
        assert (row.quality, row.error_code) == case.row
        assert (bad in worker.parked) is case.parked
        assert len(set(request_ids(gateway, bad))) == asked(gateway).count(bad) == case.asked
        assert len(requests_for(gateway, "REQ_CONTRACT_DETAILS", bad)) == case.details
        if case.ends not in (REFRESHED, UNTRIED):
            assert f"refused: {case.code} " in request.error_message
        assert (rig.requests(good)[-1].status, rig.row(good).quality) == ("SUCCESS", "ok")
        assert asked(gateway).count(good) == 1
        assert rig.broker.lines.used == gateway.lines_in_use == 0
        assert rig.broker.state is ConnectionState.LIVE


@covers(10090, 10091, 10092, 10167)
async def test_a_soft_code_on_a_snapshot_is_kept_beside_the_data(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, code: int
):
    """The request is refreshed by its first attempt, and the row says what kind of data it has."""
    conid = options_of(gateway)[0].conid
    gateway.faults.soft_by_conid[conid] = (code,)
    async with rigged(gateway, tmp_path, clock) as rig:
        await queue_up(rig, conid)
        await rig.worker().run_cycle()
        request, row = rig.requests(conid)[-1], rig.row(conid)
        assert (request.status, request.attempt) == REFRESHED
        assert (row.quality, row.error_code, row.market_data_type) == ("ok", code, 3 if code == 10167 else 1)
        assert row.bid is not None
        assert asked(gateway).count(conid) == 1


@covers(354, 10089, 10168)
async def test_what_is_not_subscribed_is_said_once_with_the_offer_of_delayed_data(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture, code: int
):
    """One warning names the position and the next step; what is queued again ends unasked."""
    conid = options_of(gateway)[0].conid
    gateway.faults.error_by_conid[conid] = code
    async with rigged(gateway, tmp_path, clock) as rig:
        await queue_up(rig, conid)
        worker = rig.worker()
        await worker.run_cycle()
        await rig.queue.insert(conid, "again", account=rig.row(conid).account)
        await worker.run_cycle()
        assert [each.status for each in rig.requests(conid)] == ["FAILED", "FAILED"]
        said = [each.message for each in caplog.records if "not asked for again" in each.message]
        assert len(said) == 1
        assert rig.row(conid).label() in said[0]
        assert "market_data_type=3" in said[0]
    assert asked(gateway).count(conid) == 1


@covers(200)
async def test_a_contract_that_moved_is_found_at_the_exchange_of_its_details(gateway: SimulatedGateway, code: int):
    """Asked for at an exchange that has it no longer, it is looked up once and asked for where it is."""
    stock = next(each.instrument for each in gateway.account.positions if each.instrument.sec_type == "STK")
    async with connected(gateway) as broker:
        assert (await broker.snapshot(replace(stock, exchange="GONE"))).quality is Quality.OK
        assert gateway.log.refused[code] == 1
        assert [fields[10] for fields in requests_for(gateway, "REQ_MKT_DATA")] == ["GONE", "SMART"]
        assert len(requests_for(gateway, "REQ_CONTRACT_DETAILS")) == 1


@covers(101)
async def test_error_101_shrinks_the_budget_and_one_more_is_tried_every_ten_minutes(
    make_gateway: GatewayMaker, clock: FakeClock, caplog: pytest.LogCaptureFixture, code: int
):
    """The refused snapshot waits for a line, with one warning, until a try finds that the gateway has one again."""
    gateway = await make_gateway(40, line_limit=2, **FAST)
    *streamed, wanted = options_of(gateway)[:3]
    lines = LineBudget(5, 0, clock=clock)
    beating = replace(PATIENT, heartbeat=0.1)  # it looks at the clock, too
    async with connected(gateway, lines=lines, clock=clock, requests_per_second=1000, timings=beating) as broker:
        for option in streamed:
            await broker.subscribe(option)
        snapshot = asyncio.create_task(broker.snapshot(wanted))
        await eventually(lambda: lines.waiting)
        assert (lines.capacity, lines.used, gateway.log.refused[code]) == (2, 2, 1)
        clock.advance(599)
        assert lines.capacity == 2
        clock.advance(1)
        await eventually(lambda: gateway.log.refused[code] == 2 and lines.waiting)
        assert lines.capacity == 2
        gateway._shared.lines.limit = 3
        clock.advance(600)
        assert (await asyncio.wait_for(snapshot, DEADLINE)).quality is Quality.OK
        assert lines.capacity == 3
    assert len(request_ids(gateway, wanted.conid)) == 3
    assert sum("code 101" in each.message for each in caplog.records) == 1


# --- on a stream --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnStream:
    """A code that hits a stream that runs, and what follows.

    Attributes:
        text: IB's, where the code alone does not tell.
        then: `again`: it is asked for once more under a new id. `queued`: it is over, and the queue refreshes the
            contract before the others. `parked`: it is over, and nobody asks again in this session. `kept`: it goes on.
        details: Requests for the contract's details.
    """

    code: int
    then: str
    text: str | None = None
    details: int = 0

    def __str__(self) -> str:
        return f"{self.code}{' limitation' if self.text is LIMITATION else ' exchange' if self.text else ''}"


ON_STREAM = [
    *(OnStream(code, "again") for code in (102, 322)),
    OnStream(321, "again", LIMITATION),
    OnStream(321, "again", NO_EXCHANGE, details=1),
    *(OnStream(code, "queued") for code in (101, 300, 310, UNHEARD_OF)),
    OnStream(200, "parked", details=1),
    *(OnStream(code, "parked") for code in (354, 10089, 10168)),
    OnStream(10197, "kept"),
]
COVERED |= {case.code for case in ON_STREAM}


@pytest.mark.parametrize("case", ON_STREAM, ids=str)
async def test_a_code_on_a_stream_has_its_action(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, case: OnStream
):
    """The stream ends or is asked for again as the table says; the three others are not touched."""
    async with rigged(gateway, tmp_path, clock) as rig:
        streamer, (hit, *others) = await stream_condor(rig)
        say(gateway, request_ids(gateway, hit)[0], case.code, case.text, ends=case.then != "kept")
        if case.then == "again":
            await rig.until(lambda: len(request_ids(gateway, hit)) == 2)
        elif case.then == "queued":
            request = await rig.until(lambda: rig.live(hit))
            assert (request.priority, request.status) == (1, "PENDING")
            assert hit in streamer.demoted
        elif case.then == "kept":
            await rig.until(lambda: rig.broker.hold)
            await rig.until(lambda: rig.row(hit).quality == "stale")
        else:
            await rig.until(lambda: rig.row(hit).quality == "error")
            assert rig.row(hit).error_code == case.code
            assert streamer.parked[hit].startswith(f"{case.code} ")
            assert ("market_data_type=3" in streamer.parked[hit]) is (case.code != 200)
        await streamer.sync()
        await everything_was_heard(rig)
        assert (hit in streamer.streaming) is (case.then in ("again", "kept"))
        assert (rig.live(hit) is not None) is (case.then == "queued")
        assert len(set(request_ids(gateway, hit))) == (2 if case.then == "again" else 1)
        assert len(requests_for(gateway, "REQ_CONTRACT_DETAILS", hit)) == case.details
        assert [len(request_ids(gateway, conid)) for conid in others] == [1, 1, 1]
        assert gateway.lines_in_use == rig.broker.lines.used == len(streamer.streaming)


async def test_a_stream_that_is_being_repaired_when_data_is_lost_is_asked_for_once(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """Of the repair and the restoring only one sends: a second request would hold a line that nobody frees."""
    async with rigged(gateway, tmp_path, clock) as rig:
        _, (hit, *others) = await stream_condor(rig)
        states = states_of(rig.broker)
        say(gateway, request_ids(gateway, hit)[0], 321, LIMITATION, ends=True)
        gateway.broadcast(1100)
        await reached(states, ConnectionState.DEGRADED)
        gateway.broadcast(1101)
        await reached(states, ConnectionState.LIVE)
        await asyncio.gather(*rig.broker._streams._repairs)
        await everything_was_heard(rig)
        assert [len(request_ids(gateway, conid)) for conid in (hit, *others)] == [2, 2, 2, 2]
        assert gateway.lines_in_use == rig.broker.lines.used == 4


async def test_a_stream_that_is_being_repaired_when_servers_are_lost_is_asked_for_when_they_are_back(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """Nothing is sent meanwhile, and 1102 does not mean that the gateway had heard of it."""
    async with rigged(gateway, tmp_path, clock) as rig:
        streamer, (hit, *others) = await stream_condor(rig)
        states = states_of(rig.broker)
        say(gateway, request_ids(gateway, hit)[0], 321, LIMITATION, ends=True)
        gateway.broadcast(1100)
        await reached(states, ConnectionState.DEGRADED)
        await asyncio.gather(*rig.broker._streams._repairs)
        await rig.broker._connection.session.current_time(seconds=DEADLINE)  # so all that was sent has arrived
        assert len(request_ids(gateway, hit)) == 1
        gateway.broadcast(1102)
        await reached(states, ConnectionState.LIVE)
        await everything_was_heard(rig)
        assert len(request_ids(gateway, hit)) == 2
        assert streamer.streaming == {hit, *others}
        assert gateway.lines_in_use == rig.broker.lines.used == 4


@covers(10090, 10091, 10092, 10167)
async def test_a_soft_code_on_a_stream_marks_the_ticks_that_follow(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, code: int
):
    """The stream goes on, and its row carries the code from the next tick on."""
    async with rigged(gateway, tmp_path, clock) as rig:
        streamer, (hit, *others) = await stream_condor(rig)
        say(gateway, request_ids(gateway, hit)[0], code)
        await everything_was_heard(rig)
        clock.advance(60)  # the market moves
        await rig.until(lambda: rig.row(hit).error_code == code)
        assert rig.row(hit).quality == "ok"
        assert {rig.row(conid).error_code for conid in others} == {None}
        assert hit in streamer.streaming
        assert len(request_ids(gateway, hit)) == 1


@covers(300)
async def test_error_300_for_a_stream_that_we_ended_is_ignored(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, code: int
):
    """The gateway does not know what we cancelled: nothing ends, nothing is queued, nothing is asked for."""
    async with rigged(gateway, tmp_path, clock) as rig:
        errors = Heard(rig.broker.on_stream_error)
        option = options_of(gateway)[0]
        await rig.broker.subscribe(option)
        await rig.broker.unsubscribe(option.conid)
        say(gateway, request_ids(gateway, option.conid)[0], code)
        await everything_was_heard(rig)
        assert errors.drain() == []
        assert (rig.broker.streaming, rig.requests()) == (frozenset(), [])
        assert len(request_ids(gateway, option.conid)) == 1


# --- without a request id -----------------------------------------------------------------------------------------


@covers(100)
async def test_error_100_halves_the_pace_and_a_second_one_pauses_the_queue(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, code: int
):
    """Eight requests at half of 20 per second take half a second; within the pause nothing is claimed or sent."""
    options = [each.conid for each in options_of(gateway)[:9]]
    async with rigged(gateway, tmp_path, clock, requests_per_second=20) as rig:
        await queue_up(rig, *options)
        notices = Heard(rig.broker.on_notice)
        gateway.broadcast(code)
        await notices.until(lambda heard, _text: heard == code)
        worker = rig.worker(batch_size=8)
        assert (await worker.run_cycle()).settled == 8
        times = [each.at for each in gateway.log.records if each.name == "REQ_MKT_DATA"]
        assert times[-1] - times[0] >= (8 - 2.5 - 1) / 10  # all but the burst, less one turn of tolerance
        clock.advance(30)
        gateway.broadcast(code)
        await notices.until(lambda heard, _text: heard == code)
        report = await worker.run_cycle()
        assert (report.claimed, "code 100" in report.held_back) == (0, True)
        assert len(asked(gateway)) == 8
        clock.advance(60)
        assert (await worker.run_cycle()).settled == 1


@covers(1100, 2110)
async def test_lost_servers_stop_all_sending_and_make_streams_stale(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, code: int
):
    """What waits for its turn is given back unsent and uncounted, nothing is claimed, and the rows are stale."""
    options = [each.conid for each in options_of(gateway)[4:]]
    async with rigged(gateway, tmp_path, clock, lines=LineBudget(6, 0)) as rig:
        await queue_up(rig, *options)
        _, conids = await stream_condor(rig)
        queued = [conid for conid in options if conid not in conids]
        gateway.faults.snapshot_hold = 0.3
        states, worker = states_of(rig.broker), rig.worker()
        cycle = asyncio.create_task(worker.run_cycle())
        await eventually(lambda: len(asked(gateway, snapshots=True)) == 2)  # the two lines that the streams leave
        gateway.broadcast(code)
        await reached(states, ConnectionState.DEGRADED)
        assert {rig.broker.latest(conid).quality for conid in conids} == {Quality.STALE}
        report = await cycle
        assert len(asked(gateway, snapshots=True)) == 2
        assert report.settled <= 2  # with 2110 what was on its way may still be answered
        live = [rig.live(conid) for conid in queued]
        assert sum(each is not None and (each.status, each.attempt) == UNTRIED for each in live) >= len(queued) - 2
        await rig.until(lambda: {rig.row(conid).quality for conid in conids} == {"stale"})
        report = await worker.run_cycle()
        assert (report.claimed, str(code) in report.held_back) == (0, True)
        assert len(asked(gateway, snapshots=True)) == 2


@covers(1101)
async def test_lost_data_is_asked_for_again_snapshots_in_flight_included(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, code: int
):
    """Streams and the snapshot get a new request each; the queue's request is refreshed in its first attempt."""
    async with rigged(gateway, tmp_path, clock, snapshot_timeout=60.0) as rig:
        _, conids = await stream_condor(rig)
        wanted = next(each.conid for each in options_of(gateway) if each.conid not in conids)
        await queue_up(rig, wanted)
        gateway.faults.hold_by_conid[wanted] = math.inf
        states, worker = states_of(rig.broker), rig.worker()
        cycle = asyncio.create_task(worker.run_cycle())
        await eventually(lambda: request_ids(gateway, wanted))
        gateway.broadcast(1100)
        await reached(states, ConnectionState.DEGRADED)
        gateway.faults.hold_by_conid.clear()
        gateway.broadcast(code)
        await reached(states, ConnectionState.LIVE)
        await asyncio.wait_for(cycle, DEADLINE)
        (request,) = [each for each in rig.requests(wanted) if each.status == "SUCCESS"]
        assert (request.attempt, rig.row(wanted).quality) == (1, "ok")
        assert [len(set(request_ids(gateway, conid))) for conid in (*conids, wanted)] == [2, 2, 2, 2, 2]
        await rig.until(lambda: {rig.row(conid).quality for conid in conids} == {"ok"})
        assert rig.broker.lines.used == 4


@covers(1102)
async def test_kept_data_goes_on_and_a_stream_that_stays_silent_is_asked_for_again(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, code: int
):
    """The silent stream is cancelled and asked for anew until its row is good; the queue resumes."""
    async with rigged(gateway, tmp_path, clock, timings=replace(PATIENT, quiet_stream=2.0)) as rig:
        _, (quiet, *lively) = await stream_condor(rig)
        states = states_of(rig.broker)
        gateway.faults.silent_conids.add(quiet)
        gateway.broadcast(1100)
        await reached(states, ConnectionState.DEGRADED)
        await rig.until(lambda: rig.row(quiet).quality == "stale")
        clock.advance(60)
        gateway.broadcast(code)
        await reached(states, ConnectionState.LIVE)
        assert rig.broker.hold is None
        clock.advance(60)
        await rig.until(lambda: {rig.row(conid).quality for conid in lively} == {"ok"})
        assert rig.broker.latest(quiet).quality is Quality.STALE
        await eventually(lambda: len(request_ids(gateway, quiet)) == 2)
        gateway.faults.silent_conids.clear()
        await rig.until(lambda: rig.row(quiet).quality == "ok")
        assert len(request_ids(gateway, quiet)) == 2
        assert [len(request_ids(gateway, conid)) for conid in lively] == [1, 1, 1]
        cancelled = [int(fields[2]) for fields in requests_for(gateway, "CANCEL_MKT_DATA")]
        assert cancelled == request_ids(gateway, quiet)[:1]


async def test_servers_that_are_lost_again_end_the_look_at_quiet_streams(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """What stays silent after 1102 is not asked for while IB's servers are out once more."""
    async with rigged(gateway, tmp_path, clock, timings=replace(PATIENT, quiet_stream=0.1)) as rig:
        _, conids = await stream_condor(rig)
        states = states_of(rig.broker)
        for code, state in ((1100, ConnectionState.DEGRADED), (1102, ConnectionState.LIVE)):
            gateway.broadcast(code)
            await reached(states, state)
        gateway.broadcast(1100)
        await reached(states, ConnectionState.DEGRADED)
        await asyncio.gather(*rig.broker._streams._repairs)
        await rig.broker._connection.session.current_time(seconds=DEADLINE)  # so all that was sent has arrived
        assert [len(request_ids(gateway, conid)) for conid in conids] == [1, 1, 1, 1]


@covers(1300)
async def test_a_reset_socket_is_replaced_under_the_same_client_id(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, code: int
):
    """The old connection is closed before the new one opens, the streams are restored, and the queue goes on."""
    async with rigged(gateway, tmp_path, clock) as rig:
        _, conids = await stream_condor(rig)
        states = states_of(rig.broker)
        gateway.broadcast(code)
        assert str(code) in await reached(states, ConnectionState.DOWN)
        await reached(states, ConnectionState.LIVE)
        assert (gateway.client_ids, gateway.log.connections) == ([7], 2)
        assert gateway.log.refused[326] == 0
        await rig.until(lambda: {rig.row(conid).quality for conid in conids} == {"ok"})
        assert [len(request_ids(gateway, conid)) for conid in conids] == [2, 2, 2, 2]
        assert (await rig.worker().run_cycle()).claimed > 0


@covers(326)
async def test_a_client_id_in_use_is_named_and_not_tried_again(gateway: SimulatedGateway, code: int):
    """One attempt, one socket; the message names the id, and the program that has it is not disturbed."""
    async with connected(gateway) as first:
        second = broker_for(gateway)
        with pytest.raises(GatewayUnavailableError, match="client id 7 is in use"):
            await second.connect()
        assert second.state is ConnectionState.DOWN
        assert second._connection._supervisor is None  # nobody is left who could try again
        assert (gateway.log.connections, gateway.log.refused[code]) == (2, 1)
        assert first.state is ConnectionState.LIVE


@covers(2100)
async def test_account_updates_that_were_taken_are_asked_for_once_more(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture, code: int
):
    """Each time is warned about, only the first is answered, and the portfolio still comes in."""
    async with rigged(gateway, tmp_path, clock) as rig:
        notices, values = Heard(rig.broker.on_notice), Heard(rig.broker.on_portfolio)
        for _ in range(2):
            gateway.broadcast(code)
            await notices.until(lambda heard, _text: heard == code)
        await values.next()
        await everything_was_heard(rig)
        assert len(requests_for(gateway, "REQ_ACCOUNT_UPDATES")) == 2  # one of them at the start
        assert sum("took the account updates" in each.message for each in caplog.records) == 2


@covers(2103, 2104)
async def test_a_broken_farm_makes_streams_stale_and_its_return_checks_their_ticks(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, code: int
):
    """Rows are stale from 2103 on; after 2104 those that do not tick are asked for again. 2104 alone does nothing."""
    async with rigged(gateway, tmp_path, clock, timings=replace(PATIENT, quiet_stream=0.05)) as rig:
        streamer, conids = await stream_condor(rig)
        notices = Heard(rig.broker.on_notice)
        if code == 2103:
            gateway.broadcast(code)
            await rig.until(lambda: {rig.row(conid).quality for conid in conids} == {"stale"})
            assert {rig.broker.latest(conid).quality for conid in conids} == {Quality.STALE}
            assert rig.broker.hold is None
        gateway.broadcast(2104)
        await notices.until(lambda heard, _text: heard == 2104)
        if code == 2103:
            await rig.until(lambda: {rig.row(conid).quality for conid in conids} == {"ok"})
        else:
            await asyncio.gather(*rig.broker._streams._repairs)
            await everything_was_heard(rig)
        assert [len(request_ids(gateway, conid)) for conid in conids] == [2 if code == 2103 else 1] * 4
        assert streamer.streaming == set(conids)
        assert gateway.lines_in_use == 4


@covers(2105, 2106, 2107, 2108, 2119, 2158)
async def test_news_of_other_farms_change_nothing(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, code: int
):
    """Nothing is sent, written or held back."""
    async with rigged(gateway, tmp_path, clock) as rig:
        _, conids = await stream_condor(rig)
        notices = Heard(rig.broker.on_notice)
        before = gateway.log.received.total(), rig.queue.ledger.version, rig.book.ledger.version
        gateway.broadcast(code)
        await notices.until(lambda heard, _text: heard == code)
        await everything_was_heard(rig)
        after = gateway.log.received.total() - 1, rig.queue.ledger.version, rig.book.ledger.version
        assert after == before  # but for the question for the time
        assert (rig.broker.state, rig.broker.hold) == (ConnectionState.LIVE, None)
        assert {rig.broker.latest(conid).quality for conid in conids} == {Quality.OK}


@covers(10197)
async def test_a_competing_session_pauses_the_queue_for_a_minute_and_warns_every_quarter_of_an_hour(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture, code: int
):
    """Streams stay as they are; each minute the queue tries, and the code that it meets pauses it again."""
    caplog.set_level(logging.WARNING, logger="v6kit.broker")
    async with rigged(gateway, tmp_path, clock) as rig:
        _, conids = await stream_condor(rig)
        wanted = next(each.conid for each in options_of(gateway) if each.conid not in conids)
        gateway.faults.error_by_conid = {each.conid: code for each in options_of(gateway)}
        worker, minutes = rig.worker(batch_size=1), 16
        for _ in range(minutes):
            assert (await worker.run_cycle()).released == 1
            held = await worker.run_cycle()
            assert (held.claimed, str(code) in held.held_back) == (0, True)
            clock.advance(60)
        assert len(asked(gateway, snapshots=True)) == minutes
        assert sum("another session of this login" in each.message for each in caplog.records) == 2
        assert rig.live(wanted).attempt == 0
        gateway.faults.clear()
        assert (await worker.run_cycle()).settled == 1
        assert [len(request_ids(gateway, conid)) for conid in conids] == [1, 1, 1, 1]


@covers(10197)
async def test_streams_that_stay_silent_after_a_competing_session_are_asked_for_again(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, code: int
):
    """A gateway need not go on by itself, and nobody tells of the end: each hold they are tried, until prices come."""
    async with rigged(gateway, tmp_path, clock, timings=replace(PATIENT, competing_hold=0.2)) as rig:
        streamer, conids = await stream_condor(rig)
        gateway.begin_competing_session()
        await rig.until(lambda: {rig.row(conid).quality for conid in conids} == {"stale"})
        tried = gateway.log.refused[code]
        await eventually(lambda: gateway.log.refused[code] > tried)
        assert {rig.broker.latest(conid).quality for conid in conids} == {Quality.STALE}
        gateway._shared.competing = False  # and no stream is told
        await rig.until(lambda: {rig.row(conid).quality for conid in conids} == {"ok"})
        assert streamer.streaming == set(conids)
        assert gateway.log.refused[300] == 0
        assert gateway.lines_in_use == rig.broker.lines.used == 4


def test_every_code_of_the_table_has_a_test():
    """A row that is added to the table needs a case here."""
    assert COVERED - {UNHEARD_OF} == actions.CODES
