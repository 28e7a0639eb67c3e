"""Restoring: what a ledger held once becomes what it holds now, by rows that are appended like any others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from v6kit.ledger.spec import Decision, Moment, RowT, State, TableSpec, newest_per_key


def restoration(spec: TableSpec[RowT], then: pl.DataFrame) -> Callable[[State[RowT], Moment], Decision[RowT, int]]:
    """Return the change that brings an old state back; its result is the version that holds it.

    It is decided on the state of the commit to come, so what others change meanwhile is not overlooked.

    Args:
        spec: Of a ledger that can be restored, and whose state holds every key.
        then: What it held: one row per key.
    """
    restored = spec.restored
    if restored is None:
        raise ValueError(f"{spec.name} is not restored: {spec.not_restored}")
    old = _by_key(spec, then)

    def decide(state: State[RowT], moment: Moment) -> Decision[RowT, int]:
        now = _by_key(spec, spec.gather(state.held()))
        rows = [restored(old.get(key), now.get(key), moment) for key in now | old]
        wanted = [row for row in rows if row is not None]
        return Decision(wanted, moment.version if wanted else moment.version - 1)

    return decide


def _by_key(spec: TableSpec[RowT], frame: pl.DataFrame) -> dict[tuple[Any, ...], RowT]:
    newest = newest_per_key(frame.select(list(spec.columns)), spec.key)
    return dict(zip(newest.select(spec.key).rows(), spec.to_rows(newest), strict=True))
