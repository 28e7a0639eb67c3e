"""The registry as it is promised to behave, in one plain dictionary.

Each method of the model has the name of the call that it describes: it answers what the call must answer, raises what
the call must raise, and leaves in `changes` what the call must write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

from ledger_model import Made, Refused, Row
from v6kit.errors import ContractConflictError, RegistryError, StrategyNotFoundError
from v6kit.ledger import NO_INSTANT

Key = tuple[str, str | None, int]


class Held(NamedTuple):
    """A contract in a strategy: what a row says, apart from seq, version and who changed it when."""

    strategy_id: str
    strategy: str
    conid: int
    symbol: str
    sec_type: str
    right: str | None
    strike: float | None
    expiry: str | None
    quantity: float
    added_at: datetime
    removed_at: datetime | None
    account: str | None
    priority: int
    change: str

    @property
    def contract(self) -> tuple[Any, ...]:
        """What a conid stands for, and must go on to stand for while it is active."""
        return self.symbol, self.sec_type, self.right, self.strike, self.expiry

    @property
    def key(self) -> Key:
        """What names the leg."""
        return self.strategy_id, self.account, self.conid

    @property
    def name(self) -> tuple[str, str | None]:
        """What names the strategy."""
        return self.strategy_id, self.account

    @property
    def common(self) -> tuple[str, int]:
        """What all legs of a strategy have in common."""
        return self.strategy, self.priority

    def is_in(self, account: str | None) -> bool:
        """Tell whether a call for an account means it: for all of them (`None`), or for none (an empty text)."""
        return account is None or account == (self.account or "")

    def seen(self) -> tuple[Any, ...]:
        """Return the leg as users see it."""
        return tuple("" if value is None else value for value in self[:-1])  # so that they can be sorted


class RegistryModel:
    """Every leg that a strategy ever had."""

    def __init__(self) -> None:
        self.legs: dict[Key, Held] = {}
        self.changes: dict[Key, Held] = {}
        self.now = NO_INSTANT

    def copy(self) -> RegistryModel:
        """Return a model that may be played on without harm to this one."""
        twin = RegistryModel()
        twin.legs = dict(self.legs)
        return twin

    def play(self, made: Made, now: datetime) -> tuple[Any, dict[Key, Held]]:
        """Return the right answer to a call, and what it must write; a refusal changes nothing."""
        attempt = self.copy()
        attempt.now = now
        method: Callable[..., list[Held]] = getattr(attempt, made.call.name)
        try:
            arguments, options = made.expected
            answer = method(*arguments, **options)
        except RegistryError as error:
            return Refused(type(error)), {}
        self.__dict__.update(attempt.__dict__)
        return sorted(leg.seen() for leg in answer), self.changes

    def row(self, row: Row) -> tuple[Key, Held]:
        """Return the key of a table's row, and what it says."""
        return (row["strategy_id"], row["account"], row["conid"]), Held(*(row[name] for name in Held._fields))

    def answer(self, answer: Any) -> Any:
        """Return a real answer in the words of the model."""
        if isinstance(answer, Refused):
            return answer
        return sorted(Held(*(getattr(leg, name) for name in Held._fields[:-1]), change="").seen() for leg in answer)

    # --- calls ---------------------------------------------------------------------------------------------------

    def add_strategy(
        self,
        strategy_id: str,
        legs: Sequence[Mapping[str, Any]],
        kind: str | None,
        *,
        account: str | None,
        priority: int | None,
    ) -> list[Held]:
        """All legs or none; a conid names one contract; what is there stays, but for quantity, kind and priority."""
        mine = [leg for leg in self.active() if leg.name == (strategy_id, account)]
        kind = kind or next((leg.strategy for leg in mine), "CUSTOM")
        priority = priority or next((leg.priority for leg in mine), 2)
        for given in legs:
            new = Held(
                strategy_id, kind, **given, added_at=self.now, removed_at=None, account=account, priority=priority,
                change="ADD",
            )  # fmt: skip
            if any(leg.conid == new.conid and leg.contract != new.contract for leg in self.active()):
                raise ContractConflictError
            known = self.legs.get((strategy_id, account, new.conid))
            if known is None or known.removed_at is not None:
                self.put(new)
            elif known.quantity != new.quantity:
                self.put(known._replace(quantity=new.quantity, change="UPDATE"))
        mine = [leg for leg in self.active() if leg.name == (strategy_id, account)]
        for leg in mine:
            if (leg.strategy, leg.priority) != (kind, priority):
                self.put(leg._replace(strategy=kind, priority=priority, change="UPDATE"))
        return [leg for leg in self.active() if leg.name == (strategy_id, account)]

    def add_active(
        self,
        strategy_id: str,
        leg: Mapping[str, Any],
        kind: str | None,
        *,
        account: str | None,
        priority: int | None,
    ) -> list[Held]:
        """One leg."""
        return self.add_strategy(strategy_id, [leg], kind, account=account, priority=priority)

    def amend(self, amendments: Sequence[tuple[str, str | None, int, float, float]]) -> list[Held]:
        """Other quantities for legs that are as they were seen, 0 to remove; all or none."""
        for strategy_id, account, conid, quantity, becomes in amendments:
            leg = self.legs.get((strategy_id, account, conid))
            if leg is None or leg.removed_at is not None or leg.quantity != quantity:
                raise RegistryError
            if becomes:
                self.put(leg._replace(quantity=becomes, change="UPDATE"))
            else:
                self.put(leg._replace(removed_at=self.now, change="REMOVE"))
        return [self.legs[one[:3]] for one in amendments]

    def remove_strategy(self, strategy_id: str, *, account: str | None) -> list[Held]:
        """All of its legs, in one account or in all; one that never was is an error."""
        return self.remove(
            (leg for leg in self.legs.values() if leg.strategy_id == strategy_id and leg.is_in(account)), "REMOVE"
        )

    def remove_active(self, conid: int, strategy_id: str | None, *, account: str | None) -> list[Held]:
        """A contract, from one strategy or from all, in one account or in all."""
        chosen = (
            leg
            for leg in self.legs.values()
            if leg.conid == conid and strategy_id in (None, leg.strategy_id) and leg.is_in(account)
        )
        return self.remove(chosen, "REMOVE")

    def expire(self, on: date) -> list[Held]:
        """Whatever has expired before a day."""
        limit = f"{on:%Y%m%d}"
        return self.remove((leg for leg in self.active() if leg.expiry and leg.expiry < limit), "EXPIRE", or_none=True)

    def get_all_active(self) -> list[Held]:
        """Whatever is held."""
        return self.active()

    # --- what the calls have in common ---------------------------------------------------------------------------

    def remove(self, chosen: Iterable[Held], change: str, *, or_none: bool = False) -> list[Held]:
        """Let go of those that are held; to have none to choose from is an error, unless it may be so."""
        legs = list(chosen)
        if not legs and not or_none:
            raise StrategyNotFoundError
        held = [leg for leg in legs if leg.removed_at is None]
        for leg in held:
            self.put(leg._replace(removed_at=self.now, change=change))
        return held

    def put(self, leg: Held) -> None:
        """Let a leg be like this from now on."""
        self.legs[leg.key] = self.changes[leg.key] = leg

    def active(self) -> list[Held]:
        """Return what is held."""
        return [leg for leg in self.legs.values() if leg.removed_at is None]
