"""Upkeep: what keeps a ledger's cost from growing with its age.

What is past its retention is pruned, small files are compacted (only young ones), the log gets checkpoints and loses
expired entries, files that compaction replaced are removed, and a snapshot of the state is written. It runs by itself
on a thread and a handle of its own, beside any number of other processes. What fails is logged and done at the next
turn: a user's call never fails by it.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from v6kit.errors import StorageError
from v6kit.ledger.faults import OvertakenError
from v6kit.ledger.spec import ResultT
from v6kit.ledger.store import Store

Step = Callable[[Store], None]

# Measured: 2,400 commits at a flat cost with a turn every 100; a lookup of 100 small files costs about as much as
# reading one file of 4 MiB, and a file that has grown to this size is never rewritten.
COMMITS_PER_TURN = 100
TARGET_BYTES = 4 * 2**20
SMALL_FILES_DUE = 50

_log = logging.getLogger("v6kit.ledger")


def is_due(version: int, last: int) -> bool:
    """Tell whether enough commits have passed since the last turn."""
    return version - last >= COMMITS_PER_TURN


class Upkeep:
    """Runs a turn when enough has been committed, and what else is to be done off the hot path.

    Args:
        new_store: Makes a handle for the upkeep's own thread.
        write_snapshot: Writes the state beside the table.
        forget: Prunes what is older than the table is to remember.
    """

    def __init__(self, new_store: Callable[[], Store], write_snapshot: Step, forget: Step) -> None:
        self._new_store = new_store
        self._write_snapshot = write_snapshot
        self._forget = forget
        self._last: int | None = None
        self._offset = random.randrange(COMMITS_PER_TURN)  # noqa: S311 - keeps processes from working at one version
        self._busy = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="v6kit-upkeep")

    def consider(self, version: int) -> None:
        """Start a turn if one is due and none is running; returns at once."""
        if self._last is None:
            self._last = version - (version + self._offset) % COMMITS_PER_TURN
        if is_due(version, self._last) and self._busy.acquire(blocking=False):
            self._last = version
            self._thread.submit(self._turn)

    def run(self, step: Callable[[Store], ResultT]) -> Future[ResultT]:
        """Do one step for a caller who waits for it, after a turn that is running."""

        def with_store() -> ResultT:
            store = self._new_store()
            store.open()
            result = step(store)
            store.refresh()
            store.sync()  # a caller waits for it, so it is as durable as a change
            return result

        return self._thread.submit(with_store)

    def close(self) -> None:
        """Wait for what is running."""
        self._thread.shutdown(wait=True)

    def _turn(self) -> None:
        store = self._new_store()
        try:
            run(store, self._write_snapshot, self._forget)
        except OvertakenError as error:
            _log.debug("another process does the upkeep of %s at this moment: %s", store.uri, error)
        except StorageError as error:
            _log.warning("upkeep of %s is put off to the next turn: %s", store.uri, error)
        except Exception:  # noqa: BLE001 - whatever it is, it must not end the thread in silence
            _log.exception("upkeep of %s failed; the next turn tries again", store.uri)
        finally:
            self._busy.release()


def run(store: Store, write_snapshot: Step | None = None, forget: Step | None = None) -> None:
    """Do one turn now.

    Raises:
        StorageError: A step failed; what was done before it stands, and the ledger is whole.
    """
    store.open()
    if forget is not None:
        forget(store)
    if store.shape(TARGET_BYTES).small_files >= SMALL_FILES_DUE:
        store.compact(TARGET_BYTES)
    store.vacuum()
    store.checkpoint()
    if write_snapshot is not None:
        write_snapshot(store)  # last, since it is the one step that the ledger can do without
