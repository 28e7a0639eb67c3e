"""One Delta table and nothing else: open, append, refresh, read, keep in shape.

The only place that calls `deltalake`, and so the only one that maps its errors. A `Store` has one handle and belongs
to one thread at a time. What the rows mean is not known here.

Source: the Delta transaction protocol (a commit is the put-if-absent of one log entry); the measurements behind each
choice are described where it is made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import polars as pl
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    PostCommitHookProperties,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.exceptions import SchemaMismatchError as DeltaSchemaMismatchError

from v6kit.errors import SchemaMismatchError, StorageError, TableMissingError, UnsafeStorageError
from v6kit.ledger.spec import TableSpec

SCHEMA_PROPERTY = "v6kit.schema"
COMMIT_ID = "v6kit.commit"
LOG_RETENTION = timedelta(minutes=10)
FILE_RETENTION = timedelta(hours=1)
# One commit lists the whole log two or three times on a local disk; checkpoint and clean-up belong to upkeep.
_BARE_COMMIT = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
_RETENTION: dict[str, str | None] = {
    "delta.logRetentionDuration": f"interval {int(LOG_RETENTION.total_seconds())} seconds",
    "delta.deletedFileRetentionDuration": f"interval {int(FILE_RETENTION.total_seconds())} seconds",
}
_TRUE = ("1", "true", "on", "yes", "y")  # what deltalake takes for true
_UNSAFE_OPTIONS = {
    "aws_s3_allow_unsafe_rename": _TRUE,
    "aws_conditional_put": ("disabled",),
    "conditional_put": ("disabled",),
}


class CommitRefusedError(Exception):
    """An append did not report success. It may have lost a race, failed, or landed and lost its answer."""


class Shape(NamedTuple):
    """What upkeep needs to know: files below the target size, and all files."""

    small_files: int
    files: int


@contextmanager
def storage_errors(uri: str, doing: str) -> Iterator[None]:
    """Turn what `deltalake`, `polars` and the disk raise into a `StorageError` with its cause."""
    try:
        yield
    except TableNotFoundError as error:
        raise TableMissingError(f"there is no Delta table at {uri} ({doing}); check the path") from error
    except DeltaSchemaMismatchError as error:
        raise SchemaMismatchError(f"the table at {uri} has another schema ({doing}): {_plain(error)}") from error
    except (DeltaError, pl.exceptions.PolarsError, OSError) as error:
        raise StorageError(f"{doing} failed at {uri}: {_plain(error)}") from error
    except BaseException as error:
        if _is_panic(error):
            raise StorageError(f"{doing} failed at {uri}: {_plain(error)}") from error
        raise


def _is_panic(error: BaseException) -> bool:
    """Tell whether native code reports a bug of its own: that is no `Exception`, and its class is not public."""
    return type(error).__name__ == "PanicException"


def _plain(error: BaseException) -> str:
    """Return an error's text on one line and without the colours that deltalake gives some of its messages."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())


def normalise(uri: str | os.PathLike[str]) -> str:
    """Return an absolute path for a local table and the URI itself for any other."""
    if not isinstance(uri, str | os.PathLike):
        raise TypeError(f"uri must be a path or a URI such as s3://bucket/lake, got {uri!r} ({type(uri).__name__})")
    text = os.fspath(uri)
    if not text.strip():
        raise ValueError(f"uri must be a path or a URI such as s3://bucket/lake, got {uri!r}")
    if text.startswith("file://"):
        text = unquote(text.removeprefix("file://").removeprefix("localhost"))
    return text.rstrip("/") if "://" in text else str(Path(text).expanduser().absolute())


def refuse_unsafe(uri: str, storage_options: Mapping[str, str]) -> None:
    """Raise `UnsafeStorageError` where two writers could overwrite each other's commit."""
    if not uri.startswith(("s3://", "s3a://")):
        return
    given = {key.lower(): str(value).lower() for key, value in {**os.environ, **storage_options}.items()}
    for option, values in _UNSAFE_OPTIONS.items():
        if given.get(option) in values:
            raise UnsafeStorageError(
                f"{option}={given[option]} lets two writers overwrite each other's commit at {uri}; remove it, so that "
                "commits use conditional put (aws_conditional_put=etag, the default)"
            )


