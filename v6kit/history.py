"""`TableHistory`: time travel over a ledger. Nothing here writes, blocks or disturbs a worker."""

from __future__ import annotations

from v6kit.ledger import Past


class TableHistory(Past):
    """The past of one ledger: `versions`, `as_of`, `diff`, `timeline`; all return polars frames.

    Args:
        uri: A local path, or any URI that deltalake takes.
        key: The columns that name one item, e.g. `["request_id"]`.
        storage_options: For object stores; never shown.
        clock: Tells what is still in the future; default the system's.
    """
