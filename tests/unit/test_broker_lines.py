"""The line budget: no socket, no sleep, time from a fake clock."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from v6kit.broker import LineBudget
from v6kit.clock import FakeClock
from v6kit.errors import LineLimitError


@pytest.fixture
def clock() -> FakeClock:
    """Time that stands still."""
    return FakeClock()


async def settled(*tasks: asyncio.Task[object]) -> list[bool]:
    """Give every task its turn; return which ones are done."""
    for _ in range(5):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


def asked(work: object) -> asyncio.Task[object]:
    """Start a request for a line."""
    return asyncio.ensure_future(work)


async def test_the_reserve_is_never_handed_out(clock: FakeClock):
    """Capacity is limit less reserve, and free counts down from there."""
    lines = LineBudget(5, 2, clock=clock)
    assert (lines.capacity, lines.free, lines.used) == (3, 3, 0)
    await lines.acquire_stream(1)
    await lines.acquire_snapshot(2)
    assert (lines.streams, lines.snapshots, lines.used, lines.free, lines.peak) == (1, 1, 2, 1, 2)


@pytest.mark.parametrize(("limit", "reserve", "floor"), [(0, 0, 0), (5, 5, 0), (5, -1, 0), (5, 3, 2)], ids=str)
def test_a_budget_without_a_line_to_use_is_refused(limit: int, reserve: int, floor: int):
    """The error names the argument and the values."""
    with pytest.raises(ValueError, match=r"limit|reserve"):
        LineBudget(limit, reserve, snapshot_floor=floor)


async def test_snapshots_wait_in_the_order_in_which_they_asked(clock: FakeClock):
    """A line that comes back goes to whoever waits longest."""
    lines = LineBudget(1, 0, clock=clock)
    holder = await lines.acquire_snapshot(1)
    first, second = asked(lines.acquire_snapshot(2)), asked(lines.acquire_snapshot(3))
    assert await settled(first, second) == [False, False]
    assert lines.waiting == 2
    lines.release_snapshot(holder)
    assert await settled(first, second) == [True, False]
    lines.release_snapshot(first.result())
    assert await settled(first, second) == [True, True]
    assert lines.peak == 1


async def test_releasing_twice_frees_one_line(clock: FakeClock):
    """A second release of the same line does nothing."""
    lines = LineBudget(2, 0, clock=clock)
    first, _ = await lines.acquire_snapshot(1), await lines.acquire_snapshot(2)
    lines.release_snapshot(first)
    lines.release_snapshot(first)
    assert lines.used == 1


async def test_a_stream_is_counted_once_and_ends_with_its_last_user(clock: FakeClock):
    """Two users of one conid share the line."""
    lines = LineBudget(2, 0, clock=clock)
    assert await lines.acquire_stream(1) is True
    assert await lines.acquire_stream(1) is False
    assert (lines.streams, lines.references(1)) == (1, 2)
    assert lines.release_stream(1) is False
    assert lines.release_stream(1) is True
    assert (lines.streams, lines.references(1)) == (0, 0)


async def test_a_stream_finds_no_line_when_streams_hold_all(clock: FakeClock):
    """That is an error at once, because streams do not end by themselves."""
    lines = LineBudget(3, 1, clock=clock)
    await lines.acquire_stream(1)
    await lines.acquire_stream(2)
    with pytest.raises(LineLimitError, match="conid 3"):
        await lines.acquire_stream(3)
    assert lines.streams == 2


async def test_streams_leave_the_floor_to_snapshots(clock: FakeClock):
    """With a floor of one, a snapshot is served however many streams there are."""
    lines = LineBudget(3, 0, clock=clock, snapshot_floor=1)
    await lines.acquire_stream(1)
    await lines.acquire_stream(2)
    with pytest.raises(LineLimitError):
        await lines.acquire_stream(3)
    await lines.acquire_snapshot(4)
    assert lines.used == 3


async def test_a_stream_that_waits_goes_before_snapshots_and_evicts_none(clock: FakeClock):
    """It gets the next line that becomes free."""
    lines = LineBudget(2, 0, clock=clock)
    held = [await lines.acquire_snapshot(conid) for conid in (1, 2)]
    snapshot, stream = asked(lines.acquire_snapshot(3)), asked(lines.acquire_stream(4))
    assert await settled(snapshot, stream) == [False, False]
    assert lines.snapshots == 2
    lines.release_snapshot(held[0])
    assert await settled(snapshot, stream) == [False, True]
    lines.release_snapshot(held[1])
    assert await settled(snapshot, stream) == [True, True]


async def test_whoever_stops_waiting_takes_no_line(clock: FakeClock):
    """A cancelled wait leaves the queue, and the next in line is served."""
    lines = LineBudget(1, 0, clock=clock)
    holder = await lines.acquire_snapshot(1)
    first, second = asked(lines.acquire_snapshot(2)), asked(lines.acquire_snapshot(3))
    await settled()
    first.cancel()
    await settled()
    lines.release_snapshot(holder)
    assert await settled(second) == [True]
    assert lines.used == 1


async def test_a_line_that_is_granted_to_someone_who_just_gave_up_goes_to_the_next(clock: FakeClock):
    """Grant and cancellation in the same turn of the loop lose no line."""
    lines = LineBudget(1, 0, clock=clock)
    holder = await lines.acquire_snapshot(1)
    first, second = asked(lines.acquire_snapshot(2)), asked(lines.acquire_snapshot(3))
    await settled()
    lines.release_snapshot(holder)
    first.cancel()
    assert await settled(second) == [True]
    assert (lines.used, lines.waiting) == (1, 0)


async def test_a_stream_granted_to_someone_who_just_gave_up_is_dropped(clock: FakeClock):
    """The same for streams."""
    lines = LineBudget(1, 0, clock=clock)
    holder = await lines.acquire_snapshot(1)
    stream = asked(lines.acquire_stream(2))
    await settled()
    lines.release_snapshot(holder)
    stream.cancel()
    await settled()
    assert lines.used == 0


async def test_error_101_shrinks_the_budget_to_what_the_gateway_had(clock: FakeClock):
    """The refused line comes back, and capacity is one below what was in use when it was granted."""
    lines = LineBudget(10, 0, clock=clock)
    holders = [await lines.acquire_snapshot(conid) for conid in range(1, 7)]
    for holder in holders[4:]:
        lines.refused(holder)
    assert (lines.capacity, lines.used, lines.free) == (4, 4, 0)


async def test_error_101_for_a_stream_frees_it_whoever_uses_it(clock: FakeClock):
    """The stream is gone with all its users; a conid without a stream changes nothing."""
    lines = LineBudget(10, 0, clock=clock)
    await lines.acquire_stream(1)
    await lines.acquire_stream(2)
    await lines.acquire_stream(2)
    lines.refused(2)
    lines.refused(99)
    assert (lines.capacity, lines.streams, lines.references(2)) == (1, 1, 0)


async def test_a_shrunk_budget_probes_one_line_more_every_ten_minutes(clock: FakeClock):
    """It grows back to where it began, and not beyond."""
    lines = LineBudget(10, 4, clock=clock)
    holders = [await lines.acquire_snapshot(conid) for conid in range(1, 5)]
    lines.refused(holders[-1])
    assert lines.capacity == 3
    clock.advance(timedelta(minutes=9, seconds=59))
    assert lines.capacity == 3
    clock.advance(1)
    assert lines.capacity == 4
    clock.advance(timedelta(hours=5))
    assert lines.capacity == 6


async def test_what_error_101_taught_can_be_asked_for(clock: FakeClock):
    """How many lines were left and when, when one more is tried; nothing any longer when all have come back."""
    lines = LineBudget(10, 4, clock=clock, snapshot_floor=1)
    assert (lines.shortage, lines.next_probe_at, lines.stream_room) == (None, None, 5)
    holders = [await lines.acquire_snapshot(conid) for conid in range(1, 5)]
    began_at = clock.now()
    lines.refused(holders[-1])
    assert (lines.shortage.left, lines.shortage.at, lines.stream_room) == (3, began_at, 2)
    assert lines.next_probe_at == began_at + timedelta(minutes=10)
    clock.advance(timedelta(minutes=10))
    assert lines.next_probe_at == began_at + timedelta(minutes=20)
    clock.advance(timedelta(minutes=20))
    assert (lines.shortage, lines.next_probe_at, lines.stream_room) == (None, None, 5)


async def test_streams_have_no_room_when_the_floor_takes_all_that_is_left(clock: FakeClock):
    """No less than none."""
    lines = LineBudget(10, 0, clock=clock, snapshot_floor=5)
    lines.refused(await lines.acquire_snapshot(1))
    assert (lines.capacity, lines.stream_room) == (1, 0)


async def test_streams_that_are_refused_one_after_the_other_take_one_line_away_each(clock: FakeClock):
    """All eight were asked for before the first answer; three are refused, whenever each was granted: five are left."""
    lines = LineBudget(10, 0, clock=clock)
    for conid in range(1, 9):
        await lines.acquire_stream(conid)
    for conid in (1, 7, 8):
        lines.refused(conid)
    assert (lines.capacity, lines.streams) == (5, 5)


async def test_a_stream_that_ends_while_another_waits_for_its_refusal_takes_no_second_line_away(clock: FakeClock):
    """The gateway refused the fifth while four were in use, whatever has ended before its answer came."""
    lines = LineBudget(10, 0, clock=clock)
    for conid in range(1, 6):
        await lines.acquire_stream(conid)
        lines.asked(conid)
    lines.drop_stream(1)
    lines.refused(5)
    assert (lines.capacity, lines.streams) == (4, 3)


async def test_a_stream_that_is_asked_for_again_counts_from_then(clock: FakeClock):
    """Granted as the eighth and restored as one of five, its refusal leaves four lines, not seven."""
    lines = LineBudget(10, 0, clock=clock)
    for conid in range(1, 9):
        await lines.acquire_stream(conid)
    for conid in (1, 2, 3):
        lines.drop_stream(conid)
    lines.asked(8)
    lines.refused(8)
    assert (lines.capacity, lines.streams) == (4, 4)


async def test_a_stream_that_is_refused_when_it_is_restored_does_not_count_from_when_it_began(clock: FakeClock):
    """The first of five streams was granted at one in use; refused after a reconnect, the gateway has four."""
    lines = LineBudget(10, 0, clock=clock)
    for conid in range(1, 6):
        await lines.acquire_stream(conid)
    lines.refused(1)
    assert (lines.capacity, lines.streams) == (4, 4)


async def test_a_stream_that_waits_is_turned_away_when_the_budget_shrinks_below_it(clock: FakeClock):
    """It would wait for a line that streams have to leave; the snapshot behind it has the line that is free."""
    lines = LineBudget(4, 0, clock=clock, snapshot_floor=1)
    await lines.acquire_stream(1)
    held = [await lines.acquire_snapshot(conid) for conid in (2, 3, 4)]
    stays, goes = asked(lines.acquire_stream(5)), asked(lines.acquire_stream(6))
    snapshot = asked(lines.acquire_snapshot(7))
    await settled()
    lines.refused(held[2])  # three lines are left, two of them for streams
    assert await settled(stays, goes, snapshot) == [False, True, False]
    with pytest.raises(LineLimitError, match="conid 6"):
        await goes
    lines.release_snapshot(held[0])
    lines.release_snapshot(held[1])
    assert await settled(stays, snapshot) == [True, True]
    assert (lines.streams, lines.snapshots, lines.waiting) == (2, 1, 0)


async def test_one_line_is_always_tried(clock: FakeClock):
    """A budget that shrank to nothing could never learn that lines came back."""
    lines = LineBudget(10, 0, clock=clock)
    lines.refused(await lines.acquire_snapshot(1))
    assert lines.capacity == 1


async def test_those_who_wait_are_admitted_when_time_alone_made_room(clock: FakeClock):
    """Nobody gives a line back, but a probe makes one."""
    lines = LineBudget(3, 0, clock=clock)
    await lines.acquire_stream(1)
    await lines.acquire_stream(2)
    lines.refused(await lines.acquire_snapshot(3))
    waiting = asked(lines.acquire_snapshot(4))
    assert await settled(waiting) == [False]
    clock.advance(timedelta(minutes=10))
    lines.admit()
    assert await settled(waiting) == [True]


async def test_snapshots_need_no_line_when_they_are_said_to_use_none(clock: FakeClock):
    """They are counted, but do not wait and take nothing from the streams."""
    lines = LineBudget(1, 0, clock=clock, snapshots_use_lines=False)
    await lines.acquire_stream(1)
    await lines.acquire_snapshot(2)
    await lines.acquire_snapshot(3)
    assert (lines.used, lines.free, lines.snapshots) == (1, 0, 2)


async def test_the_holders_say_who_holds_what_since_when(clock: FakeClock):
    """Oldest first, with the number of users."""
    lines = LineBudget(5, 0, clock=clock)
    began_at = clock.now()
    await lines.acquire_stream(1)
    await lines.acquire_stream(1)
    clock.advance(3)
    await lines.acquire_snapshot(2)
    rows = [(row.kind, row.conid, row.since - began_at, row.refcount) for row in lines.holders()]
    assert rows == [("stream", 1, timedelta(0), 2), ("snapshot", 2, timedelta(seconds=3), 1)]
    assert repr(lines) == "<LineBudget 2 of 5 in use: 1 stream, 1 snapshot, peak 2>"
