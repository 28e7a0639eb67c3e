"""A ledger's state in memory: how far along the ledger it is, and what a group of changes would make of it.

Owns the lock that keeps readers from seeing a change that is not committed. Does no I/O.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic

import polars as pl

from v6kit.ledger.spec import NO_INSTANT, Decision, Moment, ResultT, Rows, RowT, StateT, TableSpec


class UnreadError(Exception):
    """A decision needs rows that the state has let go; they are read first, and then it is made anew.

    Attributes:
        keys: Which.
    """

    def __init__(self, keys: pl.DataFrame) -> None:
        super().__init__("rows that the state has let go")
        self.keys = keys


@dataclass(slots=True)
class Job:
    """One change that waits for its commit, and who waits for it."""

    decide: Callable[[Any, Moment], Decision[Any, Any]]
    future: Future[Any] = field(default_factory=Future)


@dataclass(slots=True)
class Plan:
    """What a group of jobs wants to commit together, and what each of them gets afterwards."""

    batches: list[Rows[Any]] = field(default_factory=list)
    outcomes: list[tuple[Job, Any, BaseException | None]] = field(default_factory=list)
    seq: int = 0


class Fold(Generic[RowT, StateT]):
    """The fold of a ledger's rows up to a version.

    Attributes:
        version: The version whose rows the state has; behind the table's after a refresh that was broken off.
        seq: Of the newest row.
        updated_at: Of the newest row.
        properties: The table's properties at that version.
        is_broken: An `apply` failed halfway, so nobody can tell what the state holds; it must be folded anew.
    """

    def __init__(self, spec: TableSpec[RowT], state: StateT, properties: Mapping[str, str]) -> None:
        self.version = -1
        self.seq = 0
        self.updated_at = NO_INSTANT
        self.properties = properties
        self.is_broken = False
        self._spec = spec
        self._state = state
        self._lock = threading.Lock()

    def read(self, look: Callable[[StateT], ResultT]) -> ResultT:
        """Return `look(state)`."""
        with self._lock:
            return look(self._state)

    def held(self) -> tuple[list[Rows[RowT]], int, datetime]:
        """Return the rows that rebuild the state, its seq and its instant, all of one moment."""
        with self._lock:
            return self._state.held(), self.seq, self.updated_at

    def start_from(self, seq: int, updated_at: datetime) -> None:
        """Go on from here, whatever rows are taken in: newer ones than those may be gone."""
        self.seq, self.updated_at = seq, updated_at

    def absorb(self, batches: Sequence[Rows[RowT]], version: int) -> None:
        """Take in what was committed up to `version`, in seq order."""
        with self._lock:
            try:
                for rows in batches:
                    self._state.apply(rows)
            except BaseException:
                self.is_broken = True
                raise
            if batches:
                seq, updated_at = self._newest(batches[-1])
                self.seq, self.updated_at = max(self.seq, seq), max(self.updated_at, updated_at)
            self.version = version

    def plan(self, jobs: Sequence[Job], moment: Moment) -> Plan:
        """Let each job see the effect of those before it; leave the state as it was.

        Raises:
            UnreadError: A decision needs rows that the state has let go.
        """
        plan = Plan(seq=self.seq)
        with self._lock:
            undo: list[Callable[[], None]] = []
            unread: UnreadError | None = None
            try:
                for job in jobs:
                    rows = self._ask(job, moment, plan)
                    if rows is not None and job is not jobs[-1]:
                        undo.append(self._state.apply(rows))
            except UnreadError as error:
                unread = error
            except BaseException:
                self.is_broken = True
                raise
            self._take_back(undo)
        if unread is not None:
            raise unread
        return plan

    def _take_back(self, undo: Sequence[Callable[[], None]]) -> None:
        try:
            for take_back in reversed(undo):
                take_back()
        except BaseException:
            self.is_broken = True
            raise

    def _ask(self, job: Job, moment: Moment, plan: Plan) -> Rows[RowT] | None:
        """Let one job decide and enter it into the plan; return its rows, if it wants any."""
        try:
            decision = job.decide(self._state, moment._replace(seq=plan.seq + 1))
            rows = self._stamp(decision.rows, moment, plan.seq + 1) if len(decision.rows) else None
        except UnreadError:
            raise
        except Exception as error:  # noqa: BLE001 - a refusal belongs to this job's caller alone
            plan.outcomes.append((job, None, error))
            return None
        plan.outcomes.append((job, decision.result, None))
        if rows is not None:
            plan.seq += len(rows)
            plan.batches.append(rows)
        return rows

    def _stamp(self, rows: Rows[RowT], moment: Moment, seq: int) -> Rows[RowT]:
        if isinstance(rows, pl.DataFrame):
            return rows.with_columns(
                pl.int_range(seq, seq + rows.height, dtype=pl.Int64).alias("seq"),
                pl.lit(moment.version, pl.Int64).alias("version"),
                pl.lit(moment.now, self._spec.columns["updated_at"]).alias("updated_at"),
                pl.lit(moment.by, pl.String).alias("updated_by"),
            ).select(list(self._spec.columns))
        return self._spec.stamp(rows, seq, moment.version, moment.now, moment.by)

    def _newest(self, rows: Rows[RowT]) -> tuple[int, datetime]:
        if isinstance(rows, pl.DataFrame):
            return rows["seq"][-1], rows["updated_at"][-1]
        fields = self._spec.row_fields()
        return rows[-1][fields.index("seq")], rows[-1][fields.index("updated_at")]
