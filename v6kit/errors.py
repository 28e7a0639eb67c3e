"""The exception tree: every error that v6kit raises on purpose.

Wrong arguments are plain `ValueError` and `TypeError`. Everything else is one of these, so `except V6KitError`
catches what v6kit knows about and nothing more::

    V6KitError
    ├─ StorageError
    │  ├─ TableMissingError
    │  ├─ SchemaMismatchError
    │  ├─ VersionUnavailableError
    │  ├─ ContentionError
    │  └─ UnsafeStorageError
    ├─ RegistryError
    │  ├─ StrategyNotFoundError
    │  └─ ContractConflictError
    ├─ QueueError
    │  ├─ RequestNotFoundError
    │  ├─ StaleClaimError
    │  └─ InvalidTransitionError
    └─ BrokerError
       ├─ GatewayUnavailableError
       │  └─ ClientIdInUseError
       ├─ RequestFailedError  (.code)
       └─ LineLimitError
"""

from __future__ import annotations

import linecache
import sys
import traceback
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class V6KitError(Exception):
    """Base of all errors that v6kit raises on purpose.

    In a notebook one is shown calmly: its sentence, the lines of the cell that led to it, its causes. `%tb` shows the
    whole traceback, and so does everything that is no notebook: scripts, pytest, logs.
    """

    _calm_in: int | None = None  # the cell in which it was first shown

    def _repr_html_(self) -> str:
        """Return its sentence and its causes: as the last line of a cell, e.g. `panel.last_error`, it is a value."""
        sentence = f"<b>{type(self).__name__}</b> {escape(str(self))}"
        return f"<div>{'<br>'.join([sentence, *map(escape, _reasons(self))])}</div>"

    def _render_traceback_(self) -> list[str]:
        """Return what IPython prints of it.

        IPython asks more than once in the cell that failed, to show and to store it. In a later one it is asked by
        `%tb`. Whoever has chosen another `%xmode` than the default has said what is wanted.
        """
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if shell is None:
            return traceback.format_exception(self)
        cell = self._calm_in = self._calm_in or shell.execution_count
        if shell.execution_count != cell or shell.InteractiveTB.mode != "Context":
            whole: list[str] = shell.InteractiveTB.structured_traceback(
                type(self), self, self.__traceback__, tb_offset=1
            )
            return whole
        return [*_calm_lines(self, shell.user_ns), "(%tb shows the whole traceback)"]


def _calm_lines(error: BaseException, namespace: dict[str, Any]) -> Iterator[str]:
    """Return the sentence, the lines of cells that led to it, and why it came to it."""
    yield _sentence(error)
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_globals is namespace:
            name, code = frame.f_code.co_name, linecache.getline(frame.f_code.co_filename, line).strip()
            where = f"line {line}" if name.startswith("<") else f"line {line} of {name}"
            yield f"  {where}: {code}" if code else f"  {where}"
    yield from (f"  {reason}" for reason in _reasons(error))


def _reasons(error: BaseException) -> Iterator[str]:
    """Return in words why it came to it, the nearest cause first."""
    told, cause = [error], _cause(error)
    while cause is not None and cause not in told:
        yield f"because of {_sentence(cause).splitlines()[0]}"
        told.append(cause)
        cause = _cause(cause)


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


class StorageError(V6KitError):
    """A table could not be read or written."""


class TableMissingError(StorageError):
    """There is no table at this place."""


class SchemaMismatchError(StorageError):
    """There is a table, but it is not one of ours; nothing was touched."""


class VersionUnavailableError(StorageError):
    """The version or instant that was asked for does not exist, or no longer.

    Attributes:
        oldest: The oldest version that can still be read, if known.
        newest: The newest version, if known.
    """

    def __init__(self, message: str, *, oldest: int | None = None, newest: int | None = None) -> None:
        super().__init__(message)
        self.oldest = oldest
        self.newest = newest


class ContentionError(StorageError):
    """Other writers won every round until the deadline; nothing was changed."""


class UnsafeStorageError(StorageError):
    """This storage cannot keep two writers apart as it is configured."""


class RegistryError(V6KitError):
    """The strategy registry cannot do what was asked."""


class StrategyNotFoundError(RegistryError, KeyError):
    """No active strategy has this id; `registry[…]` raises it, so it is a `KeyError` as well."""

    __str__ = Exception.__str__  # a KeyError's own puts the sentence in quotes


class ContractConflictError(RegistryError):
    """A conid was registered before with other contract details."""


class QueueError(V6KitError):
    """The position queue cannot do what was asked."""


class RequestNotFoundError(QueueError, KeyError):
    """The queue never held a request with this id; `queue[…]` raises it, so it is a `KeyError` as well."""

    __str__ = Exception.__str__  # a KeyError's own puts the sentence in quotes


class StaleClaimError(QueueError):
    """The claim is no longer current: the lease ended and the request moved on; nothing was changed."""


class InvalidTransitionError(QueueError):
    """The request's status does not allow this change."""


class BrokerError(V6KitError):
    """The gateway, or the link to it, failed."""


class GatewayUnavailableError(BrokerError):
    """The gateway cannot be reached, or the link to it was lost."""


class ClientIdInUseError(GatewayUnavailableError):
    """Another program is connected to the gateway under our client id, or our own former connection still is."""


class RequestFailedError(BrokerError):
    """The gateway answered one request with an error.

    Attributes:
        code: IB's error code, or `None` when the request timed out without one.
    """

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class LineLimitError(BrokerError):
    """No market data line is free for this."""
