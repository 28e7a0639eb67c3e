"""Which past a table has: that of a ledger, or that of any other Delta table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from v6kit.clock import Clock
from v6kit.ledger.native import NativePast
from v6kit.ledger.reads import Past
from v6kit.ledger.store import KEY_PROPERTY, SCHEMA_PROPERTY, Store


def open_past(
    uri: str | os.PathLike[str],
    key: Sequence[str] | None,
    *,
    storage_options: Mapping[str, str] | None = None,
    clock: Clock | None = None,
) -> Past | NativePast:
    """Return the past of a table.

    Args:
        uri: Where the table is.
        key: The columns that name one item; `None`: as the table itself says, if it does.
        storage_options: For object stores.
        clock: Tells what is still in the future.

    Raises:
        TableMissingError: There is no table.
        StorageError: It cannot be opened.
        ValueError: It is a ledger that has another key, or one that does not say which.
    """
    store = Store(uri, storage_options)
    store.open()
    properties = store.properties
    if SCHEMA_PROPERTY not in properties:
        return NativePast(uri, tuple(key or ()), storage_options=storage_options, clock=clock)
    known = tuple(properties[KEY_PROPERTY].split(",")) if KEY_PROPERTY in properties else None
    if known is None and not key:
        raise ValueError(f"the ledger at {store.uri} does not say its key; give it: TableHistory(uri, key=[…])")
    if known is not None and key and set(key) != set(known):
        raise ValueError(f"key of the ledger at {store.uri} is {', '.join(known)}, got {', '.join(key)}")
    return Past(uri, tuple(key or known or ()), storage_options=storage_options, clock=clock)
