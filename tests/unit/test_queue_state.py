"""The queue's state in memory, compared with a plain model that sorts everything each time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from v6kit.queue import Status, bulk
from v6kit.queue import state as state_module
from v6kit.queue.ids import RequestIds
from v6kit.queue.requests import LIVE, SPEC, QueuedPosition
from v6kit.queue.state import QueueState

START = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HELD = 6


class Model:
    """Every request that is held, and the obvious way to answer each question."""

    def __init__(self) -> None:
        self.rows: dict[str, QueuedPosition] = {}

    def apply(self, rows: list[QueuedPosition]) -> None:
        """Take rows in; let the oldest finished ones go."""
        for row in rows:
            self.rows[row.request_id] = row
        finished = sorted((row for row in self.rows.values() if row.status not in LIVE), key=lambda row: row.seq)
        for row in finished[: max(len(finished) - HELD, 0)]:
            del self.rows[row.request_id]

    def due(
        self, now: datetime, limit: int, priority: int | None = None, aging_after: timedelta | None = None
    ) -> list[str]:
        """Return who is next."""
        aged = now - aging_after if aging_after else START - timedelta(days=1)
        rows = [row for row in self.rows.values() if row.is_due(now) and priority in (None, row.priority)]
        rows.sort(key=lambda row: (1 if row.due_at < aged else row.priority, row.due_at, row.request_id))
        return [row.request_id for row in rows[:limit]]


class World:
    """A state and its model, and ways to change both."""

    def __init__(self) -> None:
        self.state, self.model = QueueState(), Model()
        self.now, self.seq, self.conid = START, 0, 0
        self.ids = RequestIds()

    def new(self, count: int, priority: int, delay: int, due: int = 0) -> list[QueuedPosition]:
        """Return requests that were just inserted, due that many seconds ago, the later ones even earlier."""
        made = []
        for known in self.ids.take(count, self.now):
            self.conid += 1
            made.append(
                QueuedPosition(
                    known,
                    self.conid,
                    "SPY",
                    priority,
                    "PENDING",
                    self.now,
                    None,
                    f"U{self.conid % 2}",
                    0,
                    5,
                    self.now + delay * SECOND,
                    self.now - (due + len(made)) * SECOND if due else self.now,
                    None,
                    None,
                    None,
                    "INSERT",
                )
            )
        return made

    def some(self, pick: int, count: int, *statuses: str) -> list[QueuedPosition]:
        """Return some of the requests in these statuses."""
        rows = sorted(row for row in self.model.rows.values() if row.status in statuses)
        start = pick % len(rows) if rows else 0
        return rows[start : start + count]

    def changes(self, verb: str, pick: int, count: int, number: int) -> list[QueuedPosition]:
        """Return the rows of one change, stamped."""
        if verb.startswith("insert"):
            delay, due = (1 + number if verb == f"insert {what}" else 0 for what in ("later", "overdue"))
            rows = self.new(count, 1 + number % 3, delay, due)
        else:
            rows = [row._replace(change=verb.upper()) for row in self.changed(verb, pick, count, number)]
        return self.stamp(rows, self.seq + 1)

    def changed(self, verb: str, pick: int, count: int, number: int) -> list[QueuedPosition]:
        """Return what a change makes of some of the requests."""
        if verb == "claim":
            until = self.now + (1 + number) * SECOND
            rows = [self.model.rows[known] for known in self.model.due(self.now, count)]
            return [row._replace(status="PROCESSING", attempt=row.attempt + 1, lease_until=until) for row in rows]
        if verb == "release":
            rows = self.some(pick, count, "PROCESSING")
            return [row._replace(status="PENDING", attempt=row.attempt - 1) for row in rows]
        statuses, fields = {
            "succeed": (("PROCESSING",), {"status": "SUCCESS"}),
            "fail": (("PROCESSING",), {"status": "FAILED"}),
            "retry": (("PROCESSING",), {"status": "PENDING", "available_at": self.now + number * SECOND}),
            "extend": (("PROCESSING",), {"lease_until": self.now + (1 + number) * SECOND}),
            "cancel": (("PENDING", "PROCESSING"), {"status": "CANCELLED"}),
            "redrive": (("FAILED",), {"status": "PENDING", "attempt": 0, "available_at": self.now}),
            "prioritise": (("PENDING", "PROCESSING"), {"priority": 1 + number % 3}),
            "hasten": (("PENDING", "PROCESSING"), {"due_at": self.now - number * SECOND}),
        }[verb]
        return [row._replace(**fields) for row in self.some(pick, count, *statuses)]

    def stamp(self, rows: list[QueuedPosition], seq: int) -> list[QueuedPosition]:
        """Return the rows as the ledger would stamp them."""
        return SPEC.stamp(rows, seq, 1, self.now, "model")

    def check(self, view: int) -> None:
        """Compare everything that a decision or a user can ask for."""
        state, rows = self.state, self.model.rows
        assert sorted(held(state)) == sorted(rows.values())
        for priority in (None, 1, 2):
            for aging_after in (None, 5 * SECOND):
                for limit in (1, 3, 1_000):
                    due = state.due(self.now, limit, priority=priority, aging_after=aging_after)
                    wanted = self.model.due(self.now, limit, priority, aging_after)
                    assert [row.request_id for row in due] == wanted
            if view % 3:
                self.check_stats()
        self.check_stats()
        live = {(row.account, row.conid): row.request_id for row in rows.values() if row.status in LIVE}
        for account in ("U0", "U1"):
            conids = list(range(1, self.conid + 1))
            found = state.live_ids(account, conids) or [None] * len(conids)
            assert found == [live.get((account, conid)) for conid in conids]
        failed = sorted((row for row in rows.values() if row.status == "FAILED"), key=lambda row: row.seq)
        assert state.failed() == failed
        assert all(state.get(known) == row for known, row in rows.items())
        assert state.get("00000000-0000-7000-8000-000000000000") is None

    def check_stats(self) -> None:
        """Compare the numbers."""
        rows = self.model.rows.values()
        stats = self.state.stats(self.now, "")
        assert stats.by_status == {status: sum(row.status == status for row in rows) for status in Status}
        live = [row.priority for row in rows if row.status in LIVE]
        assert stats.by_priority == {number: live.count(number) for number in sorted(set(live))}
        waiting = [row.due_at for row in rows if row.status == "PENDING"]
        assert stats.oldest_pending == (max(self.now - min(waiting), 0 * SECOND) if waiting else None)
        assert stats.expired_leases == sum(row.status == "PROCESSING" and row.is_due(self.now) for row in rows)
        assert stats.retries == sum(max(row.attempt - 1, 0) for row in rows)
        minute = self.now - timedelta(minutes=1)
        assert stats.finished_last_minute == sum(row.status not in LIVE and row.updated_at >= minute for row in rows)


def held(state: QueueState) -> list[QueuedPosition]:
    """Return what the state holds, as rows."""
    return SPEC.to_rows(SPEC.gather(state.held()))


VERBS = [
    "insert", "insert later", "insert overdue", "claim", "claim", "succeed", "fail", "retry", "release", "extend",
    "cancel", "redrive", "prioritise", "hasten",
]  # fmt: skip
STEPS = st.lists(
    st.fixed_dictionaries(
        {
            "verb": st.sampled_from(VERBS),
            "pick": st.integers(0, 50),
            "count": st.integers(1, 12),
            "number": st.integers(0, 5),
            "wait": st.sampled_from([0, 0, 1, 2, 70]),
            "form": st.sampled_from(["rows", "frame"]),
            "tried": st.booleans(),
        }
    ),
    min_size=1,
    max_size=25,
)


@pytest.mark.timeout(300)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_the_state_answers_as_the_model_does(steps):
    """After every change, committed or tried and taken back, each answer is the model's."""
    with pytest.MonkeyPatch.context() as small:
        small.setattr(state_module, "FINISHED_HELD", HELD)
        small.setattr(state_module, "_BULK_ROWS", 5)
        small.setattr(state_module, "_ENTRIES_SPARE", 8)
        small.setattr(bulk, "BLOCK_ROWS", 3)
        world = World()
        for step in steps:
            world.now += step["wait"] * SECOND
            rows = world.changes(step["verb"], step["pick"], step["count"], step["number"])
            given_rows = SPEC.to_frame(rows) if step["form"] == "frame" else rows
            if step["tried"]:
                before = world.state.apply(given_rows)
                world.state.due(world.now, 3)
                before()
                world.check(step["pick"])
            world.state.apply(given_rows)
            world.model.apply(rows)
            world.seq += len(rows)
            world.check(step["pick"])


