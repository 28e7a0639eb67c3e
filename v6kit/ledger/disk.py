"""What only a table on a local disk has: turns among its writers, commits that are synced, and a log that is mended.

An object store needs none of it: what it has acknowledged is durable, and it is its own referee.
"""

from __future__ import annotations

import math
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
_COURTESY_SECONDS = 3 * _POLL_SECONDS  # by then everybody who waits has looked
_CONTEST_SECONDS = 1.0  # others that have committed within this time are taken to be waiting


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
        self._patience = _PATIENCE_SECONDS
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
        compare-and-swap. So who has waited too long, since another was stopped in the midst of its turn, goes on
        without it, and does not wait again until that one has gone on.
        """
        try:
            if self._has_log():  # else the lock would make a folder where the table was
                self._let_others_go_first()
                self._patience = _PATIENCE_SECONDS if self._is_my_turn() else 0.0
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

    def _is_my_turn(self) -> bool:
        with suppress(Timeout, OSError, NotImplementedError):  # too long, no permission, no locks here
            self._lock.acquire(timeout=self._patience)
        return self._lock.is_locked

    def _has_log(self) -> bool:
        return (self._folder / durability.LOG).is_dir()
