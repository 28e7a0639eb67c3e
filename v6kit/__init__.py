"""Hybrid position sync: stream what is active, keep the rest fresh from a durable queue.

import v6kit
desk = await v6kit.open("lake", broker="simulated")
report = await desk.run_cycle()
await desk.close()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from v6kit.errors import (
    BrokerError,
    ClientIdInUseError,
    ContentionError,
    ContractConflictError,
    GatewayUnavailableError,
    InvalidTransitionError,
    LineLimitError,
    QueueError,
    RegistryError,
    RequestFailedError,
    RequestNotFoundError,
    SchemaMismatchError,
    StaleClaimError,
    StorageError,
    StrategyNotFoundError,
    TableMissingError,
    UnsafeStorageError,
    V6KitError,
    VersionUnavailableError,
)

if TYPE_CHECKING:
    from v6kit.contracts import ActiveContract, Leg
    from v6kit.desk import Desk, open  # noqa: A004 - the public name
    from v6kit.engine import run_sync
    from v6kit.gateway import SimulatedGateway
    from v6kit.history import TableHistory
    from v6kit.notebook import allow_blocking_ib
    from v6kit.positions import PositionBook
    from v6kit.queue import Backoff, Outcome, PositionQueue
    from v6kit.registry import StrategyRegistry
    from v6kit.sync import Candidate, PositionStreamer, QueueWorker, Targets, default_policy

# Imported when they are first used, so that `import v6kit` stays fast and pulls in neither ib_async nor ipywidgets.
_HOMES = {
    "ActiveContract": "contracts",
    "Backoff": "queue",
    "Candidate": "sync",
    "Desk": "desk",
    "Leg": "contracts",
    "Outcome": "queue",
    "PositionBook": "positions",
    "PositionQueue": "queue",
    "PositionStreamer": "sync",
    "QueueWorker": "sync",
    "SimulatedGateway": "gateway",
    "StrategyRegistry": "registry",
    "TableHistory": "history",
    "Targets": "sync",
    "allow_blocking_ib": "notebook",
    "default_policy": "sync",
    "open": "desk",
    "run_sync": "engine",
}

__all__ = [
    "ActiveContract",
    "Backoff",
    "BrokerError",
    "Candidate",
    "ClientIdInUseError",
    "ContentionError",
    "ContractConflictError",
    "Desk",
    "GatewayUnavailableError",
    "InvalidTransitionError",
    "Leg",
    "LineLimitError",
    "Outcome",
    "PositionBook",
    "PositionQueue",
    "PositionStreamer",
    "QueueError",
    "QueueWorker",
    "RegistryError",
    "RequestFailedError",
    "RequestNotFoundError",
    "SchemaMismatchError",
    "SimulatedGateway",
    "StaleClaimError",
    "StorageError",
    "StrategyNotFoundError",
    "StrategyRegistry",
    "TableHistory",
    "TableMissingError",
    "Targets",
    "UnsafeStorageError",
    "V6KitError",
    "VersionUnavailableError",
    "allow_blocking_ib",
    "default_policy",
    "open",
    "run_sync",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attributes have any type
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("v6kit")
    if name not in _HOMES:
        raise AttributeError(f"module 'v6kit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"v6kit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