@settings(max_examples=50, deadline=None)
@given(steps=STEPS)
def test_a_state_that_is_rebuilt_from_what_is_held_is_the_same(steps):
    """A restart, or a snapshot: held rows in seq order rebuild every answer."""
    with pytest.MonkeyPatch.context() as small:
        small.setattr(state_module, "FINISHED_HELD", HELD)
        small.setattr(state_module, "_BULK_ROWS", 5)
        small.setattr(bulk, "BLOCK_ROWS", 3)
        world = World()
        for step in steps:
            world.now += step["wait"] * SECOND
            rows = world.changes(step["verb"], step["pick"], step["count"], step["number"])
            world.state.apply(rows)
            world.model.apply(rows)
            world.seq += len(rows)
        rebuilt = QueueState()
        rebuilt.apply(SPEC.gather(world.state.held()).sort("seq"))
        world.state = rebuilt
        world.check(1)


def test_undoing_several_changes_in_reverse_restores_the_state():
    """A group of jobs is tried one on top of the other and taken back from the last to the first."""
    world = World()
    world.state.apply(world.stamp(world.new(6, 2, 0), 1))
    world.model.apply(world.stamp(world.new(0, 2, 0), 1))
    before = sorted(held(world.state))
    undo = []
    for seq, status in ((7, "PROCESSING"), (13, "SUCCESS"), (19, "PENDING")):
        rows = [row._replace(status=status, lease_until=START + SECOND) for row in before]
        undo.append(world.state.apply(world.stamp(rows, seq)))
    for take_back in reversed(undo):
        take_back()
    assert sorted(held(world.state)) == before
    assert [row.request_id for row in world.state.due(START, 10)] == [row.request_id for row in before]


