"""The states of a table one after the other, each made of the one before: only files that are new are read.

So a long past costs about one reading of all its files, not one of the whole table per version (600 appends: 1 s
instead of 50). What Polars cannot read by itself goes through deltalake, version by version: deletion vectors, column
mapping, and files whose types are not quite the table's.
"""

from __future__ import annotations

import polars as pl

from v6kit.errors import StorageError
from v6kit.ledger.commits import Commit
from v6kit.ledger.log import CommitLog, Layout, Version

_FILE = "#file"


class Replay:
    """Goes through versions of one table in ascending order.

    Args:
        log: Of the table.
        wanted: One row with values of a key: rows with other values may be left out, but need not be.
    """

    def __init__(self, log: CommitLog, wanted: pl.DataFrame | None = None) -> None:
        self._log = log
        self._wanted = wanted
        self._layout: Layout | None = None
        self._rows = pl.DataFrame()
        self._files: set[str] = set()
        self._is_direct = True

    def state(self, version: Version, *, is_next: bool) -> pl.DataFrame:
        """Return the rows of a version, in no particular order.

        Args:
            version: Not before the last one that was asked for.
            is_next: Whether nothing but this version's commit lies between.

        Raises:
            StorageError: It cannot be read.
        """
        if self._is_direct:
            try:
                return self._direct(version, version.commit if is_next else None)
            except StorageError:
                self._is_direct = False  # deltalake reads it, or says what is wrong
        return self._log.scan(version.number, self._wanted)

    def _direct(self, version: Version, commit: Commit | None) -> pl.DataFrame:
        if self._layout is None or commit is None or commit.is_redefined:
            before, self._layout = self._layout, self._log.layout(version.number)
            live = set(self._layout.partitions[_FILE])
            if before is None or before.columns != self._layout.columns:
                self._files = set()
            self._drop(self._files - live)
            self._read(live - self._files, self._layout.partitions)
        else:
            added = set(commit.added)
            self._drop((self._files & commit.removed) | (self._files & added))
            self._read(added, self._layout.partitions_of(commit))
        return self._rows.select(self._layout.columns.names())

    def _drop(self, files: set[str]) -> None:
        if files:
            self._files -= files
            self._rows = self._rows.filter(~pl.col(_FILE).is_in(list(files)))

    def _read(self, files: set[str], partitions: pl.DataFrame) -> None:
        layout = self._layout
        if layout is None:
            return
        known = layout.columns.names()
        if not self._files:
            self._rows = pl.DataFrame(schema={**layout.columns, _FILE: pl.String()})
        if files:
            rows = self._log.read_files(sorted(files), layout, self._wanted)
            rows = rows.join(partitions, on=_FILE, how="left") if layout.partitioned_by else rows
            self._rows = pl.concat([self._rows, rows.select(*known, _FILE)])
            self._files |= files
