"""What only a table on a local disk has: turns among its writers, commits that are synced, and a log that is mended.

An object store needs none of it: what it has acknowledged is durable, and it is its own referee.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from v6kit.errors import TableMissingError
from v6kit.ledger import durability
from v6kit.ledger.durability import Durable
from v6kit.ledger.faults import storage_errors

_PATIENCE_SECONDS, _POLL_SECONDS = 1.0, 0.002
_GLANCE_SECONDS = 0.1  # between two looks at whose turn it is
_COURTESY_SECONDS = 3 * _POLL_SECONDS  # by then everybody who waits has looked
_CONTEST_SECONDS = 1.0  # others that have committed within this time are taken to be waiting


class Patience:
    """Tells turns that go round from one in the midst of which a writer was stopped. Pure.

    Turns that go round are waited for, however long: with many writers on a slow machine the wait is long, and who goes
    out of turn then loses against all who are in turn, again and again.
    """

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Forget whose turn was waited for: it was one's own."""
        self._turn: object = self  # no turn's name
        self._since = 0.0

    def is_used_up(self, turn: object, now: float) -> bool:
        """Tell whether one and the same turn was waited for too long.

        Args:
            turn: Names the turn of whoever has it now.
            now: Seconds of a monotonic clock.
        """
        if turn != self._turn:
            self._turn, self._since = turn, now
        return now - self._since >= _PATIENCE_SECONDS


class Disk:
    """The folder of one table.

    Args:
        folder: Need not exist yet.
        durable: `power`: `sync` returns when all is on the disk; `process`: it does nothing.
    """

    def __init__(self, folder: Path, durable: Durable) -> None:
        self._folder = folder
        self._uri = str(folder)
        self._is_power = durable == "power"
        self._synced: int | None = None
        self._patience = Patience()
        self._contested_at = self._released_at = -math.inf
        self._lock = FileLock(folder / "_turn.lock", thread_local=False, poll_interval=_POLL_SECONDS)

    def check_is_there(self) -> None:
        """Raise where the table was and is no more: deltalake takes a log that is gone for one without news."""
        if not self._has_log():
            raise TableMissingError(f"the table at {self._uri} is gone; put it back, or open another lake")

    def mend(self) -> None:
        """Move aside what a power cut has torn."""
        with storage_errors(self._uri, "looking for what a power cut has torn"):
            durability.mend(self._folder)

    @contextmanager
    def turn(self, version: int) -> Iterator[bool]:
        """Wait for one's turn among the writers; tells whether others have committed since `version`.

        Without it, the one who has just committed knows the newest state, and wins again: measured with eight
        processes, one of them got nothing for half a minute. It is a courtesy and guards nothing: commits are
        compare-and-swap. So where another was stopped in the midst of its turn, who waits goes on without one, and does
        not wait again until that one has gone on.
        """
        try:
            if self._has_log():  # else the lock would make a folder where the table was
                self._let_others_go_first()
                self._wait()
            if has_news := durability.has_entry(self._folder, version + 1):
                self._contested_at = time.monotonic()
            yield has_news
        finally:
            self._lock.release()
            self._released_at = time.monotonic()

    def _let_others_go_first(self) -> None:
        """Hold back for as long as those who wait look every so often: who has just let go would be the quickest."""
        now = time.monotonic()
        rest = self._released_at + _COURTESY_SECONDS - now
        if rest > 0 and now - self._contested_at < _CONTEST_SECONDS:
            time.sleep(rest)

    def sync(self, version: int) -> None:
        """With `durable="power"`, return when all versions up to this one are on the disk.

        Those of others too: what is committed on top of them could not be read without them.
        """
        if not self._is_power or self._synced == version:
            return
        with storage_errors(self._uri, "syncing a commit, which stands, to the disk"):
            if self._synced is None:
                durability.sync_log(self._folder)
            else:
                durability.sync(self._folder, self._synced, version)
        self._synced = version

    def sync_log(self) -> None:
        """Return when all that the log has by now is on the disk, whoever wrote it."""
        with storage_errors(self._uri, "syncing the log to the disk"):
            durability.sync_log(self._folder)

    def sync_checkpoint(self) -> None:
        """Return when the newest checkpoint is on the disk: else a power cut could take it and the entries that go."""
        with storage_errors(self._uri, "syncing a checkpoint to the disk"):
            durability.sync_checkpoint(self._folder)

    def _wait(self) -> None:
        """Return at one's turn, or when there is no point in waiting for it."""
        is_in_vain = False
        with suppress(OSError, NotImplementedError):  # no permission, no locks here
            while not is_in_vain:
                is_in_vain = self._patience.is_used_up(self._turn_of_others(), time.monotonic())
                with suppress(Timeout):
                    self._lock.acquire(timeout=0 if is_in_vain else _GLANCE_SECONDS)
                    self._patience.renew()
                    os.utime(self._lock.lock_file)  # names this turn
                    break

    def _turn_of_others(self) -> int | None:
        """Return the name of the newest turn: when it began."""
        with suppress(FileNotFoundError):
            return Path(self._lock.lock_file).stat().st_mtime_ns
        return None

    def _has_log(self) -> bool:
        return (self._folder / durability.LOG).is_dir()
