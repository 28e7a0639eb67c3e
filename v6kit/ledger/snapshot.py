"""The snapshot: a ledger's current state kept beside it, so that opening does not fold all of the past.

It is a small Delta table of its own below the ledger's folder, replaced as a whole: so it is as atomic as the storage
is, on a disk and on an object store, and any number of processes may write it. It is a cache. A missing, broken or
foreign one costs time and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import polars as pl

from v6kit.errors import StorageError, TableMissingError
from v6kit.ledger.spec import TableSpec
from v6kit.ledger.store import Store

FOLDER = "_snapshot"  # a leading underscore hides it from readers and from vacuum
_TABLE_ID, _SEQ = "v6kit.table", "v6kit.seq"
_log = logging.getLogger("v6kit.ledger")


class Snapshot(NamedTuple):
    """The rows that a state held, and the last seq that it had seen."""

    rows: pl.DataFrame
    seq: int


def write(ledger: Store, held: pl.DataFrame, seq: int, options: Mapping[str, str]) -> None:
    """Replace the snapshot of `ledger`."""
    beside = Store(f"{ledger.uri}/{FOLDER}", options)
    beside.overwrite(held, {_TABLE_ID: ledger.table_id, _SEQ: str(seq)})
    beside.open()
    beside.checkpoint()
    beside.vacuum()


def read(ledger: Store, spec: TableSpec[Any], options: Mapping[str, str]) -> Snapshot | None:
    """Return the snapshot of `ledger`, or `None` where there is none that fits this table and schema."""
    beside = Store(f"{ledger.uri}/{FOLDER}", options)
    try:
        commit = beside.last_commit()
        if commit.get(_TABLE_ID) != ledger.table_id:
            return None
        rows = beside.scan(beside.files(), spec.empty()).collect()
    except TableMissingError:
        return None
    except (StorageError, pl.exceptions.PolarsError) as error:
        _log.warning("the snapshot at %s cannot be read, so the whole ledger is folded: %s", beside.uri, error)
        return None
    return Snapshot(rows.sort("seq"), int(commit[_SEQ]))
