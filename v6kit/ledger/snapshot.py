"""The snapshot: a ledger's current state kept beside it, so that opening does not fold all of the past.

It is a small Delta table of its own below the ledger's folder, replaced as a whole: so it is as atomic as the storage
is, on a disk and on an object store, and any number of processes may write it. It is a cache. A missing, broken or
foreign one costs time and nothing else.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl

from v6kit.errors import StorageError, TableMissingError
from v6kit.ledger.place import is_local
from v6kit.ledger.spec import TableSpec
from v6kit.ledger.store import Store

FOLDER = "_snapshot"  # a leading underscore hides it from readers and from vacuum
_TABLE_ID, _SEQ, _UPDATED_AT, _SUM = "v6kit.table", "v6kit.seq", "v6kit.updated_at", "v6kit.sum_of_seq"
_RECENT, _TRIES = 10, 10
_log = logging.getLogger("v6kit.ledger")


class Snapshot(NamedTuple):
    """The rows that a state held, and the last seq and instant that it had seen."""

    rows: pl.DataFrame
    seq: int
    updated_at: datetime


def write(ledger: Store, snapshot: Snapshot, options: Mapping[str, str]) -> None:
    """Replace the snapshot of `ledger`."""
    ledger.sync_log()  # else the snapshot might survive a power cut that takes the rows it was made of
    beside = Store(f"{ledger.uri}/{FOLDER}", options)
    seen = {_SEQ: str(snapshot.seq), _UPDATED_AT: snapshot.updated_at.isoformat(), _SUM: _sum(snapshot.rows)}
    _clear_if_torn(beside)
    beside.overwrite(snapshot.rows, {_TABLE_ID: ledger.table_id, **seen})
    beside.open()
    beside.vacuum()
    beside.checkpoint()


def _clear_if_torn(beside: Store) -> None:
    """Remove a snapshot that does not open: a power cut may tear it, and nobody else would mend it."""
    try:
        beside.open()
    except TableMissingError:
        return
    except StorageError as error:
        if not is_local(beside.uri):
            raise
        _log.warning("the snapshot at %s is torn, so it is made anew: %s", beside.uri, error)
        shutil.rmtree(beside.uri)


def read(ledger: Store, spec: TableSpec[Any], options: Mapping[str, str]) -> Snapshot | None:
    """Return the snapshot of `ledger`, or `None` where there is none that fits this table and schema."""
    beside = Store(f"{ledger.uri}/{FOLDER}", options)
    try:
        commit = _newest(beside)
        if commit.get(_TABLE_ID) != ledger.table_id:
            return None
        rows = beside.scan(beside.files(), spec.empty()).collect()
        _check_sum(rows, commit[_SUM])
        return Snapshot(rows.sort("seq"), int(commit[_SEQ]), datetime.fromisoformat(commit[_UPDATED_AT]))
    except TableMissingError:
        return None
    except (StorageError, pl.exceptions.PolarsError, OSError, LookupError, ValueError) as error:
        _log.warning("the snapshot at %s cannot be read, so the whole ledger is folded: %s", beside.uri, error)
        return None


def _sum(rows: pl.DataFrame) -> str:
    """Return what tells these rows from those of any other moment."""
    return str(rows["seq"].sum())


def _check_sum(rows: pl.DataFrame, expected: str) -> None:
    if _sum(rows) != expected:  # a power cut may mix two moments
        raise StorageError("its rows are not those that its commit names")


def _newest(beside: Store) -> dict[str, Any]:
    """Return the commit that wrote the rows which the handle sees; others may be writing the next one right now.

    Raises:
        StorageError: It is replaced faster than it can be read.
    """
    for _ in range(_TRIES):
        # A vacuum that removed something has left commits of its own on top of the snapshot's.
        commit = next((commit for commit in beside.commits(_RECENT) if _SEQ in commit), {})
        if not beside.refresh():  # else the log, which knows no handle's version, told of rows that are not these
            return commit
    raise StorageError(f"the snapshot at {beside.uri} is replaced faster than it can be read")
