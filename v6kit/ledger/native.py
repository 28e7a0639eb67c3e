"""The past of a Delta table that is no ledger: what its log and its files still tell.

It ends where files were vacuumed or entries of the log removed. What cannot be read is named, never guessed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, NoReturn

import polars as pl

from v6kit.clock import Clock
from v6kit.errors import StorageError, VersionUnavailableError
from v6kit.ledger.compare import Since, diff_by_key, diff_by_row, holding, in_rows
from v6kit.ledger.log import CommitLog, Version
from v6kit.ledger.moments import SINCE, VERSIONS_SCHEMA, Summary, When, as_moment, matching
from v6kit.ledger.replay import Replay
from v6kit.ledger.states import State, lined_up, signed
from v6kit.ledger.store import Store


class _Step(NamedTuple):
    """A version that can be read and is not as the one before.

    Attributes:
        version: Which.
        gap: The first of those right before it that cannot be read, or `None`.
        is_vague: What is new in it may have come earlier.
        is_next: Whether its commit alone makes the difference to the step before.
    """

    version: Version
    gap: Version | None
    is_vague: bool
    is_next: bool


class NativePast:
    """What a Delta table held before, by its log.

    Args:
        uri: Where the table is.
        key: The columns that name one item; without, whole rows are compared.
        storage_options: For object stores.
        clock: Tells what is still in the future.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        key: Sequence[str] = (),
        *,
        storage_options: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._store = Store(uri, storage_options)
        self._log = CommitLog(uri, storage_options)
        self.key = tuple(key)
        self._clock = clock or Clock()
        self._lock = threading.Lock()  # a handle belongs to one thread at a time

    @property
    def uri(self) -> str:
        """Where the table is."""
        return self._store.uri

    def summary(self) -> Summary:
        """Return from where to where it reaches."""
        with self._lock:
            found = self._versions()
        readable = [version.number for version in found if version.is_readable]
        return Summary(
            first=found[0].number,
            last=found[-1].number,
            readable_from=min(readable, default=None),
            unreadable=len(found) - len(readable),
            rows=found[-1].rows,
            updated_at=found[-1].at,
        )

    def versions(self) -> pl.DataFrame:
        """Return one row per version of which the log knows, oldest first; columns as `VERSIONS_SCHEMA`."""
        with self._lock:
            rows = [_told(version) for version in self._versions()]
        return pl.DataFrame(rows, schema=dict(VERSIONS_SCHEMA), orient="row")

    def as_of(self, when: When) -> pl.DataFrame:
        """Return the rows that the table had then, sorted by the key if there is one.

        Raises:
            VersionUnavailableError: Before the first version, after the newest, or no longer readable.
        """
        moment = as_moment(when)
        with self._lock:
            version = self._version_at(moment)
            state = self._state(version)
        if self.key:
            self._check_key(state, version)
        return state.sort(self.key) if self.key else state

    def diff(self, old: When, new: When) -> pl.DataFrame:
        """Return what changed between two moments: by key, or without one by whole rows."""
        first, second = as_moment(old), as_moment(new)
        with self._lock:
            versions = self._version_at(first), self._version_at(second)
            before, after = (self._state(version) for version in versions)
        if not self.key:
            return diff_by_row(before, after)
        for version, state in zip(versions, (before, after), strict=True):
            self._check_unique(state, version)
        return diff_by_key(before, after, self.key)

    def timeline(self, *key: Any) -> pl.DataFrame:  # noqa: ANN401 - a key column may have any type
        """Return every state of one key, oldest first, and from when to when nobody can tell."""
        with self._lock:
            found = self._versions()
            newest = self._store.empty()
            self._require_key("timeline", newest)
            wanted = matching(newest, self.key, key)
            states: list[State] = []
            replay = Replay(self._log, wanted)
            for step in _steps(found):
                if step.gap is not None:
                    states.append(State(step.gap, None, is_known=False))
                if step.version.is_readable:
                    row = self._row(step, replay, wanted)
                    is_known = not step.is_vague and not (states and states[-1].row is None)
                    states.append(State(step.version, row, is_known=is_known))
        return lined_up(signed(states), newest, wanted)

    def blame(self, when: When | None = None) -> pl.DataFrame:
        """Return of every value since which version it is what it is; columns as in `TableHistory.blame`."""
        moment = None if when is None else as_moment(when)
        since, facts = Since(self.key), []
        with self._lock:
            found = self._versions()
            last = found[-1].number if moment is None else self._version_at(moment)
            self._require_key("blame", self._state(last).clear())
            replay = Replay(self._log)
            for step in _steps([version for version in found if version.number <= last]):
                state = replay.state(step.version, is_next=step.is_next)
                has_key = set(self.key) <= set(state.columns)
                if step.is_vague or not has_key:
                    since = Since(self.key)  # a value that is as it was may have been another one in between
                if has_key:
                    self._check_unique(state, step.version.number)
                    since.feed(step.version.number, state)
                    facts.append(_fact(step))
        told = pl.DataFrame(facts, dict(SINCE), orient="row")
        versions = since.versions()
        said = {name: _looked_up(versions[name], told) for name in versions.columns}
        return in_rows(since.state, self.key, said).sort(self.key, maintain_order=True)

    def restore(self, when: When, by: str) -> int:
        """Make what the table held then its newest version; return that version.

        Raises:
            VersionUnavailableError: It cannot be read any more, so it cannot be restored.
        """
        moment = as_moment(when)
        with self._lock:
            version = self._version_at(moment)
            found = self._versions()
            if version not in {each.number for each in found if each.is_readable}:
                self._refuse(version, found)
            return self._log.restore(version, by)

    # --- which version ------------------------------------------------------------------------------------------

    def _versions(self) -> list[Version]:
        self._store.open()  # says what is wrong where there is no table
        return self._log.versions()

    def _version_at(self, moment: int | datetime) -> int:
        self._store.open()
        newest = self._store.version
        if isinstance(moment, datetime):
            return self._version_at_instant(moment, newest)
        if not 0 <= moment <= newest:
            raise VersionUnavailableError(
                f"version {moment} of {self.uri} does not exist; there are 0 to {newest}", oldest=0, newest=newest
            )
        return moment

    def _version_at_instant(self, instant: datetime, newest: int) -> int:
        instants = self._log.instants()
        earlier = [version for version, at in instants if at <= instant]
        if not earlier:
            began = "its log has no entry with an instant"
            if instants:
                version, at = instants[0]
                began = f"the first version was made at {at}" if version == 0 else f"its log begins at {at}"
            raise VersionUnavailableError(
                f"there is no state of {self.uri} at {instant}; {began}",
                oldest=next(iter(instants), (0,))[0],
                newest=newest,
            )
        if instant > max(instants[-1][1], self._clock.now()):
            raise VersionUnavailableError(
                f"{instant.astimezone(UTC)} is in the future; the newest version of {self.uri} was made at "
                f"{instants[-1][1]}",
                oldest=instants[0][0],
                newest=newest,
            )
        return earlier[-1]

    def _state(self, version: int) -> pl.DataFrame:
        try:
            return self._log.scan(version)
        except StorageError as error:
            found = self._versions()
            if version in {each.number for each in found if each.is_readable}:
                raise
            self._refuse(version, found, error)

    def _row(self, step: _Step, replay: Replay, wanted: pl.DataFrame) -> pl.DataFrame | None:
        """Return the row with a key's values, or none; `None` of a version without the key's columns."""
        state = replay.state(step.version, is_next=step.is_next)
        if not set(self.key) <= set(state.columns):
            return None
        held = holding(state, wanted)
        self._check_unique(held, step.version.number)
        return held

    def _refuse(self, version: int, found: Sequence[Version], cause: Exception | None = None) -> NoReturn:
        readable = [each.number for each in found if each.is_readable]
        raise VersionUnavailableError(
            f"version {version} of {self.uri} cannot be read any more: files or log entries that it consists of were "
            f"removed (vacuum, log retention); readable: {_ranges(readable) or 'none'}",
            oldest=readable[0] if readable else None,
            newest=found[-1].number,
        ) from cause

    # --- the key ------------------------------------------------------------------------------------------------

    def _require_key(self, what: str, state: pl.DataFrame) -> None:
        if not self.key:
            raise ValueError(
                f"{what} needs to know which columns name one item: TableHistory({self.uri!r}, key=[…]); there are "
                f"{', '.join(state.columns)}"
            )
        self._check_key(state, None)

    def _check_key(self, state: pl.DataFrame, version: int | None) -> None:
        if missing := [name for name in self.key if name not in state.columns]:
            where = "the table" if version is None else f"version {version}"
            raise ValueError(
                f"{where} at {self.uri} has no column {missing[0]!r} of the key; there are {', '.join(state.columns)}"
            )

    def _check_unique(self, state: pl.DataFrame, version: int) -> None:
        self._check_key(state, version)
        again = state.select(self.key).filter(pl.struct(self.key).is_duplicated())
        if again.height:
            raise ValueError(
                f"key {list(self.key)} does not name one row each: version {version} of {self.uri} has "
                f"{again.row(0)!r} more than once; name more columns, or leave the key out to compare whole rows"
            )


