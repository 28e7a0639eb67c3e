"""Who streams, through TCP: more active contracts than lines, a policy, a minimum hold, and lines shared with TWS."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from broker_helpers import options_of, reached, states_of
from sync_helpers import FAST, Rig, asked, legs_of, rigged, without_throttle
from v6kit.broker import ConnectionState, LineBudget
from v6kit.clock import FakeClock
from v6kit.contracts import Leg
from v6kit.sync import Candidate
from v6kit.sync import streamer as streamer_module
from v6kit.sync import writer as writer_module

if TYPE_CHECKING:
    from conftest import GatewayMaker
    from v6kit.gateway import SimulatedGateway
    from v6kit.sync import PositionStreamer


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    """Look at ranks and write quotes more often; the pace is the broker's to keep, and tested there."""
    monkeypatch.setattr(streamer_module, "REASSESS_SECONDS", 0.02)
    monkeypatch.setattr(writer_module, "WRITE_SECONDS", 0.02)
    with without_throttle():
        yield


@pytest.fixture
async def gateway(make_gateway: GatewayMaker) -> SimulatedGateway:
    """A running gateway with 40 positions and no limit of pace."""
    return await make_gateway(40, **FAST)


def by_conid(candidate: Candidate) -> int:
    """Rank by what nothing changes."""
    return candidate.conid


async def register(rig: Rig, count: int) -> list[int]:
    """Register so many options of the account, each as a strategy of its own; return their conids, lowest first."""
    options = sorted(options_of(rig.gateway), key=lambda each: each.conid)[:count]
    for option in options:
        await rig.registry.add_strategy(option.conid, [Leg.of(option)])
    return [option.conid for option in options]


async def looked_at_again(rig: Rig, streamer: PositionStreamer) -> None:
    """Wait until the ranks have been looked at once more, and what followed is done."""
    before = streamer.standing
    await rig.until(lambda: streamer.standing is not before)
    async with streamer._one_sync:
        pass


