"""Opening: from a table, and the snapshot beside it, to the state in memory; and single keys that the state let go.

Reads only. What lies before the table's horizon is not seen, whether its rows have been removed already or not.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from v6kit.ledger import snapshot
from v6kit.ledger.faults import storage_errors
from v6kit.ledger.fold import Fold
from v6kit.ledger.retention import HORIZON, Horizon
from v6kit.ledger.spec import RowT, StateT, TableSpec, newest_per_key
from v6kit.ledger.store import Store

_FEW_KEYS = 100


def open_fold(
    store: Store, spec: TableSpec[RowT], state: StateT, storage_options: Mapping[str, str]
) -> Fold[RowT, StateT]:
    """Fold an empty state up to the version that the store has seen."""
    properties = store.properties
    horizon = Horizon.of(properties)
    fold = Fold(spec, state, properties)
    rows, seq = spec.empty(), 0
    start = snapshot.read(store, spec, storage_options)
    if start is not None and (horizon is None or start.seq >= horizon.seq):
        rows, seq = start.rows, start.seq
        fold.start_from(seq, start.updated_at)
    elif horizon is not None:
        fold.start_from(horizon.seq, horizon.at)  # no row may be left, and its seq must not be given out again
    newer = store.rows_since(seq, spec.empty())
    if horizon is not None:
        with storage_errors(store.uri, "leaving out what lies before the horizon"):
            rows, newer = (horizon.keep(part.lazy(), spec.key).collect().sort("seq") for part in (rows, newer))
    fold.absorb([part for part in (rows, newer) if part.height], store.version)
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
        rows = store.scan(files, spec.empty()).join(keys.lazy(), on=list(spec.key), how="semi")
        horizon = Horizon.of(store.properties)
        found = (rows if horizon is None else horizon.keep(rows, spec.key)).collect()
    return newest_per_key(found, spec.key)
