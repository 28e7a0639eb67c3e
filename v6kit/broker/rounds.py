"""The portfolios of several accounts, one after the other: the gateway follows one account at a time.

Owns the order and the isolation: an account that does not answer costs the others nothing but time in the background.
Source: IB's documentation of reqAccountUpdates; a request for another account ends the one before, with code 2100.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from v6kit.errors import GatewayUnavailableError, RequestFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from v6kit.broker.account import AccountBook
    from v6kit.broker.connection import Connection
    from v6kit.broker.pacing import Pacer
    from v6kit.broker.session import Session
    from v6kit.broker.timings import Timings

logger = logging.getLogger("v6kit.broker")


def order_of(accounts: tuple[str, ...], troubled: frozenset[str]) -> list[str]:
    """Return in which order to ask: those in trouble come late, and the first of the others is asked last of all.

    So nobody waits for an account that may stay silent, and the one that is followed until the next round answers.
    """
    well = [each for each in accounts if each not in troubled]
    return [*well[1:], *(each for each in accounts if each in troubled), *well[:1]]


class PortfolioRounds:
    """Goes round the accounts of a login that has several.

    Args:
        connection: The link to ask over.
        account_book: Knows which accounts are in trouble.
        on_refused: Told of an account whose portfolio does not come, and why.
        pacer: Gives each request its turn.
        timings: Durations.

    Attributes:
        accounts: Which to go round.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        account_book: AccountBook,
        on_refused: Callable[[str, str], None],
        pacer: Pacer,
        timings: Timings,
    ) -> None:
        self.accounts: tuple[str, ...] = ()
        self._connection = connection
        self._account_book = account_book
        self._on_refused = on_refused
        self._pacer = pacer
        self._timings = timings
        self._round: asyncio.Task[None] | None = None

    @property
    def is_going(self) -> bool:
        """Whether a round is under way."""
        return self._round is not None and not self._round.done()

    @property
    def is_switching(self) -> bool:
        """Whether a subscription may end because a round asked for the next one, now or when it was cut short."""
        return self.is_going or (self._round is not None and self._round.cancelled())

    def start(self) -> None:
        """Begin a round, unless one is under way or the only account is followed anyway; returns at once."""
        is_needed = len(self.accounts) > 1 or bool(self._troubled())
        if is_needed and not self.is_going:
            self._round = asyncio.create_task(self._go(), name="v6kit portfolio round")
            self._round.add_done_callback(_say_failure)

    async def close(self) -> None:
        """End a round that is under way."""
        if self._round is not None:
            self._round.cancel()
            await asyncio.gather(self._round, return_exceptions=True)

    async def _go(self) -> None:
        try:
            async with self._connection.link() as session:
                order = order_of(self.accounts, self._troubled())
                if len(order) > 1 and self._account_book.status(order[-1]).portfolio_at is None:
                    order.insert(0, order[-1])  # at first nobody knows who will stay silent
                for account in order:
                    await self._ask(session, account)
        except GatewayUnavailableError as error:
            logger.debug("The round of portfolios ended early: %s", error)

    async def _ask(self, session: Session, account: str) -> None:
        await self._pacer.turn()
        try:
            await session.follow_account(account, seconds=self._timings.request_timeout)
        except RequestFailedError as error:
            self._on_refused(account, str(error))

    def _troubled(self) -> frozenset[str]:
        return frozenset(each for each in self.accounts if self._account_book.status(each).trouble)


def _say_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("A round of portfolios failed; the next sync tries again", exc_info=error)
