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
from datetime import timedelta
from typing import Generic, NoReturn

import polars as pl
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from v6kit.clock import Clock
from v6kit.errors import ContentionError, StorageError
from v6kit.ledger import snapshot
from v6kit.ledger.fold import Fold, Job, Plan
from v6kit.ledger.spec import Decision, Moment, ResultT, Rows, RowT, StateT, TableSpec
from v6kit.ledger.store import CommitRefusedError, Store, storage_errors
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
        self._fold: Fold[RowT, StateT] | None = None
        self._deadline = deadline
        self._jobs: deque[Job] = deque()
        self._listeners: list[Callable[[Rows[RowT]], None]] = []
        self._closed = False
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"v6kit-{spec.name}")
        self._upkeep = Upkeep(self._store.uri, self.options, self._write_snapshot)

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

    def close(self) -> None:
        """Finish what was submitted, stop the threads. Blocks; idempotent."""
        self._closed = True
        self._writer.shutdown(wait=True)
        self._upkeep.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StorageError(f"{self.spec.name} at {self.uri} is closed; make a new one to go on")

    def _on_writer(self, call: Callable[..., ResultT], *args: object) -> Future[ResultT]:
        self._refuse_if_closed()
        try:
            return self._writer.submit(call, *args)
        except RuntimeError as error:  # it shut down after the look at `_closed`
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
        if fold is None or fold.is_broken:
            return self._open()
        if fold.version != self._store.version:
            self._take_in(fold)
        return fold

    def _open(self) -> Fold[RowT, StateT]:
        self._store.open_or_create(self.spec)
        fold = Fold(self.spec, self._new_state())
        start = snapshot.read(self._store, self.spec, self.options)
        if start is not None:
            fold.start_from(start.rows, start.seq, start.updated_at)
        self._absorb_newer(fold)
        self._fold = fold
        for rows in fold.held()[0]:
            self._tell(rows)
        return fold

    def _settle(self, jobs: Sequence[Job]) -> Plan:
        """Decide and commit until it holds, or the deadline passes."""
        plan, is_newest = Plan(), False
        for attempt in self._rounds():
            with attempt:
                fold = self._current()
                plan = fold.plan(jobs, self._moment(fold))
                if plan.batches:
                    self._commit(fold, plan)
                elif not is_newest and self._refresh():
                    # Nothing to commit, so no commit proves that the state was the newest one.
                    is_newest = True
                    raise _OutdatedError
        return plan

    def _rounds(self) -> Retrying:
        return Retrying(
            retry=retry_if_exception_type(_OutdatedError),
            stop=stop_after_delay(self._deadline),
            wait=wait_random_exponential(multiplier=0.002, max=0.1),
            retry_error_callback=self._give_up,
        )

    def _give_up(self, lost: RetryCallState) -> NoReturn:
        raise ContentionError(
            f"other writers won every round at {self.uri} for {self._deadline.total_seconds():g} s; nothing was "
            "changed. Try again, or run fewer workers on this lake"
        ) from (lost.outcome.exception() if lost.outcome is not None else None)

    def _moment(self, fold: Fold[RowT, StateT]) -> Moment:
        return Moment(
            now=max(self.clock.now(), fold.updated_at),
            version=fold.version + 1,
            seq=fold.seq + 1,
            by=self.actor,
            lookup=self._lookup,
            properties=fold.properties,
        )

    def _commit(self, fold: Fold[RowT, StateT], plan: Plan) -> None:
        commit_id = secrets.token_hex(8)
        try:
            frame = self.spec.gather(plan.batches)
        except Exception as error:
            raise _UnwritableError from error
        try:
            self._store.append(frame, commit_id)
        except CommitRefusedError as error:
            if not self._landed(commit_id, fold.version, error):
                raise _OutdatedError from error
            self._follow(lambda: self._take_in(fold))
        else:
            self._follow(lambda: fold.absorb(plan.batches, self._store.version))
            for rows in plan.batches:
                self._tell(rows)

    def _follow(self, step: Callable[[], None]) -> None:
        """Take in a commit of our own, which stands: whoever is told now that it failed would do it a second time.

        What goes wrong here is made good before the next decision: `_current` sees that the fold is behind or broken.
        """
        try:
            step()
        except Exception:  # noqa: BLE001 - whatever it is, it is about the next change, not about this one
            _log.exception("a commit to %s stands, but is not in memory yet", self.uri)

    def _landed(self, commit_id: str, version: int, error: CommitRefusedError) -> bool:
        """Settle an outcome that is unknown: an error may be a lost race, a lost answer, or a commit that failed.

        Raises:
            StorageError: Nobody else has committed, so the storage itself refused; or it does not answer any more, and
                the outcome stays unknown. The text says which, the cause is attached.
        """
        asking = Retrying(
            retry=retry_if_exception(lambda problem: type(problem) is StorageError),  # its subclasses will not pass
            stop=stop_after_delay(self._deadline),
            wait=wait_random_exponential(multiplier=0.05, max=2),
            reraise=True,
        )
        try:
            landed = asking(self._look_for, commit_id, version)
        except StorageError as silence:
            raise StorageError(
                f"a commit failed at {self.uri} ({error}), and whether it went through is not known, since the table "
                f"cannot be read: {silence}. Look at it before you try again"
            ) from silence
        if self._store.version == version:
            raise StorageError(f"the commit failed at {self.uri} and nothing was changed: {error}") from error
        return landed

    def _look_for(self, commit_id: str, version: int) -> bool:
        self._store.refresh()
        return self._store.landed(commit_id, version)

    def _refresh(self) -> bool:
        before = self._fold.version if self._fold is not None else None
        fold = self._current()
        if self._store.refresh():
            self._take_in(fold)
        return fold.version != before

    def _set_property(self, name: str, value: str) -> None:
        for attempt in self._rounds():
            with attempt:
                fold = self._current()
                try:
                    self._store.set_property(name, value)
                except StorageError as error:
                    self._store.refresh()
                    if self._store.version == fold.version:
                        raise
                    raise _OutdatedError from error
        self._current()

    def _take_in(self, fold: Fold[RowT, StateT]) -> None:
        """Fold the rows that the store's version has and the state has not."""
        rows = self._absorb_newer(fold)
        if rows.height:
            self._tell(rows)

    def _absorb_newer(self, fold: Fold[RowT, StateT]) -> pl.DataFrame:
        rows = self._store.rows_since(fold.seq, self.spec.empty())
        fold.properties = self._store.properties
        fold.absorb([rows] if rows.height else [], self._store.version)
        return rows

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
        if self._fold is not None and not self._fold.is_broken:
            held, seq, updated_at = self._fold.held()
            snapshot.write(store, snapshot.Snapshot(self.spec.gather(held), seq, updated_at), self.options)


def newest_per_key(rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Return the row with the highest seq of each key, in seq order."""
    return rows.sort("seq").unique(subset=list(key), keep="last", maintain_order=True).sort("seq")
