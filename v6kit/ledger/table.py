"""What the three ledgers of the domain have in common: opening, closing, and handing over to the writer thread."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, ClassVar, Generic, Self

from v6kit.clock import Clock
from v6kit.ledger.ledger import Ledger
from v6kit.ledger.spec import Decision, Moment, ResultT, Rows, RowT, StateT, TableSpec


class LedgerTable(Generic[RowT, StateT]):
    """A domain object on a ledger: async where it does I/O, plain where it does not, usable from any loop or thread.

    Args:
        uri: A local path, or any URI that deltalake takes.
        storage_options: For object stores; never shown.
        clock: Tells the time; default the system's.
    """

    SPEC: ClassVar[TableSpec[Any]]  # a class variable cannot name the class's own row type

    def __init__(
        self,
        uri: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.ledger: Ledger[RowT, StateT] = Ledger(
            uri, self.SPEC, self._new_state, storage_options=storage_options, clock=self.clock
        )
        self.ledger.on_commit(self._committed)

    def _new_state(self) -> StateT:
        raise TypeError(f"{type(self).__name__} must say what its state is")

    def _committed(self, rows: Rows[RowT]) -> None:
        """Follow a commit; called on the writer thread."""

    @property
    def uri(self) -> str:
        """Where the table is."""
        return self.ledger.uri

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r}: {self.summary()})"

    def summary(self) -> str:
        """Return what it holds, in a few words; no I/O."""
        return self._summary() if self.ledger.is_open else "not open"

    def _summary(self) -> str:
        raise TypeError(f"{type(self).__name__} must say what it holds")

    async def initialize(self) -> Self:
        """Open or create the table; idempotent, and implied by the first use that awaits.

        Raises:
            SchemaMismatchError: There is a table that is not ours; nothing was touched.
            StorageError: The place cannot be read or written.
        """
        await asyncio.wrap_future(self.ledger.open())
        return self

    async def refresh(self) -> bool:
        """Take in what other processes have committed; returns whether there was anything."""
        return await asyncio.wrap_future(self.ledger.refresh())

    async def close(self) -> None:
        """Finish what is under way and let go of the table; idempotent."""
        await asyncio.to_thread(self.ledger.close)

    async def __aenter__(self) -> Self:
        return await self.initialize()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _change(self, decide: Callable[[StateT, Moment], Decision[RowT, ResultT]]) -> ResultT:
        return await asyncio.wrap_future(self.ledger.submit(decide))
