"""The Delta log of any table: its commits, which versions can still be read, and reading or restoring one of them.

Reads the entries themselves, since `deltalake` lists a vacuumed version like any other, and leaves out commits that say
nothing of who made them. Belongs to one thread at a time.

Source: the Delta transaction protocol; deltalake 1.6.6, which reads deletion vectors, column mapping and checkpoints of
version 2 by `DeltaTable.scan`, and refuses by itself what it does not know.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import polars as pl
from deltalake import CommitProperties, DeltaTable
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileInfo, FileSelector, FileType, PyFileSystem

from v6kit.errors import StorageError
from v6kit.ledger.commits import Commit, Counts, is_elsewhere, local_path, parse
from v6kit.ledger.durability import LOG
from v6kit.ledger.faults import storage_errors
from v6kit.ledger.place import checked_options, is_local, normalise, options_for_polars

_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\..*(?:parquet|json)")
_PLAIN_FEATURES = frozenset({"timestampNtz", "appendOnly", "invariants", "vacuumProtocolCheck"})
_QUOTE = '"'
_READERS = 16  # an object store answers so many at once about as fast as one


class Listing(NamedTuple):
    """What is below a table.

    Attributes:
        entries: The log's entries by version.
        checkpoints: The versions that have one.
        files: Every data file's path; empty where only the log was asked for.
    """

    entries: Mapping[int, FileInfo]
    checkpoints: frozenset[int]
    files: frozenset[str]

    def begins(self) -> int | None:
        """Return the oldest version that the log still makes up: all entries since 0, or since a checkpoint."""
        newest = max({*self.entries, *self.checkpoints}, default=-1)
        oldest = newest + 1
        while oldest - 1 in self.entries:
            oldest -= 1
        if oldest == 0:
            return 0
        return min((version for version in self.checkpoints if version >= oldest - 1), default=None)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a version lies in its files, if they can be read as they are.

    Attributes:
        columns: The table's.
        partitioned_by: Those of them that are not in the files.
        partitions: The live files (`#file`: the path), and the values of the partition's columns.
    """

    columns: pl.Schema
    partitioned_by: tuple[str, ...]
    partitions: pl.DataFrame

    def partitions_of(self, commit: Commit) -> pl.DataFrame:
        """Return the same of the files that a commit added.

        Raises:
            StorageError: A value is not written as its column's type is.
        """
        values = {name: [each.get(name) or None for each in commit.partitions.values()] for name in self.partitioned_by}
        with storage_errors("", f"reading the partitions of version {commit.version}"):
            return pl.DataFrame(
                [
                    pl.Series("#file", list(commit.partitions), pl.String),
                    *(pl.Series(name, texts, pl.String).cast(self.columns[name]) for name, texts in values.items()),
                ]
            )


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a table.

    Attributes:
        number: Of the version.
        at: When it was made, never before an older one; `None` if its entry is gone.
        commit: What its entry says; `None` if that is gone.
        counts: Rows added, changed, removed; `None` if unknown.
        rows: In the table; `None` if unknown.
        is_readable: Whether all that it consists of is still there.
    """

    number: int
    at: datetime | None
    commit: Commit | None
    counts: Counts | None
    rows: int | None
    is_readable: bool


class CommitLog:
    """The log of one table.

    Args:
        uri: A normalised place.
        storage_options: For object stores.
    """

    def __init__(self, uri: str | os.PathLike[str], storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = normalise(uri)
        self._options = checked_options(storage_options) or None
        self._parsed: dict[tuple[int, datetime, int], Commit] = {}  # a table may be made anew at the same place

    def scan(self, version: int, wanted: pl.DataFrame | None = None) -> pl.DataFrame:
        """Return the rows of a version, in no particular order.

        Args:
            version: Which.
            wanted: One row with values of some columns: only rows with these may come back, but others may as well.

        Raises:
            StorageError: It cannot be read.
        """
        with storage_errors(self.uri, f"reading version {version}"):
            table = self._table(version)
            known = pl.Schema(table.schema().to_arrow())
            predicate = None if wanted is None else _predicate(wanted, known)
            return pl.DataFrame(table.scan(predicate=predicate))

    def layout(self, version: int) -> Layout:
        """Return how a version lies in its files.

        Raises:
            StorageError: They cannot be read as they are, or it cannot be opened.
        """
        with storage_errors(self.uri, f"opening version {version}"):
            table = self._table(version)
            protocol, metadata = table.protocol(), table.metadata()
            columns = pl.Schema(table.schema().to_arrow())
            actions = pl.DataFrame(table.get_add_actions(flatten=True))
            unknown = {*(protocol.reader_features or ())} - _PLAIN_FEATURES
            is_mapped = metadata.configuration.get("delta.columnMapping.mode", "none") != "none"
            if unknown or is_mapped or (not is_local(self.uri) and any("%" in path for path in actions["path"])):
                raise StorageError(f"the files of version {version} of {self.uri} are not to be read as they are")
            values = [
                actions[f"partition.{name}"].cast(columns[name]).alias(name) for name in metadata.partition_columns
            ]
            paths = pl.Series("#file", [local_path(path) for path in actions["path"]], pl.String)
            return Layout(columns, tuple(metadata.partition_columns), pl.DataFrame([paths, *values]))

    def read_files(self, files: Sequence[str], layout: Layout, wanted: pl.DataFrame | None) -> pl.DataFrame:
        """Return the rows of files, without the partition's columns, and the file of each as `#file`.

        Args:
            files: Paths below the table.
            layout: Of the version that they belong to.
            wanted: As in `scan`.

        Raises:
            StorageError: A file cannot be read, or has other types than the table.
        """
        paths = {f"{self.uri}/{path}": path for path in files}
        kinds = {name: kind for name, kind in layout.columns.items() if name not in layout.partitioned_by}
        with storage_errors(self.uri, "reading files"):
            rows = pl.scan_parquet(
                list(paths),
                schema=kinds,
                glob=False,
                hive_partitioning=False,
                missing_columns="insert",
                extra_columns="ignore",
                include_file_paths="#file",
                storage_options=options_for_polars(self._options or {}) or None,
            )
            if wanted is not None:
                rows = rows.filter(
                    [
                        pl.col(name).eq_missing(wanted[name][0])
                        for name in wanted.columns
                        if kinds.get(name) == wanted.schema[name] and not wanted.schema[name].is_nested()
                    ]
                )
            return rows.collect().with_columns(pl.col("#file").replace_strict(paths))

    def restore(self, version: int, by: str) -> int:
        """Make the content of a version the newest one, and return its number.

        Raises:
            StorageError: The storage refused, or others committed meanwhile in a way that cannot be reconciled.
        """
        with storage_errors(self.uri, f"restoring version {version}"):
            table = DeltaTable(self.uri, storage_options=self._options)
            table.restore(version, commit_properties=CommitProperties(custom_metadata={"userName": by}))
            return table.version()

    def instants(self) -> list[tuple[int, datetime]]:
        """Return versions and when they were made, oldest first, of those whose entry is there."""
        with storage_errors(self.uri, "reading the log"):
            commits = self._commits(self._list(LOG))
        return list(_never_decreasing(commits))

    def versions(self) -> list[Version]:
        """Return every version of which the log knows, oldest first."""
        with storage_errors(self.uri, "reading the log"):
            listing = self._list("")
            commits = self._commits(listing)
            begins = listing.begins()
            if begins is None:
                raise StorageError(f"the log at {self.uri} has neither its first entry nor a checkpoint")
            is_whole = begins == 0 and 0 in commits
            live = _Live({} if is_whole else self._files_of(begins), listing.files)
        return list(_walked(commits, begins, live, is_whole=is_whole))

    def _table(self, version: int) -> DeltaTable:
        return DeltaTable(self.uri, version=version, storage_options=self._options)

    def _files_of(self, version: int) -> dict[str, int | None]:
        actions = pl.DataFrame(self._table(version).get_add_actions(flatten=True))
        records = actions["num_records"].to_list() if "num_records" in actions.columns else [None] * actions.height
        return dict(zip(map(local_path, actions["path"]), records, strict=True))

    def _filesystem(self) -> PyFileSystem:
        return PyFileSystem(DeltaStorageHandler(self.uri, self._options))

    def _list(self, below: str) -> Listing:
        found = self._filesystem().get_file_info(FileSelector(below, recursive=True, allow_not_found=True))
        files = {info.path: info for info in found if info.type == FileType.File}
        in_log = {path.removeprefix(f"{LOG}/"): info for path, info in files.items() if path.startswith(f"{LOG}/")}
        entries = {int(name[1]): info for path, info in in_log.items() if (name := _ENTRY.fullmatch(path))}
        checkpoints = {int(name[1]) for path in in_log if (name := _CHECKPOINT.fullmatch(path))}
        data = frozenset(path for path in files if not path.startswith(f"{LOG}/"))
        return Listing(dict(sorted(entries.items())), frozenset(checkpoints), data)

    def _commits(self, listing: Listing) -> dict[int, Commit]:
        """Return what the entries say, by version; each is read once, since an entry never changes."""
        places = {version: (version, info.mtime, info.size) for version, info in listing.entries.items()}
        new = [version for version, place in places.items() if place not in self._parsed]
        filesystem = self._filesystem()

        def read(version: int) -> Commit:
            info = listing.entries[version]
            with filesystem.open_input_stream(info.path) as stream:
                return parse(version, stream.read(), info.mtime)

        try:
            with ThreadPoolExecutor(_READERS) as readers:
                read_now = dict(zip(new, readers.map(read, new), strict=True))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(f"the log at {self.uri} has an entry that is none: {error!r}") from error
        known = {place: self._parsed.get(place) or read_now[version] for version, place in places.items()}
        self._parsed = known
        return {version: known[place] for version, place in places.items()}


def _predicate(wanted: pl.DataFrame, known: pl.Schema) -> str | None:
    """Return SQL that leaves out most of what is not wanted; `None` where that is not sure to be understood."""
    row = wanted.row(0, named=True)
    terms = [
        f'"{name.replace(_QUOTE, _QUOTE * 2)}" = {_literal(value)}'
        for name, value in row.items()
        if value is not None and known.get(name) == wanted.schema[name] and isinstance(value, str | int)
    ]
    return " AND ".join(terms) or None


def _literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def _never_decreasing(commits: Mapping[int, Commit]) -> Iterator[tuple[int, datetime]]:
    """Give instants in which later versions are never older: writers' clocks differ."""
    latest: datetime | None = None
    for version, commit in commits.items():
        latest = commit.at if latest is None else max(latest, commit.at)
        yield version, latest


