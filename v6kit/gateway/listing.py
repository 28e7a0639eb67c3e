"""What the simulated market lists: underlyings, their options and futures, and what becomes of them.

Owns contract ids. They depend on the seed and on a contract's name only, so tomorrow's listing keeps today's ids; a
corporate action gives new ones. Knows no price.

A model, and a simple one: expiries are third Fridays without regard to holidays.
"""

from __future__ import annotations

import calendar
import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from v6kit.contracts import Instrument, Right

if TYPE_CHECKING:
    from collections.abc import Iterable

    from v6kit.clock import Clock

EXPIRIES = 6  # months of options that are listed ahead; today's, if there is one, comes on top
STRIKES_EACH_SIDE = 24
OPTION_EXCHANGES = "SMART,CBOE,ISE,AMEX"
FARMS = {"OPT": "usopt", "STK": "usfarm", "FUT": "usfuture", "IND": "usfuture"}
"""Which market data farm serves which security type; IB's rule has more to it, and is not published."""


@dataclass(frozen=True, slots=True)
class Underlying:
    """What options or futures are written on.

    Attributes:
        price: Where its path starts.
        vol: Base of its options' implied volatility, per year.
        strike_step: Distance of listed strikes; 0 where no options are listed.
        exchange: Its primary exchange.
        future_multiplier: Of its quarterly futures; 0 where none are listed.
    """

    symbol: str
    name: str
    price: float
    vol: float
    strike_step: float
    exchange: str
    sec_type: str = "STK"
    future_multiplier: float = 0.0


UNDERLYINGS = (
    Underlying("SPY", "Simulated S&P 500 ETF", 595.0, 0.14, 5.0, "ARCA"),
    Underlying("QQQ", "Simulated Nasdaq 100 ETF", 505.0, 0.19, 5.0, "NASDAQ"),
    Underlying("IWM", "Simulated Russell 2000 ETF", 225.0, 0.22, 2.0, "ARCA"),
    Underlying("AAPL", "Simulated Apple", 230.0, 0.27, 2.5, "NASDAQ"),
    Underlying("MSFT", "Simulated Microsoft", 425.0, 0.24, 5.0, "NASDAQ"),
    Underlying("NVDA", "Simulated Nvidia", 142.0, 0.48, 2.0, "NASDAQ"),
    Underlying("AMZN", "Simulated Amazon", 205.0, 0.31, 2.5, "NASDAQ"),
    Underlying("TSLA", "Simulated Tesla", 340.0, 0.55, 5.0, "NASDAQ"),
    Underlying("META", "Simulated Meta", 560.0, 0.33, 5.0, "NASDAQ"),
    Underlying("GLD", "Simulated gold ETF", 245.0, 0.16, 2.5, "ARCA"),
    Underlying("ES", "Simulated E-mini S&P 500", 5960.0, 0.14, 0.0, "CME", "IND", 50.0),
    Underlying("NQ", "Simulated E-mini Nasdaq 100", 20800.0, 0.19, 0.0, "CME", "IND", 20.0),
)


def third_friday(year: int, month: int) -> date:
    """Return the day on which a month's standard options expire."""
    earliest = date(year, month, 15)
    return earliest + timedelta(days=(calendar.FRIDAY - earliest.weekday()) % 7)


