"""What became of a commit that did not report success: a lost race, a lost answer, or a commit that failed."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from v6kit.errors import StorageError
from v6kit.ledger.faults import CommitRefusedError
from v6kit.ledger.place import is_local
from v6kit.ledger.store import Store

_TRIES = 3


def commit(store: Store, frame: pl.DataFrame, commit_id: str, deadline: timedelta) -> bool:
    """Append `frame` as the next version, and settle an outcome that is unknown.

    While nobody has committed, a commit that failed is sent again as the very same version: whichever of the two
    arrives first keeps the other out, also if the first one was only late.

    Args:
        store: Brought up to the newest version where the outcome was not clear.
        frame: Stamped for the next version.
        commit_id: Of this commit, and of no other.
        deadline: How long to ask a storage that does not answer.

    Returns:
        Whether success was reported at once, so that `store` has seen nothing but this commit.

    Raises:
        CommitRefusedError: Others have committed instead; nothing was done.
        StorageError: The storage itself refused, or it does not answer any more and the outcome stays unknown. The text
            says which, the cause is attached.
    """
    version = store.version
    for attempt in range(1, _TRIES + 1):
        try:
            store.append(frame, commit_id)
        except CommitRefusedError as error:
            found = _asked(store, commit_id, version, error, deadline)
            if store.version > version:
                if found:
                    return False
                raise
            if attempt == _TRIES:
                raise StorageError(_refusal(store, error)) from error
        else:
            return attempt == 1
    raise AssertionError  # the last try returns or raises


def _refusal(store: Store, error: CommitRefusedError) -> str:
    if is_local(store.uri):
        return f"the commit failed at {store.uri} and nothing was changed: {error}"
    return (
        f"the commit failed {_TRIES} times at {store.uri} and is not in the table by now: {error}. "
        "Look at the table before you try again: whether it still arrives is not known"
    )


def _asked(store: Store, commit_id: str, version: int, error: CommitRefusedError, deadline: timedelta) -> bool:
    """Look whether the commit is the version after `version`, until the storage answers."""

    def look() -> bool:
        store.refresh()
        return store.landed(commit_id, version)

    asking = Retrying(
        retry=retry_if_exception(lambda problem: type(problem) is StorageError),  # its subclasses will not pass
        stop=stop_after_delay(deadline),
        wait=wait_random_exponential(multiplier=0.05, max=2),
        reraise=True,
    )
    try:
        return asking(look)
    except StorageError as silence:
        raise StorageError(
            f"a commit failed at {store.uri} ({error}), and whether it went through is not known, since the table "
            f"cannot be read: {silence}. Look at it before you try again"
        ) from silence