async def test_the_best_stream_and_the_rest_is_queued_first(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """By the default policy a leg of priority 1 streams, whoever was registered first."""
    lines = LineBudget(14, 10, snapshot_floor=1, clock=clock)
    async with rigged(gateway, tmp_path, clock, lines=lines) as rig:
        first, second = (legs_of(*gateway.account.iron_condors[number]) for number in (0, 1))
        await rig.registry.add_strategy("first", first)
        await rig.registry.add_strategy("second", second, priority=1)
        streamer = rig.streamer()
        await streamer.start()
        assert len(streamer.streaming) == 3
        assert streamer.streaming < {leg.conid for leg in second}
        assert {rig.live(conid).priority for conid in streamer.demoted} == {1}


async def test_a_better_one_takes_over_when_the_hold_is_over(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """Raised in priority it waits out the minimum hold of who streams, and then has the line within one look."""
    async with rigged(gateway, tmp_path, clock, lines=LineBudget(1, 0, clock=clock)) as rig:
        one, other = (legs_of(*gateway.account.iron_condors[0])[index] for index in (0, 1))
        await rig.registry.add_strategy("one", [one], priority=1)
        await rig.registry.add_strategy("other", [other])
        streamer = rig.streamer(minimum_hold=30)
        await streamer.start()
        await rig.registry.add_strategy("one", [one], priority=3)
        clock.advance(29.9)
        await rig.until(lambda: [each.conid for each in streamer.standing.ranking] == [other.conid, one.conid])
        await looked_at_again(rig, streamer)
        assert streamer.streaming == {one.conid}
        clock.advance(0.1)
        await rig.until(lambda: streamer.streaming == {other.conid})
        await rig.until(lambda: rig.live(one.conid) and rig.live(one.conid).priority == 1)
        await rig.broker.current_time()  # all that was sent before has arrived
        assert asked(gateway) == [one.conid, other.conid]
        assert gateway.log.refused[101] == 0
        assert gateway.line_peak == 1


async def test_a_leg_that_has_expired_gives_its_line_up_and_is_not_asked_for_again(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """The registry keeps it until somebody takes it out; until then the line-up says what to do."""
    async with rigged(gateway, tmp_path, clock) as rig:
        soon, late = sorted(options_of(gateway), key=lambda each: str(each.expiry))[:: len(options_of(gateway)) - 1]
        await rig.registry.add_strategy(1, [Leg.of(soon), Leg.of(late)])
        assert str(soon.expiry) < str(late.expiry)
        async with rig.streamer() as streamer:
            assert streamer.streaming == {soon.conid, late.conid}
            clock.jump(datetime.strptime(str(soon.expiry), "%Y%m%d").replace(tzinfo=UTC) + timedelta(days=1))
            await rig.until(lambda: streamer.streaming == {late.conid})
            await streamer.sync()
            ((candidate, reason),) = streamer.standing.refused
            assert (candidate.conid, streamer.demoted) == (soon.conid, frozenset())
            assert "registry.expire()" in reason
            assert len(asked(gateway, snapshots=False)) == 2


async def test_looking_again_at_what_stays_the_same_asks_for_nothing(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """However often: not a message, not a commit, and nothing is refreshed again that has just been."""
    async with rigged(gateway, tmp_path, clock, lines=LineBudget(6, 0, snapshot_floor=1, clock=clock)) as rig:
        conids = await register(rig, 10)
        streamer = rig.streamer(policy=by_conid)
        await streamer.start()
        await rig.until(lambda: all(rig.row(conid).quality == "ok" for conid in conids[:5]))
        assert (await rig.worker(interval=60.0).run_cycle()).settled == 35
        await looked_at_again(rig, streamer)
        assert not any(rig.live(conid) for conid in conids)
        clock.advance(600)
        await looked_at_again(rig, streamer)
        await rig.broker.current_time()  # all that was sent before has arrived
        version, requests = rig.queue.ledger.version, len(asked(gateway))
        for _ in range(5):
            await looked_at_again(rig, streamer)
        await rig.broker.current_time()  # all that was sent before has arrived
        assert (rig.queue.ledger.version, len(asked(gateway))) == (version, requests) == (version, 40)
        assert streamer.streaming == set(conids[:5])


@pytest.mark.parametrize("nonsense", ["raises", None, float("nan"), "mixed"], ids=str)
async def test_a_policy_that_fails_stops_no_stream(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture, nonsense: object
):
    """The default one is used, with one warning that has the cause, until the user's works again."""
    answers: dict[str, object] = {"key": None}

    def policy(candidate: Candidate) -> object:
        if answers["key"] == "raises":
            raise ZeroDivisionError("by a user")
        if answers["key"] == "mixed":
            return "text" if candidate.conid % 2 else 1
        return -candidate.conid if answers["key"] == "works" else answers["key"]

    async with rigged(gateway, tmp_path, clock, lines=LineBudget(5, 0, clock=clock)) as rig:
        conids = await register(rig, 10)
        await rig.registry.add_active(conids[3], **identity(rig, conids[3]), strategy_id="best", priority=1)
        answers["key"] = nonsense
        streamer = rig.streamer(policy=policy)
        await streamer.start()
        assert len(streamer.streaming) == 5
        assert conids[3] in streamer.streaming
        await looked_at_again(rig, streamer)
        (warning,) = [each for each in caplog.records if "the policy for lines failed" in each.message]
        assert warning.exc_info
        assert streamer.standing.policy.startswith("the default policy, because yours failed (")
        answers["key"] = "works"
        clock.advance(60)
        await rig.until(lambda: streamer.streaming == set(conids[5:]))
        assert streamer.standing.policy.startswith("your policy ")


def identity(rig: Rig, conid: int) -> dict[str, object]:
    """Return the fields that name a contract to the registry."""
    (leg,) = [leg for leg in rig.registry.active_legs() if leg.conid == conid]
    return {name: getattr(leg, name) for name in ("symbol", "right", "strike", "expiry")}


async def test_what_others_stream_is_taken_from_the_room(gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock):
    """Subscriptions of the user's own at the same broker count, and are left alone."""
    async with rigged(gateway, tmp_path, clock, lines=LineBudget(5, 0, clock=clock)) as rig:
        conids = await register(rig, 10)
        own = next(each for each in options_of(gateway) if each.conid not in conids)
        await rig.broker.subscribe(own)
        streamer = rig.streamer(policy=by_conid)
        await streamer.start()
        assert (streamer.streaming, streamer.standing.room) == (set(conids[:4]), 4)
        await rig.broker.unsubscribe(own.conid)
        await rig.until(lambda: streamer.streaming == set(conids[:5]))
        assert gateway.log.refused[101] == 0


async def test_lines_that_tws_takes_are_given_up_by_the_worst_and_come_back_one_by_one(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
):
    """Snapshots meet 101; the policy says who loses its line. When lines come back, the best of the rest is first."""
    lines = LineBudget(20, 0, snapshot_floor=2, clock=clock)
    async with rigged(gateway, tmp_path, clock, lines=lines) as rig:
        conids = await register(rig, 16)
        streamer = rig.streamer(policy=by_conid)
        await streamer.start()
        assert streamer.streaming == set(conids)
        gateway._shared.lines.limit = 12
        cycle = asyncio.create_task(rig.worker().run_cycle())
        await rig.until(lambda: streamer.streaming == set(conids[:10]))
        assert (await cycle).settled == 24
        assert (lines.capacity, lines.stream_room) == (12, 10)
        assert streamer.demoted == set(conids[10:])
        assert sum("code 101" in each.message for each in caplog.records) == 1
        gateway._shared.lines.limit = 100
        for back in range(11, 14):
            clock.advance(600)
            await rig.until(lambda back=back: streamer.streaming == set(conids[:back]))


async def test_a_try_that_finds_no_line_is_silent_and_costs_nobody_a_line(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
):
    """Every ten minutes the best of the rest asks once; refused, it waits for the next time, and no one is told."""
    lines = LineBudget(20, 0, clock=clock)
    async with rigged(gateway, tmp_path, clock, lines=lines) as rig:
        conids = await register(rig, 16)
        gateway._shared.lines.limit = 9
        streamer = rig.streamer(policy=by_conid)
        await streamer.start()
        await rig.until(lambda: lines.capacity == 9 and streamer.streaming == set(conids[:9]))
        await looked_at_again(rig, streamer)
        await rig.broker.current_time()  # all that was sent before has arrived
        told, requests = len(caplog.records), len(asked(gateway))
        for tried in range(1, 4):
            clock.advance(600)
            await rig.until(lambda tried=tried: len(asked(gateway)) == requests + tried and lines.capacity == 9)
            await rig.until(lambda: streamer.streaming == set(conids[:9]))
            await looked_at_again(rig, streamer)
        await rig.broker.current_time()  # all that was sent before has arrived
        assert asked(gateway)[requests:] == [conids[9]] * 3
        assert [each.message for each in caplog.records[told:] if each.levelno >= logging.WARNING] == []
        assert streamer.demoted == set(conids[9:])


async def test_after_a_reconnect_with_fewer_lines_the_policy_says_who_keeps_one(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
):
    """All sixteen are asked for again, in the order in which they began; the best ten stream in the end."""
    lines = LineBudget(20, 0, snapshot_floor=0, clock=clock)
    async with rigged(gateway, tmp_path, clock, lines=lines) as rig:
        order = [1]
        conids = await register(rig, 16)
        streamer = rig.streamer(policy=lambda each: each.conid * order[0])
        await streamer.start()
        order[0] = -1  # now the one that was asked for last is the best
        clock.advance(60)
        gateway._shared.lines.limit = 10
        states = states_of(rig.broker)
        gateway.drop_clients()
        await reached(states, ConnectionState.LIVE)
        await rig.until(lambda: streamer.streaming == set(conids[6:]) and lines.capacity <= 10)
        await rig.broker.current_time()  # all that was sent before has arrived
        assert {rig.broker.lines.references(conid) for conid in streamer.streaming} == {1}
        assert gateway.lines_in_use == 10
        assert sum("code 101" in each.message for each in caplog.records) == 1
        assert not any("ended" in each.message for each in caplog.records if each.levelno >= logging.WARNING)


async def test_a_login_without_any_line_is_not_asked_in_a_hot_loop(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """TWS holds all lines: the last one that is always tried is tried once per sync interval."""
    async with rigged(gateway, tmp_path, clock, lines=LineBudget(1, 0, clock=clock)) as rig:
        (conid,) = await register(rig, 1)
        gateway._shared.lines.limit = 0
        streamer = rig.streamer()
        await streamer.start()
        await rig.until(lambda: streamer.demoted == {conid})
        await rig.until(lambda: streamer.standing.refused)
        for _ in range(3):
            await streamer.sync()
        await rig.broker.current_time()  # all that was sent before has arrived
        assert asked(gateway) == [conid]
        gateway._shared.lines.limit = 1
        clock.advance(60)
        await rig.until(lambda: streamer.streaming == {conid})
        await rig.broker.current_time()  # all that was sent before has arrived
        assert asked(gateway) == [conid, conid]


def best(rig: Rig, priorities: dict[int, int], room: int) -> set[int]:
    """Return the conids that the default policy is to prefer, by what the book knows; written anew, as a check."""
    rows = {row.conid: row for row in rig.book.rows() if row.conid in priorities}

    def key(conid: int) -> tuple[int, str, float, int]:
        row = rows[conid]
        exposure = abs(row.delta) * row.underlying_price * row.multiplier * abs(row.position)
        return priorities[conid], row.expiry, -exposure, conid

    return set(sorted(priorities, key=key)[:room])


async def test_four_hundred_active_contracts_share_a_hundred_lines(
    make_gateway: GatewayMaker, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
):
    """The 86 best stream, the others are refreshed first, and a strategy that is raised has its lines after the hold.

    By the gateway's own record: never more lines than the capacity of 90, and not one error 101.
    """
    gateway = await make_gateway(500, clock=FakeClock(), snapshot_hold=0.0, **FAST)  # prices stand still
    held = [each for each in gateway.account.positions if each.instrument.sec_type == "OPT"][:400]
    strategies = {index: legs_of(*held[4 * index : 4 * index + 4]) for index in range(100)}
    priorities = {leg.conid: 1 + index // 10 for index, legs in strategies.items() for leg in legs}
    lines = LineBudget(100, 10, snapshot_floor=4, clock=clock)
    async with rigged(gateway, tmp_path, clock, lines=lines, snapshot_timeout=60.0) as rig:
        await asyncio.gather(
            *(
                rig.registry.add_strategy(index, legs, "IRON_CONDOR", priority=1 + index // 10)
                for index, legs in strategies.items()
            )
        )
        streamer, worker = rig.streamer(), rig.worker(interval=60.0, batch_size=500)
        await streamer.start()
        assert len(streamer.streaming) == 86
        assert len(streamer.demoted) == 314
        (warning,) = [each.message for each in caplog.records if each.levelno >= logging.WARNING]
        assert warning.startswith("314 of 400 active contracts have no market data line: ")
        report = await worker.run_cycle()
        assert report.settled == 414
        first = asked(gateway, snapshots=True)[:314]
        assert set(first) == streamer.demoted  # before the 100 positions of no strategy
        await rig.until(lambda: all(rig.row(conid).delta for conid in streamer.streaming))
        clock.advance(60)
        await rig.until(lambda: streamer.streaming == best(rig, priorities, 86))

        raised = strategies[99]
        await rig.registry.add_strategy(99, raised, priority=1)
        priorities |= dict.fromkeys((leg.conid for leg in raised), 1)
        clock.advance(60)
        await rig.until(lambda: streamer.streaming == best(rig, priorities, 86))
        assert {leg.conid for leg in raised} < streamer.streaming
        await rig.broker.current_time()  # all that was sent before has arrived
        assert gateway.log.refused[101] == 0
        assert lines.peak <= 90
        assert gateway.line_peak <= 90
        assert gateway.lines_in_use == 86
