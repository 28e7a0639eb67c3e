"""What every ledger promises, for any kind of row: calls that run at once have an order that explains all of them.

A model says what one call answers and which rows it leaves behind. Here its word is held against real handles on a real
table, which is read by polars alone. What only chance decides (new ids, who wins a race) is taken from what happened.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import polars as pl
import pytest
from deltalake import DeltaTable
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from v6kit.clock import FakeClock
from v6kit.errors import StorageError, V6KitError, VersionUnavailableError
from v6kit.history import TableHistory
from v6kit.ledger import NO_INSTANT, LedgerTable, upkeep
from v6kit.ledger.spec import UNTIL
from v6kit.ledger.store import Store

Row = dict[str, Any]
HANDLES = st.integers(0, 1)


def calls(name: str, *arguments: st.SearchStrategy[Any], **options: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return calls of one method, as strategies of its arguments."""
    return st.builds(Call, st.just(name), st.tuples(*arguments), st.fixed_dictionaries(options))


WAITS = st.sampled_from([0.0, 0.001, 1, 1, 5, 30, 59.999, 60, 61, 600, 601, 86_400])


class Call(NamedTuple):
    """One call of a method, as Hypothesis draws it: arguments may be symbolic until the machine puts in real ones."""

    name: str
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = MappingProxyType({})


class Made(NamedTuple):
    """One call that was made.

    Attributes:
        handle: Which handle made it.
        call: With real arguments.
        expected: What the model needs in their place.
        answer: What came back.
    """

    handle: int
    call: Call
    expected: tuple[Any, ...]
    answer: Any


@dataclass(frozen=True)
class Refused:
    """The answer of a call that raised."""

    error: type[BaseException]
    text: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Refused) and self.error is other.error

    def __hash__(self) -> int:
        return hash(self.error)


class Model(Protocol):
    """A plain model of one ledger."""

    def copy(self) -> Model:
        """Return a model that may be played on without harm to this one."""
        ...

    def play(self, made: Made, now: datetime) -> tuple[Any, dict[Any, Any]]:
        """Return the right answer, and by key what each row that the call leaves behind says."""
        ...

    def row(self, row: Row) -> tuple[Any, Any]:
        """Return the key of a table's row, and what it says."""
        ...

    def answer(self, answer: Any) -> Any:
        """Return a real answer in the words of the model."""
        ...


def orders(queues: Sequence[Sequence[Any]]) -> Iterator[list[Any]]:
    """Return every way to put several sequences into one that keeps the order of each."""
    if not any(queues):
        yield []
    for index, queue in enumerate(queues):
        if queue:
            for rest in orders([*queues[:index], queue[1:], *queues[index + 1 :]]):
                yield [queue[0], *rest]


class PlainTable:
    """The rows of a Delta table, read without v6kit; a file is read once, since files never change."""

    def __init__(self, uri: str) -> None:
        self._table = DeltaTable(uri)
        self._files: dict[str, list[Row]] = {}

    def version(self) -> int:
        """Return the newest version."""
        self._table.update_incremental()
        return self._table.version()

    def property(self, name: str) -> str:
        """Return one of the table's properties at the version that was read last."""
        return self._table.metadata().configuration.get(name, "")

    def rows(self) -> list[Row]:
        """Return all rows of the newest version, in seq order, without what upkeep has noted of them."""
        return [{name: value for name, value in row.items() if name != UNTIL} for row in self.noted_rows()]

    def noted_rows(self) -> list[Row]:
        """Return the same with upkeep's notes."""
        self._table.update_incremental()
        read = self._files
        self._files = {
            file: read[file] if file in read else pl.read_parquet(file).to_dicts() for file in self._table.file_uris()
        }
        return sorted((row for rows in self._files.values() for row in rows), key=lambda row: row["seq"])


def agree(found: object, right: object, what: str) -> None:
    """Fail with both sides if they differ."""
    if found != right:
        raise AssertionError(f"{what}\n  should be {right!r}\n  but is    {found!r}")