def encoding_of(spec: TableSpec[Any]) -> WriterProperties:
    """Return how a table's columns are written.

    Measured on 100,000 requests (1.6.6): a quarter less time and file than with dictionaries for values that hardly
    repeat. Source for the encodings: the Parquet format, "Delta Encoding" and "Delta Strings".
    """
    integers = ColumnProperties(dictionary_enabled=False, encoding="DELTA_BINARY_PACKED")
    strings = ColumnProperties(dictionary_enabled=False, encoding="DELTA_BYTE_ARRAY")
    return WriterProperties(
        column_properties={
            name: integers if spec.columns[name].is_integer() else strings for name in ("seq", *spec.distinct)
        }
    )


class Store:
    """A handle on one Delta table.

    Args:
        uri: A local path, or any URI that deltalake takes.
        storage_options: For object stores; never shown in a repr or an error.
    """

    def __init__(self, uri: str | os.PathLike[str], storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = normalise(uri)
        self._options = dict(storage_options or {})
        refuse_unsafe(self.uri, self._options)
        self._handle: DeltaTable | None = None
        self._encoding = WriterProperties()

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
        self._check_local_path()
        try:
            self.open()
        except TableMissingError:
            self._create(spec)
        self._check_schema(spec)
        self._encoding = encoding_of(spec)

    def _check_local_path(self) -> None:
        if "://" in self.uri:
            return
        if found := re.search(r"[\[\]]|%[0-9A-Fa-f]{2}", self.uri):
            # deltalake reads a path as part of a URL: it panics at brackets and looks for `a%20b` in `a b`.
            raise StorageError(f"deltalake cannot read a path with {found[0]!r} in it: {self.uri}; rename the folder")
        path = Path(self.uri)
        with storage_errors(self.uri, "looking at the path"):
            place = next(place for place in (path, *path.parents) if place.exists())
        if not place.is_dir():
            raise StorageError(f"{place} is a file, so there can be no table at {path}; choose a folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise StorageError(f"{place} is not writable, so there can be no table at {path}; check its owner")

    def _create(self, spec: TableSpec[Any]) -> None:
        statistics = [*spec.statistics, "seq", "version", "updated_at"]
        configuration = {
            SCHEMA_PROPERTY: f"{spec.name}/{spec.version}",
            "delta.dataSkippingStatsColumns": ",".join(statistics),
            **_RETENTION,
        }
        with storage_errors(self.uri, "creating the table"):
            try:
                self._handle = DeltaTable.create(
                    self.uri,
                    schema=spec.empty().to_arrow().schema,
                    name=spec.name,
                    configuration=configuration,
                    storage_options=self._options or None,
                    raise_if_key_not_exists=False,  # v6kit.schema is no property of Delta's own
                )
            except DeltaError:
                # Two processes open a new lake at once: the second finds the first one's table.
                if not DeltaTable.is_deltatable(self.uri, self._options or None):
                    raise
                self.open()

    def _check_schema(self, spec: TableSpec[Any]) -> None:
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
        if int(version) < spec.version:
            self._migrate(spec)

    def _migrate(self, spec: TableSpec[Any]) -> None:
        with storage_errors(self.uri, f"migrating the table to schema {spec.version}"):
            write_deltalake(self.table, spec.empty().to_arrow(), mode="append", schema_mode="merge")
            self.set_property(SCHEMA_PROPERTY, f"{spec.name}/{spec.version}")

    def refresh(self) -> bool:
        """Look for newer versions; reads the log's new entries only. Returns whether there are any."""
        before = self.version
        with storage_errors(self.uri, "refreshing the table"):
            self.table.update_incremental()
        return self.version != before

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
                frame,
                mode="append",
                writer_properties=self._encoding,
                commit_properties=CommitProperties(max_commit_retries=0, custom_metadata={COMMIT_ID: commit_id}),
                post_commithook_properties=_BARE_COMMIT,
            )
        except BaseException as error:
            if isinstance(error, Exception) or _is_panic(error):
                raise CommitRefusedError(_plain(error)) from error
            raise

    def landed(self, commit_id: str, after: int) -> bool:
        """Tell whether the commit with this id is among the versions after `after`, as far as this handle has seen."""
        newer = self.version - after
        if newer <= 0:
            return False
        with storage_errors(self.uri, "reading the log"):
            # Versions that this handle has not seen come on top of the limit, so ours is among them in any case.
            return any(entry.get(COMMIT_ID) == commit_id for entry in self.table.history(newer))

    def set_property(self, name: str, value: str) -> None:
        """Set one of our own table properties, as a version of its own."""
        with storage_errors(self.uri, f"setting the property {name}"):
            self.table.alter.set_table_properties({name: value}, raise_if_not_exists=False)

    def files(self) -> pl.DataFrame:
        """Return the live files: path, bytes, and min/max of each column that has statistics."""
        with storage_errors(self.uri, "listing the files"):
            return pl.DataFrame(self.table.get_add_actions(flatten=True))

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
            paths, schema=dict(empty.schema), missing_columns="insert", storage_options=self._options or None
        )

    def rows_since(self, seq: int, empty: pl.DataFrame) -> pl.DataFrame:
        """Return the rows with a higher seq, in order, from the files that can hold any; never a rescan."""
        files = self.files()
        if "max.seq" in files.columns:
            files = files.filter((pl.col("max.seq") > seq) | pl.col("max.seq").is_null())
        with storage_errors(self.uri, "reading new rows"):
            return self.scan(files, empty).filter(pl.col("seq") > seq).sort("seq").collect()

    def shape(self, small: int) -> Shape:
        """Count the files, and those smaller than `small` bytes."""
        sizes = self.files()["size_bytes"]
        return Shape(small_files=int((sizes < small).sum()), files=sizes.len())

    def compact(self, target_bytes: int) -> None:
        """Merge neighbouring files that are smaller than `target_bytes`; larger ones are left alone.

        Not by deltalake's own `optimize.compact`: two of these at once both succeed and leave every row twice (1.6.6;
        since delta-io/delta-rs#3982 the conflict check passes over removals that change no data). Here a stretch of seq
        is replaced by the same rows, so that appends may go on beside it, and a second compaction of the stretch is
        refused.
        """
        for low, high in stretches(self.files(), target_bytes):
            apart = (pl.col("max.seq") < low) | (pl.col("min.seq") > high)
            files = self.files().filter(~apart.fill_null(value=False))
            with storage_errors(self.uri, "compacting"):
                rows = self.scan(files, self.empty()).filter(pl.col("seq").is_between(low, high))
                write_deltalake(
                    self.table,
                    rows.unique("seq").sort("seq").collect(),
                    mode="overwrite",
                    predicate=f"seq >= {low} AND seq <= {high}",
                    post_commithook_properties=_BARE_COMMIT,
                )

    def checkpoint(self) -> None:
        """Write a checkpoint, then remove log entries and files past their retention."""
        with storage_errors(self.uri, "writing a checkpoint"):
            self.table.create_checkpoint()
            self.table.cleanup_metadata()

    def vacuum(self) -> None:
        """Remove files older than `FILE_RETENTION` that no version needs: replaced by compaction, or of a lost race.

        Must come before a checkpoint: that one forgets replaced files past their retention, removed or not. Where
        somebody keeps files of another kind below the table, or another table, only what was replaced is removed.
        """
        with storage_errors(self.uri, "vacuuming"):
            unknown = self.table.vacuum(dry_run=True, full=True)
            is_ours = all(re.fullmatch(r"part-[^/]*\.parquet", path) for path in unknown)
            self.table.vacuum(dry_run=False, full=is_ours, post_commithook_properties=_BARE_COMMIT)

    def overwrite(self, frame: pl.DataFrame, metadata: Mapping[str, str]) -> None:
        """Replace the whole table by `frame` in one commit, and create it if need be."""
        with storage_errors(self.uri, "writing the snapshot"):
            write_deltalake(
                self.uri,
                frame,
                mode="overwrite",
                schema_mode="overwrite",  # the ledger's schema may have grown since
                configuration=_RETENTION,
                storage_options=self._options or None,
                commit_properties=CommitProperties(custom_metadata=dict(metadata)),
            )

    def commits(self, limit: int) -> list[dict[str, Any]]:
        """Return what the newest commits say of themselves, newest first.

        These are the log's newest `limit`, and all that came after the version that this handle has seen.
        """
        with storage_errors(self.uri, "reading the log"):
            return list(self.table.history(limit))


def stretches(files: pl.DataFrame, target_bytes: int) -> list[tuple[int, int]]:
    """Return what to compact: first and last seq of two or more neighbouring small files, up to a target's worth."""
    if "min.seq" not in files.columns:
        return []
    found: list[list[tuple[int, int]]] = [[]]
    collected = 0
    for low, high, size in files.sort("min.seq").select("min.seq", "max.seq", "size_bytes").iter_rows():
        if low is None or size >= target_bytes or collected >= target_bytes:
            found.append([])
            collected = 0
        if low is not None and size < target_bytes:
            found[-1].append((low, high))
            collected += size
    return [(run[0][0], run[-1][1]) for run in found if len(run) > 1]