def third_fridays(after: date, count: int) -> list[date]:
    """Return the next third Fridays strictly after a day."""
    months = ((after.year + (after.month - 1 + i) // 12, (after.month - 1 + i) % 12 + 1) for i in range(count + 1))
    return [day for day in (third_friday(*month) for month in months) if day > after][:count]


class Listing:
    """The contracts of one market.

    Args:
        seed: Contract ids depend on it and on contracts' names, and on nothing else.
        clock: Tells the date.
    """

    def __init__(self, seed: int, clock: Clock) -> None:
        self.seed = seed
        self.clock = clock
        self._opened_at = clock.now()
        self._by_symbol = {each.symbol: each for each in UNDERLYINGS}
        self._by_conid: dict[int, Instrument] = {}
        self._chains: dict[str, list[Instrument]] = {each.symbol: [] for each in UNDERLYINGS}
        self._strikes = {each.symbol: _strikes(each) for each in UNDERLYINGS}
        self._issues: Counter[str] = Counter()
        self._delisted: dict[int, Instrument] = {}
        self._successors: dict[int, int] = {}
        self._expired_through = ""
        for instrument in self._first_listing():
            self._list(instrument)

    @cached_property
    def todays_expiry(self) -> str | None:
        """The expiry of the day on which the market opened, if it was one."""
        today = self._opened_at.date()
        return today.strftime("%Y%m%d") if today == third_friday(today.year, today.month) else None

    @cached_property
    def expiries(self) -> list[str]:
        """Option expiries from the day on which the market opened, that day included, soonest first."""
        ahead = [day.strftime("%Y%m%d") for day in third_fridays(self._opened_at.date(), EXPIRIES)]
        return [self.todays_expiry, *ahead] if self.todays_expiry else ahead

    @cached_property
    def past_expiry(self) -> str:
        """The last expiry before the market opened; its options are known, expired and not tradable."""
        today = self._opened_at.date()
        return max(day for day in third_fridays(today - timedelta(days=40), 2) if day < today).strftime("%Y%m%d")

    def instruments(self) -> Iterable[Instrument]:
        """Return all contracts, expired ones included, in a stable order."""
        return self._by_conid.values()

    def instrument(self, conid: int) -> Instrument | None:
        """Return the contract with this id, expired or not, or `None`; a conid that was replaced is unknown."""
        return self._by_conid.get(conid)

    def successor(self, conid: int) -> int:
        """Return the conid that a contract has now, after the corporate actions that it went through."""
        while conid in self._successors:
            conid = self._successors[conid]
        return conid

    def underlying(self, symbol: str) -> Underlying | None:
        """Return what is known about a symbol, or `None`."""
        return self._by_symbol.get(symbol)

    def is_expired(self, instrument: Instrument) -> bool:
        """Return whether the contract's last day is over: by the clock's date (UTC), or by its market's close."""
        expiry = instrument.expiry
        if not expiry:
            return False
        return expiry <= self._expired_through or expiry < self.clock.now().strftime("%Y%m%d")

    def find(
        self,
        *,
        symbol: str = "",
        sec_type: str = "",
        expiry: str = "",
        strike: float = 0.0,
        right: str = "",
        include_expired: bool = False,
    ) -> list[Instrument]:
        """Return the contracts that fit all given fields; an empty field fits all, `expiry` may be `YYYYMM`."""
        return [
            each
            for each in (self._chains.get(symbol, []) if symbol else self._by_conid.values())
            if (not sec_type or each.sec_type == sec_type)
            and (not expiry or (each.expiry or "").startswith(expiry))
            and (not strike or each.strike == strike)
            and (not right or each.right == right)
            and (include_expired or not self.is_expired(each))
        ]

    def strikes(self, symbol: str) -> list[float]:
        """Return the strikes that are listed on a symbol, lowest first; they are the same for all expiries."""
        return list(self._strikes[symbol])

    def expire(self, expiry: str) -> None:
        """End all contracts whose last day (`YYYYMMDD`) is this one or an earlier one."""
        self._expired_through = max(self._expired_through, expiry)

    def reissue(self, symbol: str, ratio: float = 1.0) -> list[tuple[Instrument, Instrument]]:
        """Replace all contracts of a symbol by new ones with new ids.

        Args:
            symbol: Of an underlying that is listed.
            ratio: New shares per old share; strikes and the underlying's price are divided by it.

        Returns:
            Each contract as it was, and as it is.
        """
        before = self._chains[symbol]
        underlying = self._by_symbol[symbol]
        self._by_symbol[symbol] = replace(
            underlying, price=underlying.price / ratio, strike_step=underlying.strike_step / ratio
        )
        self._chains[symbol] = []
        self._strikes[symbol] = [round(strike / ratio, 4) for strike in self._strikes[symbol]]
        self._issues[symbol] += 1
        return [(each, self._replace(each, ratio)) for each in before]

    def _replace(self, old: Instrument, ratio: float) -> Instrument:
        del self._by_conid[old.conid]
        self._delisted[old.conid] = old
        name = f"{old.local_symbol} {old.expiry} issue {self._issues[old.symbol]}"
        new = replace(old, conid=_conid(self.seed, name))
        if old.strike is not None and old.right is not None:
            strike = round(old.strike / ratio, 4)
            new = replace(
                new, strike=strike, local_symbol=_option_name(old.symbol, old.expiry or "", old.right, strike)
            )
        new = self._list(new)
        self._successors[old.conid] = new.conid
        return new

    def _first_listing(self) -> Iterable[Instrument]:
        for each in UNDERLYINGS:
            yield Instrument(
                conid=_conid(self.seed, each.symbol),
                symbol=each.symbol,
                sec_type=each.sec_type,
                exchange=each.exchange,
                local_symbol=each.symbol,
                trading_class=each.symbol,
            )
            if each.strike_step:
                yield from self._options(each)
            else:
                yield from self._futures(each)

    def _options(self, underlying: Underlying) -> Iterable[Instrument]:
        for expiry in [self.past_expiry, *self.expiries]:
            for strike in self.strikes(underlying.symbol):
                for right in Right:
                    local = _option_name(underlying.symbol, expiry, right, strike)
                    yield Instrument(
                        conid=_conid(self.seed, local),
                        symbol=underlying.symbol,
                        sec_type="OPT",
                        right=right,
                        strike=strike,
                        expiry=expiry,
                        multiplier=100.0,
                        exchange="SMART",
                        local_symbol=local,
                        trading_class=underlying.symbol,
                    )

    def _futures(self, underlying: Underlying) -> Iterable[Instrument]:
        quarters = [day for day in third_fridays(self._opened_at.date(), 12) if day.month % 3 == 0]
        for day in quarters:
            local = f"{underlying.symbol}{'HMUZ'[day.month // 3 - 1]}{day.year % 10}"
            yield Instrument(
                conid=_conid(self.seed, f"{local} {day:%Y%m%d}"),
                symbol=underlying.symbol,
                sec_type="FUT",
                expiry=day.strftime("%Y%m%d"),
                multiplier=underlying.future_multiplier,
                exchange=underlying.exchange,
                local_symbol=local,
                trading_class=underlying.symbol,
            )

    def _list(self, instrument: Instrument) -> Instrument:
        conid = instrument.conid
        while conid in self._by_conid or conid in self._delisted:
            conid += 1
        listed = replace(instrument, conid=conid)
        self._by_conid[conid] = listed
        self._chains[instrument.symbol].append(listed)
        return listed


def _strikes(underlying: Underlying) -> list[float]:
    if not underlying.strike_step:
        return []
    middle = round(underlying.price / underlying.strike_step) * underlying.strike_step
    return [middle + i * underlying.strike_step for i in range(-STRIKES_EACH_SIDE, STRIKES_EACH_SIDE + 1)]


def _option_name(symbol: str, expiry: str, right: Right, strike: float) -> str:
    return f"{symbol:<6}{expiry[2:]}{right}{round(strike * 1000):08d}"


def _conid(seed: int, name: str) -> int:
    """Return a contract id that depends on seed and name only, so tomorrow's listing keeps today's ids."""
    digest = hashlib.blake2s(f"{seed}:{name}".encode(), digest_size=4).digest()
    return 100_000_000 + int.from_bytes(digest, "big") % 1_900_000_000
