"""The queue beside its plain model: every guarantee holds, whatever happens in whatever order.

A run that found something prints its steps. `MODEL_EXAMPLES=2000` makes it look longer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from itertools import cycle
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test
from ledger_model import HANDLES, WAITS, Call, LedgerMachine, Made, Refused, Row, agree, calls, newest
from queue_model import FIRST_WAIT, LIVE, LONGEST_WAIT, UNKNOWN, Claim, End, QueueModel, Steward, is_uuid
from v6kit.queue import PAUSED, Backoff, Outcome, PositionQueue, QueuedPosition, Settled, Status, bulk, intake
from v6kit.queue import state as state_module

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "20"))
STEPS = 40
AGING_AFTER = timedelta(minutes=10)
HELD = 6

# --- what Hypothesis draws ----------------------------------------------------------------------------------------


def item(
    conid: int, *, priority: int, account: str, max_attempts: int, wait: int | None = None, due: int | None = None
) -> dict[str, Any]:
    """Return what is to be queued, available and due so many seconds from now."""
    return {
        "conid": conid,
        "symbol": "SPY",
        "priority": priority,
        "account": account,
        "max_attempts": max_attempts,
        "available_at": wait,
        "due_at": due,
    }


def with_a_stranger(targets: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return targets one of which never was in the queue."""
    return [*targets, ("nobody", 0)]


def in_seconds(seconds: int | None) -> timedelta | None:
    """Return a duration."""
    return None if seconds is None else timedelta(seconds=seconds)


PRIORITIES = st.sampled_from((2, 1, 3))
ITEMS = st.builds(
    item,
    st.integers(1, 5),
    priority=PRIORITIES,
    account=st.sampled_from(("", "U1")),
    max_attempts=st.sampled_from((2, 1, 3)),
    wait=st.sampled_from((None, None, None, -60, 30, 600)),
    due=st.sampled_from((None, None, -60, -3600, 30)),
)
# Whom a call is about: an item as it was handed out once, its id, any request's id, or nobody; counted from the newest.
TARGETS = st.tuples(st.sampled_from(("item", "item", "id", "any")), st.integers(0, 7))
SEVERAL = st.lists(TARGETS, min_size=1, max_size=4)
WITH_A_STRANGER = SEVERAL.map(with_a_stranger)
LEASES = st.sampled_from((60, 60, 5, 600)).map(in_seconds)
DELAYS = st.sampled_from((None, None, 0, 90)).map(in_seconds)
ENDS = (
    st.just(End("SUCCESS"))
    | st.just(End("FAILED", "no such contract"))
    | st.builds(End, st.just("PENDING"), st.just("timed out"), DELAYS)
    | st.just(End("CANCELLED", "the position is closed"))
)

INSERT = calls("insert_many", st.lists(ITEMS, min_size=1, max_size=5))
CLAIM = calls(
    "get_batch",
    st.integers(1, 6),
    priority=st.none() | st.none() | PRIORITIES,
    lease=LEASES,
)
SETTLE = calls("settle", st.lists(st.tuples(ENDS, TARGETS), min_size=1, max_size=5))
OTHERS = [
    calls("mark_success", SEVERAL),
    calls("mark_failed", TARGETS, st.just("no such contract")),
    calls("mark_retry", TARGETS, st.just("timed out"), DELAYS),
    calls("extend_lease", SEVERAL, LEASES),
    calls("release", SEVERAL),
    calls("release", SEVERAL),
    calls("cancel", SEVERAL),
    calls("prioritise", SEVERAL, PRIORITIES),
    calls("redrive", SEVERAL),
    calls("redrive", SEVERAL),
    calls("mark_success", WITH_A_STRANGER) | calls("cancel", WITH_A_STRANGER) | calls("release", WITH_A_STRANGER),
    st.sampled_from([Call("pause", ("lunch",)), Call("resume"), Call("resume")]),
]
CALLS = st.one_of(INSERT, INSERT, *[CLAIM] * 4, *[SETTLE] * 6, *OTHERS)


