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
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic

import polars as pl
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from v6kit.clock import Clock
from v6kit.errors import ContentionError, StorageError
from v6kit.ledger import snapshot
from v6kit.ledger.spec import NO_INSTANT, Decision, Moment, ResultT, Rows, RowT, StateT, TableSpec
from v6kit.ledger.store import CommitRefusedError, Store, storage_errors
from v6kit.ledger.upkeep import Upkeep

_log = logging.getLogger("v6kit.ledger")


class _OutdatedError(Exception):
    """Others have committed since the state was read, so the decision must be made again."""


@dataclass(slots=True)
class _Job:
    """One change that waits for its commit, and who waits for it."""

    decide: Callable[[Any, Moment], Decision[Any, Any]]
    future: Future[Any] = field(default_factory=Future)


@dataclass(slots=True)
class _Plan:
    """What a group of jobs wants to commit together, and what each of them gets afterwards."""

    batches: list[Rows[Any]] = field(default_factory=list)
    outcomes: list[tuple[_Job, Any, BaseException | None]] = field(default_factory=list)
    seq: int = 0


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
    ) -> None:
        self.spec = spec
        self.options = dict(storage_options or {})
        self.actor = actor or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self.clock = clock or Clock()
        self._store = Store(uri, self.options)
        self._new_state = new_state
        self._state: StateT | None = None
        self._deadline = deadline
        self._seq = 0
        self._updated_at = NO_INSTANT
        self._properties: Mapping[str, str] = {}
        self._lock = threading.Lock()
        self._jobs: deque[_Job] = deque()
        self._listeners: list[Callable[[Rows[RowT]], None]] = []
        self._closed = False
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"v6kit-{spec.name}")
        self._upkeep = Upkeep(self._store.uri, self.options, self._write_snapshot)

    def __repr__(self) -> str:
        seen = "closed" if self._closed else "not open" if self._state is None else f"seq {self._seq}"
        return f"Ledger({self.spec.name!r}, {self.uri!r}, {seen})"

    @property
    def uri(self) -> str:
        """Where the table is."""
        return self._store.uri

    @property
    def is_open(self) -> bool:
        """Whether the state is in memory."""
        return self._state is not None and not self._closed

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
        job = _Job(decide)
        self._refuse_if_closed()
        self._jobs.append(job)
        self._writer.submit(self._drain)
        return job.future

    def open(self) -> Future[None]:
        """Open or create the table and fold the state; idempotent, and implied by `submit`."""
        return self.submit(lambda _state, _moment: Decision([], None))

    def set_property(self, name: str, value: str) -> Future[None]:
        """Set one of the table's properties (`v6kit.…`); a decision sees it in `Moment.properties`."""
        self._refuse_if_closed()
        return self._writer.submit(self._set_property, name, value)

    def refresh(self) -> Future[bool]:
        """Take in what others have committed; the future tells whether there was anything."""
        self._refuse_if_closed()
        return self._writer.submit(self._refresh)

    def read(self, look: Callable[[StateT], ResultT]) -> ResultT:
        """Return `look(state)`: the committed state as this process knows it, without I/O."""
        with self._lock:
            if self._state is None or self._closed:
                raise StorageError(f"{self.spec.name} at {self.uri} is not open; await its initialize() first")
            return look(self._state)

    def property(self, name: str) -> str:
        """Return one of the table's properties as last seen, or an empty string."""
        return self._properties.get(name, "")

    def close(self) -> None:
        """Finish what was submitted, stop the threads. Blocks; idempotent."""
        self._closed = True
        self._writer.shutdown(wait=True)
        self._upkeep.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StorageError(f"{self.spec.name} at {self.uri} is closed; open it again to go on")

    # --- on the writer thread -----------------------------------------------------------------------------------

    def _drain(self) -> None:
        jobs = [self._jobs.popleft() for _ in range(len(self._jobs))]
        jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
        if not jobs:
            return  # an earlier round took them along
        try:
            self._ensure_open()
            plan = self._settle(jobs)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to those who wait
            for job in jobs:
                job.future.set_exception(error)
            return
        for job, result, failure in plan.outcomes:
            if failure is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(failure)
        self._upkeep.consider(self._store.version)

    def _ensure_open(self) -> None:
        if self._state is not None:
            return
        self._store.open_or_create(self.spec)
        state = self._new_state()
        start = snapshot.read(self._store, self.spec, self.options)
        if start is not None and start.rows.height:
            state.apply(start.rows)
            self._updated_at = start.rows["updated_at"].max()  # type: ignore[assignment]  # polars: any scalar
        self._seq = start.seq if start is not None else 0
        with self._lock:
            self._state = state
        self._take_in()
        with self._lock:
            held = state.held()
        for rows in held:
            self._tell(rows)

    def _settle(self, jobs: Sequence[_Job]) -> _Plan:
        """Decide and commit until it holds, or the deadline passes."""
        retrying = Retrying(
            retry=retry_if_exception_type(_OutdatedError),
            stop=stop_after_delay(self._deadline),
            wait=wait_random_exponential(multiplier=0.002, max=0.1),
        )
        current = False
        try:
            for attempt in retrying:
                with attempt:
                    plan = self._decide(jobs)
                    if plan.batches:
                        self._commit(plan)
                    elif not current and self._refresh():
                        # Nothing to commit, so no commit proves that the state was the newest one.
                        current = True
                        raise _OutdatedError
        except RetryError as error:
            raise ContentionError(
                f"other writers won every round at {self.uri} for {self._deadline.total_seconds():g} s; nothing was "
                "changed. Try again, or run fewer workers on this lake"
            ) from error
        return plan

    def _decide(self, jobs: Sequence[_Job]) -> _Plan:
        """Let each job see the effect of those before it; leave the state as it was."""
        plan = _Plan(seq=self._seq)
        with self._lock:
            state = self._state
            assert state is not None  # noqa: S101 - for the type checker: _ensure_open came before
            moment = self._moment()
            undo: list[Callable[[], None]] = []
            for job in jobs:
                try:
                    decision = job.decide(state, moment._replace(seq=plan.seq + 1))
                except Exception as error:  # noqa: BLE001 - a refusal belongs to this job's caller alone
                    plan.outcomes.append((job, None, error))
                    continue
                plan.outcomes.append((job, decision.result, None))
                if len(decision.rows):
                    rows = self._stamp(decision.rows, moment, plan.seq + 1)
                    plan.seq += len(rows)
                    plan.batches.append(rows)
                    if job is not jobs[-1]:
                        undo.append(state.apply(rows))
            for take_back in reversed(undo):
                take_back()
        return plan

    def _moment(self) -> Moment:
        return Moment(
            now=max(self.clock.now(), self._updated_at),
            version=self._store.version + 1,
            seq=self._seq + 1,
            by=self.actor,
            lookup=self._lookup,
            properties=self._properties,
        )

    def _stamp(self, rows: Rows[RowT], moment: Moment, seq: int) -> Rows[RowT]:
        if isinstance(rows, pl.DataFrame):
            return rows.with_columns(
                pl.int_range(seq, seq + rows.height, dtype=pl.Int64).alias("seq"),
                pl.lit(moment.version, pl.Int64).alias("version"),
                pl.lit(moment.now, self.spec.columns["updated_at"]).alias("updated_at"),
                pl.lit(self.actor, pl.String).alias("updated_by"),
            ).select(list(self.spec.columns))
        return self.spec.stamp(rows, seq, moment.version, moment.now, self.actor)

    def _commit(self, plan: _Plan) -> None:
        commit_id = secrets.token_hex(8)
        version = self._store.version
        try:
            self._store.append(self.spec.gather(plan.batches), commit_id)
        except CommitRefusedError as error:
            if not self._landed(commit_id, version, error):
                raise _OutdatedError from error
        else:
            self._absorb(plan.batches, plan.seq)

    def _landed(self, commit_id: str, version: int, error: CommitRefusedError) -> bool:
        """Settle an outcome that is unknown: an error may be a lost race, a lost answer, or a commit that failed.

        Raises:
            StorageError: Nobody else has committed, so the storage itself refused; the cause is attached.
        """
        if not self._store.refresh():
            raise StorageError(f"the commit failed at {self.uri} and nothing was changed: {error}") from error
        landed = self._store.landed(commit_id, version)
        self._take_in()
        return landed

    def _refresh(self) -> bool:
        self._ensure_open()
        if not self._store.refresh():
            return False
        self._take_in()
        return True

    def _set_property(self, name: str, value: str) -> None:
        self._ensure_open()
        self._store.set_property(name, value)
        self._take_in()

    def _take_in(self) -> None:
        """Fold the rows that the store's version has and the state has not."""
        self._properties = self._store.properties
        frame = self._store.rows_since(self._seq, self.spec.empty())
        if frame.height:
            self._absorb([frame], frame["seq"][-1])

    def _absorb(self, batches: Sequence[Rows[RowT]], seq: int) -> None:
        with self._lock:
            state = self._state
            assert state is not None  # noqa: S101 - for the type checker: _ensure_open came before
            for rows in batches:
                state.apply(rows)
            self._seq = seq
            self._updated_at = self._newest_instant(batches[-1])
        for rows in batches:
            self._tell(rows)

    def _newest_instant(self, rows: Rows[RowT]) -> datetime:
        instant: datetime = (
            rows["updated_at"][-1]
            if isinstance(rows, pl.DataFrame)
            else rows[-1][self.spec.row_fields().index("updated_at")]
        )
        return instant

    def _tell(self, rows: Rows[RowT]) -> None:
        for listener in self._listeners:
            try:
                listener(rows)
            except Exception:  # noqa: BLE001 - a listener's mistake must not undo or hide a commit that is durable
                _log.exception("a listener of %s failed; the commit stands", self.spec.name)

    def _lookup(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Return the newest row of each key, also of those that the state has let go."""
        with storage_errors(self.uri, "looking up keys"):
            rows = self._store.scan(self._store.files(), self.spec.empty())
            found = rows.join(keys.lazy(), on=list(self.spec.key), how="semi").collect()
        return newest_per_key(found, self.spec.key)

    def _write_snapshot(self, store: Store) -> None:
        """Write the state beside the table; on the upkeep thread, with its store."""
        with self._lock:
            if self._state is None:
                return
            held, seq = self._state.held(), self._seq
        snapshot.write(store, self.spec.gather(held), seq, self.options)


def newest_per_key(rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Return the row with the highest seq of each key, in seq order."""
    return rows.sort("seq").unique(subset=list(key), keep="last", maintain_order=True).sort("seq")