class _Live:
    """The live files of one version after the other, and which of them are gone from the storage."""

    def __init__(self, files: Mapping[str, int | None], there: frozenset[str]) -> None:
        self._files: dict[str, int | None] = {}
        self._there = there
        self._missing: set[str] = set()
        self._rows = self._unknown = 0
        self._add(files)

    @property
    def is_whole(self) -> bool:
        return not self._missing

    @property
    def rows(self) -> int | None:
        return self._rows if not self._unknown else None

    def apply(self, commit: Commit) -> Counts | None:
        """Go on by one commit; return how many rows it added, changed and removed."""
        counts = commit.counts(self._files)
        self._missing -= commit.removed
        for path in commit.removed & self._files.keys():
            self._count(self._files.pop(path), -1)
        self._add(commit.added)
        return counts

    def _add(self, files: Mapping[str, int | None]) -> None:
        for path, rows in files.items():
            if path in self._files:  # added once more, with other statistics
                self._count(self._files[path], -1)
            self._files[path] = rows
            self._count(rows, 1)
            if path not in self._there and not is_elsewhere(path):
                self._missing.add(path)

    def _count(self, rows: int | None, sign: int) -> None:
        self._rows += sign * (rows or 0)
        self._unknown += sign * (rows is None)


def _walked(commits: Mapping[int, Commit], begins: int, live: _Live, *, is_whole: bool) -> Iterator[Version]:
    """Follow the live files from version to version; where the log is not whole, `live` are those of the first one."""
    instants = dict(_never_decreasing(commits))
    for version, commit in commits.items():
        if version < begins:
            yield Version(version, instants[version], commit, None, None, is_readable=False)
    for version in range(begins, max(commits, default=begins) + 1):
        commit_then = commits.get(version)
        is_told = is_whole or version > begins
        counts = live.apply(commit_then) if commit_then is not None and is_told else None
        yield Version(version, instants.get(version), commit_then, counts, live.rows, is_readable=live.is_whole)
