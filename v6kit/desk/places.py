"""Where things are: the lake and its tables, the gateway and its address."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from v6kit.contracts import check_int
from v6kit.errors import StorageError
from v6kit.ledger import normalise

SIMULATED = "simulated"
TableName = Literal["active_strategies", "position_queue", "position_updates"]
TABLES: tuple[TableName, ...] = get_args(TableName)


def lake_uri(lake: str | os.PathLike[str]) -> str:
    """Return the lake's place as text; a folder that is a file is refused.

    Raises:
        StorageError: There is a file at this path.
    """
    uri = normalise(lake)
    if "://" not in uri and Path(uri).is_file():
        raise StorageError(f"lake must be a folder, but {uri} is a file; choose another path")
    return uri


def days_by_table(history_days: int | Mapping[str, int] | None) -> dict[str, int | None]:
    """Return how many days each table is to remember.

    Raises:
        ValueError: There is no such table.
    """
    if not isinstance(history_days, Mapping):
        return dict.fromkeys(TABLES, history_days)
    if unknown := [name for name in history_days if name not in TABLES]:
        raise ValueError(f"history_days: there is no table {unknown[0]!r}; there are {', '.join(TABLES)}")
    return {name: history_days.get(name) for name in TABLES}


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`.

    Raises:
        ValueError: It is none.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ValueError(f"broker must be 'simulated' or 'HOST:PORT', such as '127.0.0.1:7497'; got {address!r}")
    return host.strip("[]"), check_int("port", int(port))