def newest(rows: Sequence[Row], key: Sequence[str]) -> list[Row]:
    """Return the row with the highest seq of each key, in seq order."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        name = tuple(row[column] for column in key)
        found.pop(name, None)
        found[name] = row
    return list(found.values())


class LedgerMachine(RuleBasedStateMachine):
    """Two handles that work, one that only watches, and the model beside them.

    What is drawn never depends on what the handles did, so that a run whose races end otherwise is still the same run.

    Attributes:
        model: What is true.
        journal: Every row that the table must have, in seq order.
        seq: The highest seq that was ever written.
        at: The instant of that row.
        moments: Every version that changed something, and its instant.
        horizon: The oldest instant that can still be looked at.
    """

    kind: type[LedgerTable[Any, Any]]
    model: Any

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(upkeep, "COMMITS_PER_TURN", 10**9)  # it comes as a step of its own, not by itself
        self.folder = tempfile.TemporaryDirectory(prefix="v6kit-model-")
        self.uri = str(Path(self.folder.name) / "table")
        self.clock = FakeClock()
        self.loop = asyncio.Runner()
        self.journal: list[Row] = []
        self.seq, self.at = 0, NO_INSTANT
        self.moments: dict[int, datetime] = {}
        self.horizon = NO_INSTANT
        self.handles: list[Any] = []

    def start(self) -> None:
        """Open the handles; called when the machine's sizes are known."""
        self.handles = [self.opened(index) for index in range(2)]
        self.watcher = self.opened(2)
        self.table = PlainTable(self.uri)
        self.past = TableHistory(self.uri, self.kind.SPEC.key, clock=self.clock)

    def teardown(self) -> None:
        """Let go of everything."""
        for handle in [*self.handles, *([self.watcher] if self.handles else [])]:
            self.run(handle.close())
        self.loop.close()
        self.folder.cleanup()
        self.patch.undo()

    def run(self, call: Awaitable[Any]) -> Any:
        """Wait for a call."""

        async def wait() -> Any:
            return await call

        return self.loop.run(wait())

    def opened(self, index: int) -> Any:
        """Return a new open handle."""
        handle = self.make(index)
        self.run(handle.initialize())
        return handle

    # --- what a kind of ledger says ------------------------------------------------------------------------------

    def make(self, index: int) -> Any:
        """Return a handle; 0 and 1 work, others watch."""
        raise NotImplementedError

    def real(self, index: int, call: Call) -> tuple[Call, tuple[Any, ...]]:
        """Return a drawn call with real arguments, and what the model needs in their place."""
        raise NotImplementedError

    def check_state(self, handle: Any) -> None:
        """Compare all that a handle with the newest state can say."""
        raise NotImplementedError

    def in_turn(self, made: Sequence[Made]) -> dict[Any, list[Made]]:
        """Return the calls that come one after the other, by who sees to that: the writer thread of each handle."""
        sides: dict[Any, list[Made]] = {}
        for one in made:
            sides.setdefault(one.handle, []).append(one)
        return sides

    def difference(self, world: Any) -> str | None:
        """Return what else the table says that a model does not."""
        del world

    def learn(self, made: Made) -> None:
        """Note what a handle knows by an answer."""

    def begun(self, index: int) -> None:
        """Note that this handle is a new one, which knows nothing but the table."""

    def is_finished(self, row: Row) -> bool:
        """Tell whether an item has ended with this row, so that it may be pruned."""
        raise NotImplementedError

    def forget(self) -> None:
        """Follow a removal: the journal has lost what was pruned."""

    # --- calls ---------------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """Return the instant that the next change will have: time in a ledger never runs backwards."""
        return max(self.clock.now(), self.at)

    def play(self, *sides: tuple[int, Sequence[Call]], after: float = 0) -> None:
        """Make calls at once, those of each side in order, and find an order of all that explains every answer."""
        self.clock.advance(after)
        before = self.table.version()
        plans = [(index, *self.real(index, call)) for index, calls in sides for call in calls]
        answers = self.run(self._at_once([(self.handles[index], call) for index, call, _ in plans]))
        made = [Made(*plan, answer) for plan, answer in zip(plans, answers, strict=True)]
        written = [row for row in self.table.rows() if row["seq"] > self.seq]
        now = self.now()
        problems = []
        for order in orders([*self.in_turn(made).values()]):
            world = self.model.copy()
            problem = self.problem(world, order, written, now)
            if problem is None:
                self.model = world
                break
            problems.append(problem)
        else:
            raise AssertionError("no order of these calls explains what they did:\n" + "\n".join(problems))
        self.check_versions(before, written, len(made))
        self.enter(written)
        for one in made:
            self.learn(one)
        if len(sides) == 1:
            self.check_state(self.handles[sides[0][0]])

    def enter(self, written: Sequence[Row]) -> None:
        """Note rows that are in the table from now on."""
        self.journal += written
        for row in written:
            self.seq, self.at = row["seq"], row["updated_at"]
            self.moments[row["version"]] = self.at

    async def _at_once(self, calls: Sequence[tuple[Any, Call]]) -> list[Any]:
        answers = await asyncio.gather(
            *(getattr(handle, call.name)(*call.arguments, **call.options) for handle, call in calls),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, BaseException) and (
                not isinstance(answer, V6KitError) or isinstance(answer, StorageError)
            ):
                raise answer  # no call may end like this, in whatever order
        return [Refused(type(one), str(one)) if isinstance(one, BaseException) else one for one in answers]

    def problem(self, world: Model, order: Sequence[Made], written: Sequence[Row], now: datetime) -> str | None:
        """Play the calls in this order on a model; return what does not fit."""
        rest = list(written)
        for made in order:
            right, changes = world.play(made, now)
            answer = world.answer(made.answer)
            if right != answer:
                return f"{made.call}\n  should answer {right!r}\n  but answered {answer!r}"
            mine, rest = rest[: len(changes)], rest[len(changes) :]
            found = dict(map(world.row, mine))
            if found != changes:
                return f"{made.call}\n  should write {changes!r}\n  but wrote {found!r}"
            if len({row["version"] for row in mine}) > 1:
                return f"{made.call} wrote its rows in more than one commit: {mine}"
            actor = self.handles[made.handle].ledger.actor
            for row in mine:
                if (row["updated_by"], row["updated_at"]) != (actor, now):
                    return f"{made.call} of {actor} at {now} stamped its row {row}"
        return f"rows that no call asked for: {rest}" if rest else self.difference(world)

    def check_versions(self, before: int, written: Sequence[Row], calls: int) -> None:
        """What changes nothing commits nothing; one call is one commit; seq has no gap; one writer per version."""
        after = self.table.version()
        versions = [row["version"] for row in written]
        assert versions == sorted(versions)
        assert all(before < version <= after for version in versions)
        assert after - before <= calls
        if calls == 1 and written:
            assert set(versions) == {before + 1}
        assert [row["seq"] for row in written] == list(range(self.seq + 1, self.seq + 1 + len(written)))
        writers = {(row["version"], row["updated_by"]) for row in written}
        assert len(writers) == len(set(versions))

    # --- steps that every ledger has -----------------------------------------------------------------------------

    @rule(seconds=WAITS | st.sampled_from([-0.5, -61, -90_000]))
    def move_the_clock(self, seconds: float) -> None:
        """Let time pass, or correct the wall clock, as an operator or NTP might."""
        self.clock.jump(self.clock.now() + timedelta(seconds=seconds))

    @rule(on=HANDLES, how=st.sampled_from(["refresh", "restart", "another"]))
    def come_and_go(self, on: int, how: str) -> None:
        """Catch up; or end a process and start the next one; or start another: each knows what all others know."""
        if how == "refresh":
            self.run(self.handles[on].refresh())
        elif how == "restart":
            self.run(self.handles[on].close())
            self.handles[on] = self.opened(on)
            self.begun(on)
        else:
            self.open_another()
            return
        self.check_state(self.handles[on])

    def keep(self, on: int) -> None:
        """Do a turn of upkeep with what a handle knows; the next process begins with the snapshot of that."""
        upkeep.run(Store(self.uri, spec=self.kind.SPEC), self.handles[on].ledger._write_snapshot)
        self.open_another()

    def open_another(self) -> None:
        """Start a process, and see that it knows what all others know."""
        late = self.opened(2)
        self.check_state(late)
        self.run(late.close())

    @rule(on=HANDLES, how=st.sampled_from(["upkeep", "compact", "lose the snapshot"]))
    def tend(self, on: int, how: str) -> None:
        """Merge files; or do a whole turn with what a handle knows, which may be old; or lose the snapshot it made."""
        if how == "upkeep":
            self.keep(on)
        elif how == "compact":
            store = Store(self.uri, spec=self.kind.SPEC)
            store.open()
            store.compact(upkeep.TARGET_BYTES)
        else:
            shutil.rmtree(Path(self.uri) / "_snapshot", ignore_errors=True)

    @rule(on=HANDLES, seconds=st.sampled_from([0, 60, 3_600, 86_400]))
    def prune(self, on: int, seconds: float) -> None:
        """Forget what was superseded, and what had finished, before an instant."""
        before = self.clock.now() - timedelta(seconds=seconds)
        old = [row for row in self.journal if row["updated_at"] < before]
        gone = self.run(self.handles[on].prune(before)).rows
        kept = [row for row in newest(old, self.kind.SPEC.key) if not self.is_finished(row)]
        agree(gone, len(old) - len(kept), f"rows pruned before {before}")
        self.journal = kept + self.journal[len(old) :]
        self.horizon = max([self.horizon, *(at for at in self.moments.values() if at < before)])
        self.forget()

    @rule(back=st.integers(0, 12))
    def look_back(self, back: int) -> None:
        """Any version since the horizon can be looked at again, and its instant too; an older one is refused."""
        if not self.moments:
            return
        version, at = [*self.moments.items()][-1 - back % len(self.moments)]
        if at < self.horizon:
            oldest = min(known for known, then in self.moments.items() if then == self.horizon)
            for when in (version, at):
                with pytest.raises(VersionUnavailableError) as refused:
                    self.past.as_of(when)
                assert refused.value.oldest >= oldest
            return
        if at > self.horizon or version == max(known for known, then in self.moments.items() if then == at):
            self.check_past(version, [row for row in self.journal if row["version"] <= version])
        self.check_past(at, [row for row in self.journal if row["updated_at"] <= at])

    def check_past(self, when: int | datetime, then: Sequence[Row]) -> None:
        """Compare what the table says of a moment with what it held then."""
        agree(self.past.as_of(when).to_dicts(), newest(then, self.kind.SPEC.key), f"as of {when}")

    # --- what holds after every step -----------------------------------------------------------------------------

    @invariant()
    def the_table_is_what_was_written(self) -> None:
        """No row is lost, doubled or changed by whatever happens to the files."""
        if self.handles:
            agree(self.table.rows(), self.journal, "the table")
            superseded: dict[tuple[Any, ...], int] = {}
            for row in reversed(self.table.noted_rows()):
                key = tuple(row[name] for name in self.kind.SPEC.key)
                assert row[UNTIL] in {None, superseded.get(key)}, "a note of upkeep names another version"
                superseded[key] = row["version"]

    @invariant()
    def who_only_watches_sees_the_truth(self) -> None:
        """A handle that never writes has the newest state after a refresh."""
        if self.handles:
            self.run(self.watcher.refresh())
            self.check_state(self.watcher)


__all__ = ["HANDLES", "WAITS", "Call", "LedgerMachine", "Made", "Refused", "Row", "agree", "calls", "newest"]
