"""Opening: from a table, and the snapshot beside it, to the state in memory; and single keys that the state let go.

Reads only. What lies before the table's horizon is not seen, whether its rows have been removed already or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl

from v6kit.ledger import snapshot
from v6kit.ledger.faults import storage_errors
from v6kit.ledger.fold import Fold
from v6kit.ledger.retention import HORIZON, Horizon
from v6kit.ledger.spec import NO_INSTANT, RowT, StateT, TableSpec, newest_per_key
from v6kit.ledger.store import Store

_FEW_KEYS = 100


class Origin(NamedTuple):
    """What a state is folded from.

    Attributes:
        batches: In the order in which they are to be taken in.
        seq: The last one that was given out; no row need have it any more.
        updated_at: The instant of that.
    """

    batches: list[pl.DataFrame]
    seq: int
    updated_at: datetime


def read_origin(store: Store, spec: TableSpec[Any], storage_options: Mapping[str, str]) -> Origin:
    """Return the rows that make the current state at the version that the store has seen."""
    horizon = Horizon.of(store.properties)
    start = snapshot.read(store, spec, storage_options)
    if start is None or (horizon is not None and start.seq < horizon.seq):
        # A snapshot from before the horizon has as pending what may have ended and gone since.
        begin = (0, NO_INSTANT) if horizon is None else (horizon.seq, horizon.at)
        start = snapshot.Snapshot(spec.empty(), *begin)
        newer = store.rows_since(0, spec.empty())
    else:
        newer = store.rows_since(start.seq, spec.empty())
    batches = [start.rows, newer]
    if horizon is not None:
        with storage_errors(store.uri, "leaving out what lies before the horizon"):
            batches = [horizon.keep(rows.lazy(), spec.key).collect().sort("seq") for rows in batches]
    return Origin([rows for rows in batches if rows.height], start.seq, start.updated_at)


def open_fold(
    store: Store, spec: TableSpec[RowT], state: StateT, storage_options: Mapping[str, str]
) -> Fold[RowT, StateT]:
    """Fold an empty state up to the version that the store has seen."""
    origin = read_origin(store, spec, storage_options)
    fold = Fold(spec, state, store.properties)
    fold.start_from(origin.seq, origin.updated_at)
    fold.absorb(origin.batches, store.version)
    return fold


def has_moved(fold: Fold[RowT, StateT], store: Store) -> bool:
    """Tell whether the horizon is another one by now, so that the state may hold what is not to be seen any more."""
    return fold.properties.get(HORIZON) != store.properties.get(HORIZON)


def read_keys(store: Store, spec: TableSpec[RowT], keys: pl.DataFrame) -> pl.DataFrame:
    """Return the newest row of each of these keys, from the files whose statistics do not exclude them."""
    files = store.files()
    low, high = f"min.{spec.key[0]}", f"max.{spec.key[0]}"
    if high in files.columns and keys.height <= _FEW_KEYS:
        hits = [(pl.col(low) <= key) & (pl.col(high) >= key) for key in keys[spec.key[0]]]
        files = files.filter(pl.any_horizontal(pl.col(low).is_null(), *hits))
    with storage_errors(store.uri, "looking up keys"):
        rows = store.scan(files, spec.empty()).join(keys.lazy(), on=list(spec.key), how="semi", nulls_equal=True)
        horizon = Horizon.of(store.properties)
        found = (rows if horizon is None else horizon.keep(rows, spec.key)).collect()
    return newest_per_key(found, spec.key)
