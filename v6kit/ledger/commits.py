"""What one entry of a Delta log says: when, what, who, which files came and went, how many rows. Pure.

Source: the Delta transaction protocol, "Actions"; of the metrics' names, those that delta-rs 1.6 and Spark 3.5 write.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import unquote

_INSERTED = ("num_target_rows_inserted", "numTargetRowsInserted")
_UPDATED = ("num_updated_rows", "numUpdatedRows", "num_target_rows_updated", "numTargetRowsUpdated")
_DELETED = ("num_deleted_rows", "numDeletedRows", "num_target_rows_deleted", "numTargetRowsDeleted")
_KINDS = ("commitInfo", "add", "remove", "metaData", "protocol")
_REWRITING = ("UPDATE", "MERGE")  # their files hold rows that did not change as well, so files tell no counts


class Counts(NamedTuple):
    """Rows that a commit added, changed and removed."""

    added: int
    changed: int
    removed: int


NOTHING = Counts(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Commit:
    """One entry of a log.

    Attributes:
        version: The version that it made.
        at: When, by the writer's clock; aware UTC.
        operation: What, in the writer's word, e.g. `WRITE`; empty where it does not say.
        by: Who, as far as the writer says.
        added: The rows of each file that it added, less those that a deletion vector takes away; `None` if unknown.
        removed: The files that it removed.
        is_change: Whether the table's content may differ from the version before.
        is_redefined: Whether it changes the table's columns or what is needed to read it.
        partitions: The partition's values of each file that it added, as text.
        metrics: The writer's own numbers.
    """

    version: int
    at: datetime
    operation: str
    by: str | None
    added: Mapping[str, int | None]
    removed: frozenset[str]
    is_change: bool
    is_redefined: bool
    partitions: Mapping[str, Mapping[str, str | None]]
    metrics: Mapping[str, int]

    def counts(self, before: Mapping[str, int | None]) -> Counts | None:
        """Return how many rows it added, changed and removed, or `None` where the log does not tell.

        By files, a row that was rewritten as it was counts as removed and added.

        Args:
            before: The live files of the version before, and the rows of each.
        """
        if not self.is_change:
            return NOTHING
        found = [next((self.metrics[name] for name in names if name in self.metrics), None) for names in _COUNTED]
        if any(number is not None for number in found):
            return Counts(*(number or 0 for number in found))
        if self.operation in _REWRITING:
            return None
        came, went = _sum(self.added.values()), _sum(before.get(path) for path in self.removed)
        if came is None or went is None:
            return None
        if self.operation == "DELETE":
            return Counts(0, 0, went - came)
        return Counts(came, 0, went)


_COUNTED = (_INSERTED, _UPDATED, _DELETED)


def _sum(numbers: Iterable[int | None]) -> int | None:
    known = list(numbers)
    return None if None in known else sum(number for number in known if number is not None)


def parse(version: int, entry: bytes, written_at: datetime) -> Commit:
    """Return what an entry says.

    Args:
        version: Of the entry.
        entry: Its content: one JSON object per line.
        written_at: When its file was written; the commit's instant where it says none itself.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: It is no log entry.
    """
    actions: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}
    for line in entry.splitlines():
        for kind, action in (json.loads(line) if line.strip() else {}).items():
            if kind in actions and action is not None:
                actions[kind].append(action)
    info = actions["commitInfo"][0] if actions["commitInfo"] else {}
    has_vectors = any(add.get("deletionVector") for add in actions["add"])
    moved = [*actions["add"], *actions["remove"]]
    metrics = info.get("operationMetrics")
    return Commit(
        version=version,
        at=_instant(info, written_at),
        operation=str(info.get("operation") or ""),
        by=_who(info),
        added={local_path(add["path"]): _records(add) for add in actions["add"]},
        removed=frozenset(local_path(remove["path"]) for remove in actions["remove"]),
        # Another schema is a change as well: a column may come or go without a file.
        is_change=any(action.get("dataChange", True) for action in moved) or bool(actions["metaData"]),
        is_redefined=bool(actions["metaData"] or actions["protocol"] or has_vectors),
        partitions={local_path(add["path"]): add.get("partitionValues") or {} for add in actions["add"]},
        metrics=_whole_numbers(metrics if isinstance(metrics, dict) else {}),
    )


def local_path(path: str) -> str:
    """Return a file's path below the table as a listing has it; the log has it as part of a URL."""
    return unquote(path)


def is_elsewhere(path: str) -> bool:
    """Tell whether a file is outside of the table's folder, as in a shallow clone."""
    return path.startswith(("/", "file:")) or "://" in path


def _instant(info: Mapping[str, Any], written_at: datetime) -> datetime:
    milliseconds = info.get("inCommitTimestamp") or info.get("timestamp")
    if not isinstance(milliseconds, int):
        return written_at
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _who(info: Mapping[str, Any]) -> str | None:
    known = (info.get(name) for name in ("userName", "userId", "engineInfo", "clientVersion"))
    who = next((str(name) for name in known if name), None)
    note = info.get("userMetadata")
    return f"{who or '?'} ({note})" if note else who


def _records(add: Mapping[str, Any]) -> int | None:
    stats = add.get("stats")
    records = json.loads(stats).get("numRecords") if stats else None
    if records is None:
        return None
    return int(records) - int((add.get("deletionVector") or {}).get("cardinality", 0))


def _whole_numbers(metrics: Mapping[str, Any]) -> dict[str, int]:
    """Return the metrics that are numbers; Spark writes them as text."""
    return {name: int(value) for name, value in metrics.items() if isinstance(value, int) or str(value).isdigit()}
