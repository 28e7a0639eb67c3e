"""`TableHistory`: time travel over a ledger or any other Delta table. Looking writes, blocks and disturbs nothing."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from v6kit.clock import Clock
from v6kit.display import Card, Printer, Shown, utc
from v6kit.errors import StorageError
from v6kit.ledger import LedgerTable, NativePast, Past, Summary, When, normalise, open_past, restoration


class TableHistory(Shown):
    """The past of one Delta table; all frames are polars'.

    A ledger of v6kit tells its past by its own rows: fast, and as far back as its horizon, whatever became of the log.
    Any other table tells it by its log and files, as far as these are left: a plain one, one with deletes or deletion
    vectors, one that was vacuumed, one that another tool has written.

    Args:
        uri: A local path, or any URI that deltalake takes.
        key: The columns that name one item, e.g. `["conid"]`. A ledger knows its own. Of another table, `timeline` and
            `blame` need it; without, `diff` compares whole rows.
        storage_options: For object stores; never shown.
        clock: Tells what is still in the future; default the system's.
        table: The open object of a ledger, e.g. a `StrategyRegistry`; `restore` goes through it.

    Raises:
        TypeError, ValueError: The place or the key is none, or the table is no ledger's open object, or another's.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        key: Sequence[str] | str | None = None,
        *,
        storage_options: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        table: LedgerTable[Any, Any] | None = None,
    ) -> None:
        self._uri = normalise(uri)
        if table is not None and not isinstance(table, LedgerTable):
            raise TypeError(f"table must be the open object of a ledger, e.g. desk.registry, got {table!r}")
        self._key = _columns(key) or (table.SPEC.key if table is not None else None)
        self._options = storage_options
        self._clock = clock or Clock()
        self._table = table
        self._past: Past | NativePast | None = None
        if table is not None and table.uri != self._uri:
            raise ValueError(f"table must be the open object of {self._uri}, got one of {table.uri}")

    # --- what it is ---------------------------------------------------------------------------------------------

    @property
    def uri(self) -> str:
        """Where the table is."""
        return self._uri

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that name one item; empty if they are not known. Asks the table where they were not given."""
        return self._key if self._key is not None else self._opened().key

    @property
    def clock(self) -> Clock:
        """What tells the present."""
        return self._clock

    @property
    def not_restored(self) -> str:
        """Why `restore` refuses, and what to do instead; empty if it does not. Asks the table what it is."""
        if not self.is_ledger:
            return ""
        if self._table is None:
            return (
                f"{self._uri} is a ledger, and others may be working on it; restore it through its open object: "
                "desk.history(…).restore(…), or TableHistory(uri, table=registry)"
            )
        spec = self._table.SPEC
        return "" if spec.restored is not None else f"{spec.name} is not restored: {spec.not_restored}"

    @property
    def is_ledger(self) -> bool:
        """Whether the table is a ledger of v6kit; asks the table."""
        return isinstance(self._opened(), Past)

    def summary(self) -> Summary:
        """Return from where to where it reaches: first, last, readable_from, unreadable, rows, updated_at.

        Raises:
            StorageError: The table cannot be read.
        """
        return self._opened().summary()

    # --- looking ------------------------------------------------------------------------------------------------

    def versions(self) -> pl.DataFrame:
        """Return one row per version, oldest first: of a ledger those that changed rows, else all that the log knows.

        Returns:
            version (Int64); updated_at (when; never decreasing); rows (UInt32: how many rows changed); changes (e.g.
            `CLAIM 50` or `MERGE 3`); updated_by (who, or which program); operation (of a ledger the verbs, else the
            writer's own word, e.g. `WRITE`, `OPTIMIZE`); added, changed, removed (UInt32: as `diff` with the version
            before counts them, but that rows which an overwrite wrote again as they were count as removed and added);
            readable (whether `as_of` can still show it). Null where the log does not tell.

        Raises:
            StorageError: The table cannot be read.
        """
        return self._opened().versions()

    def as_of(self, when: When) -> pl.DataFrame:
        """Return what the table held then.

        Args:
            when: A version, an aware datetime, or ISO text with an offset, e.g. `2026-11-22 14:32:05+00:00`.

        Returns:
            The table's columns. Of a ledger one row per key, in the order of its last change; else by key.

        Raises:
            VersionUnavailableError: Before the first version or the horizon, after the newest or the present, or
                vacuumed; says what there is.
            ValueError: A naive datetime, or text that is no instant.
        """
        return self._opened().as_of(when)

    def diff(self, old: When, new: When) -> pl.DataFrame:
        """Return what changed from `old` to `new`.

        Args:
            old: As in `as_of`.
            new: Likewise; if it is before `old`, the signs are swapped.

        Returns:
            One row per key that differs, sorted: diff (`+` added, `~` changed, `-` gone), the key, then for each other
            column `name` (new) and `name_old`. Without a key, one row per kind of row that came or went: diff, count,
            the columns. A column of ours has `_` in front where the table has one of that name. The same columns when
            nothing differs.

        Raises:
            VersionUnavailableError: As in `as_of`.
            ValueError: As in `as_of`; or the key does not name one row each.
        """
        return self._opened().diff(old, new)

    def timeline(self, *key: Any) -> pl.DataFrame:  # noqa: ANN401 - a key column may have any type
        """Return every state of one key, oldest first.

        Args:
            *key: One value per key column, in their order.

        Returns:
            diff (`+` appeared, `~` changed, `-` gone, `=` found so where the versions before cannot be read or were
            pruned, `?` cannot be read from here on), the table's columns, version, updated_at, change and updated_by
            (the commit's), then until and lasted, both null in the newest. No row if the key never was.

        Raises:
            ValueError: Another number of values, one of another type, or no key is known.
            StorageError: The table cannot be read.
        """
        return self._opened().timeline(*key)

    def blame(self, when: When | None = None) -> pl.DataFrame:
        """Return of every value which version it has been the same since, and whose change that was.

        Args:
            when: As in `as_of`; default now.

        Returns:
            One row per key and other column: the key, column, value (as text), version, updated_at, change,
            updated_by, or_earlier (whether it may have been so before, since older versions cannot be read any more;
            then change and updated_by are null).

        Raises:
            VersionUnavailableError, ValueError: As in `as_of` and `diff`; or no key is known.
        """
        return self._opened().blame(when)

    # --- writing ------------------------------------------------------------------------------------------------

    async def restore(self, when: When) -> int:
        """Make what the table held then what it holds now, as a new version; nothing is destroyed.

        A ledger is restored through its open object (`desk.history(…)` has it): rows with the change `RESTORE` are
        appended, and whoever follows it hears of them. Only the registry can be: see `TableSpec.not_restored` for
        the others' reasons. Any other table is restored as Delta does it.

        Args:
            when: As in `as_of`.

        Returns:
            The version that holds it; the newest there is, if nothing differed.

        Raises:
            VersionUnavailableError: As in `as_of`.
            StorageError: This ledger is not to be restored, or not from here; says what to do instead.
        """
        past = await asyncio.to_thread(self._opened)
        if isinstance(past, NativePast):
            return await asyncio.to_thread(past.restore, when, f"{socket.gethostname()}:{os.getpid()}")
        if self._table is None or self._table.SPEC.restored is None:
            raise StorageError(self.not_restored)
        then = await asyncio.to_thread(past.as_of, when)
        return await asyncio.wrap_future(self._table.ledger.submit(restoration(self._table.SPEC, then)))

    def _opened(self) -> Past | NativePast:
        if self._past is None:
            self._past = open_past(self._uri, self._key, storage_options=self._options, clock=self._clock)
        return self._past

    # --- display ------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        key = "" if self._key is None else f", key={list(self._key)!r}"
        return f"TableHistory({self._uri!r}{key})"

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:  # noqa: FBT001 - IPython calls it so
        printer.text(repr(self) if cycle else self._card_or_trouble().text())

    def _card(self) -> Card:
        try:
            seen = self.summary()
        except (StorageError, ValueError) as error:  # a cell shows it, rather than a traceback
            return Card("TableHistory", warnings=[str(error)], facts={"table": self._uri})
        gone = "1 is not any more" if seen.unreadable == 1 else f"{seen.unreadable:,} are not any more"
        readable = f"{gone}; from {seen.readable_from} on" if seen.unreadable else "all"
        facts = {
            "table": self._uri,
            "kind": "ledger of v6kit" if self.is_ledger else "Delta table",
            "key": ", ".join(self.key) or "not given: diff compares whole rows",
            "versions": f"{seen.first} to {seen.last}",
            "readable": "none" if seen.readable_from is None else readable,
            "rows": "not known" if seen.rows is None else f"{seen.rows:,}",
            "newest": "not known" if seen.updated_at is None else utc(seen.updated_at),
        }
        return Card("TableHistory", facts=facts)


def _columns(key: Sequence[str] | str | None) -> tuple[str, ...]:
    """Return the names of a key's columns, given as one or as several; none for an empty value."""
    names = [key] if isinstance(key, str) else key or ()
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"key must be a column's name or several, got {key!r}")
    return tuple(filter(None, names))
