"""What `desk.lines` shows: who holds which line, who waits, why, and what error 101 taught."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from v6kit.broker import LineBudget
from v6kit.clock import FakeClock
from v6kit.desk import LineUse
from v6kit.sync import Candidate, Standing


@pytest.fixture
def clock() -> FakeClock:
    """Time that stands still."""
    return FakeClock()


def candidate(conid: int, **fields: Any) -> Candidate:
    """Return a leg of strategy `<one>`."""
    known = {"label": f"SPY C {conid}", "strategies": ("<one>",), "priority": 1, "days_to_expiry": 4, "held": True}
    return Candidate(**{"conid": conid, "exposure": 12_340.0, "streaming_since": None} | known | fields)


async def shown(clock: FakeClock, *, waiting: int = 2) -> LineUse:
    """Return a moment at which 1 streams for the strategies, 2 for somebody else, and a snapshot of 3 is in flight."""
    lines = LineBudget(10, 4, clock=clock, snapshot_floor=2)
    await lines.acquire_stream(1)
    clock.advance(75)
    await lines.acquire_stream(2)
    await lines.acquire_stream(2)
    await lines.acquire_snapshot(3)
    ranking = tuple(candidate(conid) for conid in (9, 1, *range(11, 10 + waiting)))
    standing = Standing(
        ranking=ranking,
        chosen=frozenset({1}),
        room=1,
        refused=((candidate(8), "refused: 420"),),
        policy="priority",
    )
    return LineUse.of(lines, standing, {3: "QQQ", 1: "SPY C 1"}, clock.now())


async def test_each_line_has_its_holder_and_the_reason(clock: FakeClock):
    """Since when, for how long, for which strategies, by whom; oldest first."""
    began_at = clock.now()
    use = await shown(clock)
    assert use.holders.rows() == [
        ("stream", 1, "SPY C 1", ["<one>"], began_at, 75.0, candidate(1).why(), 1),
        ("stream", 2, "conid 2", [], clock.now(), 0.0, "subscribed to apart from the strategies", 2),
        ("snapshot", 3, "QQQ", [], clock.now(), 0.0, "snapshot for the queue", 1),
    ]
    assert (use.used, use.streams, use.snapshots, use.capacity, use.room, use.peak) == (3, 2, 1, 6, 4, 3)


async def test_who_waits_is_ranked_and_who_was_refused_has_the_reason(clock: FakeClock):
    """The best waits for a minimum hold to end, the next for room; the refused one has no rank."""
    use = await shown(clock, waiting=2)
    conids, labels, strategies, ranks, whys = zip(*use.waiting.rows(), strict=True)
    assert (conids, ranks) == ((9, 11, 8), (1, 3, None))
    assert labels[0] == "SPY C 9"
    assert strategies[0] == ["<one>"]
    assert whys == (
        "next, when a stream has had its minimum hold: strategy <one>, priority 1, 4 days to expiry, exposure 12,340",
        "3 of 3, with room for 1: strategy <one>, priority 1, 4 days to expiry, exposure 12,340",
        "refused: 420",
    )


async def test_an_idle_desk_has_empty_frames_with_the_same_columns(clock: FakeClock):
    """Nobody holds, nobody waits, nothing was learned."""
    full, idle = await shown(clock), LineUse.of(LineBudget(clock=clock), Standing(), {}, clock.now())
    assert (idle.holders.schema, idle.waiting.schema) == (full.holders.schema, full.waiting.schema)
    assert (idle.holders.height, idle.waiting.height, idle.learned) == (0, 0, "")
    assert repr(idle) == "0 of 90 lines in use (limit 100): 0 streams, 0 snapshots, peak 0"


async def test_what_error_101_taught_is_said_until_all_lines_are_back(clock: FakeClock):
    """How many were left and when, how many may be used now, and when one more is tried."""
    lines = LineBudget(10, 4, clock=clock, snapshot_floor=2)
    lines.refused([await lines.acquire_snapshot(conid) for conid in (21, 22, 23)][-1])
    clock.advance(timedelta(minutes=11))
    use = LineUse.of(lines, Standing(), {}, clock.now())
    assert (use.left, use.next_probe_at - use.learned_at) == (2, timedelta(minutes=20))
    assert use.learned == (
        "error 101 at 14:30:00 UTC left 2 lines; 3 may be used now, and one more is tried at 14:50:00 UTC"
    )
    assert use.learned in repr(use)
    assert use.learned in use._repr_html_()


async def test_a_cell_shows_the_same_as_text_and_as_html(clock: FakeClock):
    """Names are escaped; long tables are cut and say by how much, the frame is not."""
    use = await shown(clock, waiting=30)
    assert use.waiting.height == 31
    for shown_as in (repr(use), use._repr_html_()):
        assert "3 of 6 lines in use (limit 10): 2 streams, 1 snapshot, peak 3" in shown_as
        assert "31 active contracts wait; room for 4 streams, chosen by priority" in shown_as
        assert "snapshot for the queue" in shown_as
        assert "... and 21 more" in shown_as
    assert "strategy <one>" in repr(use)
    assert "strategy &lt;one&gt;" in use._repr_html_()
    assert "<one>" not in use._repr_html_()