def test_a_process_that_never_claims_does_not_collect_garbage():
    """Entries of finished requests are swept, although nobody takes them out."""
    world = World()
    for _ in range(300):
        rows = world.stamp(world.new(50, 2, 0), world.seq + 1)
        world.state.apply(rows)
        leased = [row._replace(status="PROCESSING", attempt=1, lease_until=world.now + 60 * SECOND) for row in rows]
        world.state.apply(leased)
        world.state.apply([row._replace(status="SUCCESS") for row in leased])
        world.now += SECOND
        world.seq += 50
    state = world.state
    entries = len(state._leases) + len(state._delayed) + sum(map(len, state._ready.values()))
    assert entries <= state_module._ENTRIES_SPARE + 100
    assert len(state._items) == state_module.FINISHED_HELD


def test_finished_requests_beyond_the_limit_are_let_go_oldest_first(monkeypatch):
    """Live ones are never let go."""
    monkeypatch.setattr(state_module, "FINISHED_HELD", 3)
    world = World()
    rows = world.stamp(world.new(10, 2, 0), 1)
    world.state.apply(rows)
    world.state.apply([row._replace(status="SUCCESS", seq=10 + row.seq) for row in rows[:7]])
    assert [row.conid for row in sorted(held(world.state), key=lambda row: row.conid)] == [5, 6, 7, 8, 9, 10]


def test_an_empty_state_has_nothing():
    """No rows, no due, no statistics but zeros."""
    state = QueueState()
    assert state.due(START, 10) == []
    assert SPEC.gather(state.held()).is_empty()
    stats = state.stats(START, "why")
    assert (stats.live, stats.oldest_pending, stats.paused) == (0, None, "why")
    assert isinstance(state.apply(pl.DataFrame(schema=dict(SPEC.columns))), object)


def test_expired_leases_are_counted_behind_older_pending_requests_too():
    """A look at who is due must not hide them from the statistics."""
    world = World()
    rows = world.stamp(world.new(2, 2, 0), 1)
    world.state.apply(rows)
    world.state.apply([rows[1]._replace(status="PROCESSING", lease_until=START + SECOND, seq=3)])
    later = START + 2 * SECOND
    assert len(world.state.due(later, 10)) == 2
    assert world.state.stats(later, "").expired_leases == 1
    assert len(world.state.due(later, 10)) == 2
