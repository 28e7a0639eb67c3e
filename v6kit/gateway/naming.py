"""How a scenario names a contract: by conid, by what it is, or by its place in one of the account's iron condors.

Pure: a name is checked for its form when it is written, and looked up in a market and an account when it is played.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from v6kit.contracts import check_expiry, check_float, check_int, check_right
from v6kit.gateway.moods import check_symbol

if TYPE_CHECKING:
    from v6kit.contracts import Instrument
    from v6kit.gateway.account import Account
    from v6kit.gateway.market import Market

FORMS = (
    {"conid"},
    {"condor", "leg"},
    {"symbol"},
    {"symbol", "expiry"},
    {"symbol", "right", "strike", "expiry"},
    {"symbol", "right", "moneyness", "expiry"},
)
LEGS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractName:
    """A contract, in one of six forms.

    `{conid}`; `{condor, leg}`; `{symbol}`, a stock; `{symbol, expiry}`, a future; `{symbol, right, strike, expiry}` and
    `{symbol, right, moneyness, expiry}`, an option.

    Attributes:
        conid: IB's contract id.
        condor: Which of the account's iron condors, from 1.
        leg: Which of its legs, 1 to 4: long put, short put, short call, long call.
        symbol: Of the underlying.
        right: `C` or `P`.
        strike: A listed one.
        moneyness: Strike / price at which the underlying's path began, so that a scenario names one contract whenever
            it is played; the listed strike that is nearest.
        expiry: `YYYYMMDD`, or which of the listed expiries, from 1: on an expiry day, 1 is today.
    """

    conid: int | None = None
    condor: int | None = None
    leg: int | None = None
    symbol: str | None = None
    right: str | None = None
    strike: float | None = None
    moneyness: float | None = None
    expiry: str | int | None = None

    @classmethod
    def parse(cls, value: object) -> ContractName:
        """Return the name that a table of fields gives.

        Raises:
            TypeError: It is no table, or a field is of the wrong kind.
            ValueError: The fields are none of the forms, or one is out of range.
        """
        if isinstance(value, ContractName):
            return value
        if not isinstance(value, Mapping):
            raise TypeError(f"contract must be a table of fields such as {{symbol = 'SPY'}}, got {value!r}")
        if set(value) not in FORMS:
            allowed = " or ".join("{" + ", ".join(sorted(form)) + "}" for form in FORMS)
            raise ValueError(f"contract must have the fields {allowed}, got {dict(value)!r}")
        return cls(**{name: _checked(name, each) for name, each in value.items()})

    def find(self, market: Market, account: Account) -> Instrument:
        """Return the contract, as the market lists it now.

        Raises:
            ValueError: There is no such contract, or it has expired.
        """
        if self.conid is not None:
            found = market.instrument(market.successor(self.conid))
        elif self.condor is not None and self.leg is not None:
            found = self._leg(market, account)
        else:
            found = self._described(market)
        if found is None or market.is_expired(found):
            raise ValueError(f"contract must be listed in the simulated market and not expired, got {self}")
        return found

    def __str__(self) -> str:
        named = ((name, getattr(self, name)) for name in self.__slots__)
        return "{" + ", ".join(f"{name} = {value!r}" for name, value in named if value is not None) + "}"

    def _leg(self, market: Market, account: Account) -> Instrument | None:
        condors = account.iron_condors
        if self.condor is None or self.leg is None or self.condor > len(condors):
            raise ValueError(f"contract must name one of the account's {len(condors)} iron condors, got {self}")
        return market.instrument(market.successor(condors[self.condor - 1][self.leg - 1].instrument.conid))

    def _described(self, market: Market) -> Instrument | None:
        symbol, expiry = self.symbol or "", self._expiry(market)
        if self.right is None:
            listed = market.find(symbol=symbol, expiry=expiry)
            return next((each for each in listed if each.right is None and bool(each.expiry) == bool(expiry)), None)
        strike = self.strike
        if self.moneyness is not None:
            wanted = self.moneyness * self._first_price(market)
            strike = min(market.strikes(symbol), key=lambda each: abs(each - wanted), default=None)
        if strike is None:
            return None
        return next(iter(market.find(symbol=symbol, expiry=expiry, strike=strike, right=self.right)), None)

    def _first_price(self, market: Market) -> float:
        underlying = market.underlying(self.symbol or "")
        return underlying.price if underlying else 0.0

    def _expiry(self, market: Market) -> str:
        if not isinstance(self.expiry, int):
            return self.expiry or ""
        kind = "OPT" if self.right else "FUT"
        listed = sorted({each.expiry or "" for each in market.find(symbol=self.symbol or "", sec_type=kind)})
        if self.expiry > len(listed):
            raise ValueError(f"contract must name one of {len(listed)} listed expiries, got {self}")
        return listed[self.expiry - 1]


def _checked(name: str, value: Any) -> Any:  # noqa: ANN401 - what somebody wrote; it is checked here
    if name == "symbol":
        return check_symbol(name, value)
    if name == "right":
        return str(check_right(value))
    if name in ("strike", "moneyness"):
        return check_float(name, value, above=0.0)
    if name == "expiry" and isinstance(value, str | date):
        return check_expiry(value)
    number = check_int(name, value)
    if name == "leg" and number > LEGS:
        raise ValueError(f"leg must be 1 to {LEGS}, got {number}")
    return number
