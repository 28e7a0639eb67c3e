"""What is known of each account, as a value that can be shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from v6kit.broker import AccountStatus, Broker, ConnectionState
from v6kit.contracts import Quality
from v6kit.display import Card, Shown, Table, among
from v6kit.positions import BookRow

NOT_OURS = "not followed by this desk: its rows are as they were last seen"
NEVER_SEEN = "named by strategies only: no account of this login, and nothing is known of it"
_HEADINGS = ("account", "positions", "fresh", "legs", "portfolio", "net liquidation", "trouble")
_NUMBERS = ("positions", "fresh", "legs", "net liquidation")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AccountView(Shown):
    """One account, at one moment.

    Attributes:
        account: IB's id.
        is_followed: Whether this desk follows it: it is of the login, and not left out by `account=`.
        positions: How many it holds, as the book knows.
        fresh: How many of these have a good quote.
        legs: Active legs that are bound to it.
        portfolio_age: Since its portfolio last came in as a whole; `None`: never.
        net_liquidation: What it is worth, in `currency`; `None` until the gateway has said so.
        currency: Of `net_liquidation`.
        trouble: What is wrong, in words; `None` when nothing is.
    """

    account: str
    is_followed: bool
    positions: int
    fresh: int
    legs: int
    portfolio_age: timedelta | None
    net_liquidation: float | None
    currency: str | None
    trouble: str | None

    def cells(self) -> tuple[str, ...]:
        """Return what a table shows of it, in the order of its headings."""
        return self.account, *self._facts().values(), self.trouble or ""

    def _facts(self) -> dict[str, str]:
        """Return what its table and its card have in common."""
        age = "never" if self.portfolio_age is None else f"{self.portfolio_age.total_seconds():.0f} s ago"
        worth = "" if self.net_liquidation is None else f"{self.net_liquidation:,.2f} {self.currency}"
        values = str(self.positions), str(self.fresh), str(self.legs), age, worth
        return dict(zip(_HEADINGS[1:-1], values, strict=True))

    def _card(self) -> Card:
        return Card(f"Account {self.account}", warnings=[self.trouble] if self.trouble else [], facts=self._facts())


@dataclass(frozen=True, slots=True, repr=False)
class Accounts(Shown):
    """Every account that login, lake or strategies know, by id; iterates over `AccountView`."""

    views: tuple[AccountView, ...]

    @classmethod
    def of(cls, broker: Broker, rows: Iterable[BookRow], bound: Counter[str], now: datetime) -> Self:
        """Put together what broker, book and registry say at this moment.

        Args:
            broker: Whose login it is.
            rows: Every position that is held.
            bound: How many active legs are bound to which account.
            now: Aware UTC.
        """
        seen = Counter((row.account, row.quality) for row in rows)
        held: Counter[str] = Counter()
        for (account, _), count in seen.items():
            held[account] += count
        down = None if broker.state is ConnectionState.LIVE else f"the gateway is {broker.state}"
        views = []
        for account in sorted({*broker.accounts, *held, *bound}):
            status, is_followed = broker.status_of(account), account in broker.accounts
            elsewhere = NOT_OURS if held[account] else NEVER_SEEN
            views.append(
                AccountView(
                    account=account,
                    is_followed=is_followed,
                    positions=held[account],
                    fresh=seen[account, Quality.OK],
                    legs=bound[account],
                    portfolio_age=None if status.portfolio_at is None else now - status.portfolio_at,
                    net_liquidation=status.net_liquidation,
                    currency=status.currency,
                    trouble=_joined(status, None if is_followed else elsewhere, down),
                )
            )
        return cls(tuple(views))

    def __iter__(self) -> Iterator[AccountView]:
        return iter(self.views)

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, account: str) -> AccountView:
        for view in self.views:
            if view.account == account:
                return view
        raise KeyError(f"no account {account!r}; {among(account, self._ipython_key_completions_())}")

    def _ipython_key_completions_(self) -> list[str]:
        return [view.account for view in self.views]

    def summary(self) -> str:
        """Return which there are, and which are in trouble, on one line."""
        return ", ".join(f"{view.account} ({view.trouble})" if view.trouble else view.account for view in self.views)

    def _card(self) -> Card:
        return Card("Accounts", tables=[Table(_HEADINGS, [view.cells() for view in self.views], numbers=_NUMBERS)])


def _joined(status: AccountStatus, *others: str | None) -> str | None:
    """Return all that is wrong; what the gateway said of the account comes first."""
    return "; ".join(each for each in (status.trouble, *others) if each) or None
