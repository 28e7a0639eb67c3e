"""The queue of positions to refresh: durable, prioritised, leased."""

from v6kit.queue.queue import PAUSED, PositionQueue
from v6kit.queue.requests import (
    ACTIVE_PRIORITY,
    MAX_ATTEMPTS,
    MONITORING_PRIORITY,
    Backoff,
    Outcome,
    QueuedPosition,
    QueueStats,
    Settled,
    Status,
    Wanted,
)

__all__ = [
    "ACTIVE_PRIORITY",
    "MAX_ATTEMPTS",
    "MONITORING_PRIORITY",
    "PAUSED",
    "Backoff",
    "Outcome",
    "PositionQueue",
    "QueueStats",
    "QueuedPosition",
    "Settled",
    "Status",
    "Wanted",
]
