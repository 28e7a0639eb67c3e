"""What all clients of one gateway share: its settings, its market and accounts, its limits and faults.

Owns no socket. Settings are checked here, once, so that a wrong argument fails where it is given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from v6kit.contracts import check_float, check_int
from v6kit.gateway.faults import Faults

if TYPE_CHECKING:
    from v6kit.gateway.account import Account
    from v6kit.gateway.limits import LineTable, SlidingWindow
    from v6kit.gateway.log import WireLog
    from v6kit.gateway.market import Market
    from v6kit.gateway.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the gateway behaves; `SimulatedGateway` says what each one means."""

    line_limit: int
    lines_per_client: bool
    snapshots_use_lines: bool
    snapshot_hold: float
    snapshots_per_second: int | None
    messages_per_second: int | None
    tick_interval: float
    portfolio_interval: float
    login_seconds: float

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        check_int("line_limit", self.line_limit, minimum=0)
        for name in ("snapshots_per_second", "messages_per_second"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name))
        for name in ("tick_interval", "portfolio_interval", "login_seconds"):
            check_float(name, getattr(self, name), above=0.0)
        if check_float("snapshot_hold", self.snapshot_hold) < 0:
            raise ValueError(f"snapshot_hold must be 0 seconds or more, got {self.snapshot_hold!r}")


@dataclass(slots=True)
class Shared:
    """The state behind all sessions.

    Attributes:
        accounts: The login's accounts by id, in the order in which the gateway names them.
        sessions: Open connections.
        linked: Whether the gateway is connected to IB's servers: false between 1100 and 1101 or 1102.
        competing: Whether another session of the login takes the market data.
        broken_farms: Market data farms that are out, by name.
    """

    settings: Settings
    market: Market
    accounts: dict[str, Account]
    log: WireLog
    lines: LineTable
    snapshot_window: SlidingWindow
    faults: Faults = field(default_factory=Faults)
    sessions: set[Session] = field(default_factory=set)
    linked: bool = True
    competing: bool = False
    broken_farms: set[str] = field(default_factory=set)

    @property
    def account(self) -> Account:
        """The first account."""
        return next(iter(self.accounts.values()))
