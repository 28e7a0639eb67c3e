"""`TableHistory`: time travel over a ledger. Nothing here writes, blocks or disturbs a worker."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import polars as pl

from v6kit.clock import Clock
from v6kit.ledger import Past, When


class TableHistory:
    """The past of one ledger.

    Args:
        uri: A local path, or any URI that deltalake takes.
        key: The columns that name one item, e.g. `["request_id"]`.
        storage_options: For object stores; never shown.
        clock: Tells what is still in the future; default the system's.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        key: Sequence[str],
        *,
        storage_options: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._past = Past(uri, key, storage_options=storage_options, clock=clock)

    @property
    def uri(self) -> str:
        """Where the table is."""
        return self._past.uri

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that name one item."""
        return self._past.key

    def versions(self) -> pl.DataFrame:
        """Return one row per version that changed something, oldest first.

        Columns: version (Int64), updated_at (UTC), rows (UInt32), changes (e.g. `FAILED 1, SUCCESS 49`), updated_by.
        """
        return self._past.versions()

    def as_of(self, when: When) -> pl.DataFrame:
        """Return what the table held then: one row per key, in the order of its last change.

        Args:
            when: A version, an aware datetime, or ISO text with an offset, e.g. `2026-11-22 14:32:05+00:00`.

        Raises:
            VersionUnavailableError: Before the first change, after the newest version, or in the future.
            ValueError: A naive datetime, or text that is no instant.
        """
        return self._past.as_of(when)

    def diff(self, old: When, new: When) -> pl.DataFrame:
        """Return what changed between two moments: one row per key that differs.

        Columns: diff (`+` added, `~` changed, `-` gone), the key, then each other column beside its `…_old`.
        """
        return self._past.diff(old, new)

    def timeline(self, *key: object) -> pl.DataFrame:
        """Return every state of one item, oldest first, with `until` and `lasted` (null in the newest).

        Args:
            *key: One value per key column, in their order.
        """
        return self._past.timeline(*key)

    def __repr__(self) -> str:
        return f"TableHistory({self.uri!r}, key={list(self.key)!r})"
