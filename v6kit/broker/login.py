"""Which accounts of the login we work with: those that were named, or all; and which the login has lost since."""

from __future__ import annotations

import logging

from v6kit.broker.account import NOT_MANAGED, AccountBook

logger = logging.getLogger("v6kit.broker")


class Login:
    """The accounts, from session to session.

    Args:
        only: Work with these; empty: with all that the login manages.
        account_book: Where the trouble of an account is noted.

    Attributes:
        accounts: Those that we work with now.
        lost: Those that we worked with before, and that the login does not manage now.
    """

    def __init__(self, only: tuple[str, ...], account_book: AccountBook) -> None:
        self._only, self._account_book = only, account_book
        self.accounts: tuple[str, ...] = ()
        self.lost: frozenset[str] = frozenset()

    def choose(self, managed: tuple[str, ...]) -> tuple[str, ...]:
        """Return which of a login's accounts to work with.

        Raises:
            ValueError: One that was named has never been among them; later it may be lost, which is no mistake.
        """
        for name in self._only:
            if name not in managed and name not in self.accounts and name not in self.lost:
                raise ValueError(f"account must be one of {', '.join(managed)}, got {name!r}")
        return tuple(each for each in managed if not self._only or each in self._only)

    def take(self, managed: tuple[str, ...]) -> tuple[str, ...]:
        """Work with the chosen ones from now on, and return them; raises as `choose` does.

        Says loudly which are gone, since nobody watches them any more.
        """
        accounts = self.choose(managed)
        for gone in sorted({*self.accounts} - {*accounts}):
            logger.error(
                "%s is %s. Its positions stay in the book as they were last seen, marked stale: they are not flat, and "
                "nobody watches them. Check the login's permissions; they are followed again once it is back",
                gone, NOT_MANAGED,
            )  # fmt: skip
            self._account_book.set_trouble(gone, NOT_MANAGED)
        for back in sorted(self.lost & {*accounts}):
            logger.warning("%s is an account of this login again", back)
            self._account_book.set_trouble(back, None)
        self.lost = (self.lost | {*self.accounts}) - {*accounts}
        self.accounts = accounts
        return accounts
