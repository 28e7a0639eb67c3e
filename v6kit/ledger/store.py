"""One Delta table and nothing else: open, append, refresh, read, keep in shape.

The only place that calls `deltalake`; `faults` maps its errors. A `Store` has one handle and belongs
to one thread at a time. What the rows mean is not known here.

Source: the Delta transaction protocol (a commit is the put-if-absent of one log entry); the measurements behind each
choice are described where it is made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from deltalake import (
    CommitProperties,
    DeltaTable,
    PostCommitHookProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError

from v6kit.errors import SchemaMismatchError, StorageError, TableMissingError
from v6kit.ledger.disk import Disk
from v6kit.ledger.durability import LOG, Durable
from v6kit.ledger.faults import CommitRefusedError, OvertakenError, is_panic, plain, storage_errors, undisturbed
from v6kit.ledger.files import encoding_of, on_disk, stretches, with_ends
from v6kit.ledger.place import check_local_path, checked_options, is_local, normalise, options_for_polars, refuse_unsafe
from v6kit.ledger.spec import UNTIL, TableSpec

SCHEMA_PROPERTY = "v6kit.schema"
KEY_PROPERTY = "v6kit.key"
COMMIT_ID = "v6kit.commit"
_MAX_SEQ = 2**63 - 1
LOG_RETENTION = timedelta(minutes=10)
FILE_RETENTION = timedelta(hours=1)
# One commit lists the whole log two or three times on a local disk; checkpoint and clean-up belong to upkeep.
_BARE_COMMIT = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
# Upkeep yields to every append, and 15 retries, the default, are used up by a writer that commits every 15 ms.
_PATIENT = CommitProperties(max_commit_retries=100)
_RETENTION: dict[str, str | None] = {
    "delta.logRetentionDuration": f"interval {int(LOG_RETENTION.total_seconds())} seconds",
    "delta.deletedFileRetentionDuration": f"interval {int(FILE_RETENTION.total_seconds())} seconds",
}


class Shape(NamedTuple):
    """What upkeep needs to know: files below the target size, and all files."""

    small_files: int
    files: int


class Store:
    """A handle on one Delta table.

    Args:
        uri: A local path, or any URI that deltalake takes.
        storage_options: For object stores; never shown in a repr or an error.
        spec: The kind of table, if it is to be written.
        durable: `power`: `sync` returns when all is on the disk; `process`: it does nothing.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        storage_options: Mapping[str, str] | None = None,
        spec: TableSpec[Any] | None = None,
        durable: Durable = "process",
    ) -> None:
        self.uri = normalise(uri)
        self._options = checked_options(storage_options)
        refuse_unsafe(self.uri, self._options)
        self._polars_options = options_for_polars(self._options) or None
        self._handle: DeltaTable | None = None
        self._key = () if spec is None else spec.key
        self._encoding = encoding_of(spec)
        self._compacted = encoding_of(spec, is_compacted=True)
        self._disk = Disk(Path(self.uri), durable) if is_local(self.uri) else None

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    @property
    def table(self) -> DeltaTable:
        """The open handle; opened on first use."""
        if self._handle is None:
            self.open()
        assert self._handle is not None  # noqa: S101 - for the type checker: open() sets it or raises
        return self._handle

    @property
    def version(self) -> int:
        """The version that this handle has seen."""
        return self.table.version()

    @property
    def properties(self) -> dict[str, str]:
        """The table's properties at that version."""
        return {key: value for key, value in self.table.metadata().configuration.items() if value is not None}

    @property
    def table_id(self) -> str:
        """The id that the table got when it was made."""
        return str(self.table.metadata().id)

    def open(self) -> None:
        """Open, or open again, at the newest version."""
        with storage_errors(self.uri, "opening the table"):
            self._handle = DeltaTable(self.uri, storage_options=self._options or None)

    def open_or_create(self, spec: TableSpec[Any]) -> None:
        """Open the table, or create it empty; refuse one that is not of this kind and touch nothing."""
        check_local_path(self.uri)
        if self._disk is not None:
            self._disk.mend()
        try:
            self.open()
        except TableMissingError:
            self._create(spec)
        self._check_schema(spec)

    def _create(self, spec: TableSpec[Any]) -> None:
        statistics = [*spec.statistics, "seq", "version", "updated_at"]
        configuration = {
            SCHEMA_PROPERTY: f"{spec.name}/{spec.version}",
            KEY_PROPERTY: ",".join(spec.key),  # for those who look at the table without its spec
            "delta.dataSkippingStatsColumns": ",".join(statistics),
            **_RETENTION,
        }
        with storage_errors(self.uri, "creating the table"):
            try:
                self._handle = DeltaTable.create(
                    self.uri,
                    schema=on_disk(spec.empty()).to_arrow().schema,
                    name=spec.name,
                    configuration=configuration,
                    storage_options=self._options or None,
                    raise_if_key_not_exists=False,  # v6kit.schema is no property of Delta's own
                    # Else a creation that comes second becomes the next version, with properties that begin anew.
                    commit_properties=CommitProperties(max_commit_retries=0),
                )
            except DeltaError:
                # Two processes open a new lake at once: the second finds the first one's table.
                if not DeltaTable.is_deltatable(self.uri, self._options or None):
                    raise
                self.open()

    def _check_schema(self, spec: TableSpec[Any]) -> None:
        if self._is_older(spec):
            undisturbed(lambda: self._migrate(spec))

    def _is_older(self, spec: TableSpec[Any]) -> bool:
        """Tell whether the table lacks columns that came later; refuse one that is not of this kind."""
        kind, _, version = self.properties.get(SCHEMA_PROPERTY, "").partition("/")
        have = [field.name for field in self.table.schema().fields]
        if kind != spec.name:
            owner = f"is a {kind!r} ledger" if kind else f"is not one of v6kit's (columns: {', '.join(have)})"
            raise SchemaMismatchError(f"the table at {self.uri} {owner}, not {spec.name!r}; nothing was touched")
        if not version.isdigit() or int(version) > spec.version:
            raise SchemaMismatchError(
                f"the table at {self.uri} has schema {version or '?'} of {spec.name!r}, this v6kit knows up to "
                f"{spec.version}; update v6kit. Nothing was touched"
            )
        missing = [name for name in spec.columns if name not in have]
        if int(version) == spec.version and missing:
            raise SchemaMismatchError(f"the table at {self.uri} lacks {', '.join(missing)}; nothing was touched")
        return int(version) < spec.version or UNTIL not in have

    def _migrate(self, spec: TableSpec[Any]) -> None:
        """Add the columns that are new; of several that would do it at once, the first one does."""
        with self.turn():
            if not self._is_older(spec):
                return
            with self._or_overtaken(f"migrating the table to schema {spec.version}"):
                write_deltalake(self.table, on_disk(spec.empty()).to_arrow(), mode="append", schema_mode="merge")
            self.set_property(KEY_PROPERTY, ",".join(spec.key))  # it may have grown by a column
            self.set_property(SCHEMA_PROPERTY, f"{spec.name}/{spec.version}")

    def refresh(self) -> bool:
        """Look for newer versions; reads the log's new entries only. Returns whether there are any."""
        before = self.version
        with storage_errors(self.uri, "refreshing the table"):
            self.table.update_incremental()
        if self._disk is not None:
            self._disk.check_is_there()
        return self.version != before

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one's turn among the writers of a local table, and be up to date then; elsewhere do nothing."""
        if self._disk is None or self._handle is None:
            yield
            return
        with self._disk.turn(self.version) as has_news:
            if has_news:
                self.refresh()
            yield

    def append(self, frame: pl.DataFrame, commit_id: str) -> None:
        """Append as exactly the next version: nobody else may have committed since this handle looked.

        Raises:
            CommitRefusedError: Whether it landed is not known until `landed` was asked. deltalake has one exception for
                a lost race and for retries used up, and an object store may lose the answer of a commit that went
                through, so neither class nor text decides.
        """
        try:
            write_deltalake(
                self.table,
                on_disk(frame),
                mode="append",
                writer_properties=self._encoding,
                commit_properties=CommitProperties(max_commit_retries=0, custom_metadata={COMMIT_ID: commit_id}),
                post_commithook_properties=_BARE_COMMIT,
            )
        except BaseException as error:
            if isinstance(error, Exception) or is_panic(error):
                raise CommitRefusedError(plain(error)) from error
            raise

    def sync(self) -> None:
        """With `durable="power"`, return when all versions that this handle has seen are on the disk."""
        if self._disk is not None:
            self._disk.sync(self.version)

    def sync_log(self) -> None:
        """Return when all that the log has by now is on the disk, whoever wrote it."""
        if self._disk is not None:
            self._disk.sync_log()

    def landed(self, commit_id: str, after: int) -> bool:
        """Tell whether the version after `after` is the commit with this id, as far as this handle has seen."""
        if self.version <= after:
            return False
        # Not by history(): it waits for the store with the GIL held (1.6.6), and every event loop would wait too.
        entry = f"{self.uri}/{LOG}/{after + 1:020}.json"
        wanted = {"commitInfo": pl.Struct({COMMIT_ID: pl.String})}
        with storage_errors(self.uri, "reading the log"):
            try:
                found = pl.scan_ndjson(entry, schema=wanted, storage_options=self._polars_options).collect()
            except FileNotFoundError:
                return False  # cleaned up since, so it is older than any commit of which this could be asked
        return commit_id in found["commitInfo"].struct.field(COMMIT_ID)

    def set_property(self, name: str, value: str) -> None:
        """Set one of our own table properties, as exactly the next version.

        Raises:
            OvertakenError: Somebody else has committed since this handle looked.
        """
        with self._or_overtaken(f"setting the property {name}"):
            self.table.alter.set_table_properties(
                {name: value}, raise_if_not_exists=False, commit_properties=CommitProperties(max_commit_retries=0)
            )

    @contextmanager
    def _or_overtaken(self, doing: str) -> Iterator[None]:
        """Tell a commit that lost against others from one that the storage refused: one error stands for both."""
        before = self.version
        try:
            with storage_errors(self.uri, doing):
                yield
        except StorageError as error:
            self.refresh()
            if self.version != before:
                raise OvertakenError(str(error)) from error
            raise

    def files(self) -> pl.DataFrame:
        """Return the live files: path, bytes, and min/max of each column that has statistics."""
        with storage_errors(self.uri, "listing the files"):
            return pl.DataFrame(self.table.get_add_actions(flatten=True))

    def files_within(self, low: int, high: int) -> pl.DataFrame:
        """Return the live files that can hold rows of a stretch of seq."""
        files = self.files()
        if "max.seq" not in files.columns:
            return files
        apart = (pl.col("max.seq") < low) | (pl.col("min.seq") > high)
        return files.filter(~apart.fill_null(value=False))

    def begins(self) -> datetime | None:
        """Return the instant of the oldest row, by the log's statistics; `None` where there is none."""
        files = self.files()
        return files["min.updated_at"].min() if "min.updated_at" in files.columns else None  # type: ignore[return-value]

    def empty(self) -> pl.DataFrame:
        """Return a frame with the table's columns and no rows."""
        return pl.DataFrame(schema=pl.Schema(self.table.schema().to_arrow()))

    def scan(self, files: pl.DataFrame, empty: pl.DataFrame) -> pl.LazyFrame:
        """Return a lazy frame over these files; the schema is that of `empty`."""
        if files.is_empty():
            return empty.lazy()
        paths = [f"{self.uri}/{path}" for path in files["path"]]
        # A table that was migrated has older files without the newer columns.
        return pl.scan_parquet(
            paths,
            schema=dict(empty.schema),
            missing_columns="insert",
            extra_columns="ignore",
            storage_options=self._polars_options,
        )

    def rows_since(self, seq: int, empty: pl.DataFrame) -> pl.DataFrame:
        """Return the rows with a higher seq, in order, from the files that can hold any; never a rescan."""
        with storage_errors(self.uri, "reading new rows"):
            return (
                self.scan(self.files_within(seq + 1, _MAX_SEQ), empty).filter(pl.col("seq") > seq).sort("seq").collect()
            )

    def shape(self, small: int) -> Shape:
        """Count the files, and those smaller than `small` bytes."""
        sizes = self.files()["size_bytes"]
        return Shape(small_files=int((sizes < small).sum()), files=sizes.len())

    def compact(self, target_bytes: int) -> None:
        """Merge neighbouring files that are smaller than `target_bytes`; larger ones are left alone.

        Not by deltalake's own `optimize.compact`: two of these at once both succeed and leave every row twice (1.6.6;
        since delta-io/delta-rs#3982 the conflict check passes over removals that change no data).
        """
        for low, high in stretches(self.files(), target_bytes):
            with storage_errors(self.uri, "compacting"):
                rows = self.scan(self.files_within(low, high), self.empty())
                found = rows.filter(pl.col("seq").is_between(low, high)).unique("seq").sort("seq").collect()
            self.replace(low, high, with_ends(found, self._key), "compacting")

    def replace(self, low: int, high: int, frame: pl.DataFrame, doing: str) -> None:
        """Put `frame` in the place of all rows of a stretch of seq, in one commit.

        Appends may go on beside it. Of two replacements of the same rows, the second is refused.

        Raises:
            OvertakenError: Somebody else has replaced rows of this stretch.
        """
        with self._or_overtaken(doing):
            write_deltalake(
                self.table,
                on_disk(frame).select(self.empty().columns),
                mode="overwrite",
                predicate=f"seq >= {low} AND seq <= {high}",
                writer_properties=self._compacted,
                commit_properties=_PATIENT,
                post_commithook_properties=_BARE_COMMIT,
            )

    def checkpoint(self) -> None:
        """Write a checkpoint, then remove log entries and files past their retention."""
        self.sync_log()
        with storage_errors(self.uri, "writing a checkpoint"):
            self.table.create_checkpoint()
            if self._disk is not None:
                self._disk.sync_checkpoint()
            self.table.cleanup_metadata()

    def vacuum(self) -> None:
        """Remove files older than `FILE_RETENTION` that no version needs: replaced by compaction, or of a lost race.

        Must come before a checkpoint: that one forgets replaced files past their retention, removed or not. Where
        somebody keeps files of another kind below the table, or another table, only what was replaced is removed.
        """
        self.sync_log()  # what took the files' place must be there before they go
        with storage_errors(self.uri, "vacuuming"):
            unknown = self.table.vacuum(dry_run=True, full=True)
            is_ours = all(re.fullmatch(r"part-[^/]*\.parquet", path) for path in unknown)
            self.table.vacuum(
                dry_run=False, full=is_ours, commit_properties=_PATIENT, post_commithook_properties=_BARE_COMMIT
            )

    def overwrite(self, frame: pl.DataFrame) -> None:
        """Replace the whole table by `frame` in one commit, and create it if need be.

        Raises:
            OvertakenError: Somebody else has replaced it at the same time.
        """
        try:
            with storage_errors(self.uri, "writing the snapshot"):
                write_deltalake(
                    self.uri,
                    frame,
                    mode="overwrite",
                    schema_mode="overwrite",  # the ledger's schema may have grown since
                    configuration=_RETENTION,
                    storage_options=self._options or None,
                )
        except StorageError as error:
            if isinstance(error.__cause__, CommitFailedError):
                raise OvertakenError(str(error)) from error
            raise
