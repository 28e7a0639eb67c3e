"""Plays a scenario: calls what is due, keeps what it called, and knows when it is over.

Owns the place in one scenario. Time comes in from outside, by the gateway's one task, so a clock that stands still or
hurries is all the same to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from v6kit.gateway.naming import ContractName

if TYPE_CHECKING:
    from v6kit.gateway.account import Account
    from v6kit.gateway.market import Market
    from v6kit.gateway.moods import Moods
    from v6kit.gateway.scenario import Planned, Scenario

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fired:
    """An event that has happened.

    Attributes:
        at: When, on the gateway's clock, in the scenario's zone.
        action: The method that was called.
        arguments: What it was called with.
        error: Why it failed, or empty.

    Example:
        >>> from datetime import UTC
        >>> print(Fired(datetime(2026, 11, 20, 9, 30, tzinfo=UTC), "halt", {"symbol": "SPY"}))
        09:30:00 halt(symbol='SPY')
    """

    at: datetime
    action: str
    arguments: Mapping[str, object]
    error: str = ""

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        failed = f": failed, {self.error}" if self.error else ""
        return f"{self.at:%H:%M:%S} {self.action}({given}){failed}"


class Player:
    """One scenario, being played.

    Contracts are looked up at once, so that a wrong name fails before anything has happened; later corporate actions
    are followed.

    Args:
        scenario: What to play.
        market: Whose clock tells the time.
        account: Whose iron condors can be named.

    Raises:
        ValueError: The scenario is over already, or names a contract that the market does not list.
    """

    def __init__(self, scenario: Scenario, market: Market, account: Account) -> None:
        now = market.clock.now()
        self.scenario = scenario
        self.fired: list[Fired] = []
        self._market = market
        self._zone = ZoneInfo(scenario.zone)
        self._waiting = deque(scenario.schedule(now))
        self._ends_at = scenario.ends_at(now)
        if now > self._ends_at:
            over = f"{self._ends_at.astimezone(self._zone):%Y-%m-%d %H:%M}"
            raise ValueError(
                f"{scenario.name} is over at {over}, but the gateway's clock stands at "
                f"{now.astimezone(self._zone):%Y-%m-%d %H:%M} ({scenario.zone}); give the gateway a clock that begins "
                "earlier, such as clock=FastClock(1, start=scenario.start)"
            )
        self._conids = self._look_up(account)
        self._over: Future[None] = Future()
        self._over.set_running_or_notify_cancel()  # whoever stops waiting does not end it for the others

    @property
    def is_over(self) -> bool:
        """Whether all of it has happened, or the gateway was stopped."""
        return self._over.done()

    async def wait(self) -> None:
        """Wait for the end, on any loop.

        Raises:
            BaseException: That with which it was ended early.
        """
        await asyncio.wrap_future(self._over)

    def look(self, now: datetime, gateway: Moods) -> None:
        """Do what has become due, in order."""
        while self._waiting and self._waiting[0].at <= now:
            planned = self._waiting.popleft()
            self.fired.append(self._fire(planned, now, gateway))
        if not self._waiting and now >= self._ends_at and not self.is_over:
            self._over.set_result(None)

    def stop(self, reason: BaseException) -> None:
        """End early; whoever waits gets the reason."""
        self._waiting.clear()
        if not self.is_over:
            self._over.set_exception(reason)

    def _look_up(self, account: Account) -> dict[int, int]:
        conids = {}
        for number, event in enumerate(self.scenario.events, 1):
            contract = event.arguments.get("contract")
            if isinstance(contract, ContractName):
                try:
                    conids[number] = contract.find(self._market, account).conid
                except ValueError as error:
                    raise ValueError(f"{self.scenario.name}, event {number} ({event.action}): {error}") from error
        return conids

    def _fire(self, planned: Planned, now: datetime, gateway: Moods) -> Fired:
        arguments = {name: value for name, value in planned.arguments.items() if name != "contract"}
        if planned.number in self._conids:
            arguments = {"conid": self._market.successor(self._conids[planned.number]), **arguments}
        at = now.astimezone(self._zone)
        try:
            getattr(gateway, planned.action)(**arguments)
        except Exception as error:  # a day goes on when one thing in it fails, and says so
            logger.exception("%s, event %d (%s) failed", self.scenario.name, planned.number, planned.action)
            return Fired(at, planned.action, arguments, str(error) or type(error).__name__)
        return Fired(at, planned.action, arguments)
