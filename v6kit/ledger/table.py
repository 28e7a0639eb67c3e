"""What the three ledgers of the domain have in common: opening, closing, and handing over to the writer thread."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, ClassVar, Generic, Self

from v6kit.clock import Clock
from v6kit.display import Card, Printer, Shown
from v6kit.errors import StorageError
from v6kit.ledger.durability import Durable
from v6kit.ledger.ledger import Ledger
from v6kit.ledger.retention import Pruned
from v6kit.ledger.spec import Decision, Moment, ResultT, Rows, RowT, StateT, TableSpec


class LedgerTable(Shown, Generic[RowT, StateT]):
    """A domain object on a ledger: async where it does I/O, plain where it does not, usable from any loop or thread.

    Args:
        uri: A local path, or any URI that deltalake takes.
        storage_options: For object stores; never shown.
        clock: Tells the time; default the system's.
        durable: `process`: what has returned survives the end of the process, `kill -9` included; `power`: a power cut
            as well, since data, log and folders are synced to the disk first. An object store always does.
        history_days: Prune by itself what is older, see `prune`; kept with the table, for every process. `None` leaves
            it as it is: at first, nothing is ever forgotten.
    """

    SPEC: ClassVar[TableSpec[Any]]  # a class variable cannot name the class's own row type

    def __init__(
        self,
        uri: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        durable: Durable = "process",
        history_days: int | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.ledger: Ledger[RowT, StateT] = Ledger(
            uri,
            self.SPEC,
            self._new_state,
            storage_options=storage_options,
            clock=self.clock,
            durable=durable,
            history_days=history_days,
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

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:  # noqa: FBT001 - IPython calls it so
        printer.text(repr(self) if cycle else self._card_or_trouble().text())

    def summary(self) -> str:
        """Return what it holds, in a few words; no I/O."""
        if not self.ledger.is_open:
            return "not open"
        try:
            return self._summary()
        except StorageError:  # closed between the question and the look
            return "not open"

    def _summary(self) -> str:
        raise TypeError(f"{type(self).__name__} must say what it holds")

    def _card(self) -> Card:
        if not self.ledger.is_open:
            state = "not open: await its initialize()" if self.ledger.version < 0 else "closed"
            return Card(type(self).__name__, facts={"table": self.uri, "state": state})
        return self._open_card()

    def _open_card(self) -> Card:
        raise TypeError(f"{type(self).__name__} must say what is on its card")

    async def initialize(self) -> Self:
        """Open or create the table; idempotent, and implied by the first use that awaits.

        Raises:
            SchemaMismatchError: There is a table that is not ours; nothing was touched.
            StorageError: The place cannot be read or written.
        """
        await asyncio.wrap_future(self.ledger.open())
        return self

    async def refresh(self) -> bool:
        """Take in what other processes have committed; returns whether there was anything.

        Raises:
            StorageError: The table cannot be read, or is closed.
        """
        return await asyncio.wrap_future(self.ledger.refresh())

    async def prune(self, before: datetime) -> Pruned:
        """Forget the past before an instant: states that were superseded, and what had finished by then.

        What is current stays, however old. Time travel begins at `before` from now on. The rows' files leave the disk
        an hour later. Others may go on working meanwhile.

        Args:
            before: An aware instant that is not in the future.

        Returns:
            How many rows were removed, and where the history begins now.

        Raises:
            StorageError: The storage failed, or others won every round; upkeep finishes what was begun.
            ValueError: The instant is naive, or in the future.
        """
        await self.initialize()
        pruned = await asyncio.wrap_future(self.ledger.prune(before))
        await self.refresh()
        return pruned

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
