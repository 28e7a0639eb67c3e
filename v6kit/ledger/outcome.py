"""What became of a commit that did not report success: a lost race, a lost answer, or a commit that failed."""

from __future__ import annotations

from datetime import timedelta

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from v6kit.errors import StorageError
from v6kit.ledger.faults import CommitRefusedError
from v6kit.ledger.store import Store


def landed(store: Store, commit_id: str, version: int, error: CommitRefusedError, deadline: timedelta) -> bool:
    """Settle an outcome that is unknown.

    Args:
        store: Brought up to the newest version by this.
        commit_id: Of the commit.
        version: On top of which it was made.
        error: What was reported.
        deadline: How long to ask a storage that does not answer.

    Returns:
        Whether the commit went through; if not, others have committed instead.

    Raises:
        StorageError: Nobody else has committed, so the storage itself refused; or it does not answer any more, and
            the outcome stays unknown. The text says which, the cause is attached.
    """

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
        found = asking(look)
    except StorageError as silence:
        raise StorageError(
            f"a commit failed at {store.uri} ({error}), and whether it went through is not known, since the table "
            f"cannot be read: {silence}. Look at it before you try again"
        ) from silence
    if store.version == version:
        raise StorageError(f"the commit failed at {store.uri} and nothing was changed: {error}") from error
    return found
