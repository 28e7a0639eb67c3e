"""`PositionBook`: what we knew about each position, when, and how we knew it.

A ledger on the table `position_updates`, keyed by (account, conid). A position leaves it only by a position of 0; a
lost connection makes rows stale, never flat. A good quote is never overwritten by an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import polars as pl

from v6kit.contracts import AccountPosition, PositionUpdate, Quality, check_int, check_text
from v6kit.display import Card, counted
from v6kit.ledger import Decision, LedgerTable, Moment, Rows
from v6kit.positions.card import book_card
from v6kit.positions.merging import merge
from v6kit.positions.rows import SPEC, BookRow, Key


class BookState:
    """The newest row of every position that is held."""

    def __init__(self) -> None:
        self.rows: dict[Key, BookRow] = {}
        self._order: list[Key] | None = None

    def in_order(self) -> list[BookRow]:
        """Return all rows by account and conid; the order is kept until a position comes or goes."""
        if self._order is None:
            self._order = sorted(self.rows)
        return [self.rows[key] for key in self._order]

    def held(self) -> list[Rows[BookRow]]:
        """Return all rows."""
        return [list(self.rows.values())]

    def apply(self, rows: Rows[BookRow]) -> Callable[[], None]:
        """Take rows in; return what takes exactly these back."""
        rows = SPEC.to_rows(rows) if isinstance(rows, pl.DataFrame) else rows
        before = [((row.account, row.conid), self.rows.get((row.account, row.conid))) for row in rows]
        if any(earlier is None or row.position == 0 for row, (_, earlier) in zip(rows, before, strict=True)):
            self._order = None
        for row in rows:
            if row.position == 0:
                self.rows.pop((row.account, row.conid), None)
            else:
                self.rows[row.account, row.conid] = row

        def take_back() -> None:
            self._order = None
            for key, earlier in reversed(before):
                self.rows.pop(key, None)
                if earlier is not None:
                    self.rows[key] = earlier

        return take_back


class PositionBook(LedgerTable[BookRow, BookState]):
    """What is known about every position, on the Delta table `position_updates`.

    Args:
        uri: A local path, or any URI that deltalake takes.
        storage_options: For object stores; never shown.
        clock: Tells the time; default the system's.
        durable: `process` or `power`; as in `LedgerTable`.
        history_days: How long to remember; as in `LedgerTable`.
    """

    SPEC = SPEC

    def _new_state(self) -> BookState:
        return BookState()

    async def record(self, updates: Iterable[PositionUpdate]) -> int:
        """Write what became known, in one commit.

        What changes nothing is not written: a position as it was, a (request_id, attempt) that is there already, a
        quote for a position that is not held.

        Args:
            updates: In the order in which they came in; of one position, each goes on from the one before.

        Returns:
            How many rows were written, one per position that changed.
        """
        wanted = list(updates)
        if not wanted:
            return 0
        return await self._change(partial(_record, updates=wanted))

    async def sync(self, positions: Iterable[AccountPosition], accounts: Iterable[str] | None = None) -> int:
        """Make the book hold exactly these positions, in one commit; what is missing from them is closed.

        Args:
            positions: The complete answer of one session, never half of one.
            accounts: Those that the answer is complete for, one or several, the ones of its login; default all accounts
                of the book.

        Returns:
            How many rows were written.

        Raises:
            TypeError: An account is no text.
        """
        return await self._change(partial(_sync, positions=list(positions), accounts=_ids(accounts)))

    async def mark_stale(self, conids: Iterable[int] | None = None, *, accounts: Iterable[str] | None = None) -> int:
        """Say of quotes that they may be out of date, of all or of some.

        Args:
            conids: Only of these contracts.
            accounts: Only of these accounts, or of this one.

        Returns:
            How many rows changed.

        Raises:
            TypeError: An account is no text.
        """
        contracts = None if conids is None else frozenset(conids)
        return await self._change(partial(_mark_stale, conids=contracts, accounts=_ids(accounts)))

    def rows(self) -> list[BookRow]:
        """Return every position that is held, as this process knows it, by account and conid; no I/O."""
        return self.ledger.read(lambda state: state.in_order())

    def current(self) -> pl.DataFrame:
        """Return every position that is held: one row each, columns as the table's, by account and conid; no I/O."""
        return SPEC.to_frame(self.rows())

    def __getitem__(self, position: int | tuple[str, int]) -> BookRow:
        """Return what is known of a position, as this process knows it; no I/O.

        Args:
            position: `book[account, conid]`, or `book[conid]` where only one account holds it.

        Raises:
            KeyError: It is not held; or in several accounts, which are named.
            StorageError: The book is not open.
        """
        rows = self._of(position)
        if len(rows) == 1:
            return rows[0]
        if rows:
            held = ", ".join(row.account for row in rows)
            raise KeyError(f"conid {position} is held in {held}; say in which: book[{rows[0].account!r}, {position}]")
        raise KeyError(f"no position {position!r} is held; book.current() has those that are")

    def __contains__(self, position: object) -> bool:
        """Tell whether (account, conid), or a conid in any account, is held; as this process knows it, no I/O."""
        try:
            return bool(self._of(position))  # type: ignore[arg-type]  # what names no position is not held
        except (TypeError, ValueError):
            return False

    __iter__ = None  # rows() has all; else Python would try book[0], book[1], …

    def _of(self, position: int | tuple[str, int]) -> list[BookRow]:
        if isinstance(position, tuple):
            account, number = position
            key = check_text("account", account, empty_allowed=True), check_int("conid", number)
            return self.ledger.read(lambda state: [state.rows[key]] if key in state.rows else [])
        conid = check_int("conid", position)
        return [row for row in self.rows() if row.conid == conid]

    def _ipython_key_completions_(self) -> list[int | tuple[str, int]]:
        """Return (account, conid) of every position, and conids alone."""
        if not self.ledger.is_open:
            return []
        keys = [(row.account, row.conid) for row in self.rows()]
        return [*keys, *dict.fromkeys(conid for _, conid in keys)]

    def _summary(self) -> str:
        rows = self.rows()
        return f"{counted(len(rows), 'position')}, {sum(row.quality == Quality.OK for row in rows)} with a good quote"

    def _open_card(self) -> Card:
        return book_card(self.uri, self.rows())


