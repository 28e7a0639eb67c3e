"""Retention: how far back a ledger reaches, and the removal of what lies before.

The horizon is set first, in a commit of its own: from then on nobody sees what lies before it. Its rows are removed in
the next one. So a removal that is broken off is finished later and changes no answer in between.

Kept of the time before the horizon is the newest row of every item that had not finished by then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

import polars as pl

from v6kit.ledger.faults import OvertakenError, storage_errors, undisturbed
from v6kit.ledger.spec import TableSpec
from v6kit.ledger.store import Store

HORIZON = "v6kit.horizon"
HISTORY_DAYS = "v6kit.history_days"
_REMOVED = "v6kit.removed"  # up to which seq the removal has been done
_PRUNE_EVERY = timedelta(hours=1)
_MOST_DAYS = 36_500  # as good as for ever; what is much longer ago, no calendar has


class Horizon(NamedTuple):
    """Where a ledger's history begins.

    Attributes:
        version: The oldest version that can be looked at; what it held is complete but for what had finished by then.
        seq: The last seq of that version.
        at: The instant of that version.
        finished: SQL condition that says of a row that it ends its item, or an empty string.
    """

    version: int
    seq: int
    at: datetime
    finished: str = ""

    @classmethod
    def of(cls, properties: Mapping[str, str]) -> Self | None:
        """Return what a table's properties say, or `None` where the history is whole."""
        text = properties.get(HORIZON)
        if not text:
            return None
        fields = json.loads(text)
        return cls(**fields | {"at": datetime.fromisoformat(fields["at"])})

    def text(self) -> str:
        """Return what goes into the table's properties."""
        return json.dumps(self._asdict() | {"at": self.at.isoformat()})

    def keep(self, rows: pl.LazyFrame, key: Sequence[str]) -> pl.LazyFrame:
        """Return those of the rows that are still to be seen, in any order."""
        is_old = pl.col("seq") <= self.seq
        heads = rows.filter(is_old).group_by(key).agg(pl.col("seq").max())
        kept = rows.filter(is_old).join(heads, on="seq", how="semi")
        if self.finished:
            kept = kept.filter(~pl.sql_expr(self.finished))
        return pl.concat([kept, rows.filter(~is_old)])


class Pruned(NamedTuple):
    """What a removal did.

    Attributes:
        rows: How many it removed.
        horizon: Where the history begins now; `None` while it is whole.
    """

    rows: int
    horizon: Horizon | None


def prune(store: Store, spec: TableSpec[Any], before: datetime) -> Pruned:
    """Forget what was superseded, and what had finished, before an instant.

    Raises:
        StorageError: The storage failed, or others won every round. If the horizon is set, the rows go later.
    """
    horizon = undisturbed(lambda: _announce(store, spec, before))
    return Pruned(0 if horizon is None else _finish(store, spec, horizon), horizon)


def obey(store: Store, spec: TableSpec[Any], now: datetime) -> None:
    """Prune by the table's own `history_days`, at most once an hour, and finish a removal that was broken off."""
    horizon, days = Horizon.of(store.properties), store.properties.get(HISTORY_DAYS)
    if days:
        before = now - timedelta(days=min(int(days), _MOST_DAYS))
        begins = horizon.at if horizon is not None else store.begins()
        if begins is not None and before - begins >= _PRUNE_EVERY:
            prune(store, spec, before)
            return
    if horizon is not None:
        _finish(store, spec, horizon)


def _announce(store: Store, spec: TableSpec[Any], before: datetime) -> Horizon | None:
    store.refresh()
    known = Horizon.of(store.properties)
    files = store.files()
    if known is not None and "max.seq" in files.columns:
        files = files.filter((pl.col("max.seq") > known.seq) | pl.col("max.seq").is_null())
    with storage_errors(store.uri, "looking for the horizon"):
        rows = store.scan(files, spec.empty()).filter(pl.col("updated_at") < before)
        newest = rows.select(pl.col("version", "seq", "updated_at").max()).collect().row(0)
    if newest[0] is None or (known is not None and newest[1] <= known.seq):
        return known
    version, seq, at = newest
    horizon = Horizon(version, seq, at, spec.finished)
    with store.turn():
        if Horizon.of(store.properties) != known:
            raise OvertakenError(f"the horizon of {store.uri} was moved by somebody else")
        store.set_property(HORIZON, horizon.text())
    return horizon


def _finish(store: Store, spec: TableSpec[Any], horizon: Horizon) -> int:
    """Remove what lies before the horizon, unless that has been done; return how many rows went."""
    if store.properties.get(_REMOVED) == str(horizon.seq):
        return 0
    gone = undisturbed(lambda: _remove(store, spec, horizon))
    undisturbed(lambda: _note(store, horizon))
    return gone


def _remove(store: Store, spec: TableSpec[Any], horizon: Horizon) -> int:
    store.refresh()
    with storage_errors(store.uri, "reading what is to be pruned"):
        rows = store.scan(store.files_within(0, horizon.seq), spec.empty()).filter(pl.col("seq") <= horizon.seq)
        count, kept = pl.collect_all([rows.select(pl.len()), horizon.keep(rows, spec.key).sort("seq")])
    gone = int(count.item()) - kept.height
    if gone:
        store.replace(0, horizon.seq, kept, "pruning")
    return gone


def _note(store: Store, horizon: Horizon) -> None:
    with store.turn():
        store.set_property(_REMOVED, str(horizon.seq))
