"""What goes wrong below the ledger, in v6kit's words: the one place that maps the errors of `deltalake` and Polars."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import polars as pl
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.exceptions import SchemaMismatchError as DeltaSchemaMismatchError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from v6kit.errors import SchemaMismatchError, StorageError, TableMissingError

ResultT = TypeVar("ResultT")
_DEADLINE = timedelta(seconds=30)


class CommitRefusedError(Exception):
    """An append did not report success. It may have lost a race, failed, or landed and lost its answer."""


class OvertakenError(StorageError):
    """Somebody else committed in between, so nothing was done; refresh, look again, and try again."""


def undisturbed(step: Callable[[], ResultT]) -> ResultT:
    """Do a step until nobody else commits in the midst of it, for half a minute at most."""
    return Retrying(
        retry=retry_if_exception_type(OvertakenError),
        stop=stop_after_delay(_DEADLINE),
        wait=wait_random_exponential(multiplier=0.005, max=0.5),
        reraise=True,
    )(step)


@contextmanager
def storage_errors(uri: str, doing: str) -> Iterator[None]:
    """Turn what `deltalake`, `polars` and the disk raise into a `StorageError` with its cause."""
    try:
        yield
    except TableNotFoundError as error:
        raise TableMissingError(f"there is no Delta table at {uri} ({doing}); check the path") from error
    except DeltaSchemaMismatchError as error:
        raise SchemaMismatchError(f"the table at {uri} has another schema ({doing}): {plain(error)}") from error
    except (DeltaError, pl.exceptions.PolarsError, OSError) as error:
        raise StorageError(f"{doing} failed at {uri}: {plain(error)}") from error
    except BaseException as error:
        if is_panic(error):
            raise StorageError(f"{doing} failed at {uri}: {plain(error)}") from error
        raise


def is_panic(error: BaseException) -> bool:
    """Tell whether native code reports a bug of its own: that is no `Exception`, and its class is not public."""
    return type(error).__name__ == "PanicException"


def plain(error: BaseException) -> str:
    """Return an error's text on one line and without the colours that deltalake gives some of its messages."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
