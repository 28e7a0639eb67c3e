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


class V6KitError(Exception):
    """Base of all errors that v6kit raises on purpose."""


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


class StrategyNotFoundError(RegistryError):
    """No active strategy has this id."""


class ContractConflictError(RegistryError):
    """A conid was registered before with other contract details."""


class QueueError(V6KitError):
    """The position queue cannot do what was asked."""


class RequestNotFoundError(QueueError):
    """The queue never held a request with this id."""


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
