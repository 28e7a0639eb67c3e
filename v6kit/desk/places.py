"""Where things are: the lake and its tables, the gateway and its address."""

from __future__ import annotations

import os
from pathlib import Path

from v6kit.contracts import check_int
from v6kit.errors import StorageError
from v6kit.ledger import normalise

SIMULATED = "simulated"
TABLES = {
    "active_strategies": ("strategy_id", "conid"),
    "position_queue": ("request_id",),
    "position_updates": ("account", "conid"),
}


def lake_uri(lake: str | os.PathLike[str]) -> str:
    """Return the lake's place as text; a folder that is a file is refused.

    Raises:
        StorageError: There is a file at this path.
    """
    uri = normalise(lake)
    if "://" not in uri and Path(uri).is_file():
        raise StorageError(f"lake must be a folder, but {uri} is a file; choose another path")
    return uri


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ValueError(f"broker must be 'simulated' or 'HOST:PORT', such as '127.0.0.1:7497'; got {address!r}")
    return host.strip("[]"), check_int("port", int(port))
