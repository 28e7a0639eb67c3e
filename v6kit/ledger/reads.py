"""The past of a ledger: as of a version or an instant, what changed between two, every state of one key.

Reads with a handle of its own, so it neither blocks nor disturbs a writer, and needs no more than the table: version
and updated_at are columns, so the past does not end where Delta's log does, but where the table's horizon is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from v6kit.clock import Clock
from v6kit.errors import StorageError, VersionUnavailableError
from v6kit.ledger.compare import ADDED, CHANGED, FOUND, GONE, blamed
from v6kit.ledger.faults import storage_errors
from v6kit.ledger.moments import VERSIONS_SCHEMA, Summary, When, as_moment, matching
from v6kit.ledger.retention import Horizon
from v6kit.ledger.spec import STAMP, UNTIL, ResultT, newest_per_key
from v6kit.ledger.store import Store


class Past:
    """What a ledger held before.

    Args:
        uri: The ledger's table.
        key: The columns that name one item.
        storage_options: For object stores.
        clock: Tells what is still in the future.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        key: Sequence[str],
        *,
        storage_options: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._store = Store(uri, storage_options)
        self.key = tuple(key)
        self._clock = clock or Clock()
        self._lock = threading.Lock()  # a handle belongs to one thread at a time

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r}, key={list(self.key)!r})"

    @property
    def uri(self) -> str:
        """Where the table is."""
        return self._store.uri

    def versions(self) -> pl.DataFrame:
        """Return one row per version that changed something, oldest first; columns as `VERSIONS_SCHEMA`.

        `changes` counts the verbs of a version, e.g. `CLAIM 50` or `FAIL 1, SUCCESS 49`. Of a ledger that was pruned,
        these are the versions after the horizon.
        """

        def look() -> tuple[pl.DataFrame, pl.DataFrame]:
            horizon, rows = self._horizon(), self._rows(self._files())
            verbs = (
                rows.filter(pl.col("version") > (-1 if horizon is None else horizon.version))
                .group_by("version", "change")
                .agg(pl.col("updated_at").max(), pl.len().alias("rows"), pl.col("updated_by").first())
            )
            hashes = pl.sum_horizontal(pl.col(name).hash(n) for n, name in enumerate(self.key))  # faster than the keys
            first = rows.select("version", hashes.alias("key")).group_by("key").agg(pl.col("version").min())
            began = first.group_by("version").agg(pl.len().alias("added"))
            return self._collect(verbs), self._collect(began)

        verbs, began = self._at_one_version(look)
        found = (
            verbs.sort("version", "change")
            .group_by("version", maintain_order=True)
            .agg(
                pl.col("updated_at").max(),
                pl.format("{} {}", "change", "rows").str.join(", ").alias("changes"),
                pl.col("rows").sum(),
                pl.col("updated_by").first(),
                pl.col("change").str.join(", ").alias("operation"),
            )
            .join(began, on="version", how="left", maintain_order="left")
            .with_columns(pl.col("added").fill_null(0))
            .with_columns(
                (pl.col("rows") - pl.col("added")).alias("changed"),
                pl.lit(0).alias("removed"),
                pl.lit(value=True).alias("readable"),
            )
        )
        return found.select(pl.col(name).cast(kind) for name, kind in VERSIONS_SCHEMA.items())

    def summary(self) -> Summary:
        """Return from where to where it reaches."""

        def look() -> Summary:
            horizon, files = self._horizon(), self._store.files()
            rows = int(files["num_records"].sum()) if "num_records" in files.columns else None
            newest = files["max.updated_at"].max() if "max.updated_at" in files.columns else None
            first = 0 if horizon is None else horizon.version
            return Summary(first, self._store.version, first, 0, rows, newest)  # type: ignore[arg-type]  # an instant

        return self._at_one_version(look)

    def as_of(self, when: When) -> pl.DataFrame:
        """Return what the ledger held then: one row per key, in the order of its last change.

        Args:
            when: A version, an aware datetime, or ISO text with an offset, e.g. `2026-11-22 14:32:05+00:00`.

        Raises:
            VersionUnavailableError: Before the first change or the horizon, or after the newest version or the present.
            ValueError: A naive datetime, or text that is no instant.
        """
        moment = as_moment(when)
        return self._at_one_version(lambda: self._as_of(moment))

    def diff(self, old: When, new: When) -> pl.DataFrame:
        """Return what changed from `old` to `new`: one row per key that differs.

        Columns: `diff` (`+` added, `~` changed, `-` gone), the key, then for each other column `name` (new) and
        `name_old`. Book-keeping columns other than `change`, `version` and `updated_at` are left out.
        """
        first, second = as_moment(old), as_moment(new)
        before, after = self._at_one_version(lambda: self._sides(first, second))
        keep = [name for name in after.columns if name not in ("seq", "updated_by")]
        both = after.select(keep).join(
            before.select(keep), on=list(self.key), how="full", suffix="_old", coalesce=True, nulls_equal=True
        )
        sign = (
            pl.when(pl.col("version_old").is_null())
            .then(pl.lit(ADDED))
            .when(pl.col("version").is_null())
            .then(pl.lit(GONE))
            .when(pl.col("version") != pl.col("version_old"))
            .then(pl.lit(CHANGED))
        )
        pairs = [part for name in keep if name not in self.key for part in (name, f"{name}_old")]
        changed = both.with_columns(sign.alias("diff")).filter(pl.col("diff").is_not_null())
        return changed.select("diff", *self.key, *pairs).sort("diff", *self.key)

    def timeline(self, *key: Any) -> pl.DataFrame:  # noqa: ANN401 - a key column may have any type
        """Return every state of one key, oldest first, with `until` and `lasted`; both null in the newest.

        Args:
            *key: One value per key column, in their order; `None` where the column is null.
        """

        def look() -> tuple[pl.DataFrame, int]:
            wanted, horizon = matching(self._columns(), self.key, key), self._horizon()
            names_it = [pl.col(name).eq_missing(wanted[name][0]) for name in self.key]
            rows = self._rows(self._files(self.key[0], low=key[0], high=key[0]))
            return self._collect(self._seen(rows.filter(names_it))), -1 if horizon is None else horizon.seq

        states, horizon = self._at_one_version(look)
        until = pl.col("updated_at").shift(-1)
        began = pl.when(pl.col("seq") <= horizon).then(pl.lit(FOUND)).otherwise(pl.lit(ADDED))
        sign = pl.when(pl.int_range(pl.len()) == 0).then(began).otherwise(pl.lit(CHANGED))
        return states.sort("seq").select(
            sign.alias("diff"), pl.all(), until.alias("until"), (until - pl.col("updated_at")).alias("lasted")
        )

    def blame(self, when: When | None = None) -> pl.DataFrame:
        """Return of every value since which version it is what it is; columns as in `TableHistory.blame`."""
        moment = None if when is None else as_moment(when)

        def look() -> tuple[pl.DataFrame, Horizon | None]:
            version = self._store.version if moment is None else self._version_at(moment)
            rows = self._rows(self._files("version", high=version)).filter(pl.col("version") <= version)
            return self._collect(self._seen(rows)), self._horizon()

        rows, horizon = self._at_one_version(look)
        return blamed(rows, self.key, -1 if horizon is None else horizon.seq)

    # --- at one version of the table --------------------------------------------------------------------------------

    def _at_one_version(self, look: Callable[[], ResultT]) -> ResultT:
        """Look at the newest version; once more if upkeep removed its files meanwhile, since others have the rows."""
        with self._lock:
            self._store.refresh()
            try:
                return look()
            except VersionUnavailableError:
                raise
            except StorageError:
                self._store.open()
                return look()

    def _horizon(self) -> Horizon | None:
        return Horizon.of(self._store.properties)

    def _files(self, column: str = "", *, low: Any = None, high: Any = None) -> pl.DataFrame:  # noqa: ANN401
        """Return the files in the order of seq; only those that may hold such values of a column with statistics."""
        files = self._store.files()
        if f"min.{column}" in files.columns:
            apart = pl.lit(value=False)
            apart |= pl.col(f"min.{column}") > high if high is not None else apart
            apart |= pl.col(f"max.{column}") < low if low is not None else apart
            files = self._collect(files.lazy().filter(~apart.fill_null(value=False)))
        return files.sort("min.seq") if "min.seq" in files.columns else files

    def _rows(self, files: pl.DataFrame) -> pl.LazyFrame:
        return self._store.scan(files, self._columns().drop(UNTIL, strict=False))

    def _columns(self) -> pl.DataFrame:
        empty = self._store.empty()
        if missing := [name for name in (*self.key, *STAMP) if name not in empty.columns]:
            raise ValueError(f"the table at {self.uri} has no column {', '.join(missing)}, so it is no ledger")
        return empty

    def _seen(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Leave out what lies before the horizon and has not been removed yet."""
        horizon = self._horizon()
        return rows if horizon is None else horizon.keep(rows, self.key)

    def _collect(self, rows: pl.LazyFrame) -> pl.DataFrame:
        with storage_errors(self.uri, "reading the past"):
            return rows.collect()

    def _as_of(self, moment: int | datetime) -> pl.DataFrame:
        version = self._version_at(moment)
        files = self._files("version", high=version)
        is_past = files["max.version"] <= version if "max.version" in files.columns else pl.Series([False] * len(files))
        # In seq order as they come: of files that lie before as a whole, only rows are left that nothing superseded.
        parts = [self._held(files.filter(is_past), version), self._held(files.filter(~is_past), version).sort("seq")]
        return newest_per_key(self._collect(self._seen(pl.concat(parts))), self.key)

    def _held(self, files: pl.DataFrame, version: int) -> pl.LazyFrame:
        """Return the rows up to a version, without those that were superseded by then as upkeep has noted."""
        columns = self._columns()
        rows = self._store.scan(files, columns).filter(pl.col("version") <= version)
        if UNTIL not in columns.columns:
            return rows
        return rows.filter(pl.col(UNTIL).is_null() | (pl.col(UNTIL) > version)).drop(UNTIL)

    def _sides(self, first: int | datetime, second: int | datetime) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return what the ledger held at two moments, of the keys that changed in between."""
        is_first, is_second = (pl.col("version") <= self._version_at(moment) for moment in (first, second))
        rows = self._rows(self._files())
        changed = self._collect(rows.filter(is_first ^ is_second).select(self.key).unique())
        states = self._collect(
            self._seen(
                rows.filter(is_first | is_second).join(changed.lazy(), on=list(self.key), how="semi", nulls_equal=True)
            )
        )
        return newest_per_key(states.filter(is_first), self.key), newest_per_key(states.filter(is_second), self.key)

    def _version_at(self, moment: int | datetime) -> int:
        """Return the version that was the newest at a moment, or refuse it."""
        if isinstance(moment, datetime):
            return self._version_at_instant(moment)
        self._check_version(moment)
        return moment

    def _check_version(self, version: int) -> None:
        horizon, newest = self._horizon(), self._store.version
        oldest = 0 if horizon is None else horizon.version
        if not oldest <= version <= newest:
            why = "does not exist" if version < 0 or version > newest else "was pruned"
            raise VersionUnavailableError(
                f"version {version} of {self.uri} {why}; there are {oldest} to {newest}", oldest=oldest, newest=newest
            )

    def _version_at_instant(self, instant: datetime) -> int:
        horizon = self._horizon()
        span = self._collect(
            self._rows(self._files()).select(
                pl.col("updated_at").min().alias("first"),
                pl.col("updated_at").max().alias("last"),
                pl.col("version").min().alias("oldest"),
                pl.col("version").max().alias("newest"),
                pl.col("version").filter(pl.col("updated_at") <= instant).max().alias("found"),
            )
        ).row(0, named=True)
        if horizon is not None:
            span |= {
                "first": horizon.at,
                "last": max(span["last"] or horizon.at, horizon.at),
                "oldest": horizon.version,
            }
        if span["first"] is None or instant < span["first"]:
            began = "nothing was ever written" if span["first"] is None else f"the first change was at {span['first']}"
            if horizon is not None:
                began = f"what was before {horizon.at} was pruned"
            raise VersionUnavailableError(
                f"there is no state of {self.uri} at {instant}; {began}", oldest=span["oldest"], newest=span["newest"]
            )
        if instant > max(span["last"], self._clock.now()):
            raise VersionUnavailableError(
                f"{instant.astimezone(UTC)} is in the future; the newest change of {self.uri} was at {span['last']}",
                oldest=span["oldest"],
                newest=span["newest"],
            )
        return int(max(span["found"] or 0, 0 if horizon is None else horizon.version))