def _steps(found: Sequence[Version]) -> Iterator[_Step]:
    """Yield the versions to look at: readable ones whose content may differ from what was seen before.

    If the newest ones cannot be read, the last step is the first of these.
    """
    gap, is_first, skipped = None, True, False
    for version in found:
        if not version.is_readable:
            gap = gap or version
            continue
        if is_first or gap is not None or version.commit is None or version.commit.is_change:
            is_next = not (is_first or skipped or gap is not None)
            yield _Step(version, gap, gap is not None or (is_first and version.number > 0), is_next)
            skipped = False
        else:  # the same rows, but perhaps in other files
            skipped = True
        gap, is_first = None, False
    if gap is not None:
        yield _Step(gap, gap, is_vague=True, is_next=False)


def _told(version: Version) -> tuple[Any, ...]:
    """Return a row of `versions()`."""
    commit, counts = version.commit, version.counts
    operation = commit.operation if commit is not None else ""
    rows = None if counts is None else sum(counts)
    changes = f"{operation} {rows}".strip() if rows else operation
    by = commit.by if commit is not None else None
    return (
        version.number, version.at, rows, changes or None, by, operation or None, *(counts or (None, None, None)),
        version.is_readable,
    )  # fmt: skip


def _fact(step: _Step) -> tuple[Any, ...]:
    """Return what `blame()` says of a version; where a change may be older, nobody knows whose it was."""
    version = step.version
    if step.is_vague or version.commit is None:
        return version.number, version.at, None, None, True
    return version.number, version.at, version.commit.operation or None, version.commit.by, False


def _looked_up(versions: pl.Series, facts: pl.DataFrame) -> pl.Series:
    """Return for each version what there is to say about it."""
    found = versions.to_frame("version").join(facts, on="version", how="left", maintain_order="left")
    return found.select(facts.columns).to_struct()


def _ranges(numbers: Sequence[int]) -> str:
    """Return numbers as a trader reads them, e.g. `0–2, 5–7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