class QueueMachine(LedgerMachine):
    """Two workers on one queue, the second of which lets nothing starve."""

    kind = PositionQueue

    @initialize(small=st.sampled_from([True] * 7 + [False]))
    def open_the_queue(self, *, small: bool) -> None:
        """Begin; mostly with small limits, so that few requests already run what else takes thousands of them."""
        self.small = small
        if small:
            self.patch.setattr(state_module, "FINISHED_HELD", HELD)
            self.patch.setattr(state_module, "_BULK_ROWS", 5)
            self.patch.setattr(state_module, "_ENTRIES_SPARE", 8)
            self.patch.setattr(bulk, "BLOCK_ROWS", 3)
            self.patch.setattr(intake, "MANY", 6)
        self.model = QueueModel()
        self.items: list[QueuedPosition] = []
        self.standing: dict[str, str] = {}
        self.redriven = 0
        self.held: list[dict[str, str]] = [{}, {}]  # what each worker has claimed and not ended
        self.ended: list[dict[str, str]] = [{}, {}]  # what it has ended
        self.start()
        wanted = [item(conid, priority=2, account=str(conid), max_attempts=2) for conid in range(1, 6)]
        self.play((0, [Call("insert_many", (wanted,))]))

    def make(self, index: int) -> PositionQueue:
        """Return a worker's handle; jitter is left out, so that the model can tell how long a retry waits."""
        backoff = Backoff(base=FIRST_WAIT, cap=LONGEST_WAIT, jitter=0.0)
        aging_after = AGING_AFTER if index == 1 else None
        return PositionQueue(
            self.uri, clock=self.clock, worker_id=f"worker-{index}", backoff=backoff, aging_after=aging_after
        )

    # --- steps ---------------------------------------------------------------------------------------------------

    @rule(on=HANDLES, call=CALLS, after=WAITS)
    def call(self, on: int, call: Call, after: float) -> None:
        """Make one call."""
        self.play((on, [call]), after=after)

    @rule(on=HANDLES, call=CALLS, after=WAITS)
    def call_twice(self, on: int, call: Call, after: float) -> None:
        """Make a call and make it again, as a worker does that did not hear the answer."""
        self.play((on, [call]), after=after)
        self.play((on, [call]))

    @rule(
        on=HANDLES,
        insert=INSERT,
        claim=CLAIM,
        seconds=st.sampled_from([0, 0, 1, 5, 59.999, 60, 600]),
        ends=st.lists(ENDS, max_size=6),
    )
    def work_a_cycle(self, on: int, insert: Call, claim: Call, seconds: float, ends: list[End]) -> None:
        """Claim what somebody else has inserted, take some time, settle: too late if that was longer than the lease."""
        self.play((1 - on, [insert]))
        self.play((on, [claim]))
        self.clock.advance(seconds)
        if ends:
            self.play((on, [Call("settle", ([(end, ("item", back)) for back, end in enumerate(ends)],))]))

    @rule(
        on=HANDLES,
        seconds=st.sampled_from([60, 600, 59.999, 0]),
        how=st.sampled_from(["settle", "mark_success", "extend_lease", "release"]),
        ends=st.lists(ENDS, min_size=1, max_size=4),
        at_once=st.booleans(),
    )
    def come_late(self, on: int, seconds: float, how: str, ends: list[End], *, at_once: bool) -> None:
        """Be so slow that another worker claims the same; then settle that, together with what is still held."""
        claim = Call("get_batch", (4,), {"priority": None, "lease": timedelta(seconds=60)})
        wanted = [item(conid, priority=1, account="", max_attempts=3) for conid in (1, 2, 3)]
        self.play((on, [Call("insert_many", (wanted[:2],))]))
        self.play((on, [claim]))
        mine = self.last.answer
        self.play((1 - on, [claim]), after=seconds)
        theirs = self.last.answer
        self.play((on, [Call("insert_many", (wanted[2:],))]))
        self.play((on, [claim]))
        mine = [*self.last.answer, *mine]
        late = {
            "settle": Call("settle", ([*zip(cycle(ends), mine, strict=False)],)),
            "extend_lease": Call("extend_lease", (mine, timedelta(seconds=60))),
        }.get(how, Call(how, (mine,)))
        right = Call("settle", ([*zip(cycle(ends), theirs, strict=False)],))
        if not mine or not theirs:
            return  # paused
        if at_once:
            self.play((on, [late]), (1 - on, [right]))
        else:
            self.play((on, [late]))
            self.play((1 - on, [right]))

    @rule(on=HANDLES, first=st.integers(1, 8), count=st.integers(6, 12), priority=PRIORITIES)
    def insert_in_bulk(self, on: int, first: int, count: int, priority: int) -> None:
        """Queue so many that they are kept as a frame; some are queued already, and two of them are the same."""
        is_frame = count % 2 == 0
        count = count if self.small else 2_000 + count
        if not self.small and len(self.journal) > count:
            return  # once is enough
        rows = [
            {"conid": conid, "symbol": "QQQ", "priority": priority, "max_attempts": 2} | due
            for conid in [first, *range(first, first + count)]
            for due in ({"due_at": -conid % 4} if count % 3 else {},)
        ]
        self.play((on, [Call("insert_many", (rows,), {"frame": is_frame})]))
        if first % 2:
            self.keep(on)  # so that a snapshot has seen what is still a frame

    @rule(on=HANDLES, lease=LEASES)
    def claim_all(self, on: int, lease: timedelta) -> None:
        """Take out all that is due; then nothing is left, and an idle poll commits nothing."""
        claim = Call("get_batch", (10_000,), {"priority": None, "lease": lease})
        self.play((on, [claim]))
        before = self.table.version()
        self.play((1 - on, [claim]))
        assert self.last.answer == []
        assert self.table.version() == before

    @rule(on=HANDLES)
    def redrive_all(self, on: int) -> None:
        """Queue again all that failed, of what is held."""
        self.play((on, [Call("redrive", (None,))]))

    @rule(on=HANDLES, together=st.lists(CALLS, min_size=2, max_size=5), after=WAITS)
    def call_at_once(self, on: int, together: list[Call], after: float) -> None:
        """Make several calls in one go: they go out together, each sees the effect of those before it."""
        self.play((on, together), after=after)

    @rule(one=st.lists(CALLS, min_size=1, max_size=2), two=st.lists(CALLS, min_size=1, max_size=2), after=WAITS)
    def race(self, one: list[Call], two: list[Call], after: float) -> None:
        """Let both workers make calls at the same time."""
        self.play((0, one), (1, two), after=after)

    @rule(back=st.integers(0, 9), early=st.booleans())
    def wait_for_what_comes_due(self, back: int, *, early: bool) -> None:
        """Let time pass until the end of a lease or of a wait, or until a microsecond before it."""
        ends = [one.lease_until or one.available_at for one in self.model.requests.values() if one.status in LIVE]
        ends = sorted(at for at in ends if at > self.clock.now() + timedelta(microseconds=1))
        if ends:
            self.clock.jump(ends[back % len(ends)] - early * timedelta(microseconds=1))

    # --- real arguments ------------------------------------------------------------------------------------------

    def real(self, index: int, call: Call) -> tuple[Call, tuple[Any, ...]]:
        """Put requests in the place of targets; a claim that is named by its id is the worker's own."""
        name, (first, *rest) = call.name, call.arguments or (None,)
        given, expected = (first, *rest), (first, *rest)
        if name in ("pause", "resume"):
            return call, call.arguments
        if name == "get_batch":
            who = Steward(f"worker-{index}", AGING_AFTER if index == 1 else None)
            return call, (who, first, call.options["priority"], call.options["lease"])
        if name == "insert_many":
            items = [self.dated(one) for one in first]
            given, expected = (pl.DataFrame(items) if call.options.get("frame") else items,), (items,)
        elif name in ("mark_failed", "mark_retry"):
            target = self.target(first)
            given, expected = (target, *rest), (self.claim_of(index, target), *rest)
        elif name == "settle":
            pairs = [(end, self.target(one)) for end, one in first]
            given = ([Outcome(one, Status(end.status), end.message, end.delay) for end, one in pairs],)
            expected = ([(end, self.claim_of(index, one)) for end, one in pairs],)
        elif name == "redrive" and first is None:
            expected = (self.failed(index),)
        else:
            targets = [self.target(one) for one in first]
            claims = [self.claim_of(index, one) for one in targets]
            by_id = name in ("cancel", "prioritise", "redrive")
            given, expected = (targets, *rest), ([one[0] for one in claims] if by_id else claims, *rest)
        return Call(name, given), expected

    def dated(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return an item whose time is an instant."""
        waits = {name: item[name] for name in ("available_at", "due_at") if item.get(name) is not None}
        return item | {name: self.clock.now() + timedelta(seconds=wait) for name, wait in waits.items()}

    def target(self, drawn: tuple[str, int] | QueuedPosition) -> QueuedPosition | str:
        """Return whom a call is about."""
        if isinstance(drawn, QueuedPosition):
            return drawn  # by a step that knows whom it means
        kind, back = drawn
        if kind in ("item", "id") and self.items:
            item = self.items[-1 - back % len(self.items)]
            return item if kind == "item" else item.request_id
        known = [*self.model.requests]
        return known[-1 - back % len(known)] if kind != "nobody" and known else UNKNOWN

    def claim_of(self, index: int, target: QueuedPosition | str) -> Claim:
        """Return a request's id and the claim that this worker has of it."""
        if isinstance(target, str):
            return target, self.held[index].get(target) or self.ended[index].get(target)
        return target.request_id, target.claim_id

    def failed(self, index: int) -> list[str]:
        """Return the failed requests that a handle holds when it is up to date."""
        self.run(self.handles[index].refresh())
        frame = self.handles[index].current()
        return frame.filter(pl.col("status") == "FAILED").sort("seq")["request_id"].to_list()

    def in_turn(self, made: list[Made]) -> dict[Any, list[Made]]:
        """Return the calls by who keeps them in order: a pause is no row, so it may overtake changes of its handle."""
        sides: dict[Any, list[Made]] = {}
        for one in made:
            sides.setdefault((one.handle, one.call.name in ("pause", "resume")), []).append(one)
        return sides

    def difference(self, world: QueueModel) -> str | None:
        """Tell whether the table is paused otherwise."""
        reason = self.table.property(PAUSED)
        return None if reason == world.paused else f"paused: {reason!r} instead of {world.paused!r}"

    # --- what a worker knows by an answer ------------------------------------------------------------------------

    def learn(self, made: Made) -> None:
        """Note new claims, and those that have ended."""
        self.last = made
        if isinstance(made.answer, Refused):
            return
        name, held = made.call.name, self.held[made.handle]
        if name in ("get_batch", "redrive"):
            self.items += made.answer
            by_id = {row["request_id"]: row for row in newest(self.journal, ["request_id"])}
            assert all(item._asdict() == by_id[item.request_id] for item in made.answer if self.is_alone(item))
        if name == "get_batch":
            held.update({item.request_id: item.claim_id for item in made.answer})
        elif name == "insert_many":
            assert all(map(is_uuid, made.answer))
        elif name == "redrive":
            self.redriven += len(made.answer)
        elif name in ("mark_success", "release"):
            self.let_go(made.handle, made.expected[0], ended=name != "release")
        elif name in ("mark_failed", "mark_retry"):
            self.let_go(made.handle, made.expected[:1], ended=True)
        elif name == "settle":
            answer: Settled = made.answer
            claims = [claim for _, claim in made.expected[0]]
            self.let_go(made.handle, [claim for claim in claims if claim[0] in answer.settled], ended=True)
            self.let_go(made.handle, [claim for claim in claims if claim[0] in answer.stale], ended=False)

    def begun(self, index: int) -> None:
        """A new handle holds no claims."""
        self.held[index], self.ended[index] = {}, {}

    def is_alone(self, item: QueuedPosition) -> bool:
        """Tell whether nothing has come after this in the same step."""
        return not any(row["request_id"] == item.request_id and row["seq"] > item.seq for row in self.journal)

    def let_go(self, index: int, claims: list[Claim], *, ended: bool) -> None:
        """Note that a worker no longer holds these claims; a newer one of the same request stays."""
        for request_id, claim_id in claims:
            if claim_id is not None and self.held[index].get(request_id) == claim_id:
                del self.held[index][request_id]
                if ended:
                    self.ended[index][request_id] = claim_id

    def enter(self, written: list[Row]) -> None:
        """Note rows; each request ends exactly once per life, and only a redrive of what failed starts another one."""
        for row in written:
            before = self.standing.get(row["request_id"])
            allowed: Callable[[], bool] = {
                None: lambda row=row: row["change"] == "INSERT",
                "FAILED": lambda row=row: row["change"] == "REDRIVE",
                "PENDING": lambda: True,
                "PROCESSING": lambda: True,
            }.get(before, lambda: False)
            assert allowed(), f"{before} was followed by {row}"
            self.standing[row["request_id"]] = row["status"]
        super().enter(written)

    def is_finished(self, row: Row) -> bool:
        """Tell whether a request has ended with this row."""
        return row["status"] not in LIVE

    def forget(self) -> None:
        """Requests that were pruned never were."""
        left = {row["request_id"] for row in self.journal}
        self.model.gone |= self.model.requests.keys() - left
        for request_id in self.model.gone & self.model.requests.keys():
            del self.model.requests[request_id]
            del self.standing[request_id]

    # --- what a handle says --------------------------------------------------------------------------------------

    def check_state(self, handle: PositionQueue) -> None:
        """All live requests, the newest finished ones, and the numbers."""
        self.model.check()
        truth = newest(self.journal, ["request_id"])
        finished = [row for row in truth if row["status"] not in LIVE]
        rows = handle.current().to_dicts()
        live = [row for row in truth if row["status"] in LIVE]
        agree(sorted((row for row in rows if row["status"] in LIVE), key=by_seq), live, "what is live")
        rest = sorted((row for row in rows if row["status"] not in LIVE), key=by_seq)
        limit = HELD if self.small else 10_000
        assert len(rest) <= limit
        assert len(rest) >= min(len(finished), limit) - self.redriven, "it forgot some of the newest"
        newest_ended = finished[len(finished) - len(rest) :]
        agree([row["seq"] for row in rest], [row["seq"] for row in newest_ended], "the newest that have finished")
        agree(rest, newest_ended, "what has finished")
        assert [row["request_id"] for row in rows] == [row["request_id"] for row in sorted(rows, key=by_urgency)]
        agree(asdict(handle.stats()), self.model.numbers(rows, self.clock.now()), "stats()")
        if handle in self.handles:
            index = self.handles.index(handle)
            mine = {known for known, claim in self.held[index].items() if self.model.holds(known, claim)}
            assert mine <= set(handle.held_claims())


def by_seq(row: Row) -> int:
    """Sort in the order of the last change."""
    return row["seq"]


def by_urgency(row: Row) -> tuple[Any, ...]:
    """Sort as `current` promises."""
    return row["status"] not in LIVE, row["priority"], row["due_at"], row["request_id"]


@pytest.mark.usefixtures("no_turns")  # writers are to meet
@pytest.mark.timeout(600 + 10 * EXAMPLES)
def test_the_queue_does_what_its_model_does():
    """Claims, leases, fences, attempts, order and counts hold over calls, races, restarts, upkeep and pruning."""
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,  # a commit takes as long as the disk likes
            suppress_health_check=[HealthCheck.too_slow],  # opening three tables is slow compared with drawing steps
            print_blob=True,
        ),
    )
