"""The snapshot: a ledger's current state kept beside it, so that opening does not fold all of the past.

It is a small Delta table of its own below the ledger's folder, replaced as a whole: so it is as atomic as the storage
is, on a disk and on an object store, and any number of processes may write it. It is a cache. A missing, broken or
foreign one costs time and nothing else.
"""

from __future__ import annotations

import json
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
_ABOUT = "_about"  # the column that only one row has: it says what the others are, and goes with them in one commit
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
    about = {"table": ledger.table_id, "seq": snapshot.seq, "updated_at": snapshot.updated_at.isoformat()}
    _clear_if_torn(beside)
    beside.overwrite(pl.concat([snapshot.rows, pl.DataFrame({_ABOUT: [json.dumps(about)]})], how="diagonal"))
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
        beside.open()
        columns = spec.empty().with_columns(pl.Series(_ABOUT, [], pl.String))
        held = beside.scan(beside.files(), columns).collect()
        about = json.loads(held[_ABOUT].drop_nulls().item())
        if about["table"] != ledger.table_id:
            return None
        rows = held.filter(pl.col(_ABOUT).is_null()).drop(_ABOUT)
        return Snapshot(rows.sort("seq"), int(about["seq"]), datetime.fromisoformat(about["updated_at"]))
    except TableMissingError:
        return None
    except (StorageError, pl.exceptions.PolarsError, OSError, LookupError, ValueError) as error:
        _log.warning("the snapshot at %s cannot be read, so the whole ledger is folded: %s", beside.uri, error)
        return None
