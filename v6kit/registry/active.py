"""Which contracts are active: an index by conid that follows the registry's commits. Does no I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from v6kit.contracts import ActiveContract
from v6kit.errors import StorageError
from v6kit.registry.rows import Key, RegistryRow


class ActiveIndex:
    """Who holds which contract; written by one thread, asked by all.

    Args:
        uri: Where the registry is.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._holders: dict[int, dict[Key, RegistryRow]] = {}
        self._is_filled = False

    def __contains__(self, conid: object) -> bool:
        """Tell whether any strategy holds a contract.

        Raises:
            StorageError: The registry is not open yet: a wrong "no" would leave a live strategy unwatched.
        """
        if not self._is_filled:
            raise StorageError(f"the registry at {self._uri} is not open; await its initialize() first")
        return conid in self._holders

    @property
    def look_up(self) -> Callable[[object], bool]:
        """The same as a dictionary's own look-up, once the index is filled: nothing is faster."""
        return self._holders.__contains__

    def follow(self, rows: Sequence[RegistryRow]) -> tuple[list[ActiveContract], list[ActiveContract]]:
        """Enter a commit's rows; return what became active by them, and what stopped being so, each conid once."""
        added: dict[int, ActiveContract] = {}
        removed: dict[int, ActiveContract] = {}
        for row in rows:
            holders = dict(self._holders.get(row.conid, {}))
            was_active = bool(holders)
            if row.removed_at is None:
                holders[row.key] = row
            else:
                holders.pop(row.key, None)
            if holders:
                self._holders[row.conid] = holders
            else:
                self._holders.pop(row.conid, None)
            if was_active != bool(holders):
                gains, losses = (added, removed) if holders else (removed, added)
                if losses.pop(row.conid, None) is None:
                    gains[row.conid] = row.contract()
        self._is_filled = True
        return list(added.values()), list(removed.values())
