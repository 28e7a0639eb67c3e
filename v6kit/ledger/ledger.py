"""The ledger: keyed, append-only, versioned; one writer thread that commits by compare-and-swap.

A change is a function of the state that returns rows. It is decided on the state at version *v* and committed as
version *v + 1*, or decided again on what others committed meanwhile. Changes that arrive during a commit are decided
one after the other and go out together as the next commit.

Owns the writer thread, the state's lock and the order of things. Knows nothing of queues or strategies, and does not
call `deltalake` itself (`store` does).
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Generic, NoReturn

import polars as pl
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from v6kit.clock import Clock
from v6kit.contracts import check_instant, check_int
from v6kit.errors import ContentionError, StorageError
from v6kit.ledger import snapshot
from v6kit.ledger.durability import Durable, check_durable
from v6kit.ledger.faults import CommitRefusedError, OvertakenError
from v6kit.ledger.fold import Fold, Job, Plan, UnreadError
from v6kit.ledger.opening import has_moved, open_fold, read_keys
from v6kit.ledger.outcome import commit
from v6kit.ledger.place import checked_options
from v6kit.ledger.retention import HISTORY_DAYS, Pruned, obey, prune
from v6kit.ledger.spec import Decision, Moment, ResultT, Rows, RowT, StateT, TableSpec
from v6kit.ledger.store import Store
from v6kit.ledger.upkeep import Upkeep

_log = logging.getLogger("v6kit.ledger")


class _OutdatedError(Exception):
    """Others have committed since the state was read, so the decision must be made again."""


class _UnwritableError(Exception):
    """A job of this group wants rows that no table takes; nothing was committed, the cause is attached."""


class Ledger(Generic[RowT, StateT]):
    """A Delta table in which each row is the full state of one key after one change.

    All methods are thread-safe. `submit` returns at once; what it returns is done when the change is durable.

    Args:
        uri: A local path, or any URI that deltalake takes.
        spec: The kind of table.
        new_state: Makes an empty state; called at opening.
        storage_options: For object stores.
        clock: Stamps the rows.
        actor: Who writes; default `host:pid:session`.
        deadline: How long a change may lose against other writers before `ContentionError`.
        durable: `process`: what is done survives the end of the process; `power`: a power cut as well.
        history_days: Upkeep prunes what is older; kept with the table. `None` leaves it as it is: at first, for ever.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        spec: TableSpec[RowT],
        new_state: Callable[[], StateT],
        *,
        storage_options: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        actor: str | None = None,
        deadline: timedelta = timedelta(seconds=30),
        durable: Durable = "process",
        history_days: int | None = None,
    ) -> None:
        self.spec = spec
        self.options = checked_options(storage_options)
        self.actor = actor or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self.clock = clock or Clock()
        self.durable = check_durable(durable)
        self._history_days = None if history_days is None else check_int("history_days", history_days)
        self._store = Store(uri, self.options, spec, self.durable)
        self._new_state = new_state
        self._fold: Fold[RowT, StateT] | None = None
        self._deadline = deadline
        self._jobs: deque[Job] = deque()
        self._listeners: list[Callable[[Rows[RowT]], None]] = []
        self._closed = False
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"v6kit-{spec.name}")
        self._upkeep = Upkeep(self._new_store, self._write_snapshot, self._forget)

    def __repr__(self) -> str:
        seen = "closed" if self._closed else "not open" if self._fold is None else f"seq {self._fold.seq}"
        return f"Ledger({self.spec.name!r}, {self.uri!r}, {seen})"

    @property
    def uri(self) -> str:
        """Where the table is."""
        return self._store.uri

    @property
    def version(self) -> int:
        """The newest version that this process has seen; -1 before the table is open."""
        return self._fold.version if self._fold is not None else -1

    @property
    def is_open(self) -> bool:
        """Whether the state is in memory."""
        return self._fold is not None and not self._closed

    def on_commit(self, listener: Callable[[Rows[RowT]], None]) -> None:
        """Call `listener` on the writer thread with the rows of every commit, our own and others', in order."""
        self._listeners.append(listener)

    def submit(self, decide: Callable[[StateT, Moment], Decision[RowT, ResultT]]) -> Future[ResultT]:
        """Change the ledger.

        Args:
            decide: Looks at the state and returns rows and a result. Called under the lock, perhaps several times; it
                must not change the state. What it raises reaches the caller, and nothing is changed.

        Returns:
            A future: the result, once the rows are durable.

        Raises:
            StorageError: From the future: the storage failed. `ContentionError`: others won until the deadline.
        """
        self._refuse_if_closed()
        job = Job(decide)
        self._jobs.append(job)
        try:
            self._on_writer(self._drain)
        except StorageError:
            if job.future.cancel():
                raise
            # Closed in between, but the last round took this job along.
        return job.future

    def open(self) -> Future[None]:
        """Open or create the table and fold the state; idempotent, and implied by `submit`."""
        return self.submit(lambda _state, _moment: Decision([], None))

    def set_property(self, name: str, value: str) -> Future[None]:
        """Set one of the table's properties (`v6kit.…`); a decision sees it in `Moment.properties`."""
        return self._on_writer(self._set_property, name, value)

    def refresh(self) -> Future[bool]:
        """Take in what others have committed; the future tells whether there was anything."""
        return self._on_writer(self._refresh)

    def read(self, look: Callable[[StateT], ResultT]) -> ResultT:
        """Return `look(state)`: the committed state as this process knows it, without I/O."""
        if self._fold is None or self._closed:
            raise StorageError(f"{self.spec.name} at {self.uri} is not open; await its initialize() first")
        return self._fold.read(look)

    def property(self, name: str) -> str:
        """Return one of the table's properties as last seen, or an empty string."""
        return self._fold.properties.get(name, "") if self._fold is not None else ""

    def prune(self, before: datetime) -> Future[Pruned]:
        """Forget what was superseded before an instant, and what had finished by then.

        What is current stays, however old. Runs on the upkeep's thread, beside changes of anybody.

        Args:
            before: An aware instant that is not in the future.

        Raises:
            TypeError, ValueError, StorageError: It is none; the ledger is closed, or (by the future) its storage fails.
        """
        if check_instant("before", before) > self.clock.now():
            raise ValueError(f"before must not be in the future, got {before}")
        return self._unless_closed(self._upkeep.run, lambda store: prune(store, self.spec, before))

    def close(self) -> None:
        """Finish what was submitted, stop the threads. Blocks; idempotent."""
        self._closed = True
        self._writer.shutdown(wait=True)
        self._upkeep.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StorageError(f"{self.spec.name} at {self.uri} is closed; make a new one to go on")

    def _on_writer(self, call: Callable[..., ResultT], *args: object) -> Future[ResultT]:
        return self._unless_closed(self._writer.submit, call, *args)

    def _unless_closed(self, hand_over: Callable[..., Future[ResultT]], *args: object) -> Future[ResultT]:
        self._refuse_if_closed()
        try:
            return hand_over(*args)
        except RuntimeError as error:  # its thread shut down after the look at `_closed`
            raise StorageError(f"{self.spec.name} at {self.uri} is closed; make a new one to go on") from error

    # --- on the writer thread -----------------------------------------------------------------------------------

    def _drain(self) -> None:
        jobs = [self._jobs.popleft() for _ in range(len(self._jobs))]
        jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
        if jobs:  # else an earlier round took them along
            self._finish(jobs)
        if self._fold is not None:
            self._upkeep.consider(self._fold.version)

    def _finish(self, jobs: Sequence[Job]) -> None:
        """Give each job its result or its error."""
        try:
            plan = self._settle(jobs)
        except _UnwritableError as error:
            if len(jobs) > 1:
                for job in jobs:  # one by one, so that the error meets the one that it belongs to
                    self._finish([job])
            else:
                jobs[0].future.set_exception(error.__cause__ or error)
            return
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to those who wait
            for job in jobs:
                job.future.set_exception(error)
            return
        for job, result, failure in plan.outcomes:
            if failure is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(failure)

    def _current(self) -> Fold[RowT, StateT]:
        """Return the fold, brought up to the store's version: a commit is safe only on top of all that it follows."""
        fold = self._fold
        if fold is None:
            return self._open()
        if fold.is_broken:
            self._store.open()
            return self._fold_anew()
        if fold.version != self._store.version and has_moved(fold, self._store):
            return self._fold_anew()
        if fold.version != self._store.version:
            self._take_in(fold)
        return fold

    def _open(self) -> Fold[RowT, StateT]:
        self._store.open_or_create(self.spec)
        self._store.sync()
        days = self._history_days
        if days is not None and self._store.properties.get(HISTORY_DAYS) != str(days):
            self._put_property(HISTORY_DAYS, str(days))
        return self._fold_anew()

    def _fold_anew(self) -> Fold[RowT, StateT]:
        fold = open_fold(self._store, self.spec, self._new_state(), self.options)
        self._fold = fold
        for rows in fold.held()[0]:
            self._tell(rows)
        return fold

    def _settle(self, jobs: Sequence[Job]) -> Plan:
        """Decide and commit until it holds, or the deadline passes."""
        plan, is_newest = Plan(), False
        with self._store.turn():
            for attempt in self._rounds():
                with attempt:
                    if attempt.retry_state.attempt_number > 1:
                        self._store.refresh()  # others went on during the wait
                    fold = self._current()
                    plan = self._plan(fold, jobs)
                    if plan.batches:
                        self._commit(fold, plan)
                    elif not is_newest and self._refresh():
                        # Nothing to commit, so no commit proves that the state was the newest one.
                        is_newest = True
                        raise _OutdatedError
        self._store.sync()
        return plan

    def _plan(self, fold: Fold[RowT, StateT], jobs: Sequence[Job]) -> Plan:
        """Let the jobs decide; what they need of the past is read between two rounds, so that no reader waits."""
        known = self.spec.empty()
        asked: list[pl.DataFrame] = []

        def lookup(keys: pl.DataFrame) -> pl.DataFrame:
            new = keys.join(pl.concat(asked), on=keys.columns, how="anti") if asked else keys
            if new.height:
                raise UnreadError(new)
            return known.join(keys, on=keys.columns, how="semi")

        while True:
            try:
                return fold.plan(jobs, self._moment(fold, lookup))
            except UnreadError as unread:
                asked.append(unread.keys)
                known = pl.concat([known, read_keys(self._store, self.spec, unread.keys)])

    def _rounds(self) -> Retrying:
        return Retrying(
            retry=retry_if_exception_type((_OutdatedError, OvertakenError)),
            stop=stop_after_delay(self._deadline),
            wait=wait_random_exponential(multiplier=0.002, max=0.1),
            retry_error_callback=self._give_up,
        )

    def _give_up(self, lost: RetryCallState) -> NoReturn:
        raise ContentionError(
            f"other writers won every round at {self.uri} for {self._deadline.total_seconds():g} s; nothing was "
            "changed. Try again, or run fewer workers on this lake"
        ) from (lost.outcome.exception() if lost.outcome is not None else None)

    def _moment(self, fold: Fold[RowT, StateT], lookup: Callable[[pl.DataFrame], pl.DataFrame]) -> Moment:
        return Moment(
            now=max(self.clock.now(), fold.updated_at),
            version=fold.version + 1,
            seq=fold.seq + 1,
            by=self.actor,
            lookup=lookup,
            properties=fold.properties,
        )

    def _commit(self, fold: Fold[RowT, StateT], plan: Plan) -> None:
        try:
            frame = self.spec.gather(plan.batches)
        except Exception as error:
            raise _UnwritableError from error
        try:
            is_plain = commit(self._store, frame, secrets.token_hex(8), self._deadline)
        except CommitRefusedError as error:
            raise _OutdatedError from error
        if is_plain:
            self._follow(lambda: fold.absorb(plan.batches, self._store.version))
            for rows in plan.batches:
                self._tell(rows)
        else:
            self._follow(self._current)

    def _follow(self, step: Callable[[], object]) -> None:
        """Take in a commit of our own, which stands: whoever is told now that it failed would do it a second time.

        What goes wrong here is made good before the next decision: `_current` sees that the fold is behind or broken.
        """
        try:
            step()
        except Exception:  # noqa: BLE001 - whatever it is, it is about the next change, not about this one
            _log.exception("a commit to %s stands, but is not in memory yet", self.uri)

    def _refresh(self) -> bool:
        before = self._fold.version if self._fold is not None else None
        self._current()
        self._store.refresh()
        return self._current().version != before

    def _set_property(self, name: str, value: str) -> None:
        self._current()
        self._put_property(name, value)
        self._current()

    def _put_property(self, name: str, value: str) -> None:
        with self._store.turn():
            for attempt in self._rounds():
                with attempt:
                    self._store.set_property(name, value)
        self._store.sync()

    def _take_in(self, fold: Fold[RowT, StateT]) -> None:
        """Fold the rows that the store's version has and the state has not."""
        rows = self._store.rows_since(fold.seq, self.spec.empty())
        fold.properties = self._store.properties
        fold.absorb([rows] if rows.height else [], self._store.version)
        if rows.height:
            self._tell(rows)

    def _tell(self, rows: Rows[RowT]) -> None:
        for listener in self._listeners:
            try:
                listener(rows)
            except Exception:  # noqa: BLE001 - a listener's mistake must not undo or hide a commit that is durable
                _log.exception("a listener of %s failed; the commit stands", self.spec.name)

    # --- on the upkeep's thread, with a store of its own -------------------------------------------------------------

    def _new_store(self) -> Store:
        return Store(self.uri, self.options, self.spec, self.durable)

    def _forget(self, store: Store) -> None:
        obey(store, self.spec, self.clock.now())

    def _write_snapshot(self, store: Store) -> None:
        """Write the state beside the table."""
        if self._fold is not None and not self._fold.is_broken:
            held, seq, updated_at = self._fold.held()
            snapshot.write(store, snapshot.Snapshot(self.spec.gather(held), seq, updated_at), self.options)