def _ids(accounts: str | Iterable[str] | None) -> frozenset[str] | None:
    """Return accounts, given as one or as several; a text alone would else be taken for its letters."""
    if accounts is None:
        return None
    names = [accounts] if isinstance(accounts, str) else accounts
    return frozenset(check_text("account", name, empty_allowed=True) for name in names)


def _record(state: BookState, _moment: Moment, *, updates: list[PositionUpdate]) -> Decision[BookRow, int]:
    rows: dict[Key, BookRow] = {}
    for update in updates:
        key = update.account, update.instrument.conid
        known = rows.get(key) or state.rows.get(key)
        row = merge(known, update)
        if row is not None:
            rows[key] = row
    return Decision(list(rows.values()), len(rows))


def _sync(
    state: BookState, moment: Moment, *, positions: list[AccountPosition], accounts: frozenset[str] | None
) -> Decision[BookRow, int]:
    held = {(position.account, position.instrument.conid): position for position in positions}
    updates = [
        PositionUpdate(
            account=position.account,
            instrument=position.instrument,
            position=position.position,
            avg_cost=position.avg_cost,
        )
        for position in held.values()
    ]
    updates += [
        PositionUpdate(account=row.account, instrument=row.instrument(), position=0.0)
        for key, row in state.rows.items()
        if key not in held and (accounts is None or row.account in accounts)
    ]
    return _record(state, moment, updates=updates)


def _mark_stale(
    state: BookState, _moment: Moment, *, conids: frozenset[int] | None, accounts: frozenset[str] | None
) -> Decision[BookRow, int]:
    rows = [
        row._replace(quality=Quality.STALE.value, change="STALE")
        for row in state.rows.values()
        if row.quality in (Quality.OK, Quality.PARTIAL)
        and (conids is None or row.conid in conids)
        and (accounts is None or row.account in accounts)
    ]
    return Decision(rows, len(rows))
